"""onnxlr as a pass of Olive."""

from __future__ import annotations

import sys

import onnxlr
from tests.blocks import run
from tests.interoperability.page import Ran, needs, operators, read_sections

SECTION = "Olive"
pytestmark = needs("torch", "olive")

CALL = "olive.run(workflow, package_config=package)"
COMMAND = """
from olive.cli.launcher import main

for name in ("workflow", "package"):
    with open(f"{name}.json", "w") as file:
        json.dump(globals()[name], file)
main(["run", "--config", "workflow.json", "--package-config", "package.json"])
"""


def test_a_tenth_of_the_size_at_the_same_accuracy(ran: Ran) -> None:
    path = ran.folder / "quantized/model.onnx"
    assert 110 < path.stat().st_size / 1000 < 127
    checks = onnxlr.Checks(f"{ran.folder}/test.npz", f"{ran.folder}/test_labels.npy", latency_seconds=0)
    (output,) = onnxlr.validate(ran.folder / "model.onnx", path, checks).validation.outputs
    assert output.top1_after > output.top1_before - 0.005
    assert output.rel_l2 < 0.05


def test_both_passes_did_their_work(ran: Ran) -> None:
    ops = operators(ran.folder / "quantized/model.onnx")
    assert ops.count("Conv") == 17
    assert ops.count("QuantizeLinear") > 17


def test_the_command_line_finds_the_pass_and_the_cache(ran: Ran) -> None:
    (script,) = [block.text for block in read_sections()[SECTION] if CALL in block.text]
    printed = run([sys.executable, "-c", script.replace(CALL, COMMAND)], ran.folder)
    assert printed.count("Loaded model from cache") == 2
