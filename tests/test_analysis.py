"""Every linear node becomes a Layer or a Skipped with its reason."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from onnxlr.analysis import Layer, Skipped, analyse, infer_shapes
from onnxlr.errors import UsageError
from tests.builders import conv_model, gemm_model, make_model, weight


def _node(op: str, inputs: list[str], **attributes: Any) -> ModelProto:
    node = helper.make_node(op, inputs, ["y"], "node", **attributes)
    return make_model([node], {"x": ["N", 4, 8, 8], "v": [4, 4, 3, 3]}, ["y"], {"w": weight(4, 4, 3, 3)})


def _dequantized() -> ModelProto:
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s"], ["w"]),
        helper.make_node("Conv", ["x", "w"], ["y"], "node"),
    ]
    weights = {"q": np.ones((4, 4, 3, 3), np.int8), "s": np.float32(0.1)}
    return make_model(nodes, {"x": ["N", 4, 8, 8]}, ["y"], weights)


def _in_a_body() -> ModelProto:
    conv = helper.make_node("Conv", ["x", "w"], ["t"], "node")
    output = helper.make_tensor_value_info("t", TensorProto.FLOAT, None)
    body = helper.make_graph([conv], "body", [], [output])
    nodes = [helper.make_node("If", ["c"], ["y"], "if", then_branch=body, else_branch=body)]
    weights = {"w": weight(4, 4, 3, 3), "c": np.array(True)}
    return make_model(nodes, {"x": ["N", 4, 8, 8]}, ["y"], weights)


def _matmul(inputs: list[str], w: Any, opset: int = 17) -> ModelProto:
    return make_model(
        [helper.make_node("MatMul", inputs, ["y"], "node")], {"x": [4, 4]}, ["y"], {"w": w}, opset
    )


SKIPPED = {
    "weight is an input": (_node("Conv", ["x", "v"]), "weight not constant"),
    "weight is dequantized": (_dequantized(), "quantized: factorize before quantizing"),
    "in a body": (_in_a_body(), "inside the body of If 'if'"),
    "ConvTranspose": (_node("ConvTranspose", ["x", "w"]), "ConvTranspose is not factorized"),
    "constant on the left": (_matmul(["w", "x"], weight(4, 4)), "the constant is the left operand of MatMul"),
    "old Gemm with transA": (
        gemm_model(weight(8, 4), weight(4), opset=9, transA=1),
        "Gemm with transA before opset 11",
    ),
    "batched weight": (_matmul(["x", "w"], weight(2, 4, 4)), "weight of shape (2, 4, 4)"),
    "vector weight": (_matmul(["x", "w"], weight(4)), "weight of shape (4,)"),
    "kernel_shape contradicts": (_node("Conv", ["x", "w"], kernel_shape=[5, 5]), "kernel_shape contradicts"),
    "groups do not divide": (_node("Conv", ["x", "w"], group=3), "invalid attributes"),
}


@pytest.mark.parametrize(("model", "reason"), SKIPPED.values(), ids=SKIPPED.keys())
def test_skipped(model: ModelProto, reason: str) -> None:
    found = analyse(model)
    assert found
    assert all(isinstance(item, Skipped) and item.reason.startswith(reason) for item in found)


def test_conv() -> None:
    (layer,) = analyse(conv_model(weight(8, 4, 3, 3), (10, 12), strides=[2, 1], pads=[1, 1, 1, 1]))
    assert isinstance(layer, Layer)
    assert (layer.name, layer.op_type, layer.output, layer.weight) == ("conv", "Conv", "y", "w")
    assert (layer.conv.strides, layer.conv.pads) == ((2, 1), (1, 1, 1, 1))
    assert (layer.spatial, layer.repeats, layer.macs) == ((10, 12), 1, 8 * 4 * 9 * 5 * 12)


@pytest.mark.parametrize(("trans_b", "shape"), [(0, (6, 5)), (1, (5, 6))])
def test_gemm_weight_is_seen_as_a_conv_weight(trans_b: int, shape: tuple[int, int]) -> None:
    (layer,) = analyse(gemm_model(weight(*shape), transB=trans_b))
    assert isinstance(layer, Layer)
    assert layer.conv.weight_shape == (5, 6)
    assert layer.transposed == (not trans_b)
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
    assert layer.relative_macs((half,)) == pytest.approx(0.5)


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
    assert infer_shapes(model)["t"] == (1, 8, 8, 8)
    assert [item.macs for item in analyse(model) if isinstance(item, Layer)] == [288 * 64, 16 * 64]


def test_the_model_is_left_alone() -> None:
    model = conv_model(weight(8, 4, 3, 3), ("H", "W"))
    before = model.SerializeToString()
    analyse(model, {"x": [1, 4, 9, 9]})
    assert model.SerializeToString() == before
