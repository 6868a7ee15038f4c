"""Verdicts of the paired timing on sessions that take a known time on a fake clock."""

import time
from collections.abc import Callable, Iterator
from typing import cast

import numpy as np
import pytest

from onnxlr import latency
from onnxlr.gpu_state import GpuWatch
from onnxlr.latency import Latency, measure_latency
from onnxlr.parallel import no_progress
from onnxlr.providers import CPU, CUDA, TENSORRT, Device, GpuOptions
from onnxlr.runtime import Session

FEED = {"x": np.zeros((4, 3), np.float32)}


class Clock:
    """Replaces time.perf_counter and time.process_time; they only go on when somebody computes.

    Computing takes two cores.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.calls: list[str] = []
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(time, "process_time", lambda: 2 * self.now)

    def session(
        self,
        name: str,
        seconds: Callable[[], float],
        device: Device = Device("cpu", "Some"),  # noqa: B008 - frozen
        gpu: GpuOptions = GpuOptions(),
    ) -> Session:
        def run() -> None:
            self.calls.append(name)
            self.now += seconds()

        fields = {"repeat": lambda *_: run, "device": device, "threads": 2, "gpu": gpu}
        return cast(Session, type("Fake", (), fields)())


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def jitter(seconds: float, spread: float, seed: int) -> Callable[[], float]:
    rng = np.random.default_rng(seed)
    return lambda: seconds * float(np.exp(spread * rng.standard_normal()))


def measure(clock: Clock, before: float, after: float, spread: float, seconds: float = 2.0) -> Latency:
    sessions = [
        clock.session(name, jitter(mean, spread, seed))
        for seed, (name, mean) in enumerate({"before": before, "again": before, "after": after}.items())
    ]
    return measure_latency(*sessions, FEED, seconds, no_progress)


FASTER, SLOWER, SAME = "faster", "slower", "no difference beyond noise"

VERDICTS: list[tuple[float, float, float, str]] = [
    (0.010, 0.005, 0.0, FASTER),
    (0.010, 0.020, 0.0, SLOWER),
    (0.010, 0.010, 0.0, SAME),
    (0.010, 0.005, 0.1, FASTER),
    (0.010, 0.020, 0.1, SLOWER),
    (0.010, 0.010, 0.1, SAME),
    (0.010, 0.0099, 0.3, SAME),
    (0.010, 0.0101, 0.3, SAME),
    (0.010, 0.008, 0.02, FASTER),
    (0.010, 0.0125, 0.02, SLOWER),
]


@pytest.mark.parametrize(("before", "after", "spread", "verdict"), VERDICTS)
def test_verdict(clock: Clock, before: float, after: float, spread: float, verdict: str) -> None:
    found = measure(clock, before, after, spread)
    assert found.verdict == verdict
    low, high = found.interval
    assert low <= found.speedup <= high
    assert found.speedup == pytest.approx(before / after, rel=0.35 * spread + 1e-9)
    assert found.before == pytest.approx(before * 1e3, rel=spread + 1e-9)
    assert found.after == pytest.approx(after * 1e3, rel=spread + 1e-9)


@pytest.mark.parametrize("seed", range(8))
def test_identical_models_never_differ(clock: Clock, seed: int) -> None:
    """A/A/A at 20 % jitter: whatever the seed, nothing is claimed."""
    same = jitter(0.01, 0.2, 100 + seed)
    sessions = [clock.session(name, same) for name in "abc"]
    found = measure_latency(*sessions, FEED, 1.0, no_progress, seed)
    assert found.verdict == SAME
    assert found.noise_floor > 0


def test_drift_cancels(clock: Clock) -> None:
    """The machine becomes five times slower during the measurement."""

    def slower(seconds: float) -> Callable[[], float]:
        return lambda: seconds * (1 + (clock.now - 1000) / 2)

    sessions = [clock.session(name, slower(s)) for name, s in {"a": 0.010, "b": 0.010, "c": 0.008}.items()]
    found = measure_latency(*sessions, FEED, 2.0, no_progress)
    assert found.verdict == FASTER
    assert found.speedup == pytest.approx(1.25, rel=0.02)


def test_a_control_that_differs_raises_the_floor(clock: Clock) -> None:
    """Two sessions of the original that are 30 % apart: 10 % of the result prove nothing."""
    means = {"before": 0.0100, "again": 0.0130, "after": 0.0105}
    sessions = [clock.session(name, jitter(mean, 0.01, i)) for i, (name, mean) in enumerate(means.items())]
    found = measure_latency(*sessions, FEED, 1.0, no_progress)
    assert found.noise_floor == pytest.approx(1 - 10 / 13, abs=0.02)
    assert found.verdict == SAME


@pytest.mark.parametrize(("seconds", "rounds"), [(0.0, 15), (0.5, 15), (3.0, 100), (1e6, 400)])
def test_rounds(clock: Clock, seconds: float, rounds: int) -> None:
    done: list[tuple[str, int, int]] = []
    sessions = [clock.session(name, lambda: 0.01) for name in "abc"]
    found = measure_latency(*sessions, FEED, seconds, lambda *step: done.append(step))
    assert abs(found.rounds - rounds) <= 1
    assert done == [("Timing", i + 1, found.rounds) for i in range(found.rounds)]
    assert all(clock.calls.count(name) == found.rounds + 2 for name in "abc")


def test_every_round_runs_all_three_in_changing_order(clock: Clock) -> None:
    sessions = [clock.session(name, lambda: 0.01) for name in "abc"]
    measure_latency(*sessions, FEED, 3.0, no_progress)
    timed = clock.calls[6:]  # after a warm-up and a round to estimate
    orders = {"".join(timed[i : i + 3]) for i in range(0, len(timed), 3)}
    assert orders == {"abc", "acb", "bac", "bca", "cab", "cba"}


def test_what_is_reported_of_the_sessions(clock: Clock) -> None:
    found = measure(clock, 0.01, 0.01, 0.0)
    assert (found.device, found.provider, found.threads, found.batch) == ("cpu", "Some", 2, 4)


def test_a_scalar_first_input(clock: Clock) -> None:
    sessions = [clock.session(name, lambda: 0.01) for name in "abc"]
    feed = {"scale": np.zeros(()), **FEED}
    assert measure_latency(*sessions, feed, 0.0, no_progress).batch == 4


def cycle(*seconds: float) -> Callable[[], float]:
    def forever() -> Iterator[float]:
        while True:
            yield from seconds

    return forever().__next__


def test_percentiles_throughput_and_cpu_time(clock: Clock) -> None:
    """One run of ten takes ten times as long: the median does not show it, p99 does."""
    sessions = [
        clock.session(name, cycle(*[mean] * 9, 10 * mean))
        for name, mean in {"a": 0.010, "b": 0.010, "c": 0.005}.items()
    ]
    found = measure_latency(*sessions, FEED, 4.0, no_progress)
    assert found.rounds > 100
    assert (found.before, found.after) == pytest.approx((10, 5))
    assert (found.before_p99, found.after_p99) == pytest.approx((100, 50))
    assert found.before_p90 is not None
    assert 10 - 1e-9 <= found.before_p90 <= 100
    assert (found.before_cpu, found.after_cpu) == pytest.approx((20, 10))
    assert (found.before_throughput, found.after_throughput) == pytest.approx((400, 800))


@pytest.mark.parametrize(
    ("device", "gpu", "tf32", "cuda_graph", "prefer_nhwc"),
    [
        (CPU, GpuOptions(True, True, True), None, None, None),
        (CUDA, GpuOptions(tf32=True), True, False, False),
        (CUDA, GpuOptions(cuda_graph=True, prefer_nhwc=True), False, True, True),
        (TENSORRT, GpuOptions(tf32=True, cuda_graph=True), None, True, False),
    ],
)
def test_how_a_gpu_was_used(
    clock: Clock,
    device: Device,
    gpu: GpuOptions,
    tf32: bool | None,
    cuda_graph: bool | None,
    prefer_nhwc: bool | None,
) -> None:
    sessions = [clock.session(name, lambda: 0.01, device, gpu) for name in "abc"]
    found = measure_latency(*sessions, FEED, 0.0, no_progress)
    assert (found.tf32, found.cuda_graph, found.prefer_nhwc) == (tf32, cuda_graph, prefer_nhwc)


class Watch(GpuWatch):
    """A GPU whose clock falls at every look; keeps count of them."""

    looks = 0

    def look(self) -> None:
        self.name = "Some GPU"
        Watch.looks += 1
        self._clocks.append(2000 - Watch.looks)
        self._reasons = 0x20


@pytest.mark.parametrize("rounds", [15, 100, 400])
def test_the_gpu_is_watched_while_timing(clock: Clock, monkeypatch: pytest.MonkeyPatch, rounds: int) -> None:
    monkeypatch.setattr(latency, "GpuWatch", Watch)
    monkeypatch.setattr(Watch, "looks", 0)
    sessions = [clock.session(name, lambda: 0.01, CUDA) for name in "abc"]
    found = measure_latency(*sessions, FEED, 0.03 * (rounds + 0.5), no_progress)
    assert found.rounds == rounds
    assert 10 <= Watch.looks <= 15
    assert found.gpu_name == "Some GPU"
    assert found.gpu_clock == (2000 - Watch.looks, 1999)
    assert found.gpu_throttling == ("thermal slowdown by software",)
