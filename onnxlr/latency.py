"""Paired timing of two models: is the result faster, and beyond the noise?

Both sessions run in the same process, alternately, in random order within each round, together with a second
session of the original (the A/A control). Ratios are taken within a round, so that drift of the machine's
speed cancels. "faster" is claimed only if the whole confidence interval lies beyond what the control shows
two identical models to differ by. docs/latency.md tells what each number is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from onnxlr.feeds import Feed, batch_size
from onnxlr.gpu_state import GpuWatch
from onnxlr.parallel import Progress
from onnxlr.runtime import Session

__all__ = ["Latency", "measure_latency", "median_interval", "noise_floor", "time_rounds"]

_MIN_ROUNDS, _MAX_ROUNDS = 15, 400
_CONFIDENCE = 0.95
_MIN_NOISE = 0.02
"""Two sessions of one model can differ by a percent or two for as long as they live, by where their memory
lies; one control does not show that."""

_LOOKS = 10
"""How often the GPU is looked at, about."""

Samples = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Latency:
    """Result of a paired measurement.

    Attributes:
        device: cpu, cuda or tensorrt.
        provider: ONNX Runtime's execution provider.
        threads: intra-op threads, 0 for ONNX Runtime's default.
        batch: samples a run.
        rounds: number of paired runs.
        before: median of one run of the original, in milliseconds.
        after: median of one run of the result, in milliseconds.
        speedup: median of the paired ratios before / after.
        interval: 95 % bootstrap interval of `speedup`.
        noise_floor: how far the ratio of two sessions of the original may lie from 1; at least 0.02.
        verdict: "faster", "slower" or "no difference beyond noise".
        before_p90: what nine of ten runs of the original stay below, in milliseconds.
        before_p99: what 99 of 100 do.
        after_p90: the same of the result.
        after_p99: the same of the result.
        before_cpu: median CPU time of the process in one run of the original, in milliseconds: of all its
            threads, so more than `before` where several compute.
        after_cpu: the same of the result.
        before_throughput: samples a second of the original, one run after the other: batch / `before`.
        after_throughput: the same of the result.
        before_memory: peak of ONNX Runtime's arena in one run of the original, in bytes; None if not known.
        after_memory: the same of the result.
        tf32: whether float32 products were allowed to be rounded to TF32; None where nobody can say.
        cuda_graph: whether runs were replayed from a CUDA graph; None on the CPU.
        prefer_nhwc: whether CUDA was told to compute Convs with channels last; None on the CPU.
        gpu_name: None on the CPU and without NVML, as the following.
        gpu_clock: lowest and highest clock of the GPU seen while timing, in MHz.
        gpu_throttling: why the GPU was seen to be throttled while timing.
    """

    device: str
    provider: str
    threads: int
    batch: int
    rounds: int
    before: float
    after: float
    speedup: float
    interval: tuple[float, float]
    noise_floor: float
    verdict: str
    before_p90: float | None = None
    before_p99: float | None = None
    after_p90: float | None = None
    after_p99: float | None = None
    before_cpu: float | None = None
    after_cpu: float | None = None
    before_throughput: float | None = None
    after_throughput: float | None = None
    before_memory: int | None = None
    after_memory: int | None = None
    tf32: bool | None = None
    cuda_graph: bool | None = None
    prefer_nhwc: bool | None = None
    gpu_name: str | None = None
    gpu_clock: tuple[int, int] | None = None
    gpu_throttling: tuple[str, ...] = ()


def measure_latency(
    original: Session,
    control: Session,
    result: Session,
    feed: Feed,
    seconds: float,
    progress: Progress,
    seed: int = 0,
) -> Latency:
    """Time `result` against `original`.

    Args:
        original: the model before.
        control: another session of the model before.
        result: the model after.
        feed: one batch.
        seconds: time to spend; at least 15 rounds are run, whatever they take.
        progress: told the number of rounds done.
        seed: of the order within rounds and of the bootstrap.

    Raises:
        ModelError: ONNX Runtime cannot run a model, or cannot capture it as a CUDA graph.
    """
    on_cpu = original.device.name == "cpu"
    runs = [session.repeat(feed) for session in (original, control, result)]
    rng = np.random.default_rng(seed)
    with GpuWatch(not on_cpu) as gpu:
        times = time_rounds(runs, seconds, rng, progress, gpu.look)
    rounds = len(times)
    before, again, after = times[..., 0].T
    ratios = np.sqrt(before * again) / after
    interval, noise = median_interval(ratios, rng), noise_floor(before / again, rng)
    batch = batch_size(feed)
    (median, p90, p99), cpu = np.percentile(times[..., 0], [50, 90, 99], axis=0), np.median(times[..., 1], 0)
    return Latency(
        device=original.device.name,
        provider=original.device.provider,
        threads=original.threads,
        batch=batch,
        rounds=rounds,
        before=_milliseconds(median[0]),
        after=_milliseconds(median[2]),
        speedup=float(np.median(ratios)),
        interval=interval,
        noise_floor=noise,
        verdict=_verdict(interval, noise),
        before_p90=_milliseconds(p90[0]),
        before_p99=_milliseconds(p99[0]),
        after_p90=_milliseconds(p90[2]),
        after_p99=_milliseconds(p99[2]),
        before_cpu=_milliseconds(cpu[0]),
        after_cpu=_milliseconds(cpu[2]),
        before_throughput=float(batch / median[0]),
        after_throughput=float(batch / median[2]),
        tf32=original.gpu.tf32 if original.device.name == "cuda" else None,
        cuda_graph=None if on_cpu else original.gpu.cuda_graph,
        prefer_nhwc=None if on_cpu else original.gpu.prefer_nhwc,
        gpu_name=gpu.name,
        gpu_clock=gpu.clock,
        gpu_throttling=gpu.throttling,
    )


def time_rounds(
    runs: Sequence[Callable[[], object]],
    seconds: float,
    rng: np.random.Generator,
    progress: Progress,
    look: Callable[[], object] = lambda: None,
) -> Samples:
    """Wall and CPU seconds of each run in each round, `(rounds, len(runs), 2)`, after a warm-up.

    Args:
        runs: what to time; in random order within each round.
        seconds: time to spend; at least 15 rounds are run, whatever they take.
        rng: of the order.
        progress: told the number of rounds done.
        look: called now and then.
    """
    for run in runs:
        run()  # warm-up: allocation, and algorithm search on CUDA
    a_round = sum(_time(run)[0] for run in runs)
    rounds = int(np.clip(seconds / a_round, _MIN_ROUNDS, _MAX_ROUNDS))
    times = np.empty((rounds, len(runs), 2))
    for i in range(rounds):
        for j in rng.permutation(len(runs)):
            times[i, j] = _time(runs[j])
        if i % max(rounds // _LOOKS, 1) == 0:
            look()
        progress("Timing", i + 1, rounds)
    return times


def noise_floor(ratios: Samples, rng: np.random.Generator) -> float:
    """How far the paired ratios of two sessions of one model may lie from 1; at least 0.02."""
    return max(_MIN_NOISE, *(abs(bound - 1) for bound in median_interval(ratios, rng)))


def _time(run: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU time of one run, in seconds."""
    cpu, start = time.process_time(), time.perf_counter()
    run()
    return time.perf_counter() - start, time.process_time() - cpu


def _milliseconds(seconds: float) -> float:
    return float(seconds) * 1e3


def median_interval(ratios: Samples, rng: np.random.Generator) -> tuple[float, float]:
    """Percentile bootstrap interval of the median, of 95 %."""
    found = stats.bootstrap(
        (ratios,), np.median, confidence_level=_CONFIDENCE, n_resamples=2000, method="percentile", rng=rng
    ).confidence_interval
    return float(found.low), float(found.high)


def _verdict(interval: tuple[float, float], noise: float) -> str:
    low, high = interval
    if low > 1 + noise:
        return "faster"
    return "slower" if high < 1 - noise else "no difference beyond noise"
