"""A symmetric eigenproblem in two steps: all eigenvalues first, then only the eigenvectors that are wanted.

`numpy.linalg.eigh` computes every eigenvector; `scipy.linalg.eigh` can leave some out, but repeats the
expensive reduction to tridiagonal form and holds Python's global lock meanwhile, so that layers could not be
factorized in parallel. The four LAPACK routines below (sytrd, sterf, stemr, ormtr) are the ones behind
`scipy.linalg.eigh(driver="evr")`, called through the pointers that SciPy publishes for Cython
(`scipy.linalg.cython_lapack`); ctypes releases the lock during each call.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cython_lapack

__all__ = ["TridiagonalForm"]

Float = NDArray[np.float64]


class TridiagonalForm:
    """A symmetric matrix A = Q T Qᵀ, reduced to tridiagonal form T.

    Args:
        matrix: `(n, n)`, symmetric, float64, C-contiguous, n ≥ 1. It is overwritten and kept: it holds Q.

    Raises:
        numpy.linalg.LinAlgError: the diagonal has NaN or infinities (as the Gram matrix of anything that has
            some), or LAPACK reports that it did not converge.
    """

    def __init__(self, matrix: Float) -> None:
        if not np.isfinite(matrix.diagonal()).all():
            raise np.linalg.LinAlgError("NaN or infinite values")
        n = len(matrix)
        self.order = n
        self._reflectors = matrix
        self._diagonal = np.empty(n)
        self._off_diagonal = np.zeros(n)  # n-1 entries and one of workspace
        self._tau = np.empty(n)
        _with_workspace("dsytrd", b"L", n, matrix, n, self._diagonal, self._off_diagonal, self._tau)

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes."""
        return self._reflectors.nbytes

    def eigenvalues(self) -> Float:
        """All eigenvalues, `(n,)`, largest first."""
        values, off_diagonal = self._diagonal.copy(), self._off_diagonal.copy()
        _call("dsterf", self.order, values, off_diagonal)
        return values[::-1].copy()

    def leading_vectors(self, count: int) -> Float:
        """Orthonormal eigenvectors of the `count` largest eigenvalues, `(n, count)`, largest first.

        Of the two signs that each may have it gets the one that makes its largest entry positive: LAPACK's
        choice depends on the processor.
        """
        n = self.order
        if not 1 <= count <= n:
            raise ValueError(f"1 <= count <= {n} eigenvectors can be asked for, got {count}")
        vectors = np.empty((count, n))  # LAPACK's columns are our rows
        values, support, found = np.empty(n), np.empty(2 * n, np.intc), np.zeros(1, np.intc)
        work, iwork = np.empty(18 * n), np.empty(10 * n, np.intc)
        _call(
            "dstemr", b"V", b"I", n, self._diagonal.copy(), self._off_diagonal.copy(), 0.0, 0.0,
            n - count + 1, n, found, values, vectors, n, count, support, np.ones(1, np.intc),
            work, len(work), iwork, len(iwork),
        )  # fmt: skip
        _with_workspace("dormtr", b"L", b"L", b"N", n, count, self._reflectors, n, self._tau, vectors, n)
        vectors[vectors.max(axis=1) < -vectors.min(axis=1)] *= -1.0
        return np.ascontiguousarray(vectors[::-1]).T


@cache
def _routine(name: str) -> Any:
    """The LAPACK routine `name` as a function of addresses that releases the global lock."""
    pointers: Mapping[str, Any] = vars(cython_lapack)["__pyx_capi__"]
    capsule = pointers[name]
    api = ctypes.pythonapi
    api.PyCapsule_GetName.restype = ctypes.c_char_p
    api.PyCapsule_GetName.argtypes = [ctypes.py_object]
    api.PyCapsule_GetPointer.restype = ctypes.c_void_p
    api.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    signature = api.PyCapsule_GetName(capsule)
    address = api.PyCapsule_GetPointer(capsule, signature)
    arguments = [ctypes.c_void_p] * (signature.count(b",") + 1)
    return ctypes.CFUNCTYPE(None, *arguments)(address)


def _call(name: str, *arguments: bytes | int | float | NDArray[Any]) -> None:
    """Call a LAPACK routine; the trailing `info` is added and checked. Everything goes by reference."""
    info = np.zeros(1, np.intc)
    held = [_by_reference(argument) for argument in (*arguments, info)]
    _routine(name)(*(array.ctypes.data for array in held))
    if info[0]:
        raise np.linalg.LinAlgError(f"LAPACK's {name} failed with info = {info[0]}")


def _with_workspace(name: str, *arguments: bytes | int | float | NDArray[Any]) -> None:
    """Call a routine that ends in (work, lwork, info): ask for the best workspace size, then run."""
    size = np.empty(1)
    _call(name, *arguments, size, -1)
    work = np.empty(int(size[0]))
    _call(name, *arguments, work, len(work))


def _by_reference(value: bytes | int | float | NDArray[Any]) -> NDArray[Any]:
    match value:
        case bytes():
            return np.frombuffer(value, np.uint8)
        case int():
            return np.array([value], np.intc)
        case float():
            return np.array([value])
        case _:
            return value
