"""Which output positions of a layer are looked at: drawn by a seed, the same ones whenever asked for."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxlr.layer import Layer
from onnxlr.patches import count_positions

__all__ = ["Positions", "held_out_runs"]

_PER_ENTRY = 48
"""Positions to fit on, by the entries of x; the refit of a last factor wants 17 to 35 a feature."""

_FEWEST, _MOST = 10_000, 40_000

_WORK = 3e11
"""Multiply-accumulates of the moments of a layer, at most: some seconds."""

_HELD_OUT = 2_000
"""Positions to judge by."""

_ENOUGH_RUNS = 5
"""From as many runs on, every fifth is held out; with fewer, the last fifth of the positions of each."""


def held_out_runs(runs: int) -> list[int]:
    """Numbers of the runs that have positions to judge by: every fifth; all of them if there are fewer."""
    return list(range(_ENOUGH_RUNS - 1, runs, _ENOUGH_RUNS)) or list(range(runs))


@dataclass(frozen=True, slots=True)
class Positions:
    """Draws positions.

    Attributes:
        seed: of the random numbers.
        runs: number of runs of the network.
    """

    seed: int
    runs: int

    def of(self, layer: Layer, run: int, shape: tuple[int, ...]) -> tuple[NDArray[Any], int]:
        """Sorted positions in one run, and how many, from the first on, are to fit on; the rest is held out.

        Args:
            layer: the layer.
            run: number of the run.
            shape: of the layer's output in that run.
        """
        total = count_positions(layer, shape)
        rng = np.random.default_rng((self.seed, run, total))
        wanted = _wanted(layer.conv.params // layer.conv.out_channels)
        if self.runs < _ENOUGH_RUNS:
            border = total - max(total // _ENOUGH_RUNS, min(1, total - 1))
            fitted = _draw(rng, 0, border, wanted / self.runs)
            return np.concatenate([fitted, _draw(rng, border, total, _HELD_OUT / self.runs)]), len(fitted)
        held_runs = self.runs // _ENOUGH_RUNS
        if run % _ENOUGH_RUNS == _ENOUGH_RUNS - 1:
            return _draw(rng, 0, total, _HELD_OUT / held_runs), 0
        fitted = _draw(rng, 0, total, wanted / (self.runs - held_runs))
        return fitted, len(fitted)


def _wanted(entries: int) -> float:
    return max(min(_PER_ENTRY * entries, _MOST, _WORK / entries**2), _FEWEST)


def _draw(rng: np.random.Generator, start: int, stop: int, count: float) -> NDArray[Any]:
    size = min(stop - start, max(1, ceil(count)))
    return np.sort(rng.choice(stop - start, size, replace=False, shuffle=False)) + start
