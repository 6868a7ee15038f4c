"""BatchNormalization while it is trained: what it computes, and what becomes of its statistics."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra onnxlr[train]")

from onnx import helper, numpy_helper

from onnxlr.errors import ModelError
from onnxlr.training import GraphModule
from tests.builders import Array, constants, make_model
from tests.training.checks import evaluate, largest_error, random_feed


def normalizer(momentum: float | None = None, opset: int = 17, **attributes: float) -> GraphModule:
    given = attributes if momentum is None else {"momentum": momentum, **attributes}
    norm = constants("bn", 3)
    node = helper.make_node("BatchNormalization", ["x", *norm], ["y"], **given)
    return GraphModule(make_model([node], {"x": ["N", 3, 4, 5]}, ["y"], norm, opset))


def batch(seed: int) -> Array:
    return np.random.default_rng(seed).normal(1.5, 2.0, (6, 3, 4, 5)).astype(np.float32)


@pytest.mark.parametrize("momentum", [None, 0.9, 0.75, 0.0])
def test_statistics_are_those_of_onnx(momentum: float | None) -> None:
    """`momentum` is the share of the old ones, and the variance that of the population."""
    module = normalizer(momentum)
    old = {name: value.numpy().copy() for name, value in module.statistics.items()}
    share = 0.9 if momentum is None else momentum
    mean, var = old["bn_mean"].astype(np.float64), old["bn_var"].astype(np.float64)
    for seed in range(3):
        x = batch(seed)
        module.train()({"x": x})
        mean = mean * share + x.astype(np.float64).mean((0, 2, 3)) * (1 - share)
        var = var * share + x.astype(np.float64).var((0, 2, 3)) * (1 - share)
    np.testing.assert_allclose(module.statistics["bn_mean"].numpy(), mean, rtol=1e-5)
    np.testing.assert_allclose(module.statistics["bn_var"].numpy(), var, rtol=1e-5)


def test_training_normalizes_by_the_batch() -> None:
    module = normalizer(epsilon=1e-3)
    stored = dict(module.named_parameters())
    scale, bias = (stored[name].detach().numpy().reshape(1, 3, 1, 1) for name in ("bn_scale", "bn_bias"))
    x = batch(0)
    mean, var = x.mean((0, 2, 3), keepdims=True), x.var((0, 2, 3), keepdims=True)
    expected = scale * (x - mean) / np.sqrt(var + 1e-3) + bias
    np.testing.assert_allclose(module.train()({"x": x})["y"].detach().numpy(), expected, rtol=1e-4, atol=1e-5)


def test_evaluation_leaves_the_statistics_alone() -> None:
    module = normalizer()
    old = {name: value.clone() for name, value in module.statistics.items()}
    evaluate(module, {"x": batch(0)})
    assert all(torch.equal(value, old[name]) for name, value in module.statistics.items())


def test_statistics_are_written_back() -> None:
    module = normalizer()
    module.train()({"x": batch(0)})
    written = module.write_back()
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in written.proto.graph.initializer}
    for name, value in module.statistics.items():
        np.testing.assert_array_equal(stored[name], value.numpy())
    assert largest_error(module, written, random_feed(written)) < 1e-5


def test_one_value_a_channel_has_no_variance() -> None:
    norm = constants("bn", 3)
    node = helper.make_node("BatchNormalization", ["x", *norm], ["y"], "bn")
    module = GraphModule(make_model([node], {"x": ["N", 3]}, ["y"], norm))
    with pytest.raises(ModelError, match="BatchNormalization 'bn'"):
        module.train()({"x": np.ones((1, 3), np.float32)})


def test_position_wise_statistics_are_refused() -> None:
    with pytest.raises(ModelError, match="spatial=0"):
        evaluate(normalizer(opset=7, spatial=0), {"x": batch(0)})
