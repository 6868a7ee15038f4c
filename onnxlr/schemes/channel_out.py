"""`channel-out`: the k×k Conv to r channels, then a 1×1 Conv to the M output channels.

The optimum of ‖W − Ŵ‖_F over all such pairs is the truncated SVD of the unfolding M × (C·kH·kW)
(Zhang et al., arXiv 1505.06798, without their nonlinearity). For 1×1 Convs, Gemm and MatMul it is the plain
SVD pair. The first Conv keeps strides, pads and dilations. Only a pointwise ConvTranspose strides in the
second one: before it there are fewer positions.
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
from onnxlr.schemes.pairs import OutputRegression

__all__ = ["ChannelOut", "OutputUnfolding", "pointwise_efficiency", "refuse_one_channel"]


class ChannelOut(Scheme):
    """See the module.

    >>> [link.weight_shape for link in ChannelOut().chain(ConvSpec.create((16, 8, 3, 3)), (4,))]
    [(4, 8, 3, 3), (16, 4, 1, 1)]
    """

    name = "channel-out"

    def efficiency(self, conv: ConvSpec) -> float:
        if conv.is_pointwise:
            return pointwise_efficiency(conv)
        return 0.93 if conv.transposed else 0.98

    def _refuses(self, conv: ConvSpec) -> str | None:
        return refuse_one_channel(conv)

    def _max_rank(self, conv: ConvSpec) -> Rank:
        return (min(conv.out_channels, conv.params // conv.out_channels),)

    def _chain(self, conv: ConvSpec, rank: Rank) -> tuple[ConvSpec, ...]:
        (r,) = rank
        if conv.is_pointwise and conv.transposed:
            return conv.pointwise(r, conv.in_channels), conv.with_channels(conv.out_channels, r)
        return conv.with_channels(r, conv.in_channels), conv.pointwise(conv.out_channels, r)

    def _decompose(self, conv: ConvSpec, weight: Weight) -> Decomposition:
        return PairDecomposition(OutputUnfolding(conv), weight)

    def _regress(self, conv: ConvSpec, weight: Weight, sample: Sample, top: Rank, refine: int) -> Regression:
        return OutputRegression(OutputUnfolding(conv), weight, sample, *top)


class OutputUnfolding(Unfolding):
    """M × (C·kH·kW)."""

    def unfold(self, weight: Weight) -> Weight:
        return weight.reshape(len(weight), -1)

    def fold(self, left: NDArray[np.float64], right: NDArray[np.float64]) -> Factors:
        window = self.conv.weight_shape[1:]
        ones = (1,) * len(self.conv.kernel_shape)
        return right.reshape(-1, *window), left.reshape(*left.shape, *ones)


def pointwise_efficiency(conv: ConvSpec) -> float:
    """Efficiency of a pair of 1×1 Convs or Gemms: small ones gain less per saved MAC."""
    return 0.95 if min(conv.in_channels, conv.out_channels) >= 256 else 0.84


def refuse_one_channel(conv: ConvSpec) -> str | None:
    """The reason of the schemes that reduce channels where there is but one, in and out."""
    if conv.in_channels == conv.out_channels == 1:
        return "depthwise: one channel a group has no channels to reduce"
    return None


schemes = (ChannelOut(),)
