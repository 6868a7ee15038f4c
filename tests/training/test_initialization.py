"""Weights drawn anew have the variances that the docstrings state, and nothing else is touched."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra onnxlr[train]")

from onnx import ModelProto, helper

from onnxlr.training import GraphModule
from onnxlr.training.initialization import draw_weights, reset_normalizations
from tests.builders import (
    Array,
    constants,
    conv_bn_model,
    conv_model,
    gemm_model,
    left_gemm_model,
    make_model,
    matmul_model,
    weight,
)
from tests.training.checks import evaluate


def drawn(model: ModelProto, seed: int = 0) -> dict[str, Array]:
    """Parameters and statistics after a draw."""
    return tensors(drawn_module(model, seed))


def drawn_module(model: ModelProto, seed: int = 0) -> GraphModule:
    module = GraphModule(model)
    draw_weights(module, seed)
    return module


def tensors(module: GraphModule) -> dict[str, Array]:
    found = {**dict(module.named_parameters()), **module.statistics}
    return {name: tensor.detach().numpy().copy() for name, tensor in found.items()}


def up(shape: tuple[int, ...], **attributes: Any) -> ModelProto:
    return conv_model(weight(*shape), op="ConvTranspose", **attributes)


@pytest.mark.parametrize(
    ("model", "variance"),
    [
        (conv_model(weight(96, 40, 3, 3)), 2 / (40 * 9)),
        (conv_model(weight(96, 40, 3, 1), strides=[2, 2]), 2 / (40 * 3)),
        (conv_model(weight(96, 20, 3, 3), group=4), 2 / (20 * 9)),
        (conv_model(weight(600, 1, 5, 5), group=600), 2 / 25),
        (conv_model(weight(96, 160, 3), size=(11,)), 2 / (160 * 3)),
        # an output of a ConvTranspose sees a tap of every channel, and by a stride fewer taps
        (up((40, 96, 3, 3)), 2 / (40 * 9)),
        (up((40, 96, 4, 4), strides=[2, 2]), 2 / (40 * 4)),
        (up((40, 96, 3, 3), strides=[1, 3]), 2 / (40 * 3)),
        (up((40, 96, 4, 4), strides=[2, 2], group=4), 2 / (10 * 4)),
        (gemm_model(weight(90, 300), weight(300)), 1 / 90),
        (gemm_model(weight(300, 90), weight(300), transB=1), 1 / 90),
        (gemm_model(weight(90, 300), weight(300), transA=1), 1 / 90),
        (left_gemm_model(weight(300, 90)), 1 / 90),
        (left_gemm_model(weight(90, 300), transA=1), 1 / 90),
        (matmul_model(["x", "w"], ["N", 90], weight(90, 300)), 1 / 90),
        (matmul_model(["w", "x"], [90, 5], weight(300, 90)), 1 / 90),
        (matmul_model(["x", "w"], [3, 4, 90], weight(3, 90, 120)), 1 / 90),
        (matmul_model(["w", "x"], [3, 90, 4], weight(3, 120, 90)), 1 / 90),
    ],
)
def test_variance(model: ModelProto, variance: float) -> None:
    numbers = drawn(model)["w"].astype(np.float64)
    error = (2 / numbers.size) ** 0.5  # of the variance of so many normal numbers, relatively
    assert numbers.size >= 10_000
    assert abs(np.square(numbers).mean() / variance - 1) < 4 * error
    assert abs(numbers.mean()) < 4 * (variance / numbers.size) ** 0.5
    kurtosis = (numbers**4).mean() / np.square(numbers).mean() ** 2
    assert abs(kurtosis - 3) < 4 * (24 / numbers.size) ** 0.5  # normal, not uniform


@pytest.mark.parametrize(
    "model",
    [
        conv_model(weight(8, 4, 3, 3)),
        conv_model(weight(4, 8, 3, 3), op="ConvTranspose"),
        gemm_model(weight(8, 6), weight(6, seed=4)),
        left_gemm_model(weight(8, 6)),
    ],
)
def test_biases_are_zero(model: ModelProto) -> None:
    assert tensors(GraphModule(model))["b"].all()
    assert not drawn(model)["b"].any()


def test_a_normalization_is_as_new() -> None:
    found = drawn(conv_bn_model(weight(8, 4, 3, 3)))
    for part, number in {"scale": 1, "bias": 0, "mean": 0, "var": 1}.items():
        assert np.all(found[f"bn_{part}"] == number), part
    assert not found["b"].any()


@pytest.mark.parametrize(
    ("op", "opset", "size", "given"),
    [
        ("LayerNormalization", 17, 6, {}),
        ("InstanceNormalization", 17, 4, {}),
        ("GroupNormalization", 21, 4, {"num_groups": 2}),
    ],
)
def test_other_normalizations(op: str, opset: int, size: int, given: dict[str, Any]) -> None:
    nodes = [helper.make_node(op, ["x", "scale", "bias"], ["y"], "norm", **given)]
    weights = {"scale": weight(size, seed=1), "bias": weight(size, seed=2)}
    module = GraphModule(make_model(nodes, {"x": ["N", 4, 5, 6]}, ["y"], weights, opset))
    assert reset_normalizations(module) == {"scale", "bias"}
    assert np.all(tensors(module)["scale"] == 1)
    assert not tensors(module)["bias"].any()


def test_resetting_leaves_weights_alone() -> None:
    module = GraphModule(conv_bn_model(weight(8, 4, 3, 3)))
    before = tensors(module)
    assert reset_normalizations(module) == {"bn_scale", "bn_bias", "bn_mean", "bn_var"}
    after = tensors(module)
    assert all(np.array_equal(after[name], before[name]) for name in ("w", "b"))


def test_what_no_rule_is_known_for_is_named_and_left() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], "conv"),
        helper.make_node("Mul", ["c", "gain"], ["g"], "mul"),
        helper.make_node("PRelu", ["g", "slope"], ["p"], "prelu"),
        helper.make_node("BatchNormalization", ["p", *constants("bn", 8)], ["y"], "bn"),
    ]
    weights = {
        "w": weight(8, 4, 3, 3),
        "b": weight(8, seed=1),
        "gain": weight(8, 1, 1, seed=2),
        "slope": weight(8, 1, 1, seed=3),
        **constants("bn", 8),
    }
    module = GraphModule(make_model(nodes, {"x": ["N", 4, 9, 9]}, ["y"], weights))
    before = tensors(module)
    assert draw_weights(module, 0) == ["gain", "slope"]
    after = tensors(module)
    assert {name for name in before if np.array_equal(before[name], after[name])} == {"gain", "slope"}


def shared() -> ModelProto:
    """Two layers of one weight, and one of another."""
    nodes = [
        helper.make_node("MatMul", ["x", "v"], ["a"], "one"),
        helper.make_node("MatMul", ["a", "v"], ["b"], "two"),
        helper.make_node("MatMul", ["b", "u"], ["y"], "three"),
    ]
    return make_model(nodes, {"x": ["N", 12]}, ["y"], {"v": weight(12, 12), "u": weight(12, 12, seed=1)})


@pytest.mark.parametrize("model", [shared(), conv_bn_model(weight(8, 4, 3, 3))])
def test_the_seed_tells_the_numbers(model: ModelProto) -> None:
    first, again, other = drawn(model, 1), drawn(model, 1), drawn(model, 2)
    weights = [name for name, array in first.items() if array.ndim > 1]
    assert weights
    assert all(np.array_equal(array, again[name]) for name, array in first.items())
    assert not any(np.any(first[name] == other[name]) for name in weights)


def test_layers_do_not_get_the_same_numbers() -> None:
    found = drawn(shared())
    assert not np.any(found["v"] == found["u"])


def test_activations_neither_vanish_nor_explode() -> None:
    """Twenty layers with Relu: E[x²] before each is within a factor of 4 of 2, what the first has."""
    depth, width, nodes, weights, before = 20, 128, [], {}, "x"
    for i in range(depth):
        size = 3 if i % 2 else 1
        weights[f"w{i}"] = np.zeros((width, width, size, size), np.float32)
        nodes.append(helper.make_node("Conv", [before, f"w{i}"], [f"c{i}"], f"conv{i}"))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"r{i}"], f"relu{i}"))
        before = f"r{i}"
    names = [f"c{i}" for i in range(depth)]
    module = drawn_module(make_model(nodes, {"x": ["N", width, 24, 24]}, names, weights))
    x = np.random.default_rng(0).standard_normal((2, width, 24, 24)).astype(np.float32)
    energies = [float(np.square(value).mean()) for value in evaluate(module, {"x": x})]
    assert energies[0] == pytest.approx(2, rel=0.2)
    assert all(0.5 < energy < 8 for energy in energies), energies
