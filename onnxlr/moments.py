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

    def predict(self, weight: Array) -> Array:
        """W x of held-out pairs, `(held, M)`, for a weight `(M, D)`."""
        predicted: Array = self.inputs @ weight.T.astype(np.float32)
        return predicted

    def error_of(self, predicted: Array) -> float:
        """E‖y − ŷ‖² on held-out pairs, for ŷ `(held, M)`."""
        return _mean_square(self.outputs - predicted)

    def error(self, weight: Array) -> float:
        """E‖y − W x‖² on held-out pairs, for a weight `(M, D)`."""
        return self.error_of(self.predict(weight))

    def with_inputs(self, order: NDArray[np.intp]) -> Sample:
        """This sample with the entries of x in another order, or with some of them only."""
        return replace(
            self,
            covariance=self.covariance[order][:, order],
            crosses=tuple(cross[:, order] for cross in self.crosses),
            input_mean=self.input_mean[order],
            inputs=self.inputs[:, order],
        )

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
        self._rows = 0
        self._buffers: list[Array] = []
        self._held: list[tuple[Array, Array]] = []
        self._sums: list[list[Float]] = []
        self._shifts: list[Array] = []

    def add(self, x: Array, y: Array) -> None:
        """Add pairs, `(pairs, group, D)` and `(pairs, group, M)`; any with NaN or infinities are left out."""
        pairs = _finite(x, y)
        count = len(pairs[0])
        if count and not self._shifts:
            self._shifts = [part.mean(axis=0) * np.float32(self._centred) for part in pairs]
            self._buffers = [np.empty((_BUFFER, *part.shape[1:]), np.float32) for part in pairs]
            self._sums = [[np.zeros(()) for _ in range(4)] for _ in self._shifts[0]]
        start = 0
        while start < count:
            stop = min(count, start + _BUFFER - self._rows)
            end = self._rows + stop - start
            for buffer, part, shift in zip(self._buffers, pairs, self._shifts, strict=True):
                np.subtract(part[start:stop], shift, out=buffer[self._rows : end])
            start, self._rows = stop, end
            if end == _BUFFER:
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
        if not self._shifts or not held:
            raise ValueError("too few positions")
        xs, ys = (np.concatenate(parts) for parts in zip(*self._held, strict=True))
        shifts = zip(*self._shifts, strict=True)
        groups = zip(self._sums, shifts, xs.swapaxes(0, 1), ys.swapaxes(0, 1), strict=True)
        if not all(np.isfinite(total).all() for sums in self._sums for total in sums):
            raise ValueError("its numbers are too large")
        return [self._sample(sums, shift, x, y) for sums, shift, x, y in groups]

    def _flush(self) -> None:
        self._count += self._rows
        parts = [buffer[: self._rows].swapaxes(0, 1) for buffer in self._buffers]
        self._rows = 0
        for sums, u, v in zip(self._sums, *parts, strict=True):
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
    return float(np.einsum("nm,nm->n", rows, rows).mean(dtype=np.float64))


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
    if np.isfinite(x.sum()) and np.isfinite(y.sum()):  # much faster than to look at every number
        return x, y
    finite = np.isfinite(x).all(axis=(1, 2)) & np.isfinite(y).all(axis=(1, 2))
    return (x, y) if finite.all() else (x[finite], y[finite])
