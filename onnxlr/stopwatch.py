"""Wall times of runs that are repeated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter

import numpy as np

__all__ = ["time_runs", "typical"]

_QUANTILE = 0.25


def time_runs(run: Callable[[], object], seconds: float, fewest: int, most: int) -> list[float]:
    """Seconds of each run: at least `fewest`, then until `seconds` have passed or there are `most`."""
    times: list[float] = []
    end = perf_counter() + seconds
    while len(times) < fewest or (len(times) < most and perf_counter() < end):
        start = perf_counter()
        run()
        times.append(perf_counter() - start)
    return times


def typical(times: Sequence[float]) -> float:
    """The lower quartile: what else the machine does only ever adds time."""
    return float(np.quantile(times, _QUANTILE))
