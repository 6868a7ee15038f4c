"""Run a function over layers: large ones one after the other, the rest in threads.

A large layer uses every core through the BLAS library, small ones use one BLAS thread each (BLAS threads
gain nothing on small matrices and disturb each other).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

from threadpoolctl import ThreadpoolController

__all__ = ["Progress", "available_cores", "map_layers", "no_progress"]

T = TypeVar("T")
R = TypeVar("R")

Progress = Callable[[str, int, int], None]
"""Called with a stage, the steps done and all steps."""


def no_progress(stage: str, done: int, total: int) -> None:
    """A `Progress` that shows nothing."""


def available_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()


def map_layers(
    function: Callable[[T], R],
    items: Sequence[T],
    work: Callable[[T], float],
    large: float,
    workers: int,
    report: Callable[[int], None],
) -> list[R]:
    """`[function(item) for item in items]`, computed largest first.

    Args:
        function: releases Python's lock where it spends its time.
        items: what to compute.
        work: relative cost of an item.
        large: cost from which an item gets all cores for itself.
        workers: number of cores to use.
        report: called with the number of items done.
    """
    order = sorted(range(len(items)), key=lambda i: -work(items[i]))
    results: dict[int, R] = {}

    def collect(indices: Iterable[int], values: Iterable[R]) -> None:
        for index, value in zip(indices, values, strict=True):
            results[index] = value
            report(len(results))

    first = [i for i in order if work(items[i]) >= large]
    rest = order[len(first) :]
    with _blas().limit(limits=workers):
        collect(first, (function(items[i]) for i in first))
    with _blas().limit(limits=1), ThreadPoolExecutor(workers) as pool:
        collect(rest, pool.map(lambda i: function(items[i]), rest))
    return [results[i] for i in range(len(items))]
