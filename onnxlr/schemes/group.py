"""`group-2`, `group-4`: a grouped k×k Conv and a 1×1 Conv that mixes the groups.

Group decomposition, after Yu et al. 2021 (whose formulas are not public; for k×k it is the filter group
approximation of Peng et al., ECCV 2018). Channels are grouped as they lie, g groups of neighbours:

1. C ≥ M. The k×k Conv is grouped over the input, C → g·r, then 1×1, g·r → M. The weight falls into g blocks
   of input channels, W_i of shape `(M, C / g, kH, kW)`, and Ŵ_i is any tensor whose unfolding
   M × (C/g·kH·kW) has rank ≤ r.
2. C < M. A 1×1 Conv, C → g·r, then the k×k Conv is grouped over the output, g·r → M. W_i is
   `(M / g, C, kH, kW)`, and Ŵ_i is any tensor whose unfolding C × (M/g·kH·kW) has rank ≤ r.

Blocks do not share parameters, so the optimum of ‖W − Ŵ‖_F over all such pairs, *for this partition of the
channels and one rank for all groups*, is the truncated SVD of each block: closed form, global. Which
partition would be best is a combinatorial problem that has none; it is not tried.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from onnxlr.conv import ConvSpec
from onnxlr.moments import Sample
from onnxlr.regression import GroupedFeatures, NestedRegression
from onnxlr.schemes.base import Decomposition, Factors, Rank, Regression, RegressionOfParts, Scheme, Weight
from onnxlr.schemes.channel_in import ChannelIn
from onnxlr.schemes.channel_out import ChannelOut

__all__ = ["Group"]


class Group(Scheme):
    """See the module.

    Args:
        groups: g.

    >>> [(link.weight_shape, link.group) for link in Group(2).chain(ConvSpec.create((8, 16, 3, 3)), (3,))]
    [((6, 8, 3, 3), 2), ((8, 6, 1, 1), 1)]
    """

    def __init__(self, groups: int) -> None:
        self.name = f"group-{groups}"
        self._groups = groups

    def efficiency(self, conv: ConvSpec) -> float:
        return 0.80 if conv.is_pointwise else 0.90

    def refuses(self, conv: ConvSpec) -> str | None:
        if conv.group > 1:
            return f"already in {conv.group} groups"
        if not conv.kernel_shape:
            return "Gemm and MatMul have no groups"
        wide = max(conv.in_channels, conv.out_channels)
        return f"{wide} channels do not divide into {self._groups} groups" if wide % self._groups else None

    def _max_rank(self, conv: ConvSpec) -> Rank:
        return _pair(conv).max_rank(self._block(conv))

    def _chain(self, conv: ConvSpec, rank: Rank) -> tuple[ConvSpec, ...]:
        first, last = _pair(conv).chain(self._block(conv), rank)
        between = rank[0] * self._groups
        if _is_over_input(conv):
            return first.times(self._groups), last.with_channels(conv.out_channels, between)
        return first.with_channels(between, conv.in_channels), last.times(self._groups)

    def _decompose(self, conv: ConvSpec, weight: Weight) -> Decomposition:
        return _Decomposition(conv, self._block(conv), weight)

    def _regress(self, conv: ConvSpec, weight: Weight, sample: Sample, top: Rank, refine: int) -> Regression:
        if _is_over_input(conv):
            return _InputRegression(self._block(conv), weight, sample, self._groups, top)
        block = self._block(conv)
        rows = [slice(i, i + block.out_channels) for i in range(0, len(weight), block.out_channels)]
        parts = [_IN.regress(block, weight[r], [sample.for_outputs(r)], top, refine) for r in rows]
        return RegressionOfParts(parts)

    def _block(self, conv: ConvSpec) -> ConvSpec:
        """The part of the Conv from, or to, one group of channels."""
        if _is_over_input(conv):
            return conv.with_channels(conv.out_channels, conv.in_channels // self._groups)
        return conv.with_channels(conv.out_channels // self._groups, conv.in_channels)


class _Decomposition:
    """The decompositions of the blocks, in order; all get the same rank."""

    def __init__(self, conv: ConvSpec, block: ConvSpec, weight: Weight) -> None:
        self._axis = 1 if _is_over_input(conv) else 0  # of the weight, along which the blocks lie
        self._size = block.weight_shape[self._axis]
        self._parts = [_pair(conv).decompose(block, part) for part in self._split(weight)]
        self.residuals = np.sum([part.residuals for part in self._parts], axis=0)
        self.nbytes = sum(part.nbytes for part in self._parts)

    def factors(self, weight: Weight, rank: Rank) -> Factors:
        pairs = [part.factors(w, rank) for part, w in zip(self._parts, self._split(weight), strict=True)]
        first, last = zip(*pairs, strict=True)
        return np.concatenate(first), np.concatenate(last, axis=self._axis)

    def _split(self, weight: Weight) -> Sequence[Weight]:
        return np.split(weight, weight.shape[self._axis] // self._size, axis=self._axis)


class _InputRegression:
    """Case 1 for the outputs: principal components of what each group gives, mixed by least squares."""

    def __init__(self, block: ConvSpec, weight: Weight, sample: Sample, groups: int, top: Rank) -> None:
        self._window = block.weight_shape[1:]
        matrix = weight.reshape(len(weight), -1).astype(np.float64)
        self._features = GroupedFeatures(sample, matrix, groups, *top)
        self._nested = NestedRegression(sample, self._features)

    @property
    def residuals(self) -> NDArray[np.float64]:
        """See `Regression`."""
        return self._nested.residuals

    def factors(self, rank: Rank) -> Factors:
        """See `Regression`."""
        (r,) = rank
        coefficients = self._nested.solve(r).coefficients
        last = coefficients.reshape(len(coefficients), r, -1).swapaxes(1, 2)
        ones = (1,) * (len(self._window) - 1)
        first = self._features.vectors[:, :r].reshape(-1, *self._window)
        return first, last.reshape(len(last), -1, *ones)


def _is_over_input(conv: ConvSpec) -> bool:
    """Whether it is case 1: the wider side is the one to group."""
    return conv.in_channels >= conv.out_channels


def _pair(conv: ConvSpec) -> Scheme:
    """How each block is split: with the k×k Conv on the side of the groups."""
    return _OUT if _is_over_input(conv) else _IN


_OUT, _IN = ChannelOut(), ChannelIn()

schemes = (Group(2), Group(4))
