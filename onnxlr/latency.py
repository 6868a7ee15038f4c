"""Paired timing of two models: is the result faster, and beyond the noise?

Both sessions run in the same process, alternately, in random order within each round, together with a second
session of the original (the A/A control). Ratios are taken within a round, so that drift of the machine's
speed cancels. "faster" is claimed only if the whole confidence interval lies beyond what the control shows
two identical models to differ by.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from onnxlr.feeds import Feed, batch_size
from onnxlr.parallel import Progress
from onnxlr.runtime import Session

__all__ = ["Latency", "measure_latency"]

_MIN_ROUNDS, _MAX_ROUNDS = 15, 400
_CONFIDENCE = 0.95
_MIN_NOISE = 0.02
"""Two sessions of one model can differ by a percent or two for as long as they live, by where their memory
lies; one control does not show that."""

Samples = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Latency:
    """Result of a paired measurement.

    Attributes:
        device: cpu or cuda.
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
    """
    sessions = (original, control, result)
    for session in sessions:
        session.run(feed)  # warm-up: allocation, and algorithm search on CUDA
    rounds = _count_rounds(sessions, feed, seconds)
    rng = np.random.default_rng(seed)
    times = np.empty((rounds, 3))
    for i in range(rounds):
        for j in rng.permutation(3):
            times[i, j] = _time(sessions[j], feed)
        progress("Timing", i + 1, rounds)
    before, again, after = times.T
    ratios = np.sqrt(before * again) / after
    interval = _interval(ratios, rng)
    noise = max(_MIN_NOISE, *(abs(bound - 1) for bound in _interval(before / again, rng)))
    return Latency(
        original.device.name,
        original.device.provider,
        original.threads,
        batch_size(feed),
        rounds,
        float(np.median(before)) * 1e3,
        float(np.median(after)) * 1e3,
        float(np.median(ratios)),
        interval,
        noise,
        _verdict(interval, noise),
    )


def _count_rounds(sessions: Sequence[Session], feed: Feed, seconds: float) -> int:
    a_round = sum(_time(session, feed) for session in sessions)
    return int(np.clip(seconds / a_round, _MIN_ROUNDS, _MAX_ROUNDS))


def _time(session: Session, feed: Feed) -> float:
    start = time.perf_counter()
    session.run(feed)
    return time.perf_counter() - start


def _interval(ratios: Samples, rng: np.random.Generator) -> tuple[float, float]:
    """Percentile bootstrap interval of the median."""
    found = stats.bootstrap(
        (ratios,), np.median, confidence_level=_CONFIDENCE, n_resamples=2000, method="percentile", rng=rng
    ).confidence_interval
    return float(found.low), float(found.high)


def _verdict(interval: tuple[float, float], noise: float) -> str:
    low, high = interval
    if low > 1 + noise:
        return "faster"
    return "slower" if high < 1 - noise else "no difference beyond noise"
