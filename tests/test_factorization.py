"""The nearest weight of a rank is what the chain computes, with the stated error, and no other is nearer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from onnxlr.conv import ConvSpec
from onnxlr.factorization import compose, nearest
from onnxlr.schemes import Rank, Scheme, all_schemes
from tests.builders import Array, relative_error, weight

CONVS = {
    "square": ConvSpec.create((12, 8, 3, 3), pads=(1, 1, 1, 1)),
    "wide": ConvSpec.create((8, 12, 2, 3), strides=(1, 2)),
    "pointwise": ConvSpec.create((12, 8, 1, 1)),
    "grouped": ConvSpec.create((12, 4, 3, 3), group=2),
    "depthwise": ConvSpec.create((6, 1, 3, 3), group=6),
    "transposed": ConvSpec.create((8, 12, 3, 3), strides=(2, 2), transposed=True),
    "one axis": ConvSpec.create((12, 8, 5)),
    "three axes": ConvSpec.create((4, 4, 2, 3, 3)),
    "gemm": ConvSpec.create((12, 8)),
}

CASES = [
    pytest.param(scheme, conv, id=f"{scheme.name}-{name}")
    for scheme in all_schemes().values()
    for name, conv in CONVS.items()
    if scheme.refuses(conv) is None
]


def example(conv: ConvSpec) -> Array:
    """Rows of very different norms: it matters which scale errors count in."""
    rows = np.logspace(-2, 1, conv.out_channels).reshape(-1, *(1,) * (len(conv.weight_shape) - 1))
    return rows * weight(*conv.weight_shape, seed=3, dtype=np.float64)


def scaled(conv: ConvSpec, w: Array) -> tuple[Array, Array]:
    """D⁻¹W, and the norms D of the rows as a column."""
    norms = np.linalg.norm(w.reshape(len(w), -1), axis=1).reshape(-1, *(1,) * (w.ndim - 1))
    assert norms.shape[0] == conv.out_channels
    return w / norms, norms


def half(scheme: Scheme, conv: ConvSpec) -> Rank:
    return tuple(max(1, full // 2) for full in scheme.max_rank(conv))


def brute(conv: ConvSpec, chain: Sequence[ConvSpec], factors: Sequence[Array]) -> Array:
    """The kernel that a chain computes: its response to one channel and one tap at a time, entry by entry."""
    taps = [1] * len(conv.kernel_shape)
    kernel = np.eye(conv.in_channels).reshape(conv.in_channels, conv.in_channels, *taps)
    for link, factor in zip(chain, factors, strict=True):
        size = [a + b - 1 for a, b in zip(kernel.shape[2:], link.kernel_shape, strict=True)]
        longer = np.zeros((link.out_channels, conv.in_channels, *size))
        rows, columns = link.out_channels // link.group, link.weight_shape[1]
        for m, c, *at in np.ndindex(*factor.shape):
            channel = m // rows * columns + c  # of the kernel so far
            window = tuple(slice(i, i + n) for i, n in zip(at, kernel.shape[2:], strict=True))
            longer[m, :, *window] += factor[(m, c, *at)] * kernel[channel]
        kernel = longer
    rows, columns = conv.out_channels // conv.group, conv.weight_shape[1]
    groups = range(conv.group)
    return np.concatenate(
        [kernel[g * rows : (g + 1) * rows, g * columns : (g + 1) * columns] for g in groups]
    )


def test_every_scheme_is_tested() -> None:
    assert {case.values[0] for case in CASES} == set(all_schemes().values())
    assert len(CASES) > 20


@pytest.mark.parametrize(("scheme", "conv"), CASES)
def test_it_is_what_the_chain_computes(scheme: Scheme, conv: ConvSpec) -> None:
    w, rank = example(conv), half(scheme, conv)
    unit, norms = scaled(conv, w)
    chain = scheme.chain(conv, rank)
    factors = scheme.decompose(conv, unit).factors(unit, rank)
    found, _ = nearest(conv, w, scheme, rank)
    assert found.shape == w.shape
    assert relative_error(norms * brute(conv, chain, factors), found) < 1e-12


@pytest.mark.parametrize(("scheme", "conv"), CASES)
def test_its_error_is_that_of_the_decomposition(scheme: Scheme, conv: ConvSpec) -> None:
    w, rank = example(conv), half(scheme, conv)
    unit, norms = scaled(conv, w)
    residuals = scheme.decompose(conv, unit).residuals
    found, error = nearest(conv, w, scheme, rank)
    assert error == pytest.approx(residuals[rank] / residuals[(0,) * len(rank)], abs=1e-12)
    assert error == pytest.approx(np.square(unit - found / norms).sum() / conv.out_channels, abs=1e-12)
    assert error > 1e-3


@pytest.mark.parametrize(("scheme", "conv"), CASES)
def test_full_rank_gives_the_weight(scheme: Scheme, conv: ConvSpec) -> None:
    w = example(conv)
    found, error = nearest(conv, w, scheme, scheme.max_rank(conv))
    assert relative_error(w, found) < 1e-7
    assert error < 1e-14


@pytest.mark.parametrize(("scheme", "conv"), CASES)
def test_what_has_the_rank_stays(scheme: Scheme, conv: ConvSpec) -> None:
    rank = half(scheme, conv)
    first, _ = nearest(conv, example(conv), scheme, rank)
    again, error = nearest(conv, first, scheme, rank)
    assert relative_error(first, again) < 1e-7
    assert error < 1e-14


@pytest.mark.parametrize("name", ["square", "wide", "grouped", "transposed"])
@pytest.mark.parametrize("scheme", ["spatial", "channel-out"])
def test_no_other_of_its_rank_is_nearer(scheme: str, name: str) -> None:
    """Of chains whose factors are those of the nearest, moved a little or far."""
    how, conv = all_schemes()[scheme], CONVS[name]
    rank = half(how, conv)
    unit, _ = scaled(conv, example(conv))
    _, error = nearest(conv, example(conv), how, rank)
    chain, factors = how.chain(conv, rank), how.decompose(conv, unit).factors(unit, rank)
    rng, others = np.random.default_rng(0), []
    for step in (1e-3, 1e-2, 0.1, 1) * 25:
        moved = [factor + step * factor.std() * rng.standard_normal(factor.shape) for factor in factors]
        kernel = compose(moved, chain, conv.group).reshape(unit.shape)
        others.append(np.square(unit - kernel).sum() / conv.out_channels)
    assert min(others) > error
    assert min(others) < error + 1e-3  # some were close


def test_rows_of_zeros_stay() -> None:
    conv, scheme = CONVS["square"], all_schemes()["channel-out"]
    w = example(conv)
    w[[2, 5]] = 0
    found, error = nearest(conv, w, scheme, (4,))
    assert np.abs(found[[2, 5]]).max() < 1e-15
    assert 0 < error < 1
    nothing, none = nearest(conv, np.zeros_like(w), scheme, (4,))
    assert not nothing.any()
    assert none == 0
