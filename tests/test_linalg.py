"""Truncated factorization against numpy's SVD, an independent oracle."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxlr.lapack import TridiagonalForm
from onnxlr.linalg import GramFactorization, tail_sums
from tests.builders import Array

SPECTRA = ("flat", "decaying", "rank-deficient", "zero", "clustered")


def matrix(rows: int, columns: int, spectrum: str, seed: int) -> Array:
    """A seeded matrix whose singular values follow `spectrum`."""
    rng = np.random.default_rng(seed)
    full = min(rows, columns)
    left, _ = np.linalg.qr(rng.standard_normal((rows, full)))
    right, _ = np.linalg.qr(rng.standard_normal((columns, full)))
    values = {
        "flat": np.ones(full),
        "decaying": 0.7 ** np.arange(full),
        "rank-deficient": np.where(np.arange(full) < (full + 1) // 2, 1.0, 0.0),
        "zero": np.zeros(full),
        "clustered": np.repeat([3.0, 2.0, 1.0], full)[::3][:full],
    }[spectrum]
    return (left * values) @ right.T


@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 40),
    spectrum=st.sampled_from(SPECTRA),
    scale=st.sampled_from([1e-20, 1.0, 1e20]),
    data=st.data(),
)
def test_error_is_the_discarded_energy(
    rows: int, columns: int, spectrum: str, scale: float, data: st.DataObject
) -> None:
    a = scale * matrix(rows, columns, spectrum, data.draw(st.integers(0, 5)))
    rank = data.draw(st.integers(1, min(rows, columns)))
    found = GramFactorization(a)
    left, right = found.factors(a, rank)
    sigma = np.linalg.svd(a, compute_uv=False)
    energy = np.square(sigma).sum()
    assert left.shape == (rows, rank)
    assert right.shape == (rank, columns)
    assert abs(np.square(a - left @ right).sum() - np.square(sigma[rank:]).sum()) <= 1e-9 * energy
    assert abs(found.residuals[rank] - np.square(sigma[rank:]).sum()) <= 1e-9 * energy


def test_wide_matrices_are_read_in_blocks() -> None:
    a = matrix(20, 9000, "decaying", 0).astype(np.float32)
    found = GramFactorization(a)
    left, right = found.factors(a, 20)
    assert np.abs(left @ right - a).max() < 1e-12
    assert np.allclose(
        found.residuals[:-1], tail_sums(np.linalg.svd(a.astype(float), compute_uv=False) ** 2)[:-1]
    )


def test_float32_weights_are_computed_in_float64() -> None:
    a = matrix(60, 80, "decaying", 1).astype(np.float32)
    sigma = np.linalg.svd(a.astype(np.float64), compute_uv=False)
    assert np.abs(GramFactorization(a).residuals[:30] - tail_sums(sigma**2)[:30]).max() < 1e-14


def test_factors_of_another_matrix_are_refused() -> None:
    found = GramFactorization(np.eye(3))
    with pytest.raises(ValueError, match="expected the matrix"):
        found.factors(np.eye(4), 1)


@pytest.mark.parametrize("count", [0, 4, -1])
def test_number_of_eigenvectors_is_checked(count: int) -> None:
    with pytest.raises(ValueError, match="1 <= count <= 3"):
        TridiagonalForm(np.eye(3)).leading_vectors(count)


@given(n=st.integers(1, 30), spectrum=st.sampled_from(SPECTRA), data=st.data())
def test_leading_vectors_are_orthonormal_eigenvectors(n: int, spectrum: str, data: st.DataObject) -> None:
    a = matrix(n, n, spectrum, 0)
    gram = a @ a.T
    count = data.draw(st.integers(1, n))
    form = TridiagonalForm(gram.copy())
    vectors, values = form.leading_vectors(count), form.eigenvalues()[:count]
    assert np.abs(vectors.T @ vectors - np.eye(count)).max() < 1e-12
    assert np.abs(gram @ vectors - vectors * values).max() < 1e-12
    assert np.all(np.diff(form.eigenvalues()) <= 0)


def test_not_finite_numbers_raise() -> None:
    with pytest.raises(np.linalg.LinAlgError, match="NaN or infinite"):
        TridiagonalForm(np.full((5, 5), np.nan))
