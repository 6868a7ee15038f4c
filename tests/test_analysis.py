"""Every linear node becomes a Layer or a Skipped with its reason."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from onnxlr.analysis import analyse
from onnxlr.conv import chain_macs
from onnxlr.errors import UsageError
from onnxlr.layer import Layer, Skipped
from onnxlr.shapes import infer_shapes
from tests.builders import conv_model, gemm_model, make_model, matmul_model, weight


def _node(op: str, inputs: list[str], **attributes: Any) -> ModelProto:
    return _nodes(helper.make_node(op, inputs, ["y"], "node", **attributes))


def _without_shape(model: ModelProto) -> ModelProto:
    model.graph.input[0].type.tensor_type.ClearField("shape")
    return model


def _of_domain(op: str, domain: str) -> ModelProto:
    model = _node("Conv", ["x", "w"])
    model.graph.node[0].op_type, model.graph.node[0].domain = op, domain
    if domain:
        model.opset_import.append(helper.make_opsetid(domain, 1))
    return model


def _nodes(*nodes: NodeProto) -> ModelProto:
    weights = {"w": weight(4, 4, 3, 3), "e": weight(0, 4, 3, 3), "i": np.ones((4, 4, 3, 3), np.int32)}
    return make_model(nodes, {"x": ["N", 4, 8, 8], "v": [4, 4, 3, 3]}, ["y"], weights)


def _computed(op: str, source: str) -> ModelProto:
    inputs = [source] if op == "Relu" else [source, "shape"]
    shape = helper.make_node("Constant", [], ["shape"], value_ints=[5, 7])
    return _nodes(shape, helper.make_node(op, inputs, ["c"]), helper.make_node("Conv", ["x", "c"], ["y"]))


def _attention() -> ModelProto:
    nodes = [helper.make_node("Neg", ["x"], ["k"]), helper.make_node("MatMul", ["x", "k"], ["y"])]
    return make_model(nodes, {"x": [4, 4]}, ["y"], {})


def _dequantized() -> ModelProto:
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s"], ["w"]),
        helper.make_node("Conv", ["x", "w"], ["y"], "node"),
    ]
    weights = {"q": np.ones((4, 4, 3, 3), np.int8), "s": np.float32(0.1)}
    return make_model(nodes, {"x": ["N", 4, 8, 8]}, ["y"], weights)


def _dequantized_and_turned() -> ModelProto:
    model = _dequantized()
    model.graph.node[0].output[0] = "q_w"
    model.graph.node.insert(1, helper.make_node("Transpose", ["q_w"], ["w"], perm=[1, 0, 2, 3]))
    return model


def _stored_sparse() -> ModelProto:
    model = conv_model(weight(4, 4, 1, 1))
    (tensor,) = (t for t in model.graph.initializer if t.name == "w")
    sparse = model.graph.sparse_initializer.add(dims=tensor.dims)
    sparse.values.CopyFrom(numpy_helper.from_array(np.ones(1, np.float32), "w"))
    sparse.indices.CopyFrom(numpy_helper.from_array(np.zeros(1, np.int64)))
    model.graph.initializer.remove(tensor)
    return model


def _trained() -> ModelProto:
    model = conv_model(weight(4, 4, 1, 1))
    model.training_info.add().update_binding.add(key="w", value="new_w")
    return model


def _in_a_function(node: NodeProto, inputs: Sequence[str], attributes: Sequence[str] = ()) -> ModelProto:
    """A model that calls a function of one node on its input and, where asked for, a weight of its own."""
    opset = [helper.make_opsetid("", 17)]
    function = helper.make_function("test", "f", inputs, ["y"], [node], opset, attributes)
    call = helper.make_node("f", ["x", "w"][: len(inputs)], ["y"], domain="test")
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy"]
    stored = [numpy_helper.from_array(weight(4, 4, 3, 3), "w")]
    graph = helper.make_graph([call], "test", values[:1], values[1:], stored)
    imports = [*opset, helper.make_opsetid("test", 1)]
    return helper.make_model(graph, opset_imports=imports, functions=[function])


def _with_caller_attribute() -> ModelProto:
    node = helper.make_node("Conv", ["x", "w"], ["y"])
    node.attribute.add(name="group", ref_attr_name="g", type=2)
    return _in_a_function(node, ["x", "w"], ["g"])


def _recurrent() -> ModelProto:
    node = helper.make_node("LSTM", ["x", "w", "r"], ["y"], hidden_size=4)
    return make_model([node], {"x": [3, 1, 4]}, ["y"], {"w": weight(1, 16, 4), "r": weight(1, 16, 4)})


CONV = helper.make_node("Conv", ["x", "w"], ["y"])

SKIPPED = {
    "weight is an input": (_node("Conv", ["x", "v"]), "weight not constant (an input of the main graph)"),
    "weight is dequantized": (_dequantized(), "quantized; factorize before quantizing"),
    "weight is dequantized and turned": (_dequantized_and_turned(), "quantized; factorize before quantizing"),
    "weight is stored sparse": (_stored_sparse(), "weight not constant (stored sparse)"),
    "weight is the argument of a function": (
        _in_a_function(CONV, ["x", "w"]),
        "weight not constant (an input of the function 'test:f')",
    ),
    "attribute is the argument of a function": (_with_caller_attribute(), "attributes given by the caller"),
    "weight is trained": (_trained(), "its weight is part of training_info"),
    "weight of integers": (_node("Conv", ["x", "i"]), "weight of type INT32"),
    "weight computed": (_computed("Relu", "v"), "weight not constant (computed by Relu)"),
    "weight cannot be computed": (_computed("Reshape", "w"), "weight not constant: constant 'c' cannot be"),
    "both operands are computed": (
        make_model([helper.make_node("MatMul", ["x", "x"], ["y"])], {"x": [4, 4]}, ["y"], {}),
        "weight not constant (an input of the main graph)",
    ),
    "attention": (_attention(), "both operands are computed"),
    "recurrent": (_recurrent(), "recurrent; its matrices lie inside one node"),
    "Einsum": (_node("Einsum", ["x", "w"], equation="nchw,mcij->nmhw"), "Einsum; write it as MatMul"),
    "FusedConv": (_of_domain("FusedConv", "com.microsoft"), "fused by ONNX Runtime"),
    "FusedMatMul": (_of_domain("FusedMatMul", "com.microsoft"), "fused by ONNX Runtime"),
    "QLinearConv": (_of_domain("QLinearConv", ""), "quantized; factorize before quantizing"),
    "ConvInteger": (_of_domain("ConvInteger", ""), "quantized; factorize before quantizing"),
    "Conv of another domain": (_of_domain("Conv", "test"), "operator of domain test"),
    "several matrices by a vector": (
        matmul_model(["x", "w"], [4], weight(2, 4, 4)),
        "several matrices, and the other operand may be a vector",
    ),
    "several matrices by what may be a vector": (
        _without_shape(matmul_model(["w", "x"], ["N", 4, 4], weight(2, 4, 4))),
        "several matrices, and the other operand may be a vector",
    ),
    "vector weight": (matmul_model(["x", "w"], [4, 4], weight(4)), "weight of shape (4,)"),
    "empty weight": (_node("Conv", ["x", "e"]), "weight of shape (0, 4, 3, 3)"),
    "kernel_shape contradicts": (_node("Conv", ["x", "w"], kernel_shape=[5, 5]), "kernel_shape contradicts"),
    "groups do not divide": (_node("Conv", ["x", "w"], group=3), "invalid attributes"),
    "groups of a ConvTranspose do not divide": (
        _node("ConvTranspose", ["x", "w"], group=3),
        "invalid attributes: 4 input channels do not divide into 3 groups",
    ),
    "too few strides": (_node("Conv", ["x", "w"], strides=[1]), "invalid attributes"),
}


@pytest.mark.parametrize(("model", "reason"), SKIPPED.values(), ids=SKIPPED.keys())
def test_skipped(model: ModelProto, reason: str) -> None:
    found = analyse(model)
    assert found
    assert all(isinstance(item, Skipped) and item.reason.startswith(reason) for item in found)


def test_conv() -> None:
    (layer,) = analyse(conv_model(weight(8, 4, 3, 3), (10, 12), strides=[2, 1], pads=[1, 1, 1, 1]))
    assert isinstance(layer, Layer)
    assert (layer.name, layer.op_type, layer.key, layer.weight.name) == ("conv", "Conv", ("", "y"), "w")
    assert (layer.conv.strides, layer.conv.pads) == ((2, 1), (1, 1, 1, 1))
    assert (layer.spatial, layer.repeats, layer.macs) == ((10, 12), 1, 8 * 4 * 9 * 5 * 12)


@pytest.mark.parametrize(("trans_b", "shape"), [(0, (6, 5)), (1, (5, 6))])
def test_gemm_weight_is_seen_as_a_conv_weight(trans_b: int, shape: tuple[int, int]) -> None:
    (layer,) = analyse(gemm_model(weight(*shape), transB=trans_b))
    assert isinstance(layer, Layer)
    assert layer.conv.weight_shape == (5, 6)
    assert layer.layout.swapped == (not trans_b)
    assert layer.macs == 30


def test_matmul_counts_its_rows() -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    (layer,) = analyse(make_model([node], {"x": ["N", 7, 6]}, ["y"], {"w": weight(6, 5)}))
    assert isinstance(layer, Layer)
    assert (layer.name, layer.repeats, layer.macs) == ("y", 7, 210)


@pytest.mark.parametrize(
    ("size", "input_shapes", "macs"),
    [
        ((10, 12), {}, 288 * 8 * 10),
        (("H", 12), {}, None),
        (("H", "W"), {"x": [1, 4, 10, 12]}, 288 * 8 * 10),
        (("H", "W"), {"x": [3, 4, 10, 12]}, 3 * 288 * 8 * 10),
    ],
)
def test_unknown_sizes_have_no_macs(size: Any, input_shapes: Any, macs: int | None) -> None:
    (layer,) = analyse(conv_model(weight(8, 4, 3, 3), size), input_shapes)
    assert isinstance(layer, Layer)
    assert layer.macs == macs
    half = layer.conv.with_channels(4, 4)
    assert chain_macs([half], layer.spatial) == chain_macs([layer.conv], layer.spatial) / 2


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"z": [1]}, "'z', but the inputs are: x"),
        ({"x": [1, 4, 9]}, "has 4 dimensions, 3 were given"),
        ({"x": [1, 5, 9, 9]}, "has size 4 along axis 1, 5 was given"),
    ],
)
def test_wrong_input_shapes(shapes: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        analyse(conv_model(weight(8, 4, 3, 3), ("H", "W")), shapes)


def test_names_are_unique_whatever_the_file_says() -> None:
    w = {"w": weight(4, 4, 1, 1)}
    values = ["x", "a", "b", "same", "y"]
    names = ["same", "", "same", "a"]
    nodes = [helper.make_node("Conv", [values[i], "w"], [values[i + 1]], names[i]) for i in range(len(names))]
    found = [item.name for item in analyse(make_model(nodes, {"x": ["N", 4, 5, 5]}, ["y"], w))]
    assert len(set(found)) == 4


def test_stale_value_info_is_not_trusted() -> None:
    model = conv_model(weight(8, 4, 3, 3), (10, 10))
    model.graph.node[0].output[0] = "t"
    model.graph.node.append(helper.make_node("Conv", ["t", "w2"], ["y"], "second"))
    model.graph.initializer.append(numpy_helper.from_array(weight(2, 8, 1, 1), "w2"))
    model.graph.value_info.append(helper.make_tensor_value_info("t", TensorProto.FLOAT, [1, 8, 99, 99]))
    assert infer_shapes(model)["", "t"] == (1, 8, 8, 8)
    assert [item.macs for item in analyse(model) if isinstance(item, Layer)] == [288 * 64, 16 * 64]


def test_the_model_is_left_alone() -> None:
    model = conv_model(weight(8, 4, 3, 3), ("H", "W"))
    before = model.SerializeToString()
    analyse(model, {"x": [1, 4, 9, 9]})
    assert model.SerializeToString() == before


def test_sizes_are_known_behind_constant_expressions() -> None:
    """ONNX's inference alone does not see what the bias and the pads are."""
    nodes = [
        helper.make_node("Constant", [], ["flat"], value=numpy_helper.from_array(weight(8))),
        helper.make_node("Constant", [], ["column"], value_ints=[1, -1, 1, 1]),
        helper.make_node("Reshape", ["flat", "column"], ["bias"]),
        helper.make_node("Conv", ["x", "w"], ["c"], "first"),
        helper.make_node("Add", ["c", "bias"], ["a"]),
        helper.make_node("Cast", ["narrow"], ["pads"], to=TensorProto.INT64),
        helper.make_node("Pad", ["a", "pads"], ["p"]),
        helper.make_node("AveragePool", ["p"], ["q"], kernel_shape=[1, 1]),
        helper.make_node("Conv", ["q", "w2"], ["y"], "second"),
    ]
    narrow = np.array([0, 0, 1, 2, 0, 0, 3, 4], np.int32)
    weights = {"w": weight(8, 4, 3, 3), "w2": weight(2, 8, 1, 1), "narrow": narrow}
    found = analyse(make_model(nodes, {"x": ["N", 4, 9, 8]}, ["y"], weights))
    assert [layer.spatial for layer in found if isinstance(layer, Layer)] == [(9, 8), (11, 12)]


def test_sizes_in_bodies() -> None:
    inner = helper.make_node("Conv", ["x", "w"], ["t"], "inner")
    declared = helper.make_tensor_value_info("t", TensorProto.FLOAT, None)
    body = helper.make_graph([inner], "body", [], [declared])
    other = helper.make_graph([helper.make_node("Neg", ["x"], ["t"])], "body", [], [declared])
    nodes = [
        helper.make_node("MaxPool", ["v"], ["x"], kernel_shape=[2, 2]),
        helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=other),
    ]
    (layer,) = analyse(
        make_model(nodes, {"v": ["N", 4, 8, 9]}, ["y"], {"w": weight(4, 4, 1, 1), "c": np.array(True)})
    )
    assert isinstance(layer, Layer)
    assert (layer.spatial, layer.repeats, layer.key) == ((7, 8), 1, ("/y[1]", "t"))
