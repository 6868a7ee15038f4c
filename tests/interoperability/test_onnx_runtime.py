"""ONNX Runtime's own optimizer, before and after."""

from __future__ import annotations

import platform
from pathlib import Path

import onnx
import onnxruntime as ort
import pytest

import onnxlr
from tests.interoperability.page import Ran, operators

SECTION = "ONNX Runtime's optimizer"


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="level ALL is made for the machine")
def test_fused_layers_are_left_alone(ran: Ran) -> None:
    assert ran.printed == ran.shown


def test_basic_gives_the_same_layers(ran: Ran) -> None:
    plans = [onnxlr.plan(ran.folder / name, energy=0.9) for name in ("model.onnx", "BASIC.onnx")]
    first, second = ([(layer.name, layer.scheme, layer.rank) for layer in plan.layers] for plan in plans)
    assert len(first) == 6
    assert first == second


def test_sessions_fuse_chains(ran: Ran, tmp_path: Path) -> None:
    result = onnxlr.optimize(ran.folder / "model.onnx", energy=0.9, checks=None)
    result.save(tmp_path / "smaller.onnx")
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "fused.onnx")
    ort.InferenceSession(tmp_path / "smaller.onnx", options, providers=["CPUExecutionProvider"])
    ops = operators(tmp_path / "fused.onnx")
    assert "Relu" not in ops
    assert ops.count("FusedConv") == 7  # the first Conv, and the last one of each of six chains
    assert ops.count("Conv") == 9  # all others have no bias and no Relu
    nodes = onnx.load(tmp_path / "fused.onnx").graph.node
    assert {len(node.input) for node in nodes if node.op_type == "FusedConv"} == {3}
    assert {len(node.input) for node in nodes if node.op_type == "Conv"} == {2}
