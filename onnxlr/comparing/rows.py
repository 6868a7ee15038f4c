"""Two weights row by row: how far they are apart, and by what factor."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["RowComparison", "compare_rows"]

Float = NDArray[np.float64]
Matrix = NDArray[Any]  # any real floating type; arithmetic is float64

_BLOCK = 2**20
"""Entries that are converted to float64 at a time."""

_SAME_DIRECTION = 0.99
"""|cosine| from which on rows count as the same but for their scale."""


@dataclass(frozen=True, slots=True, eq=False)
class RowComparison:
    """Sums over the columns of two matrices a and b, `(M,)` each.

    Attributes:
        first: ‖a‖² of every row.
        other: ‖b‖².
        dot: ⟨a, b⟩.
        gap: ‖a − b‖².
    """

    first: Float
    other: Float
    dot: Float
    gap: Float

    @property
    def error(self) -> float:
        """‖A − B‖ / ‖A‖."""
        norm, gap = float(self.first.sum()), float(self.gap.sum())
        return (gap / norm) ** 0.5 if norm else (inf if gap else 0.0)

    @property
    def same_but_for_scales(self) -> bool:
        """Whether rows point the same way, or the opposite one."""
        norms = np.sqrt(self.first * self.other)
        alive = norms > 0
        return bool((np.abs(self.dot[alive]) > _SAME_DIRECTION * norms[alive]).all())

    @property
    def scales(self) -> tuple[float, float] | None:
        """Smallest and largest ‖b‖ / ‖a‖ of a row; None if all are zero."""
        alive = (self.first > 0) & (self.other > 0)
        if not alive.any():
            return None
        ratios = np.sqrt(self.other[alive] / self.first[alive])
        return float(ratios.min()), float(ratios.max())


def compare_rows(first: Matrix, other: Matrix) -> RowComparison:
    """Compare two weights of shape `(M, ...)` with equally many entries in a row."""
    a, b = (array.reshape(len(array), -1) for array in (first, other))
    step = max(1, _BLOCK // a.shape[1])
    blocks = [_sums(a[i : i + step], b[i : i + step]) for i in range(0, len(a), step)]
    return RowComparison(*np.concatenate(blocks, axis=1))


def _sums(a: Matrix, b: Matrix) -> Float:
    x, y = a.astype(np.float64), b.astype(np.float64)
    pairs = ((x, x), (y, y), (x, y), (x - y, x - y))
    return np.stack([np.einsum("ij,ij->i", left, right) for left, right in pairs])
