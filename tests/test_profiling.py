"""Layers are found again in what ONNX Runtime made of the graph; what cannot be told apart is left out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, helper

import models
import onnxlr
from onnxlr import profiling
from onnxlr.job import Job, Selection
from onnxlr.model_file import Model, load
from onnxlr.parallel import no_progress
from onnxlr.profiling import LayerTimes, measure_layers
from onnxlr.runtime import Device, Session, find_device
from onnxlr.schemes import all_schemes
from onnxlr.selectors import all_selectors
from passes.graph import Key
from tests.builders import constants, conv_model, make_model, stored_outside, weight

CPU = find_device("cpu")
LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")
SAME = {"pads": [1, 1, 1, 1]}


def random_feed(proto: ModelProto) -> dict[str, Any]:
    """Inputs with every symbolic size 2."""
    rng = np.random.default_rng(0)
    shapes = {v.name: [d.dim_value or 2 for d in v.type.tensor_type.shape.dim] for v in proto.graph.input}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def measure(model: ModelProto | Model, chains: Mapping[Key, int]) -> LayerTimes:
    loaded = load(model)
    return measure_layers(loaded, chains, CPU, 1, random_feed(loaded.proto), seconds=0.01)


def linear_keys(proto: ModelProto) -> set[Key]:
    return {("", node.output[0]) for node in proto.graph.node if node.op_type in LINEAR}


def node(op: str, inputs: str, output: str, name: str = "", **attributes: Any) -> NodeProto:
    return helper.make_node(op, inputs.split(), [output], name, **attributes)


def conv(inputs: str, output: str, name: str = "", **attributes: Any) -> NodeProto:
    return node("Conv", inputs, output, name, **(SAME | attributes))


# No case has equal names: ONNX Runtime refuses such models.
STORED = {
    **{name: weight(16, 16, 3, 3, seed=i) for i, name in enumerate("uvw")},
    **constants("n", 16),
    "depthwise": weight(16, 1, 3, 3),
    "grouped": weight(16, 8, 3, 3),
    "narrow": weight(7, 16, 3, 3),
    "wide": weight(16, 7, 3, 3),
    "m": weight(9, 9),
    "k": weight(9, seed=5),
    "channels": weight(16, 1, 1, seed=6),
    "low": np.float32(0),
    "high": np.float32(6),
}
BN = " ".join(constants("n", 16))

GRAPHS: dict[str, list[NodeProto]] = {
    "Conv": [conv("x u", "y")],
    "Convs in a row": [conv("x u", "a"), conv("a v", "b"), conv("b w", "y")],
    "Conv, Relu": [conv("x u", "a"), node("Relu", "a", "y")],
    "Conv, BN, Relu": [conv("x u", "a"), node("BatchNormalization", f"a {BN}", "b"), node("Relu", "b", "y")],
    "Conv, Clip": [conv("x u", "a"), node("Clip", "a low high", "y")],
    "Conv, LeakyRelu": [conv("x u", "a"), node("LeakyRelu", "a", "y")],
    "Conv, Sigmoid": [conv("x u", "a"), node("Sigmoid", "a", "y")],
    "Conv, SiLU": [conv("x u", "a"), node("Sigmoid", "a", "s"), node("Mul", "a s", "y")],
    "Conv, HardSwish": [conv("x u", "a"), node("HardSwish", "a", "y")],
    "Conv, constants": [
        conv("x u", "a"),
        node("Add", "a channels", "b"),
        node("Mul", "b channels", "c"),
        node("Relu", "c", "y"),
    ],
    "two Convs into one Add": [
        conv("x u", "a"),
        node("BatchNormalization", f"a {BN}", "b"),
        conv("x v", "c"),
        node("Add", "b c", "d"),
        node("Relu", "d", "y"),
    ],
    "shortcut": [
        conv("x u", "a"),
        node("Relu", "a", "b"),
        conv("b v", "c"),
        node("Add", "c b", "d"),
        node("Relu", "d", "y"),
    ],
    "depthwise": [conv("x depthwise", "a", group=16), node("Relu", "a", "b"), conv("b u", "y")],
    "grouped": [conv("x grouped", "a", group=2), node("Relu", "a", "y")],
    "channels no multiple of the block": [conv("x narrow", "a"), node("Relu", "a", "b"), conv("b wide", "y")],
    "ConvTranspose": [
        node("ConvTranspose", "x u", "a", **SAME),
        node("BatchNormalization", f"a {BN}", "b"),
        node("Relu", "b", "y"),
    ],
    "names like ours": [conv("x u", "a", "onnxlr-node-1-"), conv("a v", "y", "onnxlr-node-0-")],
    "tensors like ONNX Runtime's": [conv("x u", "a"), conv("a v", "a_nchwc"), conv("a_nchwc w", "y")],
    "Pad before": [node("Identity", "x", "a"), conv("a u", "y")],
    "MatMul": [node("MatMul", "x m", "y")],
    "MatMul, Add": [node("MatMul", "x m", "a"), node("Add", "a k", "y")],
    "MatMul, Add, Relu": [node("MatMul", "x m", "a"), node("Add", "a k", "b"), node("Relu", "b", "y")],
    "MatMul, Mul": [node("MatMul", "x m", "a"), node("Mul", "a high", "y")],
    "Transpose, MatMul": [node("Transpose", "x", "a", perm=[0, 1, 3, 2]), node("MatMul", "a m", "y")],
    "MatMul on the other side": [node("MatMul", "m x", "y")],
    "Gemm": [node("Flatten", "x", "f", axis=3), node("Gemm", "f m k", "y")],
    "Gemm, Relu": [
        node("Flatten", "x", "f", axis=3),
        node("Gemm", "f m k", "a", transB=1),
        node("Relu", "a", "y"),
    ],
    "flat MatMul, Add, Relu": [
        node("Flatten", "x", "f", axis=3),
        node("MatMul", "f m", "a"),
        node("Add", "a k", "b"),
        node("Relu", "b", "y"),
    ],
}


def graph(nodes: list[NodeProto], *outputs: str) -> ModelProto:
    read = {name for entry in nodes for name in entry.input}
    stored = {name: array for name, array in STORED.items() if name in read}
    return make_model(nodes, {"x": ["N", 16, 9, 9]}, outputs or ("y",), stored)


@pytest.mark.parametrize("nodes", GRAPHS.values(), ids=GRAPHS.keys())
def test_every_layer_is_found(nodes: list[NodeProto]) -> None:
    proto = graph(nodes)
    before = proto.SerializeToString()
    found = measure(proto, dict.fromkeys(linear_keys(proto), 1))
    assert found.layers.keys() == linear_keys(proto)
    assert all(0 < seconds < 1 for seconds in found.layers.values())
    assert 0 <= found.rest < 1
    assert proto.SerializeToString() == before


def test_also_where_a_value_in_between_is_an_output() -> None:
    proto = graph(GRAPHS["shortcut"], "y", "b", "a")
    assert measure(proto, dict.fromkeys(linear_keys(proto), 1)).layers.keys() == linear_keys(proto)


def test_times_are_those_of_the_right_layer() -> None:
    """One of two Convs in a row takes nine times the work of the other."""
    nodes = [conv("x u", "a"), node("Relu", "a", "b"), conv("b v", "y", pads=[0] * 4)]
    big, small = weight(64, 64, 3, 3), weight(64, 64, 1, 1)
    proto = make_model(nodes, {"x": ["N", 64, 48, 48]}, ["y"], {"u": big, "v": small})
    times = measure(proto, {("", "a"): 1, ("", "y"): 1}).layers
    assert times["", "a"] > 3 * times["", "y"]


def test_layers_whose_name_is_made_up_are_left_out() -> None:
    nodes = [
        node("MatMul", "x square", "a"),
        node("BatchNormalization", f"a {BN}", "b"),
        node("MatMul", "b out", "y"),
    ]
    stored = {"square": weight(16, 16), "out": weight(16, 5), **constants("n", 16)}
    proto = make_model(nodes, {"x": ["N", 16]}, ["y"], stored)
    assert measure(proto, dict.fromkeys(linear_keys(proto), 1)).layers.keys() == {("", "y")}


def test_equal_layers_that_are_merged_count_once() -> None:
    proto = graph([conv("x u", "a"), conv("x u", "b"), node("Mul", "a b", "y")])
    found = measure(proto, {("", "a"): 1, ("", "b"): 1}).layers
    assert len(found) == 1


def optimized(source: ModelProto | Path, **options: Any) -> tuple[Job, Model, dict[Key, int], dict[Key, int]]:
    """A job, its result, and the number of linear nodes by key in the original and in the result."""
    job = Job(load(source), {}, 1, no_progress)
    plan = job.plan(Selection(all_selectors()["energy"](0.6), all_schemes(), align=8, **options))
    assert plan.layers
    after = dict(job.chains(plan).values())
    return job, job.apply(plan), dict.fromkeys(after, 1), after


RESULTS: dict[str, ModelProto] = {
    "Conv, BN, Relu": graph(GRAPHS["Conv, BN, Relu"]),
    "two Convs into one Add": graph(GRAPHS["two Convs into one Add"]),
    "names like ours": graph(GRAPHS["names like ours"]),
    "ConvTranspose": graph(GRAPHS["ConvTranspose"]),
    "Gemm, Relu": graph(GRAPHS["Gemm, Relu"]),
    "transposed Gemm": make_model(
        [node("Gemm", "x m k", "y", transA=1)], {"x": [9, 16]}, ["y"], {n: STORED[n] for n in "mk"}
    ),
    "MatMul, Add, Relu": graph(GRAPHS["MatMul, Add, Relu"]),
    "MatMul on the other side": graph(GRAPHS["MatMul on the other side"]),
}


@pytest.mark.parametrize("proto", RESULTS.values(), ids=RESULTS.keys())
def test_chains_are_found(proto: ModelProto) -> None:
    """Also in the original, whose layer gave another output before BatchNormalization was folded."""
    job, result, before, after = optimized(proto, gate="none")
    assert max(after.values()) > 1
    assert measure(job.original, before).layers.keys() == after.keys()
    assert measure(result, after).layers.keys() == after.keys()


def test_external_data(tmp_path: Path) -> None:
    path = stored_outside(tmp_path, conv_model(weight(32, 32, 3, 3)))
    job, result, before, after = optimized(path, gate="none")
    assert measure(job.original, before).layers.keys() == after.keys()
    assert measure(result, after).layers.keys() == after.keys()


NETWORKS = {"resnet20": 20, "resnet18": 21, "mobilenet_v2": 53, "googlenet": 58}


@pytest.mark.parametrize(("name", "count"), NETWORKS.items())
def test_every_layer_of_real_networks(name: str, count: int) -> None:
    proto = models.build(name, 0)
    keys = linear_keys(proto)
    assert len(keys) == count
    found = measure(proto, dict.fromkeys(keys, 1))
    assert found.layers.keys() == keys


def test_the_digits_network_after_optimization() -> None:
    digits = Path(__file__).parent.parent / "models/digits/digits.onnx"
    job, result, before, after = optimized(digits)
    assert len(after) > 3
    assert measure(job.original, before).layers.keys() == after.keys()
    assert measure(result, after).layers.keys() == after.keys()


@pytest.mark.parametrize("chains", [{("", "y"): 2}, {("", "none"): 1}, {("/y[0]", "y"): 1}])
def test_what_is_not_there_is_left_out(chains: dict[Key, int]) -> None:
    found = measure(graph(GRAPHS["Conv"]), chains)
    assert found.layers == {}
    assert found.rest > 0


def test_on_a_gpu_no_layer_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """A profile holds what it takes to launch kernels there, not what they take."""

    class Fake(Session):
        def __init__(self, model: Model, _: Device, threads: int) -> None:
            super().__init__(model, CPU, threads)

    monkeypatch.setattr(profiling, "Session", Fake)
    proto = graph(GRAPHS["Conv"])
    device = Device("cuda", "CUDAExecutionProvider")
    found = measure_layers(load(proto), {("", "y"): 1}, device, 1, random_feed(proto), seconds=0.01)
    assert found.layers == {}
    assert found.rest > 0


def test_a_model_that_cannot_be_run() -> None:
    proto = graph(GRAPHS["Conv"])
    proto.graph.node[0].op_type = "Convolution"
    with pytest.raises(onnxlr.ModelError, match="ONNX Runtime cannot load it"):
        measure(proto, {("", "y"): 1})
