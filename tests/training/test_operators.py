"""Every operator against the ONNX package's own cases, and against ONNX Runtime in its older versions."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra onnxlr[train]")

from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.backend.test import loader

from onnxlr.training import GraphModule
from onnxlr.training.elements import torch_type
from onnxlr.training.operators import OPERATORS, Node
from onnxlr.training.operators.activations import hard_sigmoid, p_relu, thresholded_relu
from onnxlr.training.operators.convolution import conv, conv_transpose
from onnxlr.training.operators.normalization import (
    batch_normalization,
    local_response_normalization,
    mean_variance_normalization,
)
from onnxlr.training.operators.pooling import average_pool, max_pool
from onnxlr.training.operators.resizing import resize
from onnxlr.training.operators.slicing import gather_nd, pad, slice_
from tests.builders import Array, weight
from tests.training.checks import evaluate, session

HALF = ("float16", "bfloat16", "fp16", "bf16", "FLOAT16")  # computed in float32 here
LEFT_OUT = {
    "averagepool_2d_ceil_last_window_starts_on_pad": "stored with four digits",
    "blocked": "quantization in blocks",
    "crop_and_resize": "refused",
    "downsample_scales_cubic_align_corners": "ONNX Runtime differs as well, and agrees here",
    "downsample_scales_linear_align_corners": "as above",
    "empty_set": "torch has no extremum of nothing",
    "maxpool_with_argmax": "refused",
    "quantizelinear_uint16": "the zero point is an input, and torch has no type for it",
    "scatternd_m": "refused: multiply, max, min",
    "softmax_precision": "rounds to float16 within the graph",
    "test_identity_opt": "no tensor",
    "test_identity_sequence": "no tensor",
    "training_dropout": "drops in training mode only",
}


@dataclass(frozen=True)
class Case:
    name: str
    model: ModelProto
    inputs: list[Any]
    outputs: list[Any]


def supported(model: ModelProto) -> bool:
    """Whether all operators and all types of inputs and outputs are."""
    if any(entry.domain == "" and entry.version < 7 for entry in model.opset_import):
        return False
    if any(node.domain or node.op_type not in OPERATORS for node in model.graph.node):
        return False
    try:
        for value in (*model.graph.input, *model.graph.output):
            torch_type(value.type.tensor_type.elem_type)
    except ValueError:
        return False
    return True


def node_cases() -> Iterator[Case]:
    with warnings.catch_warnings(action="ignore"):  # of cases that overflow on purpose
        cases = loader.load_node_model_tests()
    for case in cases:
        if case.model is not None and case.data_sets and supported(case.model):
            ((inputs, outputs),) = case.data_sets
            if not any(part in case.name for part in (*LEFT_OUT, *HALF)):
                yield Case(case.name, case.model, list(map(array, inputs)), list(map(array, outputs)))


def array(value: Any) -> Array:
    """Some cases have tensors of the file format."""
    return numpy_helper.to_array(value) if isinstance(value, TensorProto) else np.asarray(value)


def wrong(case: Case) -> str:
    """What is wrong with the outputs, or nothing."""
    names = [value.name for value in case.model.graph.input]
    actual = evaluate(GraphModule(case.model), dict(zip(names, case.inputs, strict=True)))
    for x, y in zip(case.outputs, actual, strict=True):
        expected, found = np.asarray(x, np.float64), np.asarray(y, np.float64)
        if expected.shape != found.shape:
            return f"shape {found.shape} instead of {expected.shape}"
        if not np.allclose(found, expected, rtol=1e-5, atol=1e-6, equal_nan=True):
            return f"off by {np.abs(found - expected).max()}"
    return ""


def test_cases_of_the_onnx_package() -> None:
    cases = list(node_cases())
    faults = {case.name: fault for case in cases if (fault := wrong(case))}
    assert not faults
    assert len(cases) > 900
    tested = {node.op_type for case in cases for node in case.model.graph.node}
    assert set(OPERATORS) - tested == set()


def model_of(node: NodeProto, opset: int, x: Array, stored: dict[str, Array]) -> ModelProto:
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in node.output],
        [numpy_helper.from_array(array, name) for name, array in stored.items()],
    )
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", opset)])


X = weight(2, 4, 6, 7)


@dataclass(frozen=True)
class Old:
    """A node of an older opset, or with attributes that the package's cases leave out."""

    opset: int
    op: str
    attributes: dict[str, Any]
    stored: tuple[tuple[str, Any], ...] = ()
    outputs: int = 1

    def __str__(self) -> str:
        return f"{self.op}-{self.opset}-{len(self.attributes)}"


def ints(*values: int) -> Array:
    return np.array(values, np.int64)


def floats(*values: float) -> Array:
    return np.array(values, np.float32)


OLD = [
    Old(
        7,
        "BatchNormalization",
        {"epsilon": 1e-3},
        tuple(zip("sbmv", np.full((4, 4), 0.7, np.float32), strict=True)),
    ),
    Old(7, "Dropout", {"ratio": 0.4}),
    Old(7, "Upsample", {"scales": [1.0, 1.0, 2.0, 3.0], "mode": "nearest"}),
    Old(8, "Flatten", {"axis": 2}),
    Old(9, "Upsample", {"mode": "linear"}, (("s", floats(1, 1, 2, 2)),)),
    Old(9, "Slice", {"starts": [1, -3], "ends": [9, -1], "axes": [1, 3]}),
    Old(9, "TopK", {"k": 3, "axis": 1}, (), 2),
    Old(10, "Clip", {"min": -0.1, "max": 0.2}),
    Old(10, "Pad", {"pads": [0, 0, 1, 2, 0, 0, 2, 1], "mode": "edge"}),
    Old(10, "Pad", {"pads": [0, 0, 1, -2, 0, 0, 0, 1], "value": 0.5}),
    Old(10, "Resize", {"mode": "nearest"}, (("s", floats(1, 1, 2, 0.5)),)),
    Old(10, "Resize", {"mode": "linear"}, (("s", floats(1, 1, 2, 2)),)),
    Old(10, "AveragePool", {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    Old(10, "MaxPool", {"kernel_shape": [3, 2], "dilations": [1, 2], "ceil_mode": 1, "strides": [2, 2]}),
    Old(11, "AveragePool", {"kernel_shape": [3, 3], "auto_pad": "SAME_LOWER", "strides": [2, 2]}),
    Old(11, "AveragePool", {"kernel_shape": [3, 3], "pads": [2, 1, 0, 1], "count_include_pad": 1}),
    Old(12, "LogSoftmax", {}),
    Old(12, "ReduceSum", {"axes": [1, -1], "keepdims": 0}),
    Old(12, "Softmax", {"axis": 2}),
    Old(12, "Split", {"axis": 1, "split": [1, 3]}, (), 2),
    Old(12, "Unsqueeze", {"axes": [0, 5]}),
    Old(13, "Unsqueeze", {}, (("a", ints(-1, 0)),)),
    Old(13, "LRN", {"size": 3, "alpha": 0.3, "beta": 0.6, "bias": 1.5}),
    Old(
        13,
        "Resize",
        {"coordinate_transformation_mode": "align_corners", "mode": "linear"},
        (("r", floats()), ("s", floats()), ("z", ints(2, 4, 11, 5))),
    ),
    Old(13, "Resize", {"mode": "linear"}, (("r", floats()), ("s", floats(1, 1, 1.7, 0.6)))),
    Old(13, "Resize", {"mode": "nearest"}, (("r", floats()), ("s", floats(1, 1, 2, 2)))),
    Old(
        13,
        "Resize",
        {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
        (("r", floats()), ("s", floats()), ("z", ints(2, 4, 12, 10))),
    ),
    Old(17, "MaxPool", {"kernel_shape": [2, 2], "pads": [1, 1, 1, 1], "strides": [3, 2]}),
    Old(17, "Slice", {}, (("b", ints(-1, 5)), ("e", ints(-99, 1)), ("a", ints(2, 3)), ("t", ints(-2, -1)))),
    Old(17, "ReduceMean", {"axes": [2, 3], "keepdims": 0}),
    Old(17, "Conv", {"pads": [2, 0, 1, 1], "strides": [2, 1], "group": 2}, (("w", weight(6, 2, 3, 2)),)),
    Old(17, "Conv", {"auto_pad": "SAME_LOWER", "strides": [2, 3]}, (("w", weight(5, 4, 4, 2)),)),
    Old(
        17,
        "ConvTranspose",
        {"strides": [3, 2], "output_padding": [2, 1], "pads": [1, 0, 0, 2], "group": 2},
        (("w", weight(4, 3, 3, 3)), ("b", weight(6))),
    ),
    Old(17, "ConvTranspose", {"strides": [2, 2], "auto_pad": "SAME_UPPER"}, (("w", weight(4, 3, 3, 3)),)),
    Old(17, "ConvTranspose", {"strides": [2, 2], "auto_pad": "SAME_LOWER"}, (("w", weight(4, 3, 3, 3)),)),
    Old(17, "ConvTranspose", {"strides": [2, 2], "output_shape": [12, 13]}, (("w", weight(4, 3, 3, 4)),)),
]


@pytest.mark.parametrize("case", OLD, ids=str)
def test_versions_and_attributes(case: Old) -> None:
    outputs = [f"y{i}" for i in range(case.outputs)]
    node = helper.make_node(case.op, ["x", *(name for name, _ in case.stored)], outputs, **case.attributes)
    model = model_of(node, case.opset, X, dict(case.stored))
    if case.op == "TopK":
        model.graph.output[1].type.tensor_type.elem_type = TensorProto.INT64
    expected = session(model).run({"x": X})
    for x, y in zip(expected, evaluate(GraphModule(model), {"x": X}), strict=True):
        np.testing.assert_allclose(y, x, rtol=1e-5, atol=1e-6)


def node(op: str, opset: int = 17, **attributes: Any) -> Node:
    return Node(op, "n", opset, ("y",), attributes)


def bound(function: Callable[..., Any], *first: Any, **options: Any) -> Callable[..., Any]:
    return lambda *tensors: function(*first, *tensors, **options)


POOL = {"kernel_shape": [3, 2], "strides": [2, 2], "ceil_mode": 1, "pads": [1, 0, 0, 1]}
CUBIC = node("Resize", mode="cubic", antialias=1)
UNEVEN = {"strides": [2, 1], "pads": [2, 0, 0, 1]}
SIZES = (None, None, ints(2, 2, 3, 9))
PLACES = torch.tensor([[0, 1], [1, 0], [1, -1]])

GRADIENTS = {
    "conv": (bound(conv, node("Conv", auto_pad="SAME_UPPER", strides=[2, 2])), (3, 2, 3, 2), (3,)),
    "conv_transpose": (bound(conv_transpose, node("ConvTranspose", **UNEVEN)), (2, 3, 3, 2), (3,)),
    "average_pool": (bound(average_pool, node("AveragePool", **POOL)),),
    "average_pool_dilated": (
        bound(average_pool, node("AveragePool", kernel_shape=[2, 2], dilations=[2, 3], pads=[1, 1, 0, 2])),
    ),
    "max_pool": (bound(max_pool, node("MaxPool", **POOL)),),
    "lrn": (bound(local_response_normalization, node("LRN", size=2, alpha=0.5)),),
    "mvn": (bound(mean_variance_normalization, node("MeanVarianceNormalization")),),
    "hard_sigmoid": (bound(hard_sigmoid, node("HardSigmoid")),),
    "p_relu": (p_relu, (2, 1, 1)),
    "thresholded_relu": (bound(thresholded_relu, node("ThresholdedRelu", alpha=0.3)),),
    "resize": (lambda x: resize(CUBIC, x, *SIZES),),
    "slice": (lambda x: slice_(node("Slice"), x, ints(-1), ints(-9), ints(2), ints(-2)),),
    "pad": (lambda x: pad(node("Pad", mode="reflect"), x, ints(0, 0, 2, 1, 0, 0, 1, 2)),),
    "gather_nd": (lambda x: gather_nd(node("GatherND"), x, PLACES),),
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients(name: str) -> None:
    function, *shapes = GRADIENTS[name]
    generator = torch.Generator().manual_seed(0)
    tensors = [
        torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((2, 2, 5, 4), *shapes)
    ]
    assert torch.autograd.gradcheck(function, [tensor.requires_grad_() for tensor in tensors])


def test_gradient_of_batch_normalization() -> None:
    x, scale, bias = (torch.randn(shape, dtype=torch.float64) for shape in ((3, 2, 4), (2,), (2,)))

    def function(*tensors: Any) -> Any:
        statistics = torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
        return batch_normalization(node("BatchNormalization"), *tensors, *statistics, training=True)

    assert torch.autograd.gradcheck(function, [tensor.requires_grad_() for tensor in (x, scale, bias)])


def test_quantization_lets_the_gradient_through() -> None:
    quantize, dequantize = OPERATORS["QuantizeLinear"].function, OPERATORS["DequantizeLinear"].function
    x = torch.tensor([-9.0, -0.26, 0.1, 0.74, 9.0], requires_grad=True)
    scale, zero = floats(0.5), np.array(3, np.int8)
    small = dequantize(
        node("DequantizeLinear"), quantize(node("QuantizeLinear"), x, scale, zero), scale, zero
    )
    assert small.tolist() == [-9.0, -0.5, 0.0, 0.5, 9.0]
    small.sum().backward()
    assert x.grad.tolist() == [1.0] * 5
    wide = torch.tensor([-99.0, 99.0], requires_grad=True)
    quantize(node("QuantizeLinear"), wide, scale, zero).sum().backward()
    assert wide.grad.tolist() == [0.0, 0.0]  # outside the range
