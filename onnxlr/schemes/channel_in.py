"""`channel-in`: a 1×1 Conv to r channels, then the k×k Conv from them.

The optimum of ‖W − Ŵ‖_F over all such pairs is the truncated SVD of the unfolding C × (M·kH·kW). The first
Conv has no bias, so zero padding stays zero and the second keeps strides, pads and dilations unchanged. Only
a pointwise Conv strides in the first one, where it is cheaper: the plain SVD pair, as in `channel-out`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnxlr.conv import ConvSpec
from onnxlr.moments import Sample
from onnxlr.schemes.base import (
    Decomposition,
    Factors,
    PairDecomposition,
    Rank,
    Regression,
    Scheme,
    Unfolding,
    Weight,
)
from onnxlr.schemes.channel_out import OutputUnfolding, pointwise_efficiency, refuse_one_channel
from onnxlr.schemes.pairs import HeadRegression, OutputRegression

__all__ = ["ChannelIn"]


class ChannelIn(Scheme):
    """See the module.

    >>> [link.weight_shape for link in ChannelIn().chain(ConvSpec.create((8, 16, 3, 3)), (4,))]
    [(4, 16, 1, 1), (8, 4, 3, 3)]
    """

    name = "channel-in"

    def efficiency(self, conv: ConvSpec) -> float:
        if conv.is_pointwise:
            return pointwise_efficiency(conv)
        return 0.86 if conv.transposed else 1.0  # it scatters to all M channels as before

    def _refuses(self, conv: ConvSpec) -> str | None:
        return refuse_one_channel(conv)

    def _max_rank(self, conv: ConvSpec) -> Rank:
        return (min(conv.in_channels, conv.params // conv.in_channels),)

    def _chain(self, conv: ConvSpec, rank: Rank) -> tuple[ConvSpec, ...]:
        (r,) = rank
        if conv.is_pointwise and not conv.transposed:
            return conv.with_channels(r, conv.in_channels), conv.pointwise(conv.out_channels, r)
        return conv.pointwise(r, conv.in_channels), conv.with_channels(conv.out_channels, r)

    def _decompose(self, conv: ConvSpec, weight: Weight) -> Decomposition:
        return PairDecomposition(_Unfolding(conv), weight)

    def _regress(self, conv: ConvSpec, weight: Weight, sample: Sample, top: Rank, refine: int) -> Regression:
        if conv.is_pointwise:
            return OutputRegression(OutputUnfolding(conv), weight, sample, *top)
        return HeadRegression(_Unfolding(conv), weight, sample, top[0], refine)


class _Unfolding(Unfolding):
    def unfold(self, weight: Weight) -> Weight:
        return weight.swapaxes(0, 1).reshape(weight.shape[1], -1)  # C × (M kH kW)

    def fold(self, left: NDArray[np.float64], right: NDArray[np.float64]) -> Factors:
        out_channels, _, *kernel_shape = self.conv.weight_shape
        core = right.reshape(-1, out_channels, *kernel_shape)
        return left.T.reshape(*left.T.shape, *(1,) * len(kernel_shape)), core.swapaxes(0, 1)


schemes = (ChannelIn(),)
