"""Vectors under output positions: whatever the layer, W x is what ONNX Runtime computes there."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from onnx import ModelProto, helper
from onnx.reference import ReferenceEvaluator

from onnxlr.analysis import analyse
from onnxlr.layer import Layer
from onnxlr.patches import count_positions, input_rows, output_rows, weight_order
from tests.builders import (
    Array,
    conv_model,
    gemm_model,
    left_gemm_model,
    matmul_model,
    relative_error,
    run,
    weight,
)
from tests.test_conformance import MODELS as CONFORMANCE

EXACT = 1e-5

VECTOR = "matmul left, vector"
"""W x of a vector: there x has one axis, and no columns."""

MORE: dict[str, ModelProto] = {
    "conv, 4-D": conv_model(weight(6, 4, 2, 3, 1, 2), (3, 4, 2, 5), strides=[1, 2, 1, 2]),
    "conv, window larger than the input": conv_model(weight(6, 4, 3, 3), (2, 2), pads=[1, 1, 1, 1]),
    "conv, padding beyond the window": conv_model(weight(6, 4, 3, 3), (4, 5), pads=[4, 3, 5, 6]),
    "conv, stride beyond the window": conv_model(weight(6, 4, 2, 2), (11, 13), strides=[4, 5]),
    "conv, SAME_LOWER, stride 3": conv_model(weight(6, 4, 5, 4), auto_pad="SAME_LOWER", strides=[3, 2]),
    "conv, SAME_UPPER, stride 3": conv_model(weight(6, 4, 5, 4), auto_pad="SAME_UPPER", strides=[3, 2]),
    "conv, SAME, no padding needed": conv_model(
        weight(6, 4, 2, 1), (7, 9), auto_pad="SAME_LOWER", strides=[3, 2]
    ),
    "conv, VALID with pads": conv_model(weight(6, 4, 3, 3), auto_pad="VALID", dilations=[2, 3]),
    "transposed, 1-D, dilation": conv_model(
        weight(4, 6, 3), (7,), op="ConvTranspose", strides=[2], dilations=[3], pads=[1, 3]
    ),
    "transposed, stride beyond the window": conv_model(
        weight(4, 6, 2, 2), (5, 4), op="ConvTranspose", strides=[4, 3], output_padding=[3, 2]
    ),
    "transposed, output_shape, odd padding": conv_model(
        weight(4, 6, 4, 4), (5, 6), op="ConvTranspose", strides=[2, 2], output_shape=[9, 11]
    ),
    "transposed, output_shape, odd padding, SAME_UPPER": conv_model(
        weight(4, 6, 4, 4),
        (5, 6),
        op="ConvTranspose",
        strides=[2, 2],
        output_shape=[9, 11],
        auto_pad="SAME_UPPER",
    ),
    "transposed, output_shape, odd padding, SAME_LOWER": conv_model(
        weight(4, 6, 4, 4),
        (5, 6),
        op="ConvTranspose",
        strides=[2, 2],
        output_shape=[9, 11],
        auto_pad="SAME_LOWER",
    ),
    "transposed, output_shape, dilation, grouped": conv_model(
        weight(8, 3, 3, 2),
        (5, 4),
        op="ConvTranspose",
        strides=[2, 1],
        dilations=[2, 3],
        output_shape=[10, 6],
        group=2,
    ),
    "transposed, output_shape, output_padding": conv_model(
        weight(4, 6, 3, 3),
        (5, 4),
        op="ConvTranspose",
        strides=[2, 3],
        output_padding=[1, 2],
        output_shape=[10, 11],
    ),
    "transposed, SAME_UPPER, dilation": conv_model(
        weight(4, 6, 3, 4), (5, 4), op="ConvTranspose", strides=[2, 3], auto_pad="SAME_UPPER"
    ),
    "transposed, depthwise, SAME_LOWER": conv_model(
        weight(6, 1, 4, 5), (5, 4), op="ConvTranspose", strides=[3, 2], auto_pad="SAME_LOWER", group=6
    ),
    "gemm alpha, transA transB": gemm_model(
        weight(16, 24), weight(3, 1), transA=1, transB=1, alpha=-2.5, beta=0.25
    ),
    "gemm left, alpha, transA transB": left_gemm_model(weight(16, 24), transA=1, transB=1, alpha=-2.5),
    "matmul (1, 1, K, N) of a matrix": matmul_model(["x", "w"], [3, 24], weight(1, 1, 24, 16)),
    "matmul (2, K, N) of a matrix": matmul_model(["x", "w"], [3, 24], weight(2, 24, 16)),
    "matmul (3, 2, K, N) of less axes": matmul_model(["x", "w"], [2, 4, 24], weight(3, 2, 24, 16)),
    "matmul (2, K, N), outer batch": matmul_model(["x", "w"], ["N", 5, 2, 3, 24], weight(2, 24, 16)),
    "matmul left (2, M, K) of a matrix": matmul_model(["w", "x"], [24, 5], weight(2, 16, 24)),
    "matmul left (3, 2, M, K), broadcast": matmul_model(["w", "x"], ["N", 1, 2, 24, 5], weight(3, 2, 16, 24)),
    "matmul left, 5-D": matmul_model(["w", "x"], ["N", 3, 2, 24, 5], weight(16, 24)),
}

MODELS = CONFORMANCE | MORE


def only_layer(model: ModelProto) -> Layer:
    (layer,) = analyse(model)
    assert isinstance(layer, Layer), layer.reason
    return layer


def random_input(model: ModelProto) -> Array:
    dims = [
        dim.dim_value or (9 + axis if axis > 1 else 3)
        for axis, dim in enumerate(model.graph.input[0].type.tensor_type.shape.dim)
    ]
    return np.random.default_rng(1).standard_normal(dims).astype(np.float32)


def output_of(model: ModelProto, x: Array) -> Array:
    """The output in ONNX Runtime, which has no Gemm before opset 7: there, in ONNX's reference."""
    if model.opset_import[0].version >= 7:
        return run(model, x=x)[0]
    return np.asarray(ReferenceEvaluator(model).run(None, {"x": x})[0])


def attribute(model: ModelProto, name: str, default: float) -> float:
    found = [a for a in model.graph.node[0].attribute if a.name == name]
    return float(helper.get_attribute_value(found[0])) if found else default


def weights(layer: Layer) -> Array:
    """`(group, M / group, D)`, numbered as x is."""
    w = layer.layout.load(layer.weight.read(), layer.conv)
    w = w.reshape(layer.conv.group, layer.conv.out_channels // layer.conv.group, -1)
    return w[:, :, np.argsort(weight_order(layer.conv))]


def check(model: ModelProto) -> None:
    """W x against the output without that for x = 0, the bias, at all positions and at some of them."""
    layer, x = only_layer(model), random_input(model)
    y, bias = output_of(model, x), output_of(model, 0 * x)
    total = count_positions(layer, y.shape)
    every = np.arange(total)
    is_turned = attribute(model, "transA" if layer.layout.position else "transB", 0) != 0
    vectors = input_rows(layer, x, y.shape, every, is_turned)
    expected = output_rows(layer, y, every) - output_rows(layer, bias, every)
    assert vectors.dtype == expected.dtype == np.float32
    w = weights(layer)
    assert vectors.shape == (total, len(w), w.shape[2])
    assert expected.shape == (total, len(w), w.shape[1])
    alpha = attribute(model, "alpha", 1.0)
    assert relative_error(expected, alpha * np.einsum("ngd,gmd->ngm", vectors, w)) < EXACT
    some = every[1::3] if total >= 9 else every  # three samples
    assert np.array_equal(input_rows(layer, x, y.shape, some, is_turned), vectors[some])
    assert np.array_equal(output_rows(layer, y, some), output_rows(layer, y, every)[some])


@pytest.mark.parametrize("case", [name for name in MODELS if name != VECTOR])
def test_weight_times_input_is_the_output(case: str) -> None:
    check(MODELS[case])


def test_weight_times_a_vector() -> None:
    check(MODELS[VECTOR])


@pytest.mark.parametrize("case", [name for name in MODELS if name != VECTOR])
def test_positions_cover_the_output(case: str) -> None:
    layer = only_layer(MODELS[case])
    shape = output_of(MODELS[case], random_input(MODELS[case])).shape
    numbered = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    rows = output_rows(layer, numbered, np.arange(count_positions(layer, shape)))
    assert np.array_equal(np.sort(rows, axis=None), numbered.ravel())


def test_positions_are_in_the_order_of_the_output() -> None:
    layer = only_layer(conv_model(weight(2, 4, 1, 1), (2, 3)))
    numbered = np.arange(24, dtype=np.float32).reshape(2, 2, 2, 3)
    rows = output_rows(layer, numbered, np.array([0, 4, 7]))
    assert rows.tolist() == [[[0, 6]], [[4, 10]], [[13, 19]]]


def test_of_a_sample_without_positions_nothing_is_taken() -> None:
    model = conv_model(weight(6, 4, 3, 3))
    layer, x = only_layer(model), random_input(model)
    y = output_of(model, x)
    total = count_positions(layer, y.shape) // len(x)
    last = np.arange(2 * total, 3 * total, 7)
    vectors = input_rows(layer, x, y.shape, last)
    x[:2] = np.nan
    assert np.array_equal(input_rows(layer, x, y.shape, last), vectors)


def test_padding_is_zero_whatever_the_input() -> None:
    layer = only_layer(conv_model(weight(6, 4, 3, 3), (3, 3), pads=[1, 1, 1, 1]))
    x = np.full((1, 4, 3, 3), 5, np.float32)
    vectors = input_rows(layer, x, (1, 6, 3, 3), np.arange(9)).reshape(3, 3, 3, 3, 4)
    inside = np.ones((3, 3, 3, 3), bool)
    for place, end in itertools.product((0, 1), (0, -1)):
        index: list[Any] = [slice(None)] * 4
        index[place], index[2 + place] = end, end
        inside[tuple(index)] = False
    assert np.array_equal(vectors, np.where(inside[..., None], 5, 0).repeat(4, axis=4))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_stays_under_its_windows(value: float) -> None:
    layer = only_layer(conv_model(weight(6, 4, 3, 3), (5, 5), pads=[1, 1, 1, 1]))
    x = np.ones((1, 4, 5, 5), np.float32)
    x[0, 1, 0, 0] = value
    vectors = input_rows(layer, x, (1, 6, 5, 5), np.arange(25))
    touched = ~np.isfinite(vectors).all(axis=(1, 2))
    assert np.flatnonzero(touched).tolist() == [0, 1, 5, 6]


@pytest.mark.parametrize("case", ["conv, plain", "transposed, everything", "gemm", "matmul (2, K, N)"])
def test_half_precision_is_read_as_single(case: str) -> None:
    layer, x = only_layer(MODELS[case]), random_input(MODELS[case]).astype(np.float16)
    y = output_of(MODELS[case], x.astype(np.float32)).astype(np.float16)
    positions = np.arange(0, count_positions(layer, y.shape), 2)
    for rows in (input_rows(layer, x, y.shape, positions), output_rows(layer, y, positions)):
        assert rows.dtype == np.float32
    single = input_rows(layer, x.astype(np.float32), y.shape, positions)
    assert np.array_equal(input_rows(layer, x, y.shape, positions), single)


BROADCAST = {
    "(3, 1, K, N)": matmul_model(["x", "w"], [3, 2, 4, 24], weight(3, 1, 24, 16)),
    "(2, 1, 1, K, N)": matmul_model(["x", "w"], [3, 1, 4, 24], weight(2, 1, 1, 24, 16)),
    "left (3, 1, M, K)": matmul_model(["w", "x"], [3, 2, 24, 4], weight(3, 1, 16, 24)),
}


@pytest.mark.parametrize("case", BROADCAST)
def test_matrices_that_broadcast_are_refused(case: str) -> None:
    layer, x = only_layer(BROADCAST[case]), random_input(BROADCAST[case])
    y = output_of(BROADCAST[case], x)
    positions = np.arange(2)
    with pytest.raises(ValueError, match="axes of the matrices broadcast"):
        output_rows(layer, y, positions)
    with pytest.raises(ValueError, match="axes of the matrices broadcast"):
        input_rows(layer, x, y.shape, positions)


@pytest.mark.parametrize(
    "case",
    ["conv, plain", "conv, grouped", "transposed, plain", "gemm", "matmul", "matmul (2, K, N)"],
)
def test_no_positions(case: str) -> None:
    layer, x = only_layer(MODELS[case]), random_input(MODELS[case])
    y = output_of(MODELS[case], x)
    none = np.arange(0)
    w = weights(layer)
    assert input_rows(layer, x, y.shape, none).shape == (0, len(w), w.shape[2])
    assert output_rows(layer, y, none).shape == (0, len(w), w.shape[1])


sizes = st.tuples(st.integers(1, 4), st.integers(1, 4))


@given(
    transposed=st.booleans(),
    group=st.sampled_from([1, 2, 3]),
    channels=sizes,
    kernel=sizes,
    strides=sizes,
    dilations=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    more=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    padding=st.one_of(
        st.tuples(*[st.integers(0, 3)] * 4).map(lambda pads: {"pads": list(pads)}),
        st.sampled_from(["VALID", "SAME_UPPER", "SAME_LOWER"]).map(lambda kind: {"auto_pad": kind}),
    ),
)
def test_any_window(
    transposed: bool,
    group: int,
    channels: Any,
    kernel: Any,
    strides: Any,
    dilations: Any,
    more: Any,
    padding: Any,
) -> None:
    if "SAME" in padding.get("auto_pad", ""):
        dilations = (1, 1)  # ONNX Runtime refuses others with SAME
    attributes = {"strides": list(strides), "dilations": list(dilations), "group": group, **padding}
    if transposed:
        assume(all(m < s for m, s in zip(more, strides, strict=True)))
        attributes["output_padding"] = list(more)
    pads = padding.get("pads", [0] * 4)
    window = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    if transposed:
        lengths = [
            5 * s + w - pads[i] - pads[i + 2] for i, (s, w) in enumerate(zip(strides, window, strict=True))
        ]
    else:
        lengths = [6 + pads[i] + pads[i + 2] - w + 1 for i, w in enumerate(window)]
    assume(min(lengths) > 0)
    shape = (channels[0] * group, channels[1], *kernel)
    check(conv_model(weight(*shape), (6, 6), op="ConvTranspose" if transposed else "Conv", **attributes))


def test_a_shifted_window_is_noticed() -> None:
    """The oracle tells apart what is one pixel off."""
    w = weight(6, 4, 3, 3)
    asked, made = (conv_model(w, pads=pads) for pads in ([1, 1, 1, 1], [0, 1, 2, 1]))
    x = random_input(made)
    y = output_of(made, x) - output_of(made, 0 * x)
    layer = only_layer(asked)
    positions = np.arange(count_positions(layer, y.shape))
    vectors = input_rows(layer, x, y.shape, positions)
    found = np.einsum("ngd,gmd->ngm", vectors, weights(layer))
    assert relative_error(output_rows(layer, y, positions), found) > 0.5
