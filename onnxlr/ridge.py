"""Cholesky factorization of a covariance with a ridge, whatever the covariance is."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

__all__ = ["ridged_cholesky"]


def ridged_cholesky(
    covariance: NDArray[np.float64], ridge: float, dtype: type[np.floating[Any]] = np.float64
) -> tuple[NDArray[Any], float]:
    """Lower triangular L with L Lᵀ = covariance + strength · I, and the strength.

    That is `ridge` times the mean of the diagonal, or times 1 for a zero matrix; and ten times as much as
    often as rounding has left the covariance without a factorization.

    Args:
        covariance: `(n, n)`, finite.
        ridge: above 0.
        dtype: of the computation and of L.
    """
    diagonal = np.arange(len(covariance))
    strength = ridge * (max(float(covariance.diagonal().mean()), 0.0) or 1.0)
    while True:
        raised: NDArray[Any] = covariance.astype(dtype)
        raised[diagonal, diagonal] += dtype(strength)
        try:
            return linalg.cholesky(raised, lower=True, overwrite_a=True, check_finite=False), strength
        except linalg.LinAlgError:
            strength *= 10
