"""Clock and throttling of the GPU, through NVML. The only module that imports pynvml (nvidia-ml-py)."""

from __future__ import annotations

import os
from typing import Any, Self

__all__ = ["GpuWatch"]

_REASONS = {
    0x004: "power cap",
    0x008: "hardware slowdown",
    0x020: "thermal slowdown by software",
    0x040: "thermal slowdown by hardware",
    0x080: "power brake",
}
"""Bits of nvmlClocksEventReasons that mean throttling; idling and clocks set by the user do not."""


class GpuWatch:
    """Looks at the GPU that ONNX Runtime uses, while the context is open; nothing is known without NVML.

    Args:
        active: False for a watch that looks at nothing.

    Attributes:
        name: of the GPU; None if it is not known.
    """

    def __init__(self, active: bool = True) -> None:
        self.name: str | None = None
        self._nvml: Any = _load() if active else None
        self._handle: Any = None
        self._clocks: list[int] = []
        self._reasons = 0

    def __enter__(self) -> Self:
        if self._nvml is not None:
            try:
                self._nvml.nvmlInit()
            except self._nvml.NVMLError:  # no driver
                self._nvml = None
        if self._nvml is not None:
            try:
                self._handle = _find_gpu(self._nvml)
                self.name = None if self._handle is None else str(self._nvml.nvmlDeviceGetName(self._handle))
            except self._nvml.NVMLError:
                self._handle = None
        return self

    def __exit__(self, *_: object) -> None:
        if self._nvml is not None:
            self._nvml.nvmlShutdown()
            self._handle = None

    def look(self) -> None:
        """Take down the clock of the multiprocessors, and whether they are throttled."""
        if self._handle is None:
            return
        try:
            self._clocks.append(self._nvml.nvmlDeviceGetClockInfo(self._handle, self._nvml.NVML_CLOCK_SM))
            self._reasons |= self._nvml.nvmlDeviceGetCurrentClocksThrottleReasons(self._handle)
        except self._nvml.NVMLError:  # not supported by this GPU
            self._handle = None

    @property
    def clock(self) -> tuple[int, int] | None:
        """Lowest and highest clock that was seen, in MHz."""
        return (min(self._clocks), max(self._clocks)) if self._clocks else None

    @property
    def throttling(self) -> tuple[str, ...]:
        """Why the GPU was seen to be throttled."""
        return tuple(reason for bit, reason in _REASONS.items() if self._reasons & bit)


def _load() -> Any:
    """The module pynvml, or None."""
    try:
        import pynvml  # noqa: PLC0415 - optional
    except ImportError:
        return None
    return pynvml


def _find_gpu(nvml: Any) -> Any:
    """NVML's handle of CUDA's first GPU; None where it cannot be told which one that is.

    CUDA_VISIBLE_DEVICES names it by UUID or by a number. Numbers mean the same GPU to CUDA and NVML if all
    are of one kind or CUDA_DEVICE_ORDER says so.
    """
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    if not first.isdecimal():
        return nvml.nvmlDeviceGetHandleByUUID(first) if first else None
    handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
    same = len({nvml.nvmlDeviceGetName(handle) for handle in handles}) == 1
    if int(first) >= len(handles) or not (same or os.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"):
        return None
    return handles[int(first)]
