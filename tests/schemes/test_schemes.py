"""Every scheme: the stated error is the true one, and for all but Tucker-2 it is the global optimum."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxlr.conv import ConvSpec, chain_macs
from onnxlr.factorization import balance
from onnxlr.linalg import tail_sums
from onnxlr.schemes import Scheme, all_schemes
from onnxlr.schemes.spatial import first_axis
from tests.builders import Array, weight

SCHEMES = list(all_schemes().values())


def compose(scheme: Scheme, factors: tuple[Array, ...]) -> Array:
    """The one kernel that a chain of kernels computes, by einsum over channels and kernel taps."""
    if scheme.name == "tucker2":
        first, core, last = factors
        return np.einsum("rc,sr...,ms->mc...", _matrix(first), core, _matrix(last))
    first, last = factors
    if scheme.name == "spatial":
        product = np.einsum("rcij,mrkl->mcijkl", first, last)
        # one of each pair of taps (i, k), (j, l) has length 1
        shape = (product.shape[0], product.shape[1], product.shape[2] * product.shape[4], -1)
        return product.transpose(0, 1, 2, 4, 3, 5).reshape(shape)
    if first.size // first.shape[0] > first.shape[1]:  # k×k first
        return np.einsum("rc...,mr->mc...", first, _matrix(last))
    return np.einsum("rc,mr...->mc...", _matrix(first), last)


def _matrix(pointwise: Array) -> Array:
    return pointwise.reshape(pointwise.shape[:2])


def unfolding(scheme: Scheme, conv: ConvSpec, w: Array) -> Array:
    """The matrix whose SVD bounds every approximation of the scheme's form from below."""
    out_channels, in_channels = w.shape[:2]
    if scheme.name == "channel-out":
        return w.reshape(out_channels, -1)
    if scheme.name == "channel-in":
        return w.swapaxes(0, 1).reshape(in_channels, -1)
    order = (1, 2, 0, 3) if first_axis(conv) == 0 else (1, 3, 0, 2)
    moved = w.transpose(order)
    return moved.reshape(moved.shape[0] * moved.shape[1], -1)


convs = st.builds(
    lambda out, inp, kernel, strides: ConvSpec.create((out, inp, *kernel), strides=strides),
    st.integers(1, 9),
    st.integers(1, 9),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
)


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)
@given(conv=convs, data=st.data())
def test_stated_error_is_the_true_one(scheme: Scheme, conv: ConvSpec, data: st.DataObject) -> None:
    if scheme.refuses(conv) is not None:
        return
    w = weight(*conv.weight_shape, seed=data.draw(st.integers(0, 9)), dtype=np.float64)
    rank = tuple(data.draw(st.integers(1, full)) for full in scheme.max_rank(conv))
    found = scheme.decompose(conv, w)
    factors = found.factors(w, rank)
    assert [f.shape for f in factors] == [link.weight_shape for link in scheme.chain(conv, rank)]
    error = np.square(w - compose(scheme, factors)).sum()
    energy = np.square(w).sum()
    assert abs(error - found.residuals[rank]) <= 1e-9 * energy
    assert abs(found.residuals[(0,) * len(rank)] - energy) <= 1e-9 * energy
    assert found.residuals[scheme.max_rank(conv)] == 0


@pytest.mark.parametrize(
    "scheme", [s for s in SCHEMES if s.name != "tucker2"], ids=lambda scheme: scheme.name
)
@given(conv=convs, seed=st.integers(0, 9))
def test_pairs_are_the_global_optimum(scheme: Scheme, conv: ConvSpec, seed: int) -> None:
    if scheme.refuses(conv) is not None:
        return
    w = weight(*conv.weight_shape, seed=seed, dtype=np.float64)
    sigma = np.linalg.svd(unfolding(scheme, conv, w), compute_uv=False)  # Eckart-Young bound
    residuals = scheme.decompose(conv, w).residuals
    assert np.abs(residuals - tail_sums(np.square(sigma))).max() <= 1e-9 * np.square(w).sum()


@given(conv=convs, seed=st.integers(0, 9), data=st.data())
def test_tucker2_keeps_its_bound(conv: ConvSpec, seed: int, data: st.DataObject) -> None:
    scheme = all_schemes()["tucker2"]
    if scheme.refuses(conv) is not None:
        return
    w = weight(*conv.weight_shape, seed=seed, dtype=np.float64)
    r1, r2 = (data.draw(st.integers(1, full)) for full in scheme.max_rank(conv))
    tails = [
        tail_sums(
            np.square(np.linalg.svd(np.moveaxis(w, mode, 0).reshape(w.shape[mode], -1), compute_uv=False))
        )
        for mode in (0, 1)
    ]
    error, energy = scheme.decompose(conv, w).residuals[r1, r2], np.square(w).sum()
    assert error <= tails[0][r2] + tails[1][r1] + 1e-12 * energy
    assert error >= max(tails[0][r2], tails[1][r1]) - 1e-12 * energy  # no rank-(r1, r2) tensor is closer


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)
def test_balancing_changes_no_bit_of_the_product(scheme: Scheme) -> None:
    conv = ConvSpec.create((12, 10, 3, 3))
    w = 1e4 * weight(12, 10, 3, 3, dtype=np.float64)
    factors = scheme.decompose(conv, w).factors(w, tuple(4 for _ in scheme.max_rank(conv)))
    balanced = tuple(balance(factors))
    assert np.array_equal(compose(scheme, factors), compose(scheme, balanced))


@pytest.mark.parametrize(
    "scheme", [s for s in SCHEMES if s.name != "tucker2"], ids=lambda scheme: scheme.name
)
def test_balancing_makes_norms_equal_within_a_factor_of_two(scheme: Scheme) -> None:
    conv = ConvSpec.create((12, 10, 3, 3))
    w = 1e4 * weight(12, 10, 3, 3, dtype=np.float64)
    first, second = balance(scheme.decompose(conv, w).factors(w, (4,)))
    ratio = np.linalg.norm(first.reshape(4, -1), axis=1) / np.linalg.norm(
        second.swapaxes(0, 1).reshape(4, -1), axis=1
    )
    assert np.abs(np.log2(ratio)).max() <= 1


def test_balancing_leaves_zero_rows_alone() -> None:
    first, second = np.zeros((2, 3, 1, 1)), np.ones((4, 2, 3, 3))
    assert np.array_equal(balance([first, second])[0], first)


@pytest.mark.parametrize(
    ("kernel", "strides", "axis"),
    [
        ((3, 3), (1, 1), 0),
        ((3, 3), (2, 2), 0),
        ((3, 3), (2, 1), 0),  # the first Conv strides: the second has fewer rows
        ((3, 3), (1, 2), 1),
        ((3, 5), (2, 1), 0),
        ((5, 3), (1, 2), 1),
    ],
)
def test_spatial_takes_the_cheaper_order(
    kernel: tuple[int, int], strides: tuple[int, int], axis: int
) -> None:
    conv = ConvSpec.create((16, 16, *kernel), strides=strides)
    assert first_axis(conv) == axis
    first, second = all_schemes()["spatial"].chain(conv, (8,))
    assert first.kernel_shape[1 - axis] == 1
    assert second.kernel_shape[axis] == 1
    other = (conv.only_axis(1 - axis, 8, 16), conv.only_axis(axis, 16, 8))
    assert chain_macs((first, second), None) <= chain_macs(other, None)


@pytest.mark.parametrize(
    ("scheme", "conv", "reason"),
    [
        ("spatial", ConvSpec.create((8, 8, 1, 3)), "nothing to split"),
        ("spatial", ConvSpec.create((8, 8, 3)), "1 spatial axes"),
        ("spatial", ConvSpec.create((8, 8)), "0 spatial axes"),
        ("tucker2", ConvSpec.create((8, 8, 1, 1)), "pointwise"),
        ("channel-in", ConvSpec.create((8, 1, 3, 3), group=8), "depthwise Conv"),
        ("channel-out", ConvSpec.create((8, 4, 3, 3), group=2), "grouped Conv"),
        ("spatial", ConvSpec.create((8, 4, 3, 3), group=2), "grouped Conv"),
        ("tucker2", ConvSpec.create((8, 4, 3, 3), group=2), "grouped Conv"),
    ],
)
def test_refusals_say_why(scheme: str, conv: ConvSpec, reason: str) -> None:
    assert reason in str(all_schemes()[scheme].refuses(conv))


def test_schemes_are_found_by_being_there() -> None:
    assert set(all_schemes()) == {"channel-in", "channel-out", "spatial", "tucker2"}
    assert all(name == scheme.name for name, scheme in all_schemes().items())
