"""Every scheme on every kind of layer: exact at full rank, and what is predicted is what the graph has.

`refuses()` decides what is built, so a scheme that starts to accept more is tested on it at once.
"""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

import onnxlr
from onnxlr.analysis import analyse
from onnxlr.layer import Layer
from onnxlr.plan import PlannedLayer
from onnxlr.schemes import all_schemes
from tests.builders import (
    conv_model,
    gemm_model,
    left_gemm_model,
    matmul_model,
    relative_error,
    run,
    weight,
)

EXACT = 1e-5

CONVS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "plain": ((16, 8, 3, 3), {}),
    "no bias": ((16, 8, 3, 3), {"bias": False}),
    "kernel_shape given": ((16, 8, 3, 3), {"kernel_shape": [3, 3]}),
    "pads": ((16, 8, 3, 3), {"pads": [1, 1, 1, 1]}),
    "asymmetric pads": ((16, 8, 3, 3), {"pads": [0, 1, 2, 3]}),
    "stride 2": ((16, 8, 3, 3), {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "stride 2x1": ((16, 8, 3, 3), {"strides": [2, 1], "pads": [1, 1, 1, 1]}),
    "stride 1x3": ((16, 8, 3, 3), {"strides": [1, 3], "pads": [1, 0, 1, 0]}),
    "dilation": ((16, 8, 3, 3), {"dilations": [2, 2], "pads": [2, 2, 2, 2]}),
    "dilation 1x3": ((16, 8, 3, 3), {"dilations": [1, 3]}),
    "stride, dilation, asymmetric": (
        (16, 8, 3, 5),
        {"strides": [2, 3], "dilations": [3, 2], "pads": [3, 0, 1, 4]},
    ),
    "5x5": ((12, 6, 5, 5), {"pads": [2, 2, 2, 2]}),
    "3x5": ((12, 6, 3, 5), {}),
    "7x2, even kernel": ((12, 6, 7, 2), {"pads": [3, 0, 3, 1]}),
    "5x3, stride 1x2": ((12, 6, 5, 3), {"strides": [1, 2]}),
    "1x7": ((12, 6, 1, 7), {"pads": [0, 3, 0, 3]}),
    "7x1": ((12, 6, 7, 1), {}),
    "SAME_UPPER": ((16, 8, 3, 3), {"auto_pad": "SAME_UPPER"}),
    "SAME_LOWER": ((16, 8, 3, 3), {"auto_pad": "SAME_LOWER"}),
    "SAME_UPPER, stride 2": ((16, 8, 3, 3), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    "SAME_LOWER, stride 2x3, even kernel": ((16, 8, 4, 2), {"auto_pad": "SAME_LOWER", "strides": [2, 3]}),
    "SAME_UPPER, stride 2, dynamic sizes": (
        (16, 8, 3, 4),
        {"auto_pad": "SAME_UPPER", "strides": [2, 3], "size": ("H", "W")},
    ),
    "VALID": ((16, 8, 3, 3), {"auto_pad": "VALID", "strides": [2, 1]}),
    "1x1": ((16, 24, 1, 1), {}),
    "1x1 to more channels": ((32, 8, 1, 1), {"strides": [2, 2]}),
    "1x1, stride 2": ((16, 24, 1, 1), {"strides": [2, 2]}),
    "1x1, pads": ((16, 24, 1, 1), {"pads": [1, 0, 2, 1]}),
    "1x1, SAME, stride 2": ((16, 24, 1, 1), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    "one input channel": ((16, 1, 3, 3), {}),
    "one output channel": ((1, 16, 3, 3), {}),
    "one channel in and out": ((1, 1, 5, 5), {}),
    "more outputs than the window": ((64, 2, 3, 3), {}),
    "more inputs than outputs": ((8, 32, 3, 3), {"strides": [2, 1], "pads": [1, 0, 0, 1]}),
    "1-D": ((12, 6, 5), {"size": (17,), "strides": [2], "pads": [1, 2]}),
    "1-D, SAME_LOWER": ((12, 8, 4), {"size": (17,), "auto_pad": "SAME_LOWER", "strides": [3]}),
    "3-D": ((8, 4, 3, 3, 3), {"size": (7, 6, 5), "pads": [1, 1, 1, 1, 1, 1]}),
    "3-D, everything": (
        (8, 4, 3, 2, 4),
        {"size": (9, 8, 11), "pads": [1, 0, 2, 0, 1, 1], "strides": [1, 2, 3], "dilations": [2, 1, 2]},
    ),
    "3-D, SAME_UPPER": (
        (6, 4, 2, 3, 3),
        {"size": (7, 6, 5), "auto_pad": "SAME_UPPER", "strides": [2, 1, 3]},
    ),
    "3-D, kernel 1x3x3": (
        (8, 4, 1, 3, 3),
        {"size": (7, 6, 5), "strides": [2, 1, 2], "pads": [1, 1, 0, 0, 1, 2]},
    ),
    "3-D, kernel 3x3x1": ((8, 4, 3, 3, 1), {"size": (7, 6, 5), "strides": [1, 2, 2], "pads": [0, 0, 1] * 2}),
    "grouped": ((16, 4, 3, 3), {"group": 2}),
    "grouped, everything": (
        (12, 4, 3, 5),
        {"group": 3, "strides": [2, 1], "pads": [0, 1, 2, 3], "dilations": [1, 2]},
    ),
    "grouped 1x1": ((24, 8, 1, 1), {"group": 4, "strides": [2, 2]}),
    "grouped 1-D": ((12, 3, 3), {"group": 2, "size": (11,)}),
    "grouped 3-D": ((8, 3, 3, 3, 2), {"group": 2, "size": (7, 6, 5)}),
    "depthwise": ((16, 1, 3, 3), {"group": 16, "pads": [1, 1, 1, 1]}),
    "depthwise 5x4, stride 2": ((8, 1, 5, 4), {"group": 8, "auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    "depthwise with multiplier": ((24, 1, 3, 3), {"group": 8, "dilations": [2, 1]}),
    "depthwise 3-D": ((8, 1, 3, 3, 3), {"group": 8, "size": (7, 6, 5)}),
}

TRANSPOSED: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "plain": ((8, 12, 3, 3), {}),
    "stride 2": ((8, 12, 4, 4), {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "everything": (
        (12, 8, 3, 5),
        {"strides": [2, 3], "pads": [0, 1, 2, 1], "dilations": [2, 1], "output_padding": [1, 2]},
    ),
    "output_shape": ((8, 12, 3, 3), {"strides": [2, 2], "output_shape": [22, 27]}),
    "output_shape, SAME_UPPER": (
        (8, 12, 3, 3),
        {"strides": [2, 2], "output_shape": [22, 26], "auto_pad": "SAME_UPPER"},
    ),
    "SAME_UPPER": ((8, 12, 3, 3), {"strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    "SAME_LOWER, even kernel": ((8, 12, 4, 3), {"strides": [2, 1], "auto_pad": "SAME_LOWER"}),
    "VALID": ((8, 12, 3, 3), {"strides": [3, 2], "auto_pad": "VALID"}),
    "dynamic sizes": ((8, 12, 3, 3), {"strides": [2, 2], "size": ("H", "W")}),
    "1x1, stride 2": ((16, 24, 1, 1), {"strides": [2, 2]}),
    "1-D": ((8, 6, 5), {"size": (9,), "strides": [3], "output_padding": [1]}),
    "3-D": ((6, 4, 3, 2, 3), {"size": (4, 3, 5), "strides": [2, 1, 2], "output_padding": [1, 0, 1]}),
    "3-D, kernel 3x1x3": ((6, 4, 3, 1, 3), {"size": (4, 3, 5), "strides": [2, 2, 1]}),
    "grouped": ((8, 6, 3, 3), {"group": 2, "strides": [2, 2], "output_padding": [1, 0]}),
    "grouped 1-D": ((8, 3, 4), {"group": 4, "size": (9,), "strides": [2], "pads": [1, 1]}),
    "depthwise": ((8, 1, 5, 4), {"group": 8, "strides": [2, 2]}),
}

GEMMS: dict[str, ModelProto] = {
    "gemm": gemm_model(weight(24, 16), weight(16)),
    "gemm transB": gemm_model(weight(16, 24), weight(16), transB=1),
    "gemm transA": gemm_model(weight(24, 16), weight(16), transA=1),
    "gemm transA transB": gemm_model(weight(16, 24), weight(16), transA=1, transB=1),
    "gemm alpha beta": gemm_model(weight(24, 16), weight(16), alpha=0.5, beta=2.0),
    "gemm no bias": gemm_model(weight(24, 16)),
    "gemm scalar bias": gemm_model(weight(24, 16), np.float32(3)),
    "gemm bias (1,)": gemm_model(weight(24, 16), weight(1)),
    "gemm bias (3, 1)": gemm_model(weight(24, 16), weight(3, 1), transA=1, beta=0.5),
    "gemm bias (3, 16)": gemm_model(weight(24, 16), weight(3, 16), transA=1),
    "gemm bias (1, 16)": gemm_model(weight(24, 16), weight(1, 16)),
    "gemm of opset 9": gemm_model(weight(24, 16), weight(16), opset=9),
    "gemm of opset 9, transA": gemm_model(weight(24, 16), weight(16), opset=9, transA=1),
    "gemm of opset 9, transB": gemm_model(weight(16, 24), weight(16), opset=9, transB=1, beta=0.5),
    "gemm of opset 6": gemm_model(weight(24, 16), weight(16), opset=6, broadcast=1, alpha=0.5),
    "gemm of opset 6, transA transB": gemm_model(
        weight(16, 24), weight(3, 16), opset=6, transA=1, transB=1, broadcast=0
    ),
    "gemm left": left_gemm_model(weight(24, 16)),
    "gemm left transA": left_gemm_model(weight(16, 24), transA=1, alpha=0.5),
    "gemm left transB": left_gemm_model(weight(24, 16), transB=1, beta=0.5),
    "gemm left transA transB": left_gemm_model(weight(16, 24), transA=1, transB=1),
    "matmul": matmul_model(["x", "w"], ["N", 24], weight(24, 16)),
    "matmul 4-D": matmul_model(["x", "w"], ["N", 3, 5, 24], weight(24, 16)),
    "matmul of a vector": matmul_model(["x", "w"], [24], weight(24, 16)),
    "matmul (1, K, N)": matmul_model(["x", "w"], ["N", 3, 24], weight(1, 24, 16)),
    "matmul (1, K, N) of a matrix": matmul_model(["x", "w"], [3, 24], weight(1, 24, 16)),
    "matmul (2, K, N)": matmul_model(["x", "w"], [2, 3, 24], weight(2, 24, 16)),
    "matmul (3, 2, K, N), broadcast": matmul_model(["x", "w"], ["N", 3, 1, 4, 24], weight(3, 2, 24, 16)),
    "matmul left": matmul_model(["w", "x"], [24, 5], weight(16, 24)),
    "matmul left, batched": matmul_model(["w", "x"], ["N", 3, 24, 5], weight(16, 24)),
    "matmul left, vector": matmul_model(["w", "x"], [24], weight(16, 24)),
    "matmul left (2, M, K)": matmul_model(["w", "x"], [2, 24, 5], weight(2, 16, 24)),
}

MODELS = (
    {f"conv, {name}": conv_model(weight(*shape), **attributes) for name, (shape, attributes) in CONVS.items()}
    | {
        f"transposed, {name}": conv_model(weight(*shape), op="ConvTranspose", **attributes)
        for name, (shape, attributes) in TRANSPOSED.items()
    }
    | GEMMS
)


def _only_layer(model: ModelProto) -> Layer:
    (layer,) = analyse(model)
    assert isinstance(layer, Layer), layer.reason
    return layer


def _accepted() -> list[tuple[str, str]]:
    """Every pair of scheme and model that the scheme does not refuse."""
    convs = {name: _only_layer(model).conv for name, model in MODELS.items()}
    return [
        (scheme.name, name)
        for scheme in all_schemes().values()
        for name, conv in convs.items()
        if scheme.refuses(conv) is None
    ]


def _full_rank(model: ModelProto, scheme: str) -> tuple[PlannedLayer, ModelProto]:
    result = onnxlr.optimize(model, energy=1.0, gate="none", schemes=[scheme], checks=None)
    (planned,) = result.plan.layers
    assert planned.scheme == scheme
    return planned, result.model


def _feed(model: ModelProto) -> dict[str, Any]:
    dims = [
        d.dim_value or (9 + axis if axis > 1 else 3)
        for axis, d in enumerate(model.graph.input[0].type.tensor_type.shape.dim)
    ]
    return {"x": np.random.default_rng(1).standard_normal(dims).astype(np.float32)}


@pytest.mark.parametrize(("scheme", "case"), _accepted())
def test_full_rank_computes_the_same(scheme: str, case: str) -> None:
    model = MODELS[case]
    _, rewritten = _full_rank(model, scheme)
    feed = _feed(model)
    onnx.checker.check_model(rewritten, full_check=True)
    assert relative_error(_run(model, feed), _run(rewritten, feed)) < EXACT


def _run(model: ModelProto, feed: dict[str, Any]) -> Any:
    """The output in ONNX Runtime, which has no Gemm before opset 7: there, in ONNX's reference."""
    if model.opset_import[0].version >= 7:
        return run(model, **feed)[0]
    return ReferenceEvaluator(model).run(None, feed)[0]


@pytest.mark.parametrize(("scheme", "case"), _accepted())
@pytest.mark.parametrize("energy", [0.5, 1.0])
def test_predicted_cost_is_what_the_graph_has(scheme: str, case: str, energy: float) -> None:
    result = onnxlr.optimize(MODELS[case], energy=energy, gate="none", align=2, schemes=[scheme], checks=None)
    (planned,) = result.plan.layers
    assert _count(MODELS[case]) == (planned.params.before, planned.macs.before)
    assert _count(result.model) == (planned.params.after, planned.macs.after)


def _count(model: ModelProto) -> tuple[int, int | None]:
    """Params and MACs at batch 1 from ONNX's own shape inference: an oracle that knows no ConvSpec."""
    fixed = ModelProto()
    fixed.CopyFrom(model)
    for value in fixed.graph.input:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if axis == 0 and not dim.HasField("dim_value"):
                dim.dim_value = 1
    inferred = onnx.shape_inference.infer_shapes(fixed, strict_mode=True).graph
    sizes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*inferred.input, *inferred.value_info, *inferred.output)
    }
    weights = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    params, macs = 0, [0]
    for node in model.graph.node:
        if node.op_type != "Transpose":
            is_left = node.input[0] in weights
            w = weights[node.input[0 if is_left else 1]]
            params += w.size
            macs.append(_macs(node, w, sizes, is_left))
    return params, sum(macs) if all(size > 0 for shape in sizes.values() for size in shape) else None


def _macs(node: NodeProto, w: Any, sizes: dict[str, list[int]], is_left: bool) -> int:
    output = math.prod(sizes[node.output[0]])
    if node.op_type == "Conv":
        return output * (w.size // len(w))
    if node.op_type == "ConvTranspose":
        return math.prod(sizes[node.input[0]]) * (w.size // len(w))
    turned = any(a.name == ("transA" if is_left else "transB") and a.i for a in node.attribute)
    return output * w.shape[-1 if is_left != turned else -2]


@given(
    scheme=st.sampled_from(list(all_schemes())),
    channels=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilations=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    padding=st.one_of(
        st.tuples(*[st.integers(0, 3)] * 4).map(lambda pads: {"pads": list(pads)}),
        st.sampled_from(["VALID", "SAME_UPPER", "SAME_LOWER"]).map(lambda kind: {"auto_pad": kind}),
    ),
    energy=st.sampled_from([0.3, 0.7, 0.9, 1.0]),
    align=st.integers(1, 8),
)
def test_any_conv(
    scheme: str,
    channels: Any,
    kernel: Any,
    strides: Any,
    dilations: Any,
    padding: Any,
    energy: float,
    align: int,
) -> None:
    if "SAME" in padding.get("auto_pad", ""):
        dilations = (1, 1)  # ONNX Runtime refuses others with SAME
    w = weight(*channels, *kernel)
    model = conv_model(w, (9, 10), strides=list(strides), dilations=list(dilations), **padding)
    options: Any = {"energy": energy, "align": align, "gate": "none", "schemes": [scheme], "checks": None}
    result = onnxlr.optimize(model, **options)
    if not result.plan.layers:
        (skipped,) = result.plan.skipped
        assert skipped.reason == all_schemes()[scheme].refuses(_only_layer(model).conv)
        return
    (planned,) = result.plan.layers
    assert (planned.params.after, planned.macs.after) == _count(result.model)
    assert planned.energy >= energy - 1e-9
    if energy == 1:
        feed = _feed(model)
        assert relative_error(run(model, **feed)[0], run(result.model, **feed)[0]) < EXACT


@pytest.mark.parametrize("scheme", list(all_schemes()))
def test_a_corrupted_factor_is_caught(scheme: str) -> None:
    model = MODELS["conv, pads"]
    _, rewritten = _full_rank(model, scheme)
    for tensor in rewritten.graph.initializer:
        array = numpy_helper.to_array(tensor).copy()
        if array.ndim < 4:
            continue  # the bias
        broken = ModelProto()
        broken.CopyFrom(rewritten)
        array.flat[0] += 0.1 * abs(array).max()
        position = [t.name for t in rewritten.graph.initializer].index(tensor.name)
        broken.graph.initializer[position].CopyFrom(numpy_helper.from_array(array, tensor.name))
        feed = _feed(model)
        assert relative_error(run(model, **feed)[0], run(broken, **feed)[0]) > 10 * EXACT


TYPED = {
    "Conv": lambda dtype: conv_model(weight(16, 8, 3, 3, dtype=dtype)),
    "grouped Conv": lambda dtype: conv_model(weight(16, 4, 3, 3, dtype=dtype), group=2),
    "ConvTranspose": lambda dtype: conv_model(weight(16, 8, 3, 3, dtype=dtype), op="ConvTranspose"),
    "MatMul": lambda dtype: matmul_model(["x", "w"], ["N", 24], weight(24, 16, dtype=dtype)),
    "MatMul left": lambda dtype: matmul_model(["w", "x"], [24, 5], weight(16, 24, dtype=dtype)),
}


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(np.float16, 2e-3), (ml_dtypes.bfloat16, 1e-2), (np.float32, 1e-5), (np.float64, 1e-12)],
)
@pytest.mark.parametrize("case", TYPED)
@pytest.mark.parametrize("scheme", list(all_schemes()))
def test_types_are_kept(scheme: str, case: str, dtype: Any, tolerance: float) -> None:
    model = TYPED[case](dtype)
    if all_schemes()[scheme].refuses(_only_layer(model).conv) is not None:
        return
    _, rewritten = _full_rank(model, scheme)
    assert {numpy_helper.to_array(t).dtype for t in rewritten.graph.initializer} == {np.dtype(dtype)}
    assert rewritten.graph.output == model.graph.output
    is_transposed = case == "ConvTranspose"
    expected, actual = (_with_weights_as_stored(m, is_transposed) for m in (model, rewritten))
    assert relative_error(expected, actual) < (max(tolerance, EXACT) if is_transposed else tolerance)


def _with_weights_as_stored(model: ModelProto, single: bool) -> Any:
    """The output when all arithmetic is float64, so that only the rounding of stored factors differs.

    With `single` it is float32, in ONNX Runtime: ONNX's reference fails on grouped ConvTranspose.
    """
    dtype = np.float32 if single else np.float64
    wide = ModelProto()
    wide.CopyFrom(model)
    for tensor in wide.graph.initializer:
        array = numpy_helper.to_array(tensor).astype(dtype)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    for value in (*wide.graph.input, *wide.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT if single else TensorProto.DOUBLE
    feed = {"x": _feed(model)["x"].astype(dtype)}
    return run(wide, **feed)[0] if single else ReferenceEvaluator(wide).run(None, feed)[0]
