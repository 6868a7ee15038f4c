"""One step of alternating least squares: the first factor of a pair for a given last one, exactly.

With A the vectors `(r, head)`, B_t the last factor at tap t and S_tu the covariance of the input's columns t
and u, the normal equations Σ_tu B_tᵀB_u A S_ut = Σ_t B_tᵀ C_t have r · head unknowns: too many to factorize,
so conjugate gradients solve them, preconditioned with what they would be if the columns were uncorrelated.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, cg

from onnxlr.ridge import mean_variance, ridged_cholesky

__all__ = ["improved_vectors"]

Float = NDArray[np.float64]

_RIDGE = 1e-3
"""Draws the vectors to the given ones, by the mean of the diagonal of the equations."""

_TOLERANCE, _STEPS = 1e-3, 20
"""Float32, which the products are computed in, allows no more."""


def improved_vectors(
    covariance: Float, cross: Float, index: NDArray[np.intp], vectors: Float, coefficients: Float
) -> Float:
    """The vectors with the smallest E‖y − Σ_t B_t A x_t‖².

    Args:
        covariance: `(D, D)`, of x.
        cross: `(M, D)`, of y and x.
        index: `(head, taps)`, which entry of x is where.
        vectors: `(r, head)`, to start from.
        coefficients: `(M, r · taps)`, the last factor.
    """
    (rank, head), taps = vectors.shape, index.shape[1]
    order = index.T.ravel()
    blocks = covariance[np.ix_(order, order)].reshape(taps, head, taps, head).swapaxes(1, 2)
    last = coefficients.reshape(-1, rank, taps)
    inner = np.einsum("mrt,msu->turs", last, last, optimize=True)
    target = np.einsum("mrt,mth->rh", last, cross[:, order].reshape(-1, taps, head), optimize=True)
    rows, columns = inner.trace(), blocks.trace() / taps  # sums over t of what belongs to one tap
    strength = _RIDGE * float(rows.diagonal().mean() * columns.diagonal().mean())

    rows_of = np.ascontiguousarray(blocks.swapaxes(1, 2).reshape(taps, head, -1), np.float32)
    inner_of = inner.swapaxes(1, 2).reshape(taps * rank, taps * rank).astype(np.float32)

    def normal(flat: Float) -> Float:
        given = flat.reshape(rank, head)
        seen = np.stack([given.astype(np.float32) @ part for part in rows_of])  # u; r; t, head
        seen = seen.reshape(taps, rank, taps, head)
        total = strength * given
        for t in range(taps):
            total = total + inner_of[t * rank : (t + 1) * rank] @ seen[:, :, t].reshape(-1, head)
        return total.ravel()

    left, right = (_inverse(m, _RIDGE * mean_variance(m)) for m in (rows, columns))

    def precondition(flat: Float) -> Float:
        return np.asarray(left @ flat.reshape(rank, head) @ right).ravel()

    size = (rank * head, rank * head)
    solution, _ = cg(
        LinearOperator(size, matvec=normal, dtype=np.float64),
        (target + strength * vectors).ravel(),
        x0=vectors.ravel(),
        rtol=_TOLERANCE,
        maxiter=_STEPS,
        M=LinearOperator(size, matvec=precondition, dtype=np.float64),
    )
    return np.asarray(solution).reshape(rank, head)


def _inverse(matrix: Float, strength: float) -> Float:
    """Of a covariance with a ridge; good enough to precondition with, and faster than two solves a step."""
    root = np.linalg.inv(ridged_cholesky(matrix, strength)[0])
    return np.asarray(root.T @ root)
