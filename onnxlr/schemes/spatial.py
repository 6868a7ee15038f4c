"""`spatial`: a k×1 Conv to r channels, then a 1×k Conv (Tai et al. 2016, arXiv 1511.06067).

The optimum of ‖W − Ŵ‖_F over all such pairs is the truncated SVD of the unfolding (C·kH) × (M·kW); Theorem 1
of the paper. Strides, pads and dilations go with their axis, auto_pad works per axis as it is.

Horizontal first, 1×k then k×1, is another function class with another unfolding, (C·kW) × (M·kH). The order
is chosen by cost alone: vertical first unless horizontal first needs fewer MACs per rank (it may where
kernel or strides differ between the axes). It follows from the ConvSpec, so a plan does not say it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnxlr.conv import ConvSpec, chain_macs
from onnxlr.schemes.base import Factors, PairDecomposition, Rank, Weight, refuse_groups

__all__ = ["Spatial", "scheme"]

_VERTICAL, _HORIZONTAL = 0, 1


class Spatial:
    """See the module."""

    name = "spatial"

    def efficiency(self, conv: ConvSpec) -> float:
        return 0.90

    def refuses(self, conv: ConvSpec) -> str | None:
        if len(conv.kernel_shape) != 2:
            return f"{len(conv.kernel_shape)} spatial axes, needs 2"
        if 1 in conv.kernel_shape:
            return f"kernel {'×'.join(map(str, conv.kernel_shape))} has nothing to split along one axis"
        return refuse_groups(conv)

    def max_rank(self, conv: ConvSpec) -> Rank:
        axis = first_axis(conv)
        rows = conv.in_channels * conv.kernel_shape[axis]
        return (min(rows, conv.params // rows),)

    def chain(self, conv: ConvSpec, rank: Rank) -> tuple[ConvSpec, ...]:
        return _chain(conv, rank[0], first_axis(conv))

    def decompose(self, conv: ConvSpec, weight: Weight) -> PairDecomposition:
        return _Decomposition(conv, weight)


def first_axis(conv: ConvSpec) -> int:
    """The spatial axis of the first Conv: 0 (vertical) or 1 (horizontal)."""
    vertical, horizontal = (chain_macs(_chain(conv, 1, axis), None) for axis in (_VERTICAL, _HORIZONTAL))
    return _HORIZONTAL if horizontal < vertical else _VERTICAL


def _chain(conv: ConvSpec, rank: int, axis: int) -> tuple[ConvSpec, ...]:
    return conv.only_axis(axis, rank, conv.in_channels), conv.only_axis(1 - axis, conv.out_channels, rank)


class _Decomposition(PairDecomposition):
    def unfold(self, weight: Weight) -> Weight:
        axis = first_axis(self.conv)
        ordered = np.moveaxis(weight, (1, 2 + axis), (0, 1))  # C, k of the first axis, M, k of the other
        return ordered.reshape(ordered.shape[0] * ordered.shape[1], -1)

    def fold(self, left: NDArray[np.float64], right: NDArray[np.float64]) -> Factors:
        axis = first_axis(self.conv)
        out_channels, in_channels, *kernel_shape = self.conv.weight_shape
        first = left.T.reshape(-1, in_channels, kernel_shape[axis])
        second = right.reshape(-1, out_channels, kernel_shape[1 - axis]).swapaxes(0, 1)
        return np.expand_dims(first, 3 - axis), np.expand_dims(second, 2 + axis)


scheme = Spatial()
