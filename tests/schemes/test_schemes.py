"""Every scheme: the stated error is the true one, and for every pair it is the global optimum."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxlr.conv import ConvSpec, chain_macs
from onnxlr.factorization import balance
from onnxlr.linalg import tail_sums
from onnxlr.schemes import Scheme, all_schemes
from onnxlr.schemes.spatial import axis_order
from tests.builders import Array, weight

SCHEMES = list(all_schemes().values())


def compose(conv: ConvSpec, chain: Sequence[ConvSpec], factors: Sequence[Array]) -> Array:
    """The one kernel `(M, C / group, ...)` that a chain of kernels computes, whatever its scheme.

    Each Conv is made dense over its groups; kernels along different axes meet in an outer product.
    """
    total, *others = [_dense(spec, factor) for spec, factor in zip(chain, factors, strict=True)]
    for factor in others:
        total = _convolve(total, factor)
    in_group = conv.weight_shape[1]
    rows = conv.out_channels // conv.group
    return np.concatenate(
        [total[g * rows : (g + 1) * rows, g * in_group : (g + 1) * in_group] for g in range(conv.group)]
    )


def _dense(spec: ConvSpec, factor: Array) -> Array:
    """A grouped kernel as `(M, C, ...)` with zeros between the groups."""
    dense = np.zeros((spec.out_channels, spec.in_channels, *spec.kernel_shape))
    rows, columns = spec.out_channels // spec.group, spec.weight_shape[1]
    for g in range(spec.group):
        dense[g * rows : (g + 1) * rows, g * columns : (g + 1) * columns] = factor[g * rows : (g + 1) * rows]
    return dense


def _convolve(first: Array, second: Array) -> Array:
    """Kernels of which at most one is longer than 1 along each axis."""
    letters, others = "wxyz"[: first.ndim - 2], "WXYZ"[: first.ndim - 2]
    both = "".join(a + b for a, b in zip(letters, others, strict=True))
    product = np.einsum(f"rc{letters},mr{others}->mc{both}", first, second)
    taps = [a * b for a, b in zip(first.shape[2:], second.shape[2:], strict=True)]
    return product.reshape(*product.shape[:2], *taps)


def best_residuals(scheme: Scheme, conv: ConvSpec, w: Array) -> Array:
    """Eckart-Young: the smallest error at every rank, from SVDs of the matrices that the scheme truncates."""
    if scheme.name.startswith("group"):
        count = int(scheme.name.removeprefix("group-"))
        is_over_input = conv.in_channels >= conv.out_channels
        parts = np.split(w, count, axis=1 if is_over_input else 0)
        matrices = [
            part.reshape(len(part), -1) if is_over_input else part.swapaxes(0, 1).reshape(part.shape[1], -1)
            for part in parts
        ]
    else:
        one = conv.one_group()
        matrices = [unfolding(scheme, one, part) for part in w.reshape(conv.group, -1, *w.shape[1:])]
    return sum(tail_sums(np.square(np.linalg.svd(m, compute_uv=False))) for m in matrices)


def unfolding(scheme: Scheme, conv: ConvSpec, w: Array) -> Array:
    """The matrix of an ungrouped Conv whose SVD bounds every approximation of the scheme's form."""
    out_channels, in_channels = w.shape[:2]
    if scheme.name == "channel-out":
        return w.reshape(out_channels, -1)
    if scheme.name == "channel-in":
        return w.swapaxes(0, 1).reshape(in_channels, -1)
    order = (1, 2, 0, 3) if axis_order(conv) == (0, 1) else (1, 3, 0, 2)
    moved = w.transpose(order)
    return moved.reshape(moved.shape[0] * moved.shape[1], -1)


def conv_specs(axes: int) -> st.SearchStrategy[ConvSpec]:
    """Any small Conv or ConvTranspose, also grouped and depthwise."""
    sizes = [st.tuples(*[st.integers(1, top)] * axes) for top in (4, 3)]
    return st.builds(
        lambda out, inp, group, kernel, strides, transposed: ConvSpec.create(
            (out * group, inp, *kernel), strides=strides, group=group, transposed=transposed
        ),
        st.integers(1, 9),
        st.integers(1, 9),
        st.sampled_from([1, 1, 1, 2, 3]),
        *sizes,
        st.booleans(),
    )


convs = conv_specs(2)
IDS: Any = {"ids": lambda scheme: scheme.name}
PAIRS = [s for s in SCHEMES if s.name != "tucker2"]


@pytest.mark.parametrize("scheme", SCHEMES, **IDS)
@given(conv=st.one_of(convs, conv_specs(3), conv_specs(1), conv_specs(0)), data=st.data())
def test_stated_error_is_the_true_one(scheme: Scheme, conv: ConvSpec, data: st.DataObject) -> None:
    if scheme.refuses(conv) is not None:
        return
    w = weight(*conv.weight_shape, seed=data.draw(st.integers(0, 9)), dtype=np.float64)
    rank = tuple(data.draw(st.integers(1, full)) for full in scheme.max_rank(conv))
    found, chain = scheme.decompose(conv, w), scheme.chain(conv, rank)
    factors = found.factors(w, rank)
    assert [f.shape for f in factors] == [link.weight_shape for link in chain]
    error = np.square(w - compose(conv, chain, factors)).sum()
    energy = np.square(w).sum()
    assert abs(error - found.residuals[rank]) <= 1e-9 * energy
    assert abs(found.residuals[(0,) * len(rank)] - energy) <= 1e-9 * energy
    assert found.residuals[scheme.max_rank(conv)] == 0
    assert found.nbytes > 0


@pytest.mark.parametrize("scheme", PAIRS, **IDS)
@given(conv=convs, seed=st.integers(0, 9))
def test_pairs_are_the_global_optimum(scheme: Scheme, conv: ConvSpec, seed: int) -> None:
    if scheme.refuses(conv) is not None:
        return
    w = weight(*conv.weight_shape, seed=seed, dtype=np.float64)
    residuals = scheme.decompose(conv, w).residuals
    assert np.abs(residuals - best_residuals(scheme, conv, w)).max() <= 1e-9 * np.square(w).sum()


@given(conv=st.one_of(convs, conv_specs(3)), seed=st.integers(0, 9), data=st.data())
def test_hosvd_keeps_its_bound(conv: ConvSpec, seed: int, data: st.DataObject) -> None:
    scheme = all_schemes()[data.draw(st.sampled_from(["tucker2", "spatial"]))]
    if scheme.refuses(conv) is not None or len(scheme.max_rank(conv)) == 1 or conv.group > 1:
        return
    w = weight(*conv.weight_shape, seed=seed, dtype=np.float64)
    r1, r2 = (data.draw(st.integers(1, full)) for full in scheme.max_rank(conv))
    inner, outer = (_tails(w, conv, mode, scheme) for mode in (0, 1))
    error, energy = scheme.decompose(conv, w).residuals[r1, r2], np.square(w).sum()
    assert error <= outer[r2] + inner[r1] + 1e-12 * energy
    assert error >= max(outer[r2], inner[r1]) - 1e-12 * energy  # no chain of ranks (r1, r2) is closer


def _tails(w: Array, conv: ConvSpec, end: int, scheme: Scheme) -> Array:
    """Discarded σ² of the unfolding at the first (0) or the last (1) rank of the chain."""
    axes = (1,) if end == 0 else (0,)
    if scheme.name == "spatial":
        axes += (2 + axis_order(conv)[0 if end == 0 else -1],)
    moved = np.moveaxis(w, axes, range(len(axes)))
    rows = int(np.prod(moved.shape[: len(axes)]))
    return tail_sums(np.square(np.linalg.svd(moved.reshape(rows, -1), compute_uv=False)))


BALANCED = [
    ConvSpec.create((12, 10, 3, 3)),
    ConvSpec.create((12, 8, 3, 3)),
    ConvSpec.create((8, 12, 3, 3)),
    ConvSpec.create((12, 5, 3, 3), group=2),
    ConvSpec.create((12, 1, 5, 5), group=12),
    ConvSpec.create((6, 8, 3, 3, 3)),
]


@pytest.mark.parametrize("conv", BALANCED, ids=lambda conv: f"{conv.weight_shape}")
@pytest.mark.parametrize("scheme", SCHEMES, **IDS)
def test_balancing(scheme: Scheme, conv: ConvSpec) -> None:
    if scheme.refuses(conv) is not None:
        return
    w = 1e4 * weight(*conv.weight_shape, dtype=np.float64)
    rank = tuple(min(full, 4) for full in scheme.max_rank(conv))
    chain = scheme.chain(conv, rank)
    factors = scheme.decompose(conv, w).factors(w, rank)
    balanced = balance(factors, chain)
    assert np.array_equal(compose(conv, chain, factors), compose(conv, chain, balanced))  # not by a bit
    first, second = (_dense(spec, factor) for spec, factor in zip(chain[-2:], balanced[-2:], strict=True))
    ratio = _row_norms(first) / _row_norms(second.swapaxes(0, 1))
    assert np.abs(np.log2(ratio)).max() <= 1


def _row_norms(kernel: Array) -> Array:
    return np.linalg.norm(kernel.reshape(len(kernel), -1), axis=1)


def test_balancing_leaves_zero_rows_alone() -> None:
    first, second = np.zeros((2, 3, 1, 1)), np.ones((4, 2, 3, 3))
    chain = [ConvSpec.create(first.shape), ConvSpec.create(second.shape)]
    assert np.array_equal(balance([first, second], chain)[0], first)


@pytest.mark.parametrize(
    ("kernel", "strides", "transposed", "order"),
    [
        ((3, 3), (1, 1), False, (0, 1)),
        ((3, 3), (2, 2), False, (0, 1)),
        ((3, 3), (2, 1), False, (0, 1)),  # the first Conv strides: the second has fewer rows
        ((3, 3), (1, 2), False, (1, 0)),
        ((3, 5), (2, 1), False, (0, 1)),
        ((5, 3), (1, 2), False, (1, 0)),
        ((3, 3), (2, 1), True, (1, 0)),  # the last Conv makes the rows
        ((3, 3), (1, 2), True, (0, 1)),
        ((3, 3, 3), (1, 1, 1), False, (0, 1, 2)),
        ((3, 3, 3), (1, 1, 2), False, (2, 0, 1)),
        ((3, 3, 3), (2, 1, 2), False, (0, 2, 1)),
        ((1, 3, 3), (2, 1, 2), False, (2, 1)),
    ],
)
def test_spatial_takes_the_cheapest_order(
    kernel: tuple[int, ...], strides: tuple[int, ...], transposed: bool, order: tuple[int, ...]
) -> None:
    conv = ConvSpec.create((16, 16, *kernel), strides=strides, transposed=transposed)
    assert axis_order(conv) == order
    ranks = (8,) * (len(order) - 1)
    chain = all_schemes()["spatial"].chain(conv, ranks)
    for link, axis in zip(chain, order, strict=True):
        assert all(size == 1 for i, size in enumerate(link.kernel_shape) if i != axis)
    channels = (16, *ranks, 16)
    for other in permutations(order):
        links = [conv.along({axis}, channels[i + 1], channels[i]) for i, axis in enumerate(other)]
        if 1 not in kernel:
            assert chain_macs(chain, None) <= chain_macs(links, None)


@pytest.mark.parametrize(
    ("scheme", "conv", "reason"),
    [
        ("spatial", ConvSpec.create((8, 8, 1, 3)), "nothing to split"),
        ("spatial", ConvSpec.create((8, 8, 1, 3, 1)), "nothing to split"),
        ("spatial", ConvSpec.create((8, 8, 3)), "has 1"),
        ("spatial", ConvSpec.create((8, 8)), "has 0"),
        ("spatial", ConvSpec.create((8, 8, 3, 3, 3, 3)), "has 4"),
        (
            "spatial",
            ConvSpec.create((8, 8, 3, 3), transposed=True, output_shape=(9, 9)),
            "output_shape depends on all axes",
        ),
        ("tucker2", ConvSpec.create((8, 8, 1, 1)), "pointwise"),
        ("tucker2", ConvSpec.create((8, 1, 3, 3), group=8), "depthwise"),
        ("channel-in", ConvSpec.create((8, 1, 3, 3), group=8), "depthwise"),
        ("channel-out", ConvSpec.create((1, 1, 3, 3)), "depthwise"),
        ("group-2", ConvSpec.create((8, 4, 3, 3), group=2), "already in 2 groups"),
        ("group-2", ConvSpec.create((8, 8)), "Gemm and MatMul have no groups"),
        ("group-4", ConvSpec.create((6, 4, 3, 3)), "6 channels do not divide into 4 groups"),
    ],
)
def test_refusals_say_why(scheme: str, conv: ConvSpec, reason: str) -> None:
    assert reason in str(all_schemes()[scheme].refuses(conv))


def test_schemes_are_found_by_being_there() -> None:
    assert set(all_schemes()) == {"channel-in", "channel-out", "group-2", "group-4", "spatial", "tucker2"}
    assert all(name == scheme.name for name, scheme in all_schemes().items())
