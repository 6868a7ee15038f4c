"""A weight is recognized whatever an exporter did to it, and no other one is taken for it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from onnxlr.comparing.fingerprint import distance, find_permutation, row_moments
from tests.builders import Array, weight

RNG = np.random.default_rng(0)
SCALES = RNG.uniform(0.01, 100, 24)[:, None, None, None] * RNG.choice([-1, 1], (24, 1, 1, 1))
ROWS, INPUTS = RNG.permutation(24), RNG.permutation(16)

SAME: dict[str, Callable[[Array], Array]] = {
    "itself": lambda w: w,
    "a BatchNormalization folded": lambda w: w * SCALES,
    "outputs in another order": lambda w: w[ROWS],
    "inputs in another order": lambda w: w[:, INPUTS],
    "taps in another order": lambda w: w[:, :, ::-1].swapaxes(2, 3),
    "flat": lambda w: w.transpose(0, 2, 3, 1).reshape(24, -1),
    "all of these": lambda w: (w * SCALES)[ROWS][:, INPUTS].swapaxes(2, 3),
}


@pytest.mark.parametrize("change", SAME.values(), ids=SAME.keys())
def test_the_same(change: Callable[[Array], Array]) -> None:
    w = weight(24, 16, 3, 3)
    assert distance(row_moments(w), row_moments(change(w))) < 1e-6


@pytest.mark.parametrize("shape", [(24, 16, 3, 3), (8, 1, 3, 3), (512, 512, 3, 3), (1000, 512)])
def test_another_one(shape: tuple[int, ...]) -> None:
    first, other = (row_moments(weight(*shape, seed=seed)) for seed in (0, 1))
    assert distance(first, other) > 1e-3


@pytest.mark.parametrize("shape", [(24, 16, 3, 3), (8, 1, 3, 3), (512, 512, 3, 3)])
def test_half_precision(shape: tuple[int, ...]) -> None:
    w = weight(*shape)
    window = w[0].size
    assert distance(row_moments(w), row_moments(w.astype(np.float16))) < 4e-3 / window**0.5


def test_the_permutation() -> None:
    w = weight(24, 16, 3, 3)
    order = RNG.permutation(24)
    found = find_permutation(row_moments(w), row_moments((w * SCALES)[order]))
    np.testing.assert_array_equal((w * SCALES)[order][found], w * SCALES)


def test_rows_of_zeros() -> None:
    w = weight(6, 4)
    w[2] = 0
    moments = row_moments(w)
    assert not moments[:, 2].any()
    assert distance(moments, row_moments(w[::-1])) == 0
    assert distance(row_moments(np.zeros((3, 4))), row_moments(np.zeros((3, 4)))) == 0
