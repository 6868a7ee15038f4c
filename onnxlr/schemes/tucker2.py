"""`tucker2`: a 1×1 Conv to r1 channels, the k×k core to r2 channels, a 1×1 Conv to the M output channels.

Truncated HOSVD over the two channel modes (Kim et al., arXiv 1511.06530; the format that ELRT trains), with
the bound that `onnxlr.linalg.Hosvd` states: not the optimum at its ranks, which has no closed form.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from onnxlr.conv import ConvSpec
from onnxlr.moments import Sample
from onnxlr.regression import HeadFeatures, NestedRegression, principal_components
from onnxlr.schemes.base import (
    Decomposition,
    Factors,
    HosvdDecomposition,
    Rank,
    Regression,
    Scheme,
    Weight,
)
from onnxlr.schemes.channel_out import refuse_one_channel

__all__ = ["Tucker2"]


class Tucker2(Scheme):
    """See the module.

    >>> [link.weight_shape for link in Tucker2().chain(ConvSpec.create((16, 8, 3, 3)), (4, 6))]
    [(4, 8, 1, 1), (6, 4, 3, 3), (16, 6, 1, 1)]
    """

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

    def _regress(self, conv: ConvSpec, weight: Weight, sample: Sample, top: Rank, refine: int) -> Regression:
        return _Regression(conv, weight, sample, top)


class _Decomposition(HosvdDecomposition):
    def unfold(self, weight: Weight) -> Weight:
        return weight  # M, C, kH, kW

    def fold(
        self, head: NDArray[np.float64], core: NDArray[np.float64], tail: NDArray[np.float64]
    ) -> Factors:
        ones = (1,) * len(self.conv.kernel_shape)
        return head.T.reshape(*head.T.shape, *ones), core, tail.reshape(*tail.shape, *ones)


class _Regression:
    """`channel-in` regressed on the inputs, its last factor reduced to principal components of what it gives.

    At given input vectors and ridge the last two factors are the optimum (reduced-rank regression); the
    input vectors are those of `channel-in`. The errors are those with the components of the layer's outputs.
    """

    def __init__(self, conv: ConvSpec, weight: Weight, sample: Sample, top: Rank) -> None:
        self._conv = conv
        matrix = weight.reshape(len(weight), -1).astype(np.float64)
        index = np.arange(matrix.shape[1]).reshape(conv.in_channels, -1)
        self._features = HeadFeatures(sample, matrix, index, top[0])
        self._highest = top[1]
        rotation = principal_components(matrix, sample.covariance, len(matrix))
        self._nested = NestedRegression(sample, self._features, rotation)

    @cached_property
    def residuals(self) -> NDArray[np.float64]:
        """See `Regression`."""
        energies = self._nested.energies()
        kept = np.cumsum(energies, axis=1)[:, : self._highest]
        lost = energies[0].sum() - np.cumsum(energies[0])[: self._highest]
        total = np.full((len(energies), 1), energies[0].sum())
        return np.hstack([total, kept + lost])

    def factors(self, rank: Rank) -> Factors:
        """See `Regression`."""
        r1, r2 = rank
        coefficients = self._nested.solve(r1).coefficients
        count = coefficients.shape[1]
        covariance = self._nested.covariance[:count, :count]
        tail = principal_components(coefficients, covariance, r2)
        core = (tail.T @ coefficients).reshape(r2, r1, *self._conv.kernel_shape)
        head = self._features.vectors[:r1]
        ones = (1,) * len(self._conv.kernel_shape)
        return head.reshape(*head.shape, *ones), core, tail.reshape(*tail.shape, *ones)


schemes = (Tucker2(),)
