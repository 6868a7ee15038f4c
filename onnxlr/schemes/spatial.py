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

from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from onnxlr.conv import ConvSpec, chain_macs
from onnxlr.schemes.base import (
    Decomposition,
    Factors,
    HosvdDecomposition,
    PairDecomposition,
    Rank,
    Scheme,
    Weight,
)

__all__ = ["Spatial", "axis_order"]

Axes = tuple[int, ...]


class Spatial(Scheme):
    """See the module."""

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
        return (_Pair if len(_split_axes(conv)) == 2 else _Triple)(conv, weight)


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


class _Pair(PairDecomposition):
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
        first, middle, last = axis_order(self.conv)
        return _head(self.conv, head, first), _along(self.conv, core, middle), _tail(self.conv, tail, last)


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
