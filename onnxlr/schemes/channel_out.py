"""`channel-out`: the k×k Conv to r channels, then a 1×1 Conv to the M output channels.

The optimum of ‖W − Ŵ‖_F over all such pairs is the truncated SVD of the unfolding M × (C·kH·kW)
(Zhang et al., arXiv 1505.06798, without their nonlinearity). For 1×1 Convs, Gemm and MatMul it is the plain
SVD pair. The first Conv keeps strides, pads and dilations.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnxlr.conv import ConvSpec
from onnxlr.schemes.base import Factors, PairDecomposition, Rank, Weight, refuse_groups

__all__ = ["ChannelOut", "pointwise_efficiency", "scheme"]


class ChannelOut:
    """See the module."""

    name = "channel-out"

    def efficiency(self, conv: ConvSpec) -> float:
        return pointwise_efficiency(conv) if conv.is_pointwise else 0.98

    def refuses(self, conv: ConvSpec) -> str | None:
        return refuse_groups(conv)

    def max_rank(self, conv: ConvSpec) -> Rank:
        return (min(conv.out_channels, conv.params // conv.out_channels),)

    def chain(self, conv: ConvSpec, rank: Rank) -> tuple[ConvSpec, ...]:
        (r,) = rank
        return conv.with_channels(r, conv.in_channels), conv.pointwise(conv.out_channels, r)

    def decompose(self, conv: ConvSpec, weight: Weight) -> PairDecomposition:
        return _Decomposition(conv, weight)


class _Decomposition(PairDecomposition):
    def unfold(self, weight: Weight) -> Weight:
        return weight.reshape(len(weight), -1)  # M × (C kH kW)

    def fold(self, left: NDArray[np.float64], right: NDArray[np.float64]) -> Factors:
        window = self.conv.weight_shape[1:]
        ones = (1,) * len(self.conv.kernel_shape)
        return right.reshape(-1, *window), left.reshape(*left.shape, *ones)


def pointwise_efficiency(conv: ConvSpec) -> float:
    """Efficiency of a pair of 1×1 Convs or Gemms: small ones gain less per saved MAC."""
    return 0.95 if min(conv.in_channels, conv.out_channels) >= 256 else 0.84


scheme = ChannelOut()
