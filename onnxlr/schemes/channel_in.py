"""`channel-in`: a 1×1 Conv to r channels, then the k×k Conv from them.

The optimum of ‖W − Ŵ‖_F over all such pairs is the truncated SVD of the unfolding C × (M·kH·kW). The first
Conv has no bias, so zero padding stays zero and the second keeps strides, pads and dilations unchanged. A
pointwise layer strides in the first Conv, where it is cheaper: the plain SVD pair, as in `channel-out`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnxlr.conv import ConvSpec
from onnxlr.schemes import channel_out
from onnxlr.schemes.base import Decomposition, Factors, PairDecomposition, Rank, Weight, refuse_groups

__all__ = ["ChannelIn", "scheme"]


class ChannelIn:
    """See the module."""

    name = "channel-in"

    def efficiency(self, conv: ConvSpec) -> float:
        return channel_out.pointwise_efficiency(conv) if conv.is_pointwise else 1.0

    def refuses(self, conv: ConvSpec) -> str | None:
        return refuse_groups(conv)

    def max_rank(self, conv: ConvSpec) -> Rank:
        return (min(conv.in_channels, conv.params // conv.in_channels),)

    def chain(self, conv: ConvSpec, rank: Rank) -> tuple[ConvSpec, ...]:
        if conv.is_pointwise:
            return channel_out.scheme.chain(conv, rank)
        (r,) = rank
        return conv.pointwise(r, conv.in_channels), conv.with_channels(conv.out_channels, r)

    def decompose(self, conv: ConvSpec, weight: Weight) -> Decomposition:
        if conv.is_pointwise:
            return channel_out.scheme.decompose(conv, weight)
        return _Decomposition(conv, weight)


class _Decomposition(PairDecomposition):
    def unfold(self, weight: Weight) -> Weight:
        return weight.swapaxes(0, 1).reshape(weight.shape[1], -1)  # C × (M kH kW)

    def fold(self, left: NDArray[np.float64], right: NDArray[np.float64]) -> Factors:
        out_channels, _, *kernel_shape = self.conv.weight_shape
        core = right.reshape(-1, out_channels, *kernel_shape)
        return left.T.reshape(*left.T.shape, *(1,) * len(kernel_shape)), core.swapaxes(0, 1)


scheme = ChannelIn()
