"""Every scheme on every kind of layer: exact at full rank, and what is predicted is what the graph has.

`refuses()` decides what is built, so a scheme that starts to accept more is tested on it at once.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import onnxlr
from onnxlr.analysis import Layer, analyse
from onnxlr.plan import PlannedLayer
from onnxlr.schemes import all_schemes
from tests.builders import conv_model, gemm_model, make_model, relative_error, run, weight

EXACT = 1e-5

CONVS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "plain": ((16, 8, 3, 3), {}),
    "no bias": ((16, 8, 3, 3), {"bias": False}),
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
    "VALID": ((16, 8, 3, 3), {"auto_pad": "VALID", "strides": [2, 1]}),
    "1x1": ((16, 24, 1, 1), {}),
    "1x1, stride 2": ((16, 24, 1, 1), {"strides": [2, 2]}),
    "1x1, pads": ((16, 24, 1, 1), {"pads": [1, 0, 2, 1]}),
    "1x1, SAME, stride 2": ((16, 24, 1, 1), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    "one input channel": ((16, 1, 3, 3), {}),
    "one output channel": ((1, 16, 3, 3), {}),
    "more outputs than the window": ((64, 2, 3, 3), {}),
    "1-D": ((12, 6, 5), {"size": (17,), "strides": [2], "pads": [1, 2]}),
    "3-D": ((8, 4, 3, 3, 3), {"size": (7, 6, 5), "pads": [1, 1, 1, 1, 1, 1]}),
    "grouped": ((16, 4, 3, 3), {"group": 2}),
    "depthwise": ((16, 1, 3, 3), {"group": 16}),
}

GEMMS: dict[str, ModelProto] = {
    "gemm": gemm_model(weight(24, 16), weight(16)),
    "gemm transB": gemm_model(weight(16, 24), weight(16), transB=1),
    "gemm transA": gemm_model(weight(16, 24), weight(16), transA=1, transB=1),
    "gemm alpha beta": gemm_model(weight(24, 16), weight(16), alpha=0.5, beta=2.0),
    "gemm no bias": gemm_model(weight(24, 16)),
    "gemm scalar bias": gemm_model(weight(24, 16), np.float32(3)),
    "gemm of opset 9": gemm_model(weight(24, 16), weight(16), opset=9),
    "gemm of opset 9, transB": gemm_model(weight(16, 24), weight(16), opset=9, transB=1, beta=0.5),
    "matmul": make_model(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": ["N", 24]}, ["y"], {"w": weight(24, 16)}
    ),
    "matmul 4-D": make_model(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "mm")],
        {"x": ["N", 3, 5, 24]},
        ["y"],
        {"w": weight(24, 16)},
    ),
}

MODELS = {
    name: conv_model(weight(*shape), **attributes) for name, (shape, attributes) in CONVS.items()
} | GEMMS


def _accepted() -> list[tuple[str, str]]:
    """Every pair of scheme and model that the scheme does not refuse."""
    layers = {name: next(iter(analyse(model))) for name, model in MODELS.items()}
    assert all(isinstance(layer, Layer) for layer in layers.values())
    return [
        (scheme.name, name)
        for scheme in all_schemes().values()
        for name, layer in layers.items()
        if isinstance(layer, Layer) and scheme.refuses(layer.conv) is None
    ]


def _full_rank(model: ModelProto, scheme: str) -> tuple[PlannedLayer, ModelProto]:
    result = onnxlr.optimize(model, energy=1.0, gate="none", schemes=[scheme], checks=None)
    (planned,) = result.plan.layers
    assert planned.scheme == scheme
    return planned, result.model


def _feed(model: ModelProto) -> dict[str, Any]:
    dims = [d.dim_value or 3 for d in model.graph.input[0].type.tensor_type.shape.dim]
    return {"x": np.random.default_rng(1).standard_normal(dims).astype(np.float32)}


@pytest.mark.parametrize(("scheme", "case"), _accepted())
def test_full_rank_computes_the_same(scheme: str, case: str) -> None:
    model = MODELS[case]
    _, rewritten = _full_rank(model, scheme)
    feed = _feed(model)
    onnx.checker.check_model(rewritten, full_check=True)
    assert relative_error(run(model, **feed)[0], run(rewritten, **feed)[0]) < EXACT


@pytest.mark.parametrize(("scheme", "case"), _accepted())
@pytest.mark.parametrize("energy", [0.5, 1.0])
def test_predicted_cost_is_what_the_graph_has(scheme: str, case: str, energy: float) -> None:
    result = onnxlr.optimize(MODELS[case], energy=energy, gate="none", align=2, schemes=[scheme], checks=None)
    (planned,) = result.plan.layers
    params, macs = _count(result.model)
    assert planned.params.after == params
    assert planned.macs.after == macs
    assert _count(MODELS[case]) == (planned.params.before, planned.macs.before)


def _count(model: ModelProto) -> tuple[int, int]:
    """Params and MACs at batch 1 from ONNX's own shape inference: an oracle that knows no ConvSpec."""
    fixed = ModelProto()
    fixed.CopyFrom(model)
    for value in fixed.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            dim.dim_value = dim.dim_value or 1
    inferred = onnx.shape_inference.infer_shapes(fixed, strict_mode=True)
    known = {
        v.name: v.type.tensor_type.shape.dim for v in (*inferred.graph.value_info, *inferred.graph.output)
    }
    weights = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    params = macs = 0
    for node in model.graph.node:
        w = weights[node.input[1]]
        sizes = [dim.dim_value for dim in known[node.output[0]]]
        positions = math.prod(sizes) // (sizes[1] if node.op_type == "Conv" else sizes[-1])
        params += w.size
        macs += w.size * positions
    return params, macs


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
        assert scheme in ("spatial", "tucker2")
        assert 1 in kernel
        return
    (planned,) = result.plan.layers
    assert (planned.params.after, planned.macs.after) == _count(result.model)
    assert planned.energy >= energy - 1e-9
    if energy == 1:
        feed = _feed(model)
        assert relative_error(run(model, **feed)[0], run(result.model, **feed)[0]) < EXACT


@pytest.mark.parametrize("scheme", list(all_schemes()))
def test_a_corrupted_factor_is_caught(scheme: str) -> None:
    model = MODELS["pads"]
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


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(np.float16, 2e-3), (np.float32, 1e-5), (np.float64, 1e-12)]
)
@pytest.mark.parametrize("scheme", list(all_schemes()))
def test_types_are_kept(scheme: str, dtype: Any, tolerance: float) -> None:
    model = conv_model(weight(16, 8, 3, 3, dtype=dtype))
    _, rewritten = _full_rank(model, scheme)
    feed = {"x": _feed(model)["x"].astype(dtype)}
    expected, actual = (ReferenceEvaluator(m).run(None, feed)[0] for m in (model, rewritten))
    assert {numpy_helper.to_array(t).dtype for t in rewritten.graph.initializer} == {np.dtype(dtype)}
    assert relative_error(expected, actual) < tolerance  # ONNX Runtime has no float64 Conv
