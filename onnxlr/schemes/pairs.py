"""Pairs of factors for the outputs of a layer: features of its inputs, the last factor by least squares."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnxlr.moments import Sample
from onnxlr.regression import HeadFeatures, NestedRegression, OutputFeatures
from onnxlr.schemes.base import Factors, Rank, Unfolding, Weight

__all__ = ["HeadRegression", "OutputRegression"]


class HeadRegression:
    """Pairs whose first factor sees a part of the window: its vectors are those of `HeadFeatures`.

    Not the optimum over all pairs, which has no closed form: the vectors are the optimum for taps of equal
    covariance, the last factor is the least-squares optimum for these vectors. When refined, each of the two
    is the optimum for the other one.
    """

    def __init__(self, unfolding: Unfolding, weight: Weight, sample: Sample, ranks: int, refine: int) -> None:
        self._unfolding, self._sample, self._refine = unfolding, sample, refine
        matrix = weight.reshape(len(weight), -1).astype(np.float64)
        index = unfolding.unfold(np.arange(matrix.shape[1]).reshape(1, *weight.shape[1:]))
        self._features = HeadFeatures(sample, matrix, index, ranks)
        self._nested = NestedRegression(sample, self._features)

    @property
    def residuals(self) -> NDArray[np.float64]:
        """See `onnxlr.schemes.base.Regression`."""
        return self._nested.residuals

    def factors(self, rank: Rank) -> Factors:
        """See `onnxlr.schemes.base.Regression`."""
        (r,) = rank
        vectors = self._features.vectors[:r]
        solution = self._nested.solve(r)
        for _ in range(self._refine):
            features = self._features.improved(self._sample, vectors, solution)
            found = NestedRegression(self._sample, features).solve(r)
            if found.error >= solution.error:
                break
            vectors, solution = features.vectors, found
        coefficients = solution.coefficients
        left, mixing = np.linalg.qr(vectors.T)  # float32 rounds orthonormal rows best
        right = coefficients.reshape(len(coefficients), r, -1).swapaxes(0, 1).reshape(r, -1)
        return self._unfolding.fold(left, mixing @ right)


class OutputRegression:
    """Pairs whose first factor sees the whole window: the optimum of all pairs (reduced-rank regression)."""

    def __init__(self, unfolding: Unfolding, weight: Weight, sample: Sample, ranks: int) -> None:
        self._unfolding = unfolding
        matrix = weight.reshape(len(weight), -1).astype(np.float64)
        self._features = OutputFeatures(sample, matrix, ranks)
        self._nested = NestedRegression(sample, self._features)

    @property
    def residuals(self) -> NDArray[np.float64]:
        """See `onnxlr.schemes.base.Regression`."""
        return self._nested.residuals

    def factors(self, rank: Rank) -> Factors:
        """See `onnxlr.schemes.base.Regression`."""
        (r,) = rank
        return self._unfolding.fold(self._nested.solve(r).coefficients, self._features.vectors[:r])
