"""What of a weight stays the same from exporter to exporter, so that layers are recognized by it.

A row of a weight, the window of one output channel, is scaled to norm 1, and of its entries three moments are
taken: mean |w|, mean |w|³ and mean w⁴, each by what it is for equal entries. They do not change

1. when a BatchNormalization is folded in, or the signs of a row change;
2. when the order of the input channels or of the taps is another one (transposed kernels, a Gemm behind a
   Flatten of channels-last data).

Sorted, they do not change either

3. when the order of the output channels is another one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

__all__ = ["distance", "find_permutation", "row_moments"]

Float = NDArray[np.float64]

_DEAD = 1e-30
"""Norm below which a row counts as zero."""

_BLOCK = 2**20
"""Entries that are converted to float64 at a time."""


def row_moments(weight: NDArray[Any]) -> Float:
    """The moments of every row, `(3, M)`.

    Args:
        weight: `(M, ...)`.
    """
    rows = weight.reshape(len(weight), -1)
    step = max(1, _BLOCK // rows.shape[1])
    blocks = [_moments(rows[i : i + step]) for i in range(0, len(rows), step)]
    return np.concatenate(blocks, axis=1)


def _moments(block: NDArray[Any]) -> Float:
    rows = np.abs(block.astype(np.float64))
    norms = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    size = rows.shape[1]
    rows *= (np.sqrt(size) / np.where(norms < _DEAD, 1.0, norms))[:, None]  # equal entries are 1
    squares = rows * rows
    return np.stack([rows.mean(axis=1), (squares * rows).mean(axis=1), (squares * squares).mean(axis=1)])


def distance(first: Float, other: Float) -> float:
    """How far the moments of two weights with equally many rows are apart, whatever the order of the rows.

    It is the root mean square difference by the root mean square, of the moment where it is largest.
    """
    difference = np.sqrt(np.mean(np.square(np.sort(first) - np.sort(other)), axis=1))
    size = np.sqrt(np.mean(np.square(first), axis=1))
    return float(np.max(difference / np.where(size > 0, size, 1.0)))


def find_permutation(first: Float, other: Float) -> NDArray[np.intp]:
    """For every row of the first weight the row of the other one that is most like it, each taken once."""
    spread = np.maximum(first.std(axis=1), 1e-12)[:, None]
    a, b = first / spread, other / spread
    costs = sum(np.square(x[:, None] - y[None]) for x, y in zip(a, b, strict=True))
    permutation: NDArray[np.intp] = linear_sum_assignment(costs)[1]
    return permutation
