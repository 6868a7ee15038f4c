"""onnxslim and onnxsim, before and after."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from tests.interoperability.page import Ran, conv_shapes

SECTION = "onnxslim and onnxsim"
RESULTS = ["model-smaller", "slim-smaller", "sim-smaller", "smaller-slim", "smaller-sim"]


def logits(path: Path, folder: Path) -> np.ndarray:
    with np.load(folder / "test.npz") as arrays:
        images = arrays["image"][:64]
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"image": images})[0]


@pytest.mark.parametrize("name", RESULTS)
def test_the_order_makes_no_difference(ran: Ran, name: str) -> None:
    path, original = ran.folder / f"{name}.onnx", ran.folder / "model-smaller.onnx"
    assert conv_shapes(path) == conv_shapes(original)
    expected = logits(original, ran.folder)
    assert np.linalg.norm(logits(path, ran.folder) - expected) < 1e-5 * np.linalg.norm(expected)
    assert 525 < path.stat().st_size / 1000 < 529


@pytest.mark.parametrize("name", RESULTS)
def test_the_batch_size_stays_open(ran: Ran, name: str) -> None:
    (given,) = onnx.load(ran.folder / f"{name}.onnx").graph.input
    assert given.type.tensor_type.shape.dim[0].dim_param == "batch"


def test_six_layers_are_factorized(ran: Ran) -> None:
    before, after = (conv_shapes(ran.folder / f"{name}.onnx") for name in ("model", "model-smaller"))
    assert len(set(before) - set(after)) == len(set(before[1:]))  # only the first Conv is left as it was
    assert len(after) == 16
    assert [printed.count("6 layers factorized") for printed in ran.printed] == [3]


def test_onnxslim_names_convs_after_outputs(ran: Ran) -> None:
    names = [node.name for node in onnx.load(ran.folder / "slim.onnx").graph.node]
    assert "conv2_out" in names
    assert "conv2" not in names
