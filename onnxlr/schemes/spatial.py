"""`spatial`: one Conv along each axis of the kernel, k×1, then 1×k (Tai et al. 2016, arXiv 1511.06067).

Strides, pads and dilations go with their axis, auto_pad works per axis as it is; an axis along which the
kernel has size 1 goes with the first Conv.

1. Two axes. The optimum of ‖W − Ŵ‖_F over all pairs in one order of the axes is the truncated SVD of the
   unfolding (C·kH) × (M·kW); Theorem 1 of the paper.
2. Three axes. The chain kD×1×1, 1×kH×1, 1×1×kW has two ranks (r1, r2), the channels between its Convs. It is
   the truncated HOSVD of W as a (C·kD) × kH × (M·kW) tensor over its outer modes, with the bound that
   `onnxlr.linalg.Hosvd` states: not the optimum at its ranks, which has no closed form. Both ranks are
   chosen like any other's: of all pairs that meet the error, the cheapest.
3. Depthwise. Each channel has a k×1 and a 1×k window of its own, and r of such pairs.

Another order of the axes is another function class. It is chosen by cost alone: the natural order unless
another one needs fewer MACs at equal ranks (it may where kernel or strides differ between the axes, and for
ConvTranspose). It follows from the ConvSpec, so a plan does not say it.
"""

from __future__ import annotations

from functools import cached_property
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from onnxlr.conv import ConvSpec, chain_macs
from onnxlr.moments import Sample
from onnxlr.regression import HeadFeatures, NestedRegression
from onnxlr.schemes.base import (
    Decomposition,
    Factors,
    HosvdDecomposition,
    PairDecomposition,
    Rank,
    Regression,
    Scheme,
    Unfolding,
    Weight,
)
from onnxlr.schemes.pairs import HeadRegression

__all__ = ["Spatial", "axis_order"]

Axes = tuple[int, ...]


class Spatial(Scheme):
    """See the module.

    >>> [link.weight_shape for link in Spatial().chain(ConvSpec.create((16, 8, 3, 3)), (4,))]
    [(4, 8, 3, 1), (16, 4, 1, 3)]
    """

    name = "spatial"

    def efficiency(self, conv: ConvSpec) -> float:
        if conv.is_depthwise:
            return 0.60
        return 0.88 if conv.transposed else 0.90

    def _refuses(self, conv: ConvSpec) -> str | None:
        axes = len(conv.kernel_shape)
        if axes not in (2, 3):
            return f"needs 2 or 3 spatial axes, has {axes}"
        if len(_split_axes(conv)) < 2:
            return f"kernel {'×'.join(map(str, conv.kernel_shape))} has nothing to split along one axis"
        if conv.output_shape:
            return "output_shape depends on all axes at once: give pads instead"
        return None

    def _max_rank(self, conv: ConvSpec) -> Rank:
        first, *_, last = axis_order(conv)
        head = conv.in_channels * conv.kernel_shape[first]
        tail = conv.out_channels * conv.kernel_shape[last]
        if len(_split_axes(conv)) == 2:  # case 1
            return (min(head, tail),)
        return min(head, conv.params // head), min(tail, conv.params // tail)

    def _chain(self, conv: ConvSpec, rank: Rank) -> tuple[ConvSpec, ...]:
        return _chain(conv, rank, axis_order(conv))

    def _decompose(self, conv: ConvSpec, weight: Weight) -> Decomposition:
        if len(_split_axes(conv)) == 2:
            return PairDecomposition(_Pair(conv), weight)
        return _Triple(conv, weight)

    def _regress(self, conv: ConvSpec, weight: Weight, sample: Sample, top: Rank, refine: int) -> Regression:
        if len(_split_axes(conv)) == 2:
            return HeadRegression(_Pair(conv), weight, sample, top[0], refine)
        return _TripleRegression(conv, weight, sample, top)


def _split_axes(conv: ConvSpec) -> Axes:
    return tuple(axis for axis, size in enumerate(conv.kernel_shape) if size > 1)


def axis_order(conv: ConvSpec) -> Axes:
    """The spatial axes of the Convs of the chain, first to last."""
    orders = permutations(_split_axes(conv))  # the natural order is the first
    rank = (min(conv.in_channels, conv.out_channels),) * (len(_split_axes(conv)) - 1)
    return min(orders, key=lambda order: chain_macs(_chain(conv, rank, order), None))


def _chain(conv: ConvSpec, rank: Rank, order: Axes) -> tuple[ConvSpec, ...]:
    channels = (conv.in_channels, *rank, conv.out_channels)
    unsplit = set(range(len(conv.kernel_shape))) - set(order)
    parts = [{order[0], *unsplit}, *({axis} for axis in order[1:])]
    return tuple(conv.along(axes, channels[i + 1], channels[i]) for i, axes in enumerate(parts))


class _Pair(Unfolding):
    """Case 1: the weight as `(C, k of the first axis, M, k of the second)`, unfolded in the middle."""

    def unfold(self, weight: Weight) -> Weight:
        ordered = _in_order(self.conv, weight)
        return ordered.reshape(ordered.shape[0] * ordered.shape[1], -1)

    def fold(self, left: NDArray[np.float64], right: NDArray[np.float64]) -> Factors:
        first, last = axis_order(self.conv)
        return _head(self.conv, left, first), _tail(self.conv, right.T, last)


class _Triple(HosvdDecomposition):
    """Case 2: the weight as a tensor `(M · k of the last axis, C · k of the first, k of the middle)`."""

    def unfold(self, weight: Weight) -> Weight:
        ordered = _in_order(self.conv, weight)  # C, k of the first axis, k of the middle, M, k of the last
        channels, first, middle, out_channels, last = ordered.shape
        tensor = ordered.transpose(3, 4, 0, 1, 2)
        return tensor.reshape(out_channels * last, channels * first, middle)

    def fold(
        self, head: NDArray[np.float64], core: NDArray[np.float64], tail: NDArray[np.float64]
    ) -> Factors:
        return _fold_triple(self.conv, head, core, tail)


class _TripleRegression:
    """Case 2 for the outputs: a head and a pair's last factor, which is split the same way once more.

    Errors are measured at a few ranks of the first entry and interpolated between them.
    """

    def __init__(self, conv: ConvSpec, weight: Weight, sample: Sample, top: Rank) -> None:
        self._conv, self._sample, self._top = conv, sample, top
        first, middle, last = (conv.kernel_shape[axis] for axis in axis_order(conv))
        self._taps = middle, last
        matrix = weight.reshape(len(weight), -1).astype(np.float64)
        places = _in_order(conv, np.arange(matrix.shape[1]).reshape(1, *weight.shape[1:]))
        index = places.reshape(conv.in_channels * first, middle * last)
        self._features = HeadFeatures(sample, matrix, index, top[0])
        self._nested = NestedRegression(sample, self._features)

    def factors(self, rank: Rank) -> Factors:
        """See `Regression`."""
        r1, r2 = rank
        features, nested = self._second(r1)
        used = min(r2, len(features.vectors))  # more channels than there are inputs stay empty
        coefficients = nested.solve(used).coefficients
        core = np.zeros((r2, r1, self._taps[0]))
        core[:used] = features.vectors[:used].reshape(used, r1, -1)
        tail = np.zeros((len(coefficients) * self._taps[1], r2))
        tail[:, :used] = coefficients.reshape(len(coefficients), used, -1).swapaxes(1, 2).reshape(-1, used)
        return _fold_triple(self._conv, self._features.vectors[:r1].T, core, tail)

    @cached_property
    def residuals(self) -> NDArray[np.float64]:
        """See `Regression`."""
        r1, r2 = self._top
        total = self._sample.energy
        measured = sorted({max(1, round(r1 * part)) for part in (0.125, 0.25, 0.5, 0.75, 1)})
        curves = [np.full(r2 + 1, total), *(self._curve(rank, total) for rank in measured)]
        ranks = np.arange(r1 + 1)
        columns = np.transpose(curves)
        return np.stack([np.interp(ranks, [0, *measured], column) for column in columns], axis=1)

    def _curve(self, r1: int, total: float) -> NDArray[np.float64]:
        curve = self._second(r1)[1].residuals
        rest = self._top[1] + 1 - len(curve)
        return np.concatenate([np.minimum(curve, total), np.full(rest, min(curve[-1], total))])

    def _second(self, r1: int) -> tuple[HeadFeatures, NestedRegression]:
        """The last factor of the pair at rank r1, regressed on its own inputs."""
        coefficients = self._nested.solve(r1).coefficients
        sample = self._nested.inputs_of(r1)
        index = np.arange(coefficients.shape[1]).reshape(-1, self._taps[1])
        ranks = min(self._top[1], len(index), len(coefficients) * self._taps[1])
        features = HeadFeatures(sample, coefficients, index, ranks)
        return features, NestedRegression(sample, features)


def _fold_triple(
    conv: ConvSpec, head: NDArray[np.float64], core: NDArray[np.float64], tail: NDArray[np.float64]
) -> Factors:
    first, middle, last = axis_order(conv)
    return _head(conv, head, first), _along(conv, core, middle), _tail(conv, tail, last)


def _in_order(conv: ConvSpec, weight: Weight) -> Weight:
    """The weight as `(C, k of every axis but the last, M, k of the last)`, axes in the order of the chain."""
    *before, last = axis_order(conv)
    taps = [weight.shape[2 + axis] for axis in (*before, last)]
    moved = weight.transpose(1, *(2 + a for a in before), 0, 2 + last, *_unit_axes(conv))
    return moved.reshape(moved.shape[0], *taps[:-1], -1, taps[-1])


def _unit_axes(conv: ConvSpec) -> Axes:
    """Axes of the weight along which the kernel has size 1."""
    return tuple(2 + axis for axis, size in enumerate(conv.kernel_shape) if size == 1)


def _head(conv: ConvSpec, basis: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """`(C · k, r)` as the weight of the first Conv."""
    return _along(conv, basis.T.reshape(basis.shape[1], conv.in_channels, -1), axis)


def _tail(conv: ConvSpec, basis: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """`(M · k, r)` as the weight of the last Conv."""
    return _along(conv, basis.reshape(conv.out_channels, -1, basis.shape[1]).swapaxes(1, 2), axis)


def _along(conv: ConvSpec, weight: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """`(out, in, k)` with the taps along one spatial axis."""
    taps = (weight.shape[2] if i == axis else 1 for i in range(len(conv.kernel_shape)))
    return weight.reshape(*weight.shape[:2], *taps)


schemes = (Spatial(),)
