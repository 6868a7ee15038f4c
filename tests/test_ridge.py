"""A covariance with a ridge is factorized, whatever rounding has done to it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxlr.ridge import mean_variance, ridged_cholesky
from tests.builders import Array

TYPES = [np.float64, np.float32]


def covariance(size: int, rank: int, seed: int = 0) -> Array:
    """Of `rank` random vectors."""
    rows = np.random.default_rng(seed).standard_normal((rank, size))
    return rows.T @ rows / rank


def check(matrix: Array, strength: float, dtype: Any = np.float64) -> int:
    """How many times the ridge grew tenfold, after a look at the factor."""
    before = matrix.copy()
    factor, raised = ridged_cholesky(matrix, strength, dtype)
    assert np.array_equal(matrix, before)
    assert factor.dtype == dtype
    assert np.array_equal(factor, np.tril(factor))
    assert (factor.diagonal() > 0).all()
    product = factor.astype(np.float64) @ factor.T.astype(np.float64)
    precision = 10 * len(matrix) * np.finfo(dtype).eps
    for times in range(40):
        expected = matrix + 10.0**times * strength * np.eye(len(matrix))
        if np.abs(product - expected).max() <= precision * np.abs(expected).max():
            assert raised == pytest.approx(10.0**times * strength)
            return times
    raise AssertionError(product - matrix)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("strength", [1e-4, 0.01, 0.1, 3.0])
@pytest.mark.parametrize(("size", "rank"), [(1, 1), (7, 20), (30, 200), (30, 12)])
def test_a_covariance_with_a_ridge(size: int, rank: int, strength: float, dtype: Any) -> None:
    assert check(covariance(size, rank), strength, dtype) == 0


@given(
    size=st.integers(1, 12),
    rank=st.integers(1, 20),
    seed=st.integers(0, 2**20),
    ridge=st.floats(1e-4, 10),
    scale=st.floats(-6, 6),
    dtype=st.sampled_from(TYPES),
)
def test_any_covariance(size: int, rank: int, seed: int, ridge: float, scale: float, dtype: Any) -> None:
    matrix = 10**scale * covariance(size, rank, seed)
    assert check(matrix, ridge * mean_variance(matrix), dtype) == 0


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("size", [1, 6])
def test_zeros(size: int, dtype: Any) -> None:
    zeros = np.zeros((size, size))
    assert check(zeros, 0.01, dtype) == 0
    assert ridged_cholesky(zeros, 0.04, dtype)[0] == pytest.approx(0.2 * np.eye(size))


def test_a_variance_of_zero() -> None:
    matrix = covariance(6, 20)
    matrix[2] = matrix[:, 2] = 0
    assert check(matrix, 1e-6) == 0


@pytest.mark.parametrize(
    ("least", "times"),
    [(-0.9e-6, 0), (-1.1e-6, 1), (-0.9e-5, 1), (-1.1e-5, 2), (-0.9e-2, 4), (-0.5, 6)],
)
def test_the_ridge_grows_until_the_matrix_is_definite(least: float, times: int) -> None:
    """Ten times as much, and no more often than needed."""
    basis = np.linalg.qr(np.random.default_rng(0).standard_normal((5, 5)))[0]
    matrix = (basis * np.array([2.0, 1.5, 1.0, 0.5, least])) @ basis.T
    assert check(matrix, 1e-6) == times


@pytest.mark.parametrize("seed", range(5))
def test_a_covariance_rounded_to_single_precision(seed: int) -> None:
    """A large mean, subtracted from moments that are float32: eigenvalues below zero are no rarity."""
    rng = np.random.default_rng(seed)
    rows = (300 + rng.standard_normal((500, 2)) @ rng.standard_normal((2, 20))).astype(np.float32)
    mean = rows.mean(axis=0, dtype=np.float64)
    matrix = (rows.T @ rows / np.float32(500)).astype(np.float64) - np.outer(mean, mean)
    strength = 1e-6 * mean_variance(matrix)
    assert np.linalg.eigvalsh(matrix)[0] < -strength
    assert 1 <= check(matrix, strength) <= 6


def test_a_ridge_that_rounding_swallows() -> None:
    """In float32 a ridge of 1e-12 is none, and what has no full rank has no factorization."""
    matrix = covariance(20, 3)
    assert check(matrix, 1e-12) == 0
    factor = ridged_cholesky(matrix, 1e-12, np.float32)[0].astype(np.float64)
    assert np.isfinite(factor).all()
    assert factor @ factor.T == pytest.approx(matrix, abs=1e-4)


def test_variances_below_zero() -> None:
    assert check(-np.eye(2), 1e-2) == 3  # 1 is not enough


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_part_of_a_matrix(order: Any) -> None:
    """As those of a lower rank are factorized."""
    whole = np.array(covariance(12, 40), order=order)
    assert check(whole[:5, :5], 0.01) == 0


def test_mean_variance() -> None:
    matrix = covariance(7, 20)
    assert mean_variance(matrix) == pytest.approx(np.trace(matrix) / 7)
    assert mean_variance(np.array([[1.0, 5.0], [5.0, 2.0]])) == 1.5
    assert mean_variance(np.array([[1e-300]])) == 1e-300


def test_the_mean_variance_is_above_zero() -> None:
    """Of zeros, and of what rounding has left below."""
    assert mean_variance(np.zeros((3, 3))) == 1
    assert mean_variance(np.diag([-1e-9, 0, 0])) == 1
