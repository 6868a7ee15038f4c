"""What is timed is what networks have, the same each time, and ONNX Runtime runs all of it."""

from __future__ import annotations

import numpy as np
import pytest

from onnxlr.micro_benchmarks import MicroBenchmark, run_micro_benchmarks, suite
from onnxlr.parallel import no_progress
from onnxlr.providers import CPU, Device

SUITE = suite()


def run(
    benchmarks: list[MicroBenchmark], dtype: type = np.float32, device: Device = CPU, batch: int = 1
) -> list[float]:
    timed = run_micro_benchmarks(benchmarks, device, 1, (batch,), dtype, no_progress, seconds=0)
    assert [(item.conv, item.spatial, item.repeats) for item in timed] == [
        (item.conv, item.spatial, batch) for item in benchmarks
    ]
    return [item.seconds for item in timed]


def test_the_suite_is_the_same_each_time() -> None:
    assert suite() == SUITE
    assert len(set(SUITE)) == len(SUITE)
    assert 48 <= len(SUITE) <= 110


def test_all_kinds_are_there() -> None:
    convs = [item.conv for item in SUITE]
    for found in (
        [conv for conv in convs if not conv.kernel_shape],
        [conv for conv in convs if conv.transposed],
        [conv for conv in convs if conv.is_depthwise],
        [conv for conv in convs if conv.group > 1 and not conv.is_depthwise],
        [conv for conv in convs if conv.is_pointwise and conv.kernel_shape],
        [conv for conv in convs if len(conv.kernel_shape) == 1],
        [conv for conv in convs if len(conv.kernel_shape) == 3],
        [conv for conv in convs if max(conv.strides, default=1) > 1 and not conv.transposed],
        [conv for conv in convs if conv.kernel_shape == (3, 1)],
        [conv for conv in convs if conv.kernel_shape == (1, 3)],
    ):
        assert len(found) >= 2


@pytest.mark.parametrize("benchmark", SUITE, ids=lambda item: f"{item.conv.weight_shape}")
def test_every_one_runs(benchmark: MicroBenchmark) -> None:
    (seconds,) = run([benchmark])
    assert 1e-7 < seconds < 1


SOME = [SUITE[0], SUITE[20], *SUITE[-20:-15], *SUITE[-6:]]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_types(dtype: type) -> None:
    assert min(run(SOME, dtype)) > 0


def test_a_larger_batch_takes_longer() -> None:
    assert sum(run(SOME, batch=8)) > 2 * sum(run(SOME))


def test_a_gpu_is_timed_from_outside() -> None:
    """Played by the CPU: where kernels are launched and done later, a profile does not tell."""
    assert min(run(SOME, device=Device("cuda", CPU.provider))) > 0


def test_progress_is_told() -> None:
    told: list[tuple[str, int, int]] = []
    run_micro_benchmarks(SUITE[:2], CPU, 1, (1, 2), np.float32, lambda *step: told.append(step), seconds=0)
    assert told == [("Timing Convs", i + 1, 12) for i in range(12)]  # three rounds
