"""Covariances that are singular, rounded, or zero: how much they are raised, and their Cholesky factors."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["mean_variance", "ridged_cholesky"]


def mean_variance(covariance: NDArray[np.float64]) -> float:
    """The mean of the diagonal, which ridges are measured by; 1 for a zero matrix."""
    return max(float(covariance.diagonal().mean()), 0.0) or 1.0


def ridged_cholesky(
    covariance: NDArray[np.float64], strength: float, dtype: type[np.floating[Any]] = np.float64
) -> tuple[NDArray[Any], float]:
    """Lower triangular L with L Lᵀ = covariance + strength · I, and the strength.

    It grows tenfold as often as rounding has left the covariance without a factorization.

    Args:
        covariance: `(n, n)`, finite.
        strength: to start from, above 0.
        dtype: of the computation and of L.
    """
    diagonal = np.arange(len(covariance))
    while True:
        raised: NDArray[Any] = covariance.astype(dtype)
        raised[diagonal, diagonal] += dtype(strength)
        try:
            return np.linalg.cholesky(raised), strength  # unlike SciPy's it lets other threads run
        except np.linalg.LinAlgError:
            strength *= 10
