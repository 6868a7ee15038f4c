"""ONNX Runtime's profile of a session: events -> times of nodes, peak of memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["NodeTime", "memory_peaks", "node_times"]

_KERNEL = "_kernel_time"

Event = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class NodeTime:
    """One run of one node of the graph that ONNX Runtime made.

    Attributes:
        name: as ONNX Runtime calls it: that of a node, or of an output where it fused several.
        op_type: of the node; ReorderInput and ReorderOutput convert between layouts.
        seconds: that its kernel took.
    """

    name: str
    op_type: str
    seconds: float


def node_times(events: Iterable[Event]) -> list[NodeTime]:
    """What every node took in every run, in the order of time."""
    return [
        NodeTime(event["name"].removesuffix(_KERNEL), event["args"]["op_name"], event["dur"] / 1e6)
        for event in _kernels(events)
    ]


def memory_peaks(events: Iterable[Event], provider: str) -> list[int | None]:
    """The most that the provider's arena has had in use after each run so far, in bytes.

    None where the profile does not tell, as that of older releases.
    """
    peaks: list[int | None] = []
    peak: int | None = None
    for event in sorted(events, key=lambda event: event["ts"] + event.get("dur", 0)):
        if event["name"] == "model_run":
            peaks.append(peak)
        elif event["args"].get("provider") == provider and "mem_in_use_peak" in event["args"]:
            peak = max(peak or 0, int(event["args"]["mem_in_use_peak"]))
    return peaks


def _kernels(events: Iterable[Event]) -> Iterator[Event]:
    return (event for event in events if event["cat"] == "Node" and event["name"].endswith(_KERNEL))
