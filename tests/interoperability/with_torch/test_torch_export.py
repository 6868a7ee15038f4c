"""From PyTorch to ONNX Runtime in one script."""

from __future__ import annotations

import re

import onnx

from tests.blocks import read_blocks
from tests.interoperability.page import Ran, conv_shapes, needs

SECTION = "torch.onnx.export"
pytestmark = needs("torch", "onnxscript")


def test_it_prints_what_the_page_says(ran: Ran) -> None:
    lines = ran.printed[-1].splitlines()
    assert lines[-3:] == ran.shown[0].splitlines()


def test_layers_and_ranks_are_those_of_the_demo(ran: Ran) -> None:
    (shown,) = [block.text for block in read_blocks("README.md") if block.source == "make demo"]
    ranks = re.findall(r"^ conv\d .* tucker2 +(\d+)×(\d+) ", shown, re.M)
    cores = [(int(after), int(before), 3, 3) for before, after in ranks]
    shapes = conv_shapes(ran.folder / "smaller.onnx")
    assert len(cores) == 5
    assert [shape for shape in shapes if shape in cores] == cores
    assert len(shapes) == 7 + 2 * 5


def test_weights_stay_beside_the_model(ran: Ran) -> None:
    assert (ran.folder / "exported.onnx.data").is_file()
    assert (ran.folder / "smaller.onnx.data").is_file()


def test_the_batch_size_stays_open(ran: Ran) -> None:
    (given,) = onnx.load(ran.folder / "smaller.onnx", load_external_data=False).graph.input
    assert given.type.tensor_type.shape.dim[0].dim_param == "batch"
