"""`tucker2`: a 1×1 Conv to r1 channels, the k×k core to r2 channels, a 1×1 Conv to the M output channels.

Truncated HOSVD over the two channel modes (Kim et al., arXiv 1511.06530; the format that ELRT trains), with
the bound that `onnxlr.linalg.Hosvd` states: not the optimum at its ranks, which has no closed form.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnxlr.conv import ConvSpec
from onnxlr.schemes.base import Decomposition, Factors, HosvdDecomposition, Rank, Scheme, Weight
from onnxlr.schemes.channel_out import refuse_one_channel

__all__ = ["Tucker2"]


class Tucker2(Scheme):
    """See the module."""

    name = "tucker2"

    def efficiency(self, conv: ConvSpec) -> float:
        return 0.89 if conv.transposed else 0.96

    def _refuses(self, conv: ConvSpec) -> str | None:
        if conv.is_pointwise:
            return "pointwise: the core would be a third matrix beside the plain SVD pair"
        return refuse_one_channel(conv)

    def _max_rank(self, conv: ConvSpec) -> Rank:
        window = conv.params // (conv.out_channels * conv.in_channels)
        return (
            min(conv.in_channels, conv.out_channels * window),
            min(conv.out_channels, conv.in_channels * window),
        )

    def _chain(self, conv: ConvSpec, rank: Rank) -> tuple[ConvSpec, ...]:
        r1, r2 = rank
        return (
            conv.pointwise(r1, conv.in_channels),
            conv.with_channels(r2, r1),
            conv.pointwise(conv.out_channels, r2),
        )

    def _decompose(self, conv: ConvSpec, weight: Weight) -> Decomposition:
        return _Decomposition(conv, weight)


class _Decomposition(HosvdDecomposition):
    def unfold(self, weight: Weight) -> Weight:
        return weight  # M, C, kH, kW

    def fold(
        self, head: NDArray[np.float64], core: NDArray[np.float64], tail: NDArray[np.float64]
    ) -> Factors:
        ones = (1,) * len(self.conv.kernel_shape)
        return head.T.reshape(*head.T.shape, *ones), core, tail.reshape(*tail.shape, *ones)


schemes = (Tucker2(),)
