"""All models, before and after optimization, timed in one run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxlr.comparing.running import Export
from onnxlr.feeds import Feed
from onnxlr.latency import median_interval, noise_floor, time_rounds
from onnxlr.model_file import Model
from onnxlr.parallel import Progress

__all__ = ["ExportLatency", "Ratio", "time_exports"]


@dataclass(frozen=True, slots=True)
class Ratio:
    """A median of paired ratios of times, with its 95 % bootstrap interval."""

    median: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class ExportLatency:
    """Times of one model, in milliseconds, and by those of the first model in the same rounds.

    Attributes:
        before: median of one run of the export.
        after: median of one run of its optimized version.
        speedup: before / after.
        before_ratio: the export's time by the first export's.
        after_ratio: the optimized version's time by the first one's optimized version's.
        noise_floor: how far ratios of two sessions of one model may lie from 1.
        as_fast: whether the optimized version is as fast as the first one's, within noise.
    """

    before: float
    after: float
    speedup: Ratio
    before_ratio: Ratio
    after_ratio: Ratio
    noise_floor: float
    as_fast: bool


def time_exports(
    exports: Sequence[Export],
    results: Sequence[Model],
    feed: Feed,
    seconds: float,
    progress: Progress,
    seed: int = 0,
) -> list[ExportLatency]:
    """Time everything in rounds, in random order within each, with a second session of the first result.

    Args:
        exports: the models.
        results: their optimized versions.
        feed: one batch of the first model.
        seconds: time to spend.
        progress: told the number of rounds done.
        seed: of the order and of the bootstrap.

    Raises:
        ModelError: ONNX Runtime cannot run a model.
    """
    sessions = [(export, export.open(export.model)) for export in exports]
    sessions += [(export, export.open(result)) for export, result in zip(exports, results, strict=True)]
    sessions.append((exports[0], exports[0].open(results[0])))
    runs = [session.repeat(export.feeds(feed)[0]) for export, session in sessions]
    rng = np.random.default_rng(seed)
    times = time_rounds(runs, seconds, rng, progress)[..., 0].T
    before, after, control = times[: len(exports)], times[len(exports) : -1], times[-1]
    noise = noise_floor(after[0] / control, rng)

    def ratio(samples: NDArray[np.float64]) -> Ratio:
        return Ratio(float(np.median(samples)), *median_interval(samples, rng))

    found = []
    for own_before, own_after in zip(before, after, strict=True):
        after_ratio = ratio(own_after / np.sqrt(after[0] * control))
        found.append(
            ExportLatency(
                before=float(np.median(own_before)) * 1e3,
                after=float(np.median(own_after)) * 1e3,
                speedup=ratio(own_before / own_after),
                before_ratio=Ratio(1, 1, 1) if own_before is before[0] else ratio(own_before / before[0]),
                after_ratio=after_ratio,
                noise_floor=noise,
                as_fast=after_ratio.low <= 1 + noise and after_ratio.high >= 1 - noise,
            )
        )
    return found
