"""Truncated factorization of a matrix or tensor: the error at every rank first, then the factors of one rank.

Works on the Gram matrix of the smaller side in float64 (docs/how-it-works.md). Factors are Q and QᵀA; nothing
is divided by a singular value.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxlr.lapack import TridiagonalForm

__all__ = ["GramFactorization", "Hosvd", "tail_sums"]

Float = NDArray[np.float64]
Matrix = NDArray[Any]  # any real floating type; arithmetic is float64

_BLOCK = 4096
"""Columns of a wide matrix that are converted to float64 at a time."""


class GramFactorization:
    """Best rank-r approximations of a matrix in the Frobenius norm (Eckart-Young).

    Args:
        matrix: `(m, n)`, any real floating type. It is read, not kept.

    Attributes:
        residuals: `(min(m, n) + 1,)`; entry r is the smallest possible ‖A − Â‖² at rank r,
            the sum of the discarded σ². Entry 0 is ‖A‖², the last is 0.

    Raises:
        numpy.linalg.LinAlgError: the matrix has values that are not finite.

    References:
        Eckart, Young: The approximation of one matrix by another of lower rank. Psychometrika 1, 1936.

    >>> g = GramFactorization(np.diag([3.0, 2.0, 1.0]))
    >>> g.residuals.round(12).tolist()
    [14.0, 5.0, 1.0, 0.0]
    """

    def __init__(self, matrix: Matrix) -> None:
        self._shape = matrix.shape
        self._form = TridiagonalForm(_gram(_wide(matrix)))
        self.residuals = tail_sums(np.maximum(self._form.eigenvalues(), 0.0))

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes."""
        return self._form.nbytes

    def factors(self, matrix: Matrix, rank: int) -> tuple[Float, Float]:
        """The best approximation of rank `rank` as `(m, rank)` and `(rank, n)`; one of them is orthonormal.

        Args:
            matrix: the same one that was given to the constructor.
            rank: 1 to min(m, n).

        Raises:
            ValueError: another shape, or the rank is out of range.
        """
        if matrix.shape != self._shape:
            raise ValueError(f"expected the matrix {self._shape} that was analysed, got {matrix.shape}")
        basis = self._form.leading_vectors(rank)
        projected = _project(basis, _wide(matrix))
        if _is_wide(matrix):
            return basis, projected
        return projected.T, basis.T


class Hosvd:
    """Truncated HOSVD of a tensor along its first two modes: two bases, and the tensor projected on them.

    It is *not* the optimum at its ranks, which has no closed form, but a bounded approximation of it: its
    ‖T − T̂‖² is at most the sum of the σ² discarded in either mode, hence at most twice the optimum's
    (De Lathauwer et al. 2000).

    Args:
        tensor: `(m, n, ...)`, any real floating type. It is read, not kept.

    Attributes:
        residuals: `(R1 + 1, R2 + 1)` for full ranks R1 of the second and R2 of the first mode: the exact
            ‖T − T̂‖² at every (r1, r2), not the bound. Both bases are kept at full rank for it.

    References:
        De Lathauwer, De Moor, Vandewalle: A multilinear singular value decomposition. SIAM J. Matrix Anal.
        Appl. 21, 2000. Of Convs: Kim et al., arXiv 1511.06530.

    >>> tensor = np.random.default_rng(0).standard_normal((6, 4, 9))
    >>> hosvd = Hosvd(tensor)
    >>> second, core, first = hosvd.factors(tensor, 2, 3)
    >>> second.shape, core.shape, first.shape
    ((4, 2), (3, 2, 9), (6, 3))
    >>> nearest = np.einsum("ma,abk,nb->mnk", first, core, second)
    >>> bool(np.isclose(np.square(tensor - nearest).sum(), hosvd.residuals[2, 3]))
    True
    """

    def __init__(self, tensor: Matrix) -> None:
        self._bases = [_leading_basis(tensor, mode) for mode in (0, 1)]
        core = _core(tensor, *self._bases)
        self.residuals = _truncation_residuals(np.square(core).sum(axis=2).T)

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes."""
        return sum(basis.nbytes for basis in self._bases) + self.residuals.nbytes

    def factors(self, tensor: Matrix, r1: int, r2: int) -> tuple[Float, Float, Float]:
        """Basis of the second mode `(n, r1)`, core `(r2, r1, ...)`, basis of the first mode `(m, r2)`.

        Args:
            tensor: the same one that was given to the constructor.
            r1: 1 to the full rank of the second mode.
            r2: 1 to the full rank of the first mode.
        """
        first, second = self._bases[0][:, :r2], self._bases[1][:, :r1]
        return second, _core(tensor, first, second).reshape(r2, r1, *tensor.shape[2:]), first


def tail_sums(values: Float) -> Float:
    """Sums of what follows along the last axis: entry r is Σ values[r:], the last one is 0.

    Args:
        values: `(..., n)`.

    Returns:
        `(..., n + 1)`.

    >>> tail_sums(np.array([3.0, 2.0, 1.0])).tolist()
    [6.0, 3.0, 1.0, 0.0]
    """
    reversed_sums = np.cumsum(values[..., ::-1], axis=-1)[..., ::-1]
    return np.concatenate([reversed_sums, np.zeros((*values.shape[:-1], 1))], axis=-1)


def _is_wide(matrix: Matrix) -> bool:
    return len(matrix) <= matrix.size // max(len(matrix), 1)


def _wide(matrix: Matrix) -> Matrix:
    return matrix if _is_wide(matrix) else matrix.T


def _gram(matrix: Matrix) -> Float:
    """A Aᵀ in float64 for a wide matrix, block by block: only one block is ever converted."""
    gram = np.zeros((len(matrix), len(matrix)))
    part = np.empty_like(gram)  # an array of its own: the Gram matrix is kept, this is not
    for _, block in _float64_blocks(matrix):
        gram += np.matmul(block, block.T, out=part)
    return gram


def _project(basis: Float, matrix: Matrix) -> Float:
    """Qᵀ A in float64, block by block."""
    result = np.empty((basis.shape[1], matrix.shape[1]))
    for columns, block in _float64_blocks(matrix):
        np.matmul(basis.T, block, out=result[:, columns])
    return result


def _float64_blocks(matrix: Matrix) -> Iterator[tuple[slice, Float]]:
    """Blocks of columns in float64, each valid until the next one: they share one buffer."""
    buffer = np.empty((len(matrix), min(_BLOCK, matrix.shape[1])))
    for start in range(0, matrix.shape[1], _BLOCK):
        part = matrix[:, start : start + _BLOCK]
        block = buffer[:, : part.shape[1]]
        np.copyto(block, part)
        yield slice(start, start + part.shape[1]), block


def _leading_basis(tensor: Matrix, mode: int) -> Float:
    """Orthonormal basis `(size of the mode, full rank)` of the mode's unfolding, largest σ first."""
    unfolding = np.moveaxis(tensor, mode, 0).reshape(tensor.shape[mode], -1).astype(np.float64)
    return TridiagonalForm(unfolding @ unfolding.T).leading_vectors(min(unfolding.shape))


def _core(tensor: Matrix, first: Float, second: Float) -> Float:
    """The tensor projected on both bases, `(r2, r1, product of the other modes)`."""
    rows, columns = tensor.shape[:2]
    projected = first.T @ tensor.reshape(rows, -1).astype(np.float64)
    core: Float = np.matmul(second.T, projected.reshape(first.shape[1], columns, -1))
    return core


def _truncation_residuals(energy: Float) -> Float:
    """Σ of energy[i, j] over i ≥ r1 or j ≥ r2, for every (r1, r2): sums of positive terms only."""
    discarded_rows = tail_sums(energy.sum(axis=1))  # i >= r1, any j
    kept_rows = np.vstack([np.zeros((1, energy.shape[1])), np.cumsum(energy, axis=0)])  # i < r1
    return discarded_rows[:, None] + tail_sums(kept_rows)  # ... and j >= r2
