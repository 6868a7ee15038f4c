"""Small models and comparisons that many tests need."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper, shape_inference

from onnxlr.errors import OnnxlrError
from onnxlr.model_file import Model
from onnxlr.runtime import Session, find_device

Array = NDArray[Any]

OPSET = 17


def weight(*shape: int, seed: int = 0, dtype: Any = np.float32) -> Array:
    """Seeded normal numbers, scaled so that a Conv keeps the variance."""
    array = np.random.default_rng(seed).standard_normal(shape)
    return (array / np.sqrt(np.prod(shape[1:]))).astype(dtype)


def make_model(
    nodes: Sequence[NodeProto],
    inputs: Mapping[str, Sequence[int | str]],
    outputs: Sequence[str],
    weights: Mapping[str, Array],
    opset: int = OPSET,
    dtype: int = TensorProto.FLOAT,
) -> ModelProto:
    """A model from nodes; shapes of its outputs are inferred."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(name, dtype, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, dtype, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", opset)])
    inferred = shape_inference.infer_shapes(model).graph.output
    del model.graph.output[:]
    model.graph.output.extend(inferred)
    return model


def conv_model(
    w: Array,
    size: Sequence[int | str] = (11, 13),
    bias: bool = True,
    name: str = "conv",
    op: str = "Conv",
    **attributes: Any,
) -> ModelProto:
    """`y = Conv(x, w[, b])` with a symbolic batch; attributes as in ONNX. Or a ConvTranspose."""
    group = attributes.get("group", 1)
    channels, outputs = w.shape[1] * group, w.shape[0]
    if op == "ConvTranspose":
        channels, outputs = outputs, channels
    weights = {"w": w} | ({"b": weight(outputs, seed=9, dtype=w.dtype)} if bias else {})
    node = helper.make_node(op, ["x", *weights], ["y"], name, **attributes)
    dtype = helper.np_dtype_to_tensor_dtype(w.dtype)
    return make_model([node], {"x": ["N", channels, *size]}, ["y"], weights, dtype=dtype)


def gemm_model(w: Array, bias: Array | None = None, opset: int = OPSET, **attributes: Any) -> ModelProto:
    """`y = Gemm(x, w[, b])` with a symbolic batch; with transA one of three rows."""
    features = w.shape[1] if attributes.get("transB") else w.shape[0]
    weights = {"w": w} | ({} if bias is None else {"b": bias})
    node = helper.make_node("Gemm", ["x", *weights], ["y"], "gemm", **attributes)
    shape = [features, 3] if attributes.get("transA") else ["N", features]
    return make_model([node], {"x": shape}, ["y"], weights, opset)


def left_gemm_model(w: Array, **attributes: Any) -> ModelProto:
    """`y = Gemm(w, x, b)` for an x of five columns and a bias column."""
    rows, features = w.shape[::-1] if attributes.get("transA") else w.shape
    weights = {"w": w, "b": weight(rows, 1, seed=4)}
    node = helper.make_node("Gemm", ["w", "x", "b"], ["y"], "gemm", **attributes)
    shape = [5, features] if attributes.get("transB") else [features, 5]
    return make_model([node], {"x": shape}, ["y"], weights)


def matmul_model(inputs: Sequence[str], shape: Sequence[int | str], w: Array) -> ModelProto:
    """`y = MatMul` of x and w, in the order of `inputs`."""
    return make_model([helper.make_node("MatMul", inputs, ["y"], "matmul")], {"x": shape}, ["y"], {"w": w})


def run(model: ModelProto, **feed: Array) -> list[Array]:
    """Outputs in ONNX Runtime on the CPU, with its graph optimizations off."""
    return Session(Model(model), find_device("cpu"), threads=1, optimize=False).run(feed)


def relative_error(expected: Array, actual: Array) -> float:
    """‖expected − actual‖ / ‖expected‖ in float64."""
    x, y = expected.astype(np.float64), actual.astype(np.float64)
    assert x.shape == y.shape
    return float(np.linalg.norm(x - y) / np.linalg.norm(x))


def initializers(model: ModelProto) -> dict[str, Array]:
    """Stored tensors by name."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def constants(prefix: str, channels: int, seed: int = 1, dtype: Any = np.float32) -> dict[str, Array]:
    """The four parameters of a BatchNormalization, in the order of its inputs; the variance is positive."""
    rng = np.random.default_rng(seed)
    names = [f"{prefix}_{part}" for part in ("scale", "bias", "mean", "var")]
    arrays = rng.uniform(0.5, 2.0, (4, channels)) * [[1.0], [-1.0], [0.5], [1.0]]
    return {name: array.astype(dtype) for name, array in zip(names, arrays, strict=True)}


def conv_bn_model(w: Array, bias: bool = True, **attributes: Any) -> ModelProto:
    """`y = BatchNormalization(Conv(x, w[, b]))`, x of shape `(N, C, 9, 7)`; attributes are the last one's."""
    norm = constants("bn", w.shape[0], dtype=w.dtype)
    weights = {"w": w} | ({"b": weight(w.shape[0], seed=9, dtype=w.dtype)} if bias else {})
    nodes = [
        helper.make_node("Conv", ["x", *weights], ["c"], "conv"),
        helper.make_node("BatchNormalization", ["c", *norm], ["y"], "bn", **attributes),
    ]
    dtype = helper.np_dtype_to_tensor_dtype(w.dtype)
    return make_model(nodes, {"x": ["N", w.shape[1], 9, 7]}, ["y"], weights | norm, dtype=dtype)


def serialized(messages: Any) -> list[bytes]:
    """Every message of a repeated field as bytes, to see that not a byte of it has changed."""
    return [message.SerializeToString(deterministic=True) for message in messages]


W = weight(40, 30)
"""The weight of `gemm`."""


def gemm() -> ModelProto:
    """A Gemm with weight `W` and a bias."""
    return gemm_model(W, weight(30, seed=4))


def stored_outside(folder: Path, proto: ModelProto | None = None) -> Path:
    """A model file with all its tensors in `w.bin` beside it."""
    path = folder / "m.onnx"
    copied = copy.deepcopy(proto or gemm())
    onnx.save_model(copied, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    return path


def one_line(error: pytest.ExceptionInfo[OnnxlrError], *parts: str) -> None:
    """The message has one line, and these parts."""
    message = str(error.value)
    assert "\n" not in message
    assert all(part in message for part in parts), message
