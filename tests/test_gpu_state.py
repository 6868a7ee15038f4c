"""Clock and throttling through a stand-in for pynvml: there is no GPU here, and often no NVML."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from onnxlr.gpu_state import GpuWatch


class NvmlError(Exception):
    pass


class Nvml(SimpleNamespace):
    """As many GPUs as names; every look finds the next clock and set of reasons."""

    def __init__(self, names: tuple[str, ...] = ("H100",), broken: str = "") -> None:
        self.closed = 0
        states = iter([(1980, 0x1), (1755, 0x4 | 0x20), (1900, 0x2)])
        current: list[tuple[int, int]] = []

        def clock(*_: Any) -> int:
            current.append(next(states))
            return current[-1][0]

        functions: dict[str, Any] = {
            "nvmlInit": lambda: None,
            "nvmlShutdown": self.close,
            "nvmlDeviceGetCount": lambda: len(names),
            "nvmlDeviceGetHandleByIndex": lambda i: i,
            "nvmlDeviceGetHandleByUUID": lambda uuid: int(uuid.removeprefix("GPU-")),
            "nvmlDeviceGetName": lambda handle: names[handle],
            "nvmlDeviceGetClockInfo": clock,
            "nvmlDeviceGetCurrentClocksThrottleReasons": lambda _: current[-1][1],
        }
        if broken:
            functions[broken] = self.fail
        super().__init__(NVMLError=NvmlError, NVML_CLOCK_SM=1, **functions)

    def close(self) -> None:
        self.closed += 1

    def fail(self, *_: Any) -> None:
        raise NvmlError("not supported")


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)


def watch(monkeypatch: pytest.MonkeyPatch, nvml: Any, active: bool = True) -> GpuWatch:
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    with GpuWatch(active) as found:
        for _ in range(3):
            found.look()
    return found


def test_clocks_and_reasons_of_all_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = Nvml()
    found = watch(monkeypatch, nvml)
    assert (found.name, found.clock) == ("H100", (1755, 1980))
    assert found.throttling == ("power cap", "thermal slowdown by software")
    assert nvml.closed == 1


@pytest.mark.parametrize("nvml", [None, Nvml(broken="nvmlInit"), Nvml(broken="nvmlDeviceGetCount")])
def test_without_nvml_nothing_is_known(monkeypatch: pytest.MonkeyPatch, nvml: Any) -> None:
    found = watch(monkeypatch, nvml)
    assert (found.name, found.clock, found.throttling) == (None, None, ())


def test_a_clock_that_is_not_supported(monkeypatch: pytest.MonkeyPatch) -> None:
    found = watch(monkeypatch, Nvml(broken="nvmlDeviceGetClockInfo"))
    assert (found.name, found.clock, found.throttling) == ("H100", None, ())


def test_a_watch_that_is_not_active(monkeypatch: pytest.MonkeyPatch) -> None:
    found = watch(monkeypatch, Nvml(), active=False)
    assert (found.name, found.clock) == (None, None)


@pytest.mark.parametrize(
    ("visible", "order", "names", "expected"),
    [
        (None, None, ("A", "A"), "A"),
        (None, None, ("A", "B"), None),
        (None, "PCI_BUS_ID", ("A", "B"), "A"),
        ("1,0", "PCI_BUS_ID", ("A", "B"), "B"),
        ("1", None, ("A", "B"), None),
        ("1", None, ("A", "A"), "A"),
        ("GPU-1", None, ("A", "B"), "B"),
        ("2", None, ("A", "A"), None),
        ("", None, ("A",), None),
    ],
)
def test_which_gpu(
    monkeypatch: pytest.MonkeyPatch,
    visible: str | None,
    order: str | None,
    names: tuple[str, ...],
    expected: str | None,
) -> None:
    """The one that CUDA counts as the first, or none where that cannot be told."""
    for variable, value in {"CUDA_VISIBLE_DEVICES": visible, "CUDA_DEVICE_ORDER": order}.items():
        if value is not None:
            monkeypatch.setenv(variable, value)
    assert watch(monkeypatch, Nvml(names)).name == expected
