"""Run a function over layers, in threads."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from functools import cache, wraps
from typing import ParamSpec, TypeVar

from threadpoolctl import ThreadpoolController

from onnxlr.conv import ConvSpec
from onnxlr.hardware import cpu_quota

__all__ = [
    "Progress",
    "available_cores",
    "gram_work",
    "map_in_order",
    "map_layers",
    "no_progress",
    "one_blas_thread",
]

T = TypeVar("T")
R = TypeVar("R")
P = ParamSpec("P")

Progress = Callable[[str, int, int], None]
"""Called with a stage, the steps done and all steps."""


def no_progress(stage: str, done: int, total: int) -> None:
    """A `Progress` that shows nothing."""


def available_cores() -> int:
    """Cores this process may use: as many as it is bound to, and no more than control groups leave it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return cores if quota is None else max(1, min(cores, math.floor(quota)))


def gram_work(conv: ConvSpec) -> float:
    """Multiply-accumulates of the Gram matrix of a channel-out unfolding: a measure of a layer's cost."""
    rows = conv.out_channels
    columns = conv.params // rows
    return float(rows * columns * min(rows, columns))


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()


def one_blas_thread(function: Callable[P, R]) -> Callable[P, R]:
    """A function that runs with one BLAS thread: several wait for each other where other work goes on."""

    @wraps(function)
    def limited(*args: P.args, **kwargs: P.kwargs) -> R:
        with _blas().limit(limits=1):
            return function(*args, **kwargs)

    return limited


@contextmanager
def _pool(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that begin nothing more where the block is left early, and are not waited for then."""
    pool = ThreadPoolExecutor(workers)
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


def map_layers(
    function: Callable[[T], R],
    items: Sequence[T],
    work: Callable[[T], float],
    workers: int,
    report: Callable[[int], None],
) -> list[R]:
    """`[function(item) for item in items]`, computed in threads, the largest first.

    Each thread has one BLAS thread: several gain nothing on small matrices and disturb each other, and so the
    results do not depend on the number of workers.

    Args:
        function: releases Python's lock where it spends its time.
        items: what to compute.
        work: relative cost of an item.
        workers: number of threads.
        report: called with the number of items done.
    """
    order = sorted(range(len(items)), key=lambda i: -work(items[i]))
    results: dict[int, R] = {}
    with _blas().limit(limits=1), _pool(workers) as pool:
        started = {pool.submit(function, items[i]): i for i in order}
        for future in as_completed(started):
            results[started[future]] = future.result()
            report(len(results))
    return [results[i] for i in range(len(items))]


def map_in_order(function: Callable[[T], R], items: Iterable[T], workers: int) -> Iterator[R]:
    """`map(function, items)`, computed in threads, only a few results ahead of their use.

    Args:
        function: releases Python's lock where it spends its time.
        items: what to compute.
        workers: number of threads.
    """
    if workers == 1:
        yield from map(function, items)
        return
    with _pool(workers) as pool:
        started: deque[Future[R]] = deque()
        for item in items:
            started.append(pool.submit(function, item))
            if len(started) > workers:
                yield started.popleft().result()
        while started:
            yield started.popleft().result()
