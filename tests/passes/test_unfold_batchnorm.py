from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper

from passes import fold_affine, remove_unused
from passes.unfold_batchnorm import ChannelStatistics, find_unnormalized, unfold_batchnorm
from tests.builders import Array, initializers, make_model, relative_error, run, weight
from tests.pass_checks import read_in_body, stored_outside, trained, with_inputs, with_output

X = np.random.default_rng(5).standard_normal((40, 3, 8, 7)).astype(np.float32)


def network(follower: str = "Relu", bias: bool = True, dtype: type = np.float32) -> ModelProto:
    """Two Convs with an activation between them; the second gives the output."""
    stored = {"w": weight(6, 3, 3, 3, dtype=dtype), "v": weight(4, 6, 1, 1, seed=2, dtype=dtype)}
    stored |= {"b": weight(6, seed=3, dtype=dtype)} if bias else {}
    nodes = [
        helper.make_node("Conv", ["x", "w", *(["b"] if bias else [])], ["c"], "first"),
        helper.make_node(follower, ["c"], ["r"]),
        helper.make_node("Conv", ["r", "v"], ["y"], "last"),
    ]
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return make_model(nodes, {"x": ["N", 3, 8, 7]}, ["y"], stored, dtype=kind)


def statistics_of(value: Array) -> ChannelStatistics:
    wide = value.astype(np.float64)
    return ChannelStatistics(wide.mean((0, 2, 3)), wide.var((0, 2, 3)))


def measured(model: ModelProto) -> dict[str, ChannelStatistics]:
    kind = model.graph.input[0].type.tensor_type.elem_type
    x = X.astype(helper.tensor_dtype_to_np_dtype(kind))
    copy = ModelProto()
    copy.CopyFrom(model)
    return {"c": statistics_of(run(with_output(copy, "c"), x=x)[-1])}


def unfolded(model: ModelProto) -> ModelProto:
    stored = model.SerializeToString()
    result = remove_unused(model, unfold_batchnorm(model, measured(model)))
    assert model.SerializeToString() == stored
    onnx.checker.check_model(result, full_check=True)
    return result


@pytest.mark.parametrize("bias", [True, False])
def test_the_function_stays(bias: bool) -> None:
    model = network(bias=bias)
    result = unfolded(model)
    assert [node.op_type for node in result.graph.node] == ["Conv", "BatchNormalization", "Relu", "Conv"]
    assert relative_error(run(model, x=X)[0], run(result, x=X)[0]) < 1e-6


def test_normalized_values_are_those_of_the_data() -> None:
    result = unfolded(network())
    conv, norm = result.graph.node[:2]
    assert len(conv.input) == 2
    stored = initializers(result)
    scale, bias, mean, var = (stored[name] for name in norm.input[1:])
    found = statistics_of(run(with_output(result, norm.input[0]), x=X)[-1])
    np.testing.assert_allclose(mean, found.mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(var, found.variance, rtol=1e-4)
    np.testing.assert_allclose(var, 1, rtol=1e-4)
    given = measured(network())["c"]
    np.testing.assert_allclose(bias, given.mean, rtol=1e-6)
    np.testing.assert_allclose(scale, np.sqrt(given.variance * (1 + 1e-5)), rtol=1e-5)


def test_folding_undoes_it() -> None:
    model = network()
    folded = fold_affine(unfolded(model))
    assert [node.op_type for node in folded.graph.node] == ["Conv", "Relu", "Conv"]
    np.testing.assert_allclose(
        initializers(folded)[folded.graph.node[0].input[1]], weight(6, 3, 3, 3), rtol=1e-5
    )


def test_channels_that_are_constant_are_not_blown_up() -> None:
    model = network()
    tensor = model.graph.initializer[0]
    array = initializers(model)["w"].copy()
    array[2] = 0
    tensor.raw_data = array.tobytes()
    result = unfolded(model)
    assert relative_error(run(model, x=X)[0], run(result, x=X)[0]) < 1e-6
    assert all(np.isfinite(stored).all() for stored in initializers(result).values())


def test_half_precision() -> None:
    model = network(dtype=np.float16)
    result = unfolded(model)
    x = X.astype(np.float16)
    assert relative_error(run(model, x=x)[0], run(result, x=x)[0]) < 3e-3
    assert {tensor.data_type for tensor in result.graph.initializer} == {TensorProto.FLOAT16}


def test_external_data(tmp_path: Path) -> None:
    model = network()
    outside = onnx.load_model(stored_outside(tmp_path, model), load_external_data=False)
    result = unfold_batchnorm(outside, measured(model), str(tmp_path))
    assert remove_unused(outside, result).graph.node == unfolded(model).graph.node


def test_initializers_that_are_inputs() -> None:
    model = network()
    old = with_inputs(model)
    result = remove_unused(old, unfold_batchnorm(old, measured(model)))
    assert {value.name for value in result.graph.input} == {"x", *initializers(result)}


def test_what_statistics_are_needed_of() -> None:
    assert find_unnormalized(network()) == ["c"]
    assert find_unnormalized(unfolded(network())) == []


def shared() -> ModelProto:
    model = network()
    model.graph.node.append(helper.make_node("Conv", ["x", "w"], ["z"]))
    return with_output(model, "z")


def two_inputs() -> ModelProto:
    model = network()
    model.graph.initializer.remove(model.graph.initializer[0])
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [6, 3, 3, 3]))
    return model


REFUSED = {
    "a chain": lambda: network("Identity"),
    "an output": lambda: with_output(network(), "c"),
    "read in a body": lambda: read_in_body(network(), "c"),
    "a shared weight": shared,
    "no constant": two_inputs,
    "trained": lambda: trained(network(), "w"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    model = REFUSED[name]()
    assert find_unnormalized(model) == []
    given = {"c": ChannelStatistics(np.zeros(6), np.ones(6))}
    assert unfold_batchnorm(model, given) is model


def test_without_statistics_nothing_is_done() -> None:
    model = network()
    assert unfold_batchnorm(model, {}) is model


@pytest.mark.parametrize(
    ("mean", "variance", "message"),
    [
        (np.zeros(5), np.ones(5), "6 channels"),
        (np.zeros(6), -np.ones(6), "negative"),
        (np.full(6, np.nan), np.ones(6), "not finite"),
    ],
)
def test_wrong_statistics(mean: Array, variance: Array, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        unfold_batchnorm(network(), {"c": ChannelStatistics(mean, variance)})
