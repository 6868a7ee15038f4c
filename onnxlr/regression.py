"""Outputs of a layer regressed on few features of its inputs: the error at every rank, on held-out pairs.

The features of rank r + 1 are those of rank r and `block` more, so one Cholesky factorization serves all
ranks: with L Lᵀ = cov(z) + ridge, the whitened features L⁻¹z are nested as well, and each adds its own share
to the prediction. The ridge draws the coefficients towards those that the features come with.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from onnxlr.alternation import improved_vectors
from onnxlr.lapack import TridiagonalForm
from onnxlr.moments import Sample
from onnxlr.ridge import mean_variance, ridged_cholesky

__all__ = [
    "Features",
    "GroupedFeatures",
    "HeadFeatures",
    "NestedRegression",
    "OutputFeatures",
    "Solution",
    "leading_vectors",
    "principal_components",
]

Float = NDArray[np.float64]
Array = NDArray[Any]

RIDGES = (None, 1e-2, 1e-1)
"""Strengths that compete, by the mean variance of a feature; None leaves the coefficients as they come."""

_FLOOR = 1e-6
"""Variance, by the mean of an entry's, that every direction of the inputs is given in addition."""

_STEP = 8
"""Ranks between two measured errors where the full rank is above 64; between them errors are interpolated."""


class Features(ABC):
    """Linear features z = F x of a layer's input, rank by rank.

    Attributes:
        block: features a rank.
        prior: `(M, ranks · block)`, coefficients that the features come with.
    """

    block: int
    prior: Float

    @abstractmethod
    def apply(self, rows: Array) -> Array:
        """`(n, D)` to `(n, ranks · block)`: the product with Fᵀ."""


class HeadFeatures(Features):
    """The input as a matrix `(head, taps)`, each column reduced to its projections on a few vectors.

    The vectors are the optimum of Σ over taps of E‖(W_t − Ŵ_t) x_t‖² where all taps have the same covariance,
    the mean over the taps: a truncated SVD, weighted by the square root of that covariance.

    Args:
        sample: for the covariance of the inputs.
        weight: `(M, D)`.
        index: `(head, taps)`, which entry of x is where.
        ranks: number of vectors.

    Attributes:
        vectors: `(ranks, head)`.
    """

    def __init__(self, sample: Sample, weight: Float, index: NDArray[np.intp], ranks: int) -> None:
        self.block, self._index = index.shape[1], index
        covariance = np.mean([sample.covariance[np.ix_(tap, tap)] for tap in index.T], axis=0)
        root, _ = ridged_cholesky(covariance, _FLOOR * mean_variance(covariance))
        seen = np.stack([root.T @ weight[:, tap].T for tap in index.T], axis=2)  # head, M, taps
        flat = seen.reshape(len(seen), -1)
        basis = leading_vectors(flat @ flat.T, ranks)
        self.vectors = linalg.solve_triangular(root, basis, trans="T", lower=True, check_finite=False).T
        self.prior = (basis.T @ flat).reshape(ranks, len(weight), -1).swapaxes(0, 1).reshape(len(weight), -1)

    def improved(self, sample: Sample, vectors: Float, solution: Solution) -> HeadFeatures:
        """The features whose vectors are the optimum for given coefficients."""
        better = copy(self)
        given = solution.coefficients
        better.vectors = improved_vectors(sample.covariance, solution.cross, self._index, vectors, given)
        better.prior = given
        return better

    def apply(self, rows: Array) -> Array:
        """See `Features`."""
        vectors = self.vectors.T.astype(rows.dtype)
        features: Array = np.empty((len(rows), len(self.vectors), self.block), rows.dtype)
        for i, tap in enumerate(self._index.T):
            features[:, :, i] = rows[:, tap] @ vectors
        return features.reshape(len(rows), -1)


class OutputFeatures(Features):
    """The leading principal components of the outputs W x: the optimum of E‖W x − ŷ‖² (exact).

    Args:
        sample: for the covariance of the inputs.
        weight: `(M, D)`.
        ranks: number of components.

    Attributes:
        vectors: `(ranks, D)`.
    """

    block = 1

    def __init__(self, sample: Sample, weight: Float, ranks: int) -> None:
        self.prior = principal_components(weight, sample.covariance, ranks)
        self.vectors = self.prior.T @ weight

    def apply(self, rows: Array) -> Array:
        """See `Features`."""
        features: Array = rows @ self.vectors.T.astype(rows.dtype)
        return features


class GroupedFeatures(Features):
    """`OutputFeatures` of each group of the inputs, one of each group a rank.

    Args:
        sample: for the covariance of the inputs.
        weight: `(M, D)`.
        groups: number of groups of neighbours among the inputs.
        ranks: components of each group.

    Attributes:
        vectors: `(groups, ranks, D / groups)`.
    """

    def __init__(self, sample: Sample, weight: Float, groups: int, ranks: int) -> None:
        self.block = groups
        size = weight.shape[1] // groups
        parts = [slice(i * size, (i + 1) * size) for i in range(groups)]
        bases = [principal_components(weight[:, p], sample.covariance[p, p], ranks) for p in parts]
        self.vectors = np.stack([b.T @ weight[:, p] for b, p in zip(bases, parts, strict=True)])
        self.prior = np.stack(bases, axis=2).reshape(len(weight), -1)

    def apply(self, rows: Array) -> Array:
        """See `Features`."""
        parts = rows.reshape(len(rows), self.block, -1)
        vectors = self.vectors.astype(rows.dtype)
        features: Array = np.einsum("ngd,grd->nrg", parts, vectors, optimize=True)
        return features.reshape(len(rows), -1)


@dataclass(frozen=True, slots=True, eq=False)
class Solution:
    """What a regression found.

    Attributes:
        coefficients: `(M, rank · block)`.
        cross: the target that they come from: `(M, D)`, cross moments with the inputs.
        error: E‖y − ŷ‖² on held-out pairs.
    """

    coefficients: Float
    cross: Float
    error: float


class NestedRegression:
    """See the module.

    Args:
        sample: moments, and held-out pairs to judge by.
        features: what to regress on.
        rotation: `(M, M)`, orthogonal; outputs are told apart in its basis.
    """

    def __init__(self, sample: Sample, features: Features, rotation: Float | None = None) -> None:
        self._sample, self._features = sample, features
        self._rotation = rotation
        self.block = features.block
        self.covariance: Float = features.apply(features.apply(sample.covariance).T)
        self._crosses: list[Float] = [features.apply(cross) for cross in sample.crosses]
        self._held = features.apply(sample.inputs)

    @cached_property
    def residuals(self) -> Float:
        """`(ranks + 1,)`: the sum of `energies` over the outputs."""
        total: Float = self.energies().sum(axis=1)
        return total

    def energies(self) -> Float:
        """`(ranks + 1, M)`: mean squared error of every output at every rank, by the best ridge for each."""
        curves = [self._curve(ridge) for ridge in RIDGES]
        best = np.argmin([curve.sum(axis=1) for curve in curves], axis=0)
        measured = np.choose(best[:, None], curves)
        ranks = np.arange(self._measured[-1] + 1)
        return np.stack([np.interp(ranks, self._measured, column) for column in measured.T], axis=1)

    def solve(self, rank: int) -> Solution:
        """The coefficients of a rank, by the target and ridge with the least error on held-out pairs."""
        count = rank * self.block
        found = [self._judged(rank, self._features.prior[:, :count], 0)]
        for ridge in RIDGES[1:]:
            strength = ridge * mean_variance(self.covariance)
            factor, weight = ridged_cholesky(self.covariance[:count, :count], strength)
            drawn = [cross[:, :count] + weight * self._features.prior[:, :count] for cross in self._crosses]
            solved = linalg.cho_solve((factor, True), np.concatenate(drawn).T, check_finite=False).T
            parts = np.split(solved, len(drawn))
            found.extend(self._judged(rank, part, i) for i, part in enumerate(parts))
        return min(found, key=lambda solution: solution.error)

    def inputs_of(self, rank: int) -> Sample:
        """The sample with the features of a rank as inputs."""
        count = rank * self.block
        return replace(
            self._sample,
            covariance=self.covariance[:count, :count],
            crosses=tuple(cross[:, :count] for cross in self._crosses),
            inputs=self._held[:, :count],
        )

    @property
    def _measured(self) -> list[int]:
        full = self._features.prior.shape[1] // self.block
        step = 1 if full <= 8 * _STEP else _STEP
        return [*range(0, full, step), full]

    def _judged(self, rank: int, coefficients: Float, cross: int) -> Solution:
        error = self.inputs_of(rank).error(coefficients)
        return Solution(coefficients, self._sample.crosses[cross], error)

    def _curve(self, ridge: float | None) -> Float:
        """The energies with one ridge and the first target, in float32: enough to compare by."""
        prior = self._features.prior
        if ridge is None:
            shares, features = prior.T, self._held
        else:
            strength = ridge * mean_variance(self.covariance)
            factor, weight = ridged_cholesky(self.covariance, strength, np.float32)
            target = (self._crosses[0] + weight * prior).T.astype(np.float32)
            shares = linalg.solve_triangular(factor, target, lower=True, check_finite=False)
            features = linalg.solve_triangular(factor, self._held.T, lower=True, check_finite=False).T
        rotation = np.eye(len(prior), dtype=np.float32) if self._rotation is None else self._rotation
        shares = (shares @ rotation).astype(np.float32)
        residual = self._sample.outputs @ rotation.astype(np.float32)
        curve = [np.square(residual).mean(axis=0)]
        for low, high in pairwise(self._measured):
            new = slice(low * self.block, high * self.block)
            residual -= features[:, new] @ shares[new]
            curve.append(np.square(residual).mean(axis=0))
        return np.array(curve, np.float64)


def principal_components(weight: Float, covariance: Float, count: int) -> Float:
    """Leading principal components `(M, count)` of W x, orthonormal.

    Every x gets a little variance in addition, so that components without any are not arbitrary, but those of
    the weight.

    Args:
        weight: `(M, D)`.
        covariance: `(D, D)`, of x.
        count: 1 to M.

    References:
        Izenman: Reduced-rank regression for the multivariate linear model. J. Multivariate Anal. 5, 1975.

    >>> weight, covariance = np.eye(3), np.diag([1.0, 9.0, 4.0])
    >>> np.abs(principal_components(weight, covariance, 2)).round(6).tolist()
    [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]
    """
    raised = weight @ covariance @ weight.T + _FLOOR * mean_variance(covariance) * (weight @ weight.T)
    return leading_vectors(raised, count)


def leading_vectors(matrix: Float, count: int) -> Float:
    """Eigenvectors `(n, count)` of the largest eigenvalues of a symmetric matrix, largest first.

    Args:
        matrix: `(n, n)`, finite.
        count: 1 to n.

    >>> np.abs(leading_vectors(np.diag([1.0, 3.0, 2.0]), 1)).round(6).tolist()
    [[0.0], [1.0], [0.0]]
    """
    return np.ascontiguousarray(TridiagonalForm(matrix.copy()).leading_vectors(count))
