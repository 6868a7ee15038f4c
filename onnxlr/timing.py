"""Results against one original, timed at every batch size and, on a GPU, with and without CUDA graphs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxlr.errors import ModelError, UsageError
from onnxlr.feeds import MOST_NUMBERS, Feed, batch_size
from onnxlr.latency import Latency, measure_latency
from onnxlr.model_file import Model
from onnxlr.parallel import Progress
from onnxlr.providers import CPU, GpuOptions
from onnxlr.runtime import Device, Session, Value

__all__ = ["Timed", "Timer", "TimingOptions", "timing_feeds"]


@dataclass(frozen=True, slots=True)
class TimingOptions:
    """How to time.

    Attributes:
        device: to time on.
        threads: intra-op threads, 0 for ONNX Runtime's default.
        seconds: to spend at each batch size, with and without CUDA graph.
        prefer_nhwc: see `GpuOptions`.
        seed: of the order within rounds.
    """

    device: Device
    threads: int
    seconds: float
    prefer_nhwc: bool
    seed: int


@dataclass(frozen=True, slots=True, eq=False)
class Timed:
    """A model that is ready to be timed.

    Attributes:
        model: the model.
        session: with TF32 on CUDA, without CUDA graphs.
        peaks: of its memory in bytes, by the number of the feed; None if not known.
    """

    model: Model
    session: Session
    peaks: Sequence[int | None]


class Timer:
    """Times results against one original.

    Args:
        original: the model before; both sessions of it are opened here, in the way that results are.
        feeds: one a batch size.
        options: how to time.
        progress: told the number of rounds done.

    Raises:
        ModelError: ONNX Runtime cannot run the original.
    """

    def __init__(
        self,
        original: Model,
        feeds: Sequence[Feed],
        options: TimingOptions,
        progress: Progress,
    ) -> None:
        self._feeds, self._options, self._progress = feeds, options, progress
        self._gpu = GpuOptions(tf32=True, prefer_nhwc=options.prefer_nhwc)
        self._original, self._control = self.load(original), self.load(original)
        self._captured: tuple[Session, Session] | None = None

    def load(self, model: Model) -> Timed:
        """Open a session and measure its memory; it has run each feed once then.

        Raises:
            ModelError: ONNX Runtime cannot load or run the model.
        """
        session = Session(model, self._options.device, self._options.threads, profiled=True, gpu=self._gpu)
        order = sorted(range(len(self._feeds)), key=lambda i: batch_size(self._feeds[i]))
        found = session.memory_peaks([self._feeds[i] for i in order])
        peaks = dict(zip(order, found, strict=True))
        return Timed(model, session, [peaks[i] for i in range(len(order))])

    def measure(self, result: Timed) -> tuple[tuple[Latency, ...], tuple[str, ...]]:
        """Latencies in the order of the feeds, each followed by the one with a CUDA graph; and notes.

        Raises:
            ModelError: ONNX Runtime cannot run the result.
        """
        sessions = (self._original.session, self._control.session, result.session)
        captured = () if self._options.device == CPU else self._capture(result.model)
        latencies: list[Latency] = []
        notes = [captured] if isinstance(captured, str) else []
        for feed, before, after in zip(self._feeds, self._control.peaks, result.peaks, strict=True):
            found = self._measure(sessions, feed)
            latencies.append(replace(found, before_memory=before, after_memory=after))
            if isinstance(captured, tuple) and captured:
                try:
                    latencies.append(self._measure(captured, feed))
                except ModelError as error:
                    notes.append(f"batch {batch_size(feed)} was not timed with a CUDA graph: {error}")
        notes += self._elsewhere(result.session)
        if reasons := {reason for latency in latencies for reason in latency.gpu_throttling}:
            notes.append(f"the GPU was throttled while timing: {', '.join(sorted(reasons))}")
        return tuple(latencies), tuple(notes)

    def _measure(self, sessions: Sequence[Session], feed: Feed) -> Latency:
        original, control, result = sessions
        options = self._options
        return measure_latency(original, control, result, feed, options.seconds, self._progress, options.seed)

    def _capture(self, result: Model) -> tuple[Session, ...] | str:
        """Sessions with CUDA graphs, or why there are none."""
        gpu = replace(self._gpu, cuda_graph=True)
        try:
            if self._captured is None:
                original = self._control.model
                self._captured = (self._open(original, gpu), self._open(original, gpu))
            return (*self._captured, self._open(result, gpu))
        except ModelError as error:
            return f"not timed with CUDA graphs: {error}"

    def _open(self, model: Model, gpu: GpuOptions) -> Session:
        return Session(model, self._options.device, self._options.threads, gpu=gpu)

    def _elsewhere(self, result: Session) -> Iterator[str]:
        """What does not run where it was asked to."""
        for name, session in (("original", self._original.session), ("result", result)):
            placed = session.placement()
            others = {key: n for key, n in placed.items() if key != session.device.provider}
            if others:
                counts = ", ".join(f"{n} with {key}" for key, n in sorted(others.items()))
                total, device = sum(placed.values()), session.device.name
                yield f"of {total} nodes of the {name} some do not run on {device}: {counts}"


def timing_feeds(inputs: Sequence[Value], feed: Feed, batches: Sequence[int]) -> tuple[list[Feed], list[str]]:
    """One feed a batch size, and what the user should know.

    Args:
        inputs: of the model; where the first axis of one has a fixed size, only `feed` itself is timed.
        feed: samples to take; they are repeated where there are too few.
        batches: the sizes.

    Raises:
        UsageError: a batch is too large.
    """
    if any(value.shape and isinstance(value.shape[0], int) for value in inputs):
        fixed = batch_size(feed)
        others = [str(batch) for batch in batches if batch != fixed]
        note = f"the model fixes the batch size: timed at {fixed}, not at {', '.join(others)}"
        return [feed], [note] if others else []
    return [_resized(feed, batch) for batch in batches], []


def _resized(feed: Feed, batch: int) -> Feed:
    for name, array in feed.items():
        if array.ndim and batch * (array.size // len(array)) > MOST_NUMBERS:
            raise UsageError(f"input '{name}' is too large at batch {batch}; give a smaller --batch")
    return {
        name: array[np.arange(batch) % len(array)] if array.ndim else array for name, array in feed.items()
    }
