"""ConvSpec's sizes against ONNX shape inference."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxlr.conv import ConvSpec, chain_macs, chain_params
from tests.builders import conv_model, weight


@given(
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilations=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    pads=st.tuples(*[st.integers(0, 3)] * 4),
    auto_pad=st.sampled_from(["NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]),
    size=st.tuples(st.integers(8, 14), st.integers(8, 14)),
)
def test_output_sizes_are_those_of_onnx(
    kernel: tuple[int, int], strides: Any, dilations: Any, pads: Any, auto_pad: str, size: tuple[int, int]
) -> None:
    padding = {"pads": pads} if auto_pad == "NOTSET" else {"auto_pad": auto_pad}
    conv = ConvSpec.create((3, 2, *kernel), strides=strides, dilations=dilations, **padding)
    model = conv_model(weight(3, 2, *kernel), size, strides=strides, dilations=dilations, **padding)
    inferred = tuple(d.dim_value for d in model.graph.output[0].type.tensor_type.shape.dim[2:])
    assert conv.output_spatial(size) == inferred
    assert conv.macs(size) == 3 * 2 * kernel[0] * kernel[1] * inferred[0] * inferred[1]


@given(
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilations=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    padding=st.one_of(
        st.tuples(*[st.integers(0, 2)] * 4).map(lambda pads: {"pads": pads}),
        st.sampled_from(["VALID", "SAME_UPPER", "SAME_LOWER"]).map(lambda kind: {"auto_pad": kind}),
        st.just({"output_padding": (1, 0)}),
        st.just({"output_shape": (40, 45)}),
    ),
    size=st.tuples(st.integers(8, 14), st.integers(8, 14)),
)
def test_output_sizes_of_a_conv_transpose(
    kernel: tuple[int, int], strides: Any, dilations: Any, padding: dict[str, Any], size: tuple[int, int]
) -> None:
    given_ = {"strides": strides, "dilations": dilations, **padding}
    conv = ConvSpec.create((3, 2, *kernel), transposed=True, **given_)
    if padding.get("auto_pad", "").startswith("SAME"):
        # as ONNX specifies it; onnx 1.22 infers less where a window is shorter than its stride
        expected = (size[0] * strides[0], size[1] * strides[1])
    else:
        model = conv_model(weight(2, 3, *kernel), size, op="ConvTranspose", **given_)
        expected = tuple(d.dim_value for d in model.graph.output[0].type.tensor_type.shape.dim[2:])
    assert conv.output_spatial(size) == expected
    assert conv.macs(size) == 3 * 2 * kernel[0] * kernel[1] * size[0] * size[1]


def test_a_gemm_is_a_conv_without_spatial_axes() -> None:
    gemm = ConvSpec.create((10, 20))
    assert (gemm.params, gemm.macs(()), gemm.is_pointwise, gemm.kernel_shape) == (200, 200, True, ())


def test_groups_divide_the_cost() -> None:
    conv = ConvSpec.create((8, 2, 3, 3), pads=(1, 1, 1, 1), group=4)
    assert (conv.in_channels, conv.macs((5, 5))) == (8, 8 * 2 * 9 * 25)


@pytest.mark.parametrize(
    "wrong",
    [
        {"weight_shape": (4, 4, 3, 3), "strides": (1,)},
        {"weight_shape": (4, 4, 3, 3), "pads": (1, 1)},
        {"weight_shape": (4, 4, 3, 3), "dilations": (1, 1, 1)},
        {"weight_shape": (5, 4, 3, 3), "group": 2},
        {"weight_shape": (4, 4, 3, 3), "group": 0},
        {"weight_shape": (4, 4, 3, 3), "strides": (0, 1)},
        {"weight_shape": (4, 4, 3, 3), "output_padding": (1,)},
        {"weight_shape": (4, 4, 3, 3), "transposed": True, "output_shape": (9,)},
    ],
)
def test_what_does_not_fit_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"does not have one entry|do not divide|at least 1"):
        ConvSpec.create(**wrong)


def test_chains_add_up() -> None:
    chain = (ConvSpec.create((4, 3, 3, 1), strides=(2, 1)), ConvSpec.create((8, 4, 1, 3), strides=(1, 2)))
    assert chain_params(chain) == 4 * 9 + 8 * 12
    assert chain_macs(chain, (9, 9)) == 36 * 4 * 9 + 96 * 4 * 4
    assert chain_macs(chain, None) == 36 / 2 + 96 / 4  # per input position


def test_a_conv_transpose_makes_more_positions() -> None:
    up = ConvSpec.create((4, 3, 3, 3), strides=(2, 2), transposed=True)
    chain = (up, ConvSpec.create((8, 4, 1, 1)))
    assert chain_macs(chain, (5, 5)) == 108 * 25 + 32 * 121
    assert chain_macs(chain, None) == 108 + 32 * 4
