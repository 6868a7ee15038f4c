"""Pairs of vectors (x, y), in batches -> their second moments, and some pairs as they are to judge by.

Nothing that grows with the number of pairs is kept, but for the held-out ones, whose number is bounded by the
caller. Products are computed in float32 after a shift by the first batch's mean and summed in float64.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Moments", "Sample"]

_WIDE = 128
"""Entries of each half of x from which two threads pay."""

Float = NDArray[np.float64]
Array = NDArray[Any]

_BUFFER = 4096
"""Pairs that are multiplied at a time: to sum two D × D matrices takes as long as to multiply few rows."""


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """What is known of the inputs and outputs of one ungrouped layer.

    Attributes:
        count: pairs that the moments are of.
        covariance: `(D, D)`, of x.
        crosses: `(M, D)` each, of y and x; several where it is open what is best to regress to.
        input_mean: `(D,)`, of x; 0 where moments are not central.
        output_mean: `(M,)`, of y.
        inputs: `(held, D)`, float32, held-out x minus `input_mean`.
        outputs: `(held, M)`, float32, held-out y minus `output_mean`.
    """

    count: int
    covariance: Float
    crosses: tuple[Float, ...]
    input_mean: Float
    output_mean: Float
    inputs: Array
    outputs: Array

    @property
    def energy(self) -> float:
        """E‖y‖² on held-out pairs."""
        return _mean_square(self.outputs)

    def error(self, weight: Array) -> float:
        """E‖y − W x‖² on held-out pairs, for a weight `(M, D)`."""
        return _mean_square(self.outputs - self.inputs @ weight.T.astype(np.float32))

    def with_crosses(self, *crosses: Float) -> Sample:
        """This sample with other targets to regress to; what it is judged by stays."""
        return replace(self, crosses=crosses)

    def for_outputs(self, rows: slice) -> Sample:
        """What concerns some of the outputs."""
        return replace(
            self,
            crosses=tuple(cross[rows] for cross in self.crosses),
            output_mean=self.output_mean[rows],
            outputs=self.outputs[:, rows],
        )


class Moments:
    """Second moments of pairs, group by group.

    Args:
        centred: whether means are subtracted; not where no bias can make up for them.
    """

    def __init__(self, centred: bool = True) -> None:
        self._centred = centred
        self._count = 0
        self._buffer: list[tuple[Array, Array]] = []
        self._held: list[tuple[Array, Array]] = []
        self._sums: list[list[Float]] = []
        self._shift: tuple[Array, Array] | None = None

    def add(self, x: Array, y: Array) -> None:
        """Add pairs, `(pairs, group, D)` and `(pairs, group, M)`; any with NaN or infinities are left out."""
        x, y = _finite(x, y)
        if len(x):
            self._buffer.append((x, y))
        if sum(len(part) for part, _ in self._buffer) >= _BUFFER:
            self._flush()

    def hold_out(self, x: Array, y: Array) -> None:
        """Keep pairs to judge by; shapes as in `add`."""
        x, y = _finite(x, y)
        if len(x):
            self._held.append((x, y))

    def samples(self) -> list[Sample]:
        """A sample for each group.

        Raises:
            ValueError: no pairs were added, or none held out, or float32 cannot hold their squares.
        """
        self._flush()
        held = sum(len(x) for x, _ in self._held)
        if self._shift is None or not held:
            raise ValueError("too few positions")
        xs, ys = (np.concatenate(parts) for parts in zip(*self._held, strict=True))
        shifts = zip(*self._shift, strict=True)
        groups = zip(self._sums, shifts, xs.swapaxes(0, 1), ys.swapaxes(0, 1), strict=True)
        if not all(np.isfinite(total).all() for sums in self._sums for total in sums):
            raise ValueError("its numbers are too large")
        return [self._sample(sums, shift, x, y) for sums, shift, x, y in groups]

    def _flush(self) -> None:
        if not self._buffer:
            return
        x, y = (np.concatenate(parts).swapaxes(0, 1) for parts in zip(*self._buffer, strict=True))
        self._buffer = []
        if self._shift is None:
            keep = np.float32(self._centred)
            self._shift = x.mean(axis=1) * keep, y.mean(axis=1) * keep
            self._sums = [[np.zeros(()) for _ in range(4)] for _ in x]
        self._count += x.shape[1]
        for sums, a, b, a0, b0 in zip(self._sums, x, y, *self._shift, strict=True):
            u, v = a - a0, b - b0
            for i, part in enumerate((u.sum(axis=0), v.sum(axis=0), _gram(u), v.T @ u)):
                sums[i] = sums[i] + part

    def _sample(self, sums: list[Float], shift: tuple[Array, Array], x: Array, y: Array) -> Sample:
        mean_u, mean_v, uu, vu = (total / self._count for total in sums)
        if self._centred:
            uu = uu - np.outer(mean_u, mean_u)
            vu = vu - np.outer(mean_v, mean_u)
            mean_x, mean_y = shift[0] + mean_u, shift[1] + mean_v
        else:
            mean_x, mean_y = np.zeros_like(mean_u), np.zeros_like(mean_v)
        held_x, held_y = (x - mean_x).astype(np.float32), (y - mean_y).astype(np.float32)
        return Sample(self._count, uu, (vu,), mean_x, mean_y, held_x, held_y)


def _mean_square(rows: Array) -> float:
    return float(np.square(rows).sum(axis=1, dtype=np.float64).mean())


def _gram(rows: Array) -> Array:
    """The product of the rows' transpose with them; of many entries by two threads, each half of the work."""
    half = rows.shape[1] // 2
    if half < _WIDE:
        return rows.T @ rows
    left, right = rows[:, :half], rows[:, half:]
    with ThreadPoolExecutor(1) as pool:
        mixed = pool.submit(np.matmul, right.T, left)
        squares = left.T @ left, right.T @ right
    return np.block([[squares[0], mixed.result().T], [mixed.result(), squares[1]]])


def _finite(x: Array, y: Array) -> tuple[Array, Array]:
    finite = np.isfinite(x).all(axis=(1, 2)) & np.isfinite(y).all(axis=(1, 2))
    return (x, y) if finite.all() else (x[finite], y[finite])
