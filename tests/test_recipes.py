"""The recipes of docs/: their blocks are run in order, in one folder, and what they promise is measured."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import NodeProto, numpy_helper

import onnxlr
from tests.blocks import Block, prepare, read_blocks, run, run_block

BLOCKS = read_blocks("docs/quantization.md")
ADVICE = "quantized; factorize before quantizing"


@dataclass(frozen=True)
class Ran:
    """The folder after all blocks were run in it, and what each of them printed."""

    folder: Path
    printed: dict[Block, str]

    def of(self, start: str) -> str:
        """What the one block that starts so printed."""
        (text,) = [text for block, text in self.printed.items() if block.text.startswith(start)]
        return text


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder = prepare(tmp_path_factory.mktemp("quantization"))
    return Ran(folder, {block: run_block(block, folder) for block in BLOCKS if block.kind != "text"})


@dataclass(frozen=True)
class Row:
    """A line of the table that the last block prints."""

    kilobytes: float
    top1: float


def rows(table: str) -> dict[str, Row]:
    """The table by the name of the model."""
    header, *lines = table.splitlines()
    assert header.split() == ["model", "kB", "top-1", "%", "ms", "speed-up"]
    split = [line.rsplit(maxsplit=4) for line in lines]
    return {name.strip(): Row(float(size), float(top1)) for name, size, top1, _, _ in split}


def test_every_kind_of_block_is_known() -> None:
    assert [block.kind for block in BLOCKS] == ["sh", "python", "sh", "sh", "python", "text"]
    assert BLOCKS[-1].source == "the block above"


def test_the_table_is_what_the_document_says(ran: Ran) -> None:
    shown, printed = rows(BLOCKS[-1].text), rows(ran.of("from pathlib"))
    assert list(shown) == list(printed)
    for name, row in shown.items():
        assert printed[name].kilobytes == pytest.approx(row.kilobytes, rel=0.02)
        assert printed[name].top1 == pytest.approx(row.top1, abs=0.5)  # kernels differ between machines


def test_both_gains_together(ran: Ran) -> None:
    table = rows(ran.of("from pathlib"))
    original, low_rank, int8, both = table.values()
    assert both.kilobytes < 0.4 * min(low_rank.kilobytes, int8.kilobytes)
    assert max(low_rank.kilobytes, int8.kilobytes) < 0.3 * original.kilobytes
    assert both.top1 > original.top1 - 1


def producers(model: onnx.ModelProto) -> dict[str, NodeProto]:
    return {name: node for node in model.graph.node for name in node.output}


def test_every_factor_is_quantized_channel_by_channel(ran: Ran) -> None:
    smaller, int8 = (onnx.load(ran.folder / name) for name in ("smaller.onnx", "int8.onnx"))
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in int8.graph.initializer}
    made_by = producers(int8)
    convs = [node for node in int8.graph.node if node.op_type == "Conv"]
    assert [n.name for n in convs] == [n.name for n in smaller.graph.node if n.op_type == "Conv"]
    assert sum("_lr" in node.name for node in convs) >= 12
    for node in convs:
        data, weight = made_by[node.input[0]], made_by[node.input[1]]
        assert (data.op_type, weight.op_type) == ("DequantizeLinear", "DequantizeLinear")
        quantized, scale = stored[weight.input[0]], stored[weight.input[1]]
        assert quantized.dtype == np.int8
        assert scale.shape == quantized.shape[:1]


def test_onnx_runtime_runs_integer_convs(ran: Ran, tmp_path: Path) -> None:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    ort.InferenceSession(ran.folder / "int8.onnx", options, providers=["CPUExecutionProvider"])
    ops = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert "QLinearConv" in ops
    assert "Conv" not in ops


def test_the_quantized_file_is_refused_with_advice(ran: Ran) -> None:
    path = ran.folder / "int8.onnx"
    linear = {n.name for n in onnx.load(path).graph.node if n.op_type in ("Conv", "Gemm", "MatMul")}
    inspection, plan = onnxlr.inspect(path), onnxlr.plan(path, energy=0.9)
    assert (inspection.layers, plan.layers) == ((), ())
    for skipped in (inspection.skipped, plan.skipped):
        assert {item.name for item in skipped} == linear
        assert {item.reason for item in skipped} == {ADVICE}
    printed = json.loads(ran.of("onnxlr inspect"))
    assert {item["reason"] for item in printed["skipped"]} == {ADVICE}


def test_the_advice_reaches_the_terminal(ran: Ran) -> None:
    assert "factorize before quantizing" in run(["onnxlr", "inspect", "int8.onnx"], ran.folder)
