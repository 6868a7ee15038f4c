"""Weights however exporters write them: found, factorized in place, and nothing of the old form is left."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

import onnxlr
from onnxlr.analysis import analyse
from onnxlr.layer import Layer
from tests.builders import Array, conv_model, initializers, make_model, relative_error, run, weight

W = weight(16, 8, 3, 3)
CONV = helper.make_node("Conv", ["x", "w", "b"], ["y"], "conv")


def node(op: str, *inputs: str, output: str = "w", **attributes: Any) -> NodeProto:
    return helper.make_node(op, inputs, [output], **attributes)


def constant(name: str, array: Array) -> NodeProto:
    return node("Constant", output=name, value=numpy_helper.from_array(array))


def model(
    nodes: Sequence[NodeProto], stored: dict[str, Array], opset: int = 17, channels: int = 8
) -> ModelProto:
    """`y = Conv(x, w, b)` after the nodes that compute w."""
    weights = {**stored, "b": weight(16, seed=9)}
    return make_model([*nodes, CONV], {"x": ["N", channels, 11, 13]}, ["y"], weights, opset)


def also_an_input() -> ModelProto:
    """IR 3 made every initializer an input."""
    made = conv_model(W)
    made.ir_version = 3
    made.opset_import[0].version = 8
    for tensor in made.graph.initializer:
        made.graph.input.append(helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, tensor.dims))
    return made


def overlaid() -> ModelProto:
    """An initializer that is an input as well and has an alias."""
    made = model([node("Identity", "stored")], {"stored": W})
    made.graph.input.append(helper.make_tensor_value_info("stored", TensorProto.FLOAT, W.shape))
    return made


def weight_norm() -> ModelProto:
    """g v / ‖v‖, as torch writes it."""
    norm = np.linalg.norm(W.reshape(16, -1), axis=1).reshape(16, 1, 1, 1).astype(np.float32)
    nodes = [
        node("ReduceL2", "v", "axes", output="norm", keepdims=1),
        node("Div", "g", "norm", output="ratio"),
        node("Mul", "v", "ratio"),
    ]
    return model(nodes, {"v": W, "g": norm, "axes": np.array([1, 2, 3])}, 18)


def list_shape(name: str, *sizes: int) -> NodeProto:
    return node("Constant", output=name, value_ints=sizes)


FLAT = W.reshape(16, -1)
MODELS: dict[str, Callable[[], ModelProto]] = {
    "initializer": lambda: conv_model(W),
    "initializer that is an input, IR 3": also_an_input,
    "alias of an initializer that is an input": overlaid,
    "Constant node": lambda: model([constant("w", W)], {}),
    "Identity": lambda: model([node("Identity", "a", output="i"), node("Identity", "i")], {"a": W}),
    "Identity of a Constant node": lambda: model([constant("a", W), node("Identity", "a")], {}),
    "Transpose (HWIO)": lambda: model(
        [node("Transpose", "a", perm=[3, 2, 0, 1])], {"a": W.transpose(2, 3, 1, 0)}
    ),
    "Reshape": lambda: model([node("Reshape", "a", "s")], {"a": FLAT, "s": np.array([16, 8, 3, 3])}),
    "Reshape to a list of a Constant node": lambda: model(
        [list_shape("s", 16, -1, 3, 3), node("Reshape", "a", "s")], {"a": FLAT}
    ),
    "Squeeze": lambda: model([node("Squeeze", "a", "axes")], {"a": W[None], "axes": np.array([0])}),
    "Squeeze of opset 11": lambda: model([node("Squeeze", "a", axes=[0])], {"a": W[None]}, 11),
    "Unsqueeze": lambda: model(
        [
            node("Reshape", "a", "s", output="r"),
            node("Unsqueeze", "r", "axes"),
        ],
        {"a": W[:, :1, 0, :], "s": np.array([16, 1, 3]), "axes": np.array([2])},
        channels=1,
    ),
    "Cast": lambda: model([node("Cast", "a", to=TensorProto.FLOAT)], {"a": W.astype(np.float16)}),
    "Cast of float64": lambda: model([node("Cast", "a", to=TensorProto.FLOAT)], {"a": W.astype(np.float64)}),
    "ConstantOfShape": lambda: model(
        [node("ConstantOfShape", "s", value=helper.make_tensor("v", TensorProto.FLOAT, [1], [0.25]))],
        {"s": np.array([16, 8, 3, 3])},
    ),
    "weight normalization": weight_norm,
    "several at once": lambda: model(
        [
            node("Cast", "a", output="c", to=TensorProto.FLOAT),
            node("Transpose", "c", output="t", perm=[1, 0]),
            list_shape("s", 16, 8, 3, 3),
            node("Reshape", "t", "s"),
        ],
        {"a": np.ascontiguousarray(FLAT.T).astype(np.float64)},
    ),
}


@pytest.fixture(params=MODELS)
def original(request: pytest.FixtureRequest) -> ModelProto:
    return MODELS[request.param]()


def feed(made: ModelProto) -> Array:
    channels = made.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    return np.random.default_rng(0).standard_normal((2, channels, 11, 13)).astype(np.float32)


def test_full_rank_is_the_same_and_only_the_chain_is_left(original: ModelProto) -> None:
    before = original.SerializeToString()
    result = onnxlr.optimize(original, energy=1.0, gate="none", schemes=["channel-out"], checks=None)
    assert original.SerializeToString() == before
    assert [layer.name for layer in result.plan.layers] == ["conv"]
    onnx.checker.check_model(result.model, full_check=True)
    assert [n.op_type for n in result.model.graph.node] == ["Conv", "Conv"]
    assert sorted(initializers(result.model)) == ["b", "conv_lr0_weight", "conv_lr1_weight"]
    inputs = {value.name for value in result.model.graph.input}
    assert inputs == ({"x", *initializers(result.model)} if original.ir_version < 4 else {"x"})
    x = feed(original)
    assert relative_error(run(original, x=x)[0], run(result.model, x=x)[0]) < 1e-5


def test_a_weight_shared_by_several_forms_is_stored_once() -> None:
    nodes = [
        constant("w", weight(8, 8, 1, 1)),
        node("Identity", "w", output="w2"),
        helper.make_node("Conv", ["x", "w"], ["a"], "first"),
        helper.make_node("Conv", ["a", "w2"], ["y"], "second"),
    ]
    made = make_model(nodes, {"x": ["N", 8, 5, 5]}, ["y"], {})
    result = onnxlr.optimize(made, energy=1.0, gate="none", schemes=["channel-in"], checks=None)
    assert [n.op_type for n in result.model.graph.node] == ["Conv"] * 4
    assert len(initializers(result.model)) == 2


def test_what_is_computed_for_others_as_well_stays() -> None:
    nodes = [
        node("Transpose", "a", perm=[1, 0, 2, 3]),
        helper.make_node("Conv", ["x", "w"], ["c"], "conv"),
        helper.make_node("ReduceSum", ["w"], ["z"], keepdims=0),
        helper.make_node("Max", ["c", "z"], ["y"]),
    ]
    made = make_model(nodes, {"x": ["N", 8, 5, 5]}, ["y"], {"a": weight(8, 8, 3, 3)})
    result = onnxlr.optimize(made, energy=1.0, gate="none", schemes=["channel-in"], checks=None).model
    assert [n.op_type for n in result.graph.node] == ["Transpose", "Conv", "Conv", "ReduceSum", "Max"]
    assert "a" in initializers(result)
    x = np.random.default_rng(0).standard_normal((2, 8, 5, 5)).astype(np.float32)
    assert relative_error(run(made, x=x)[0], run(result, x=x)[0]) < 1e-5


def test_shapes_of_computed_weights_are_known() -> None:
    for name, build in MODELS.items():
        (layer,) = analyse(build())
        assert isinstance(layer, Layer), name
        assert layer.conv.weight_shape[0] == 16
        assert layer.weight.data_type == TensorProto.FLOAT
