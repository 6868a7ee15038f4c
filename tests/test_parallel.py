"""map_layers: results in order, the largest item first, one BLAS thread for each."""

import os
import threading

import pytest
from threadpoolctl import threadpool_info

from onnxlr import parallel
from onnxlr.parallel import available_cores, map_layers, no_progress


def blas_threads() -> set[int]:
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("items", [[], [3], [1, 2, 3], [5, 1, 4, 4, 2, 8, 1], [7] * 12])
def test_results_are_in_the_order_of_the_items(items: list[int], workers: int) -> None:
    done: list[int] = []
    found = map_layers(lambda item: item**2, items, float, workers, done.append)
    assert found == [item**2 for item in items]
    assert done == list(range(1, len(items) + 1))


def test_largest_first() -> None:
    seen: list[int] = []
    map_layers(seen.append, [1, 9, 3, 8, 2], float, 1, lambda _: None)
    assert seen == [9, 8, 3, 2, 1]


def test_each_item_has_a_thread_with_one_blas_thread() -> None:
    seen: list[tuple[bool, set[int]]] = []

    def look(_: int) -> None:
        seen.append((threading.current_thread() is threading.main_thread(), blas_threads()))

    before = blas_threads()
    map_layers(look, [1, 10], float, 2, lambda _: None)
    assert seen == [(False, {1})] * 2
    assert blas_threads() == before


def test_errors_come_through_and_limits_are_lifted() -> None:
    before = blas_threads()
    with pytest.raises(ZeroDivisionError):
        map_layers(lambda item: 1 // (item - 1), [10, 1, 2], float, 2, lambda _: None)
    assert blas_threads() == before


def test_cores() -> None:
    assert available_cores() >= 1


def test_no_progress_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    no_progress("stage", 1, 2)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("quota", "cores"), [(None, 4), (8.0, 4), (4.0, 4), (2.0, 2), (1.5, 1), (0.25, 1)])
def test_cores_are_those_that_control_groups_leave(
    monkeypatch: pytest.MonkeyPatch, quota: float | None, cores: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)), raising=False)
    monkeypatch.setattr(parallel, "cpu_quota", lambda: quota)
    assert parallel.available_cores() == cores
