"""`Report`: everything that was asked, done and measured, as data."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

from onnxlr.hardware import processor_name
from onnxlr.latency import Latency
from onnxlr.layer import Skipped
from onnxlr.plan import BeforeAfter, Milliseconds, PlannedLayer
from onnxlr.report.tradeoff import TradeOff
from onnxlr.runtime import ort_version
from onnxlr.spectra import Spectrum
from onnxlr.validation import Validation

__all__ = ["LayerTime", "Report", "Totals", "installed_versions", "machine"]

SCHEMA_VERSION = 1
"""Fields are only ever added within a version."""


@dataclass(frozen=True, slots=True)
class Totals:
    """Counted from the two graphs, not predicted.

    Attributes:
        params: elements of all floating-point tensors.
        macs: multiply-accumulates of all Convs, Gemms and MatMuls with a constant weight, for one run at the
            model's batch size (symbolic: 1); None where sizes are unknown.
        bytes: size of the model with its external data.
    """

    params: BeforeAfter
    macs: BeforeAfter
    bytes: BeforeAfter


@dataclass(frozen=True, slots=True)
class LayerTime:
    """What a replaced layer takes within the model, from ONNX Runtime's profile.

    Attributes:
        name: of the layer.
        before: lower quartile of one run of the original's layer, in milliseconds.
        after: of the chain in its place.
    """

    name: str
    before: float
    after: float


@dataclass(frozen=True, slots=True)
class Report:
    """What one optimization did.

    Attributes:
        model: `name` and `hash` of the original.
        settings: the options it ran with.
        layers: what was factorized, in graph order.
        skipped: what was left alone, and why.
        totals: see `Totals`.
        validation: None if it was not asked for.
        latency: at the first batch size, without CUDA graph; None if it was not asked for.
        notes: what the user should know, one line each.
        versions: of onnxlr and what it stands on, and the machine.
        predicted_rel_l2: see `Plan.predicted_rel_l2`.
        latencies: at every batch size, on a GPU also with a CUDA graph; `latency` is the first.
        predicted_latency: see `Plan.latency`.
        layer_times: of replaced layers that could be told apart; None if it was not asked for.
        training: `settings` and `history` of a training; of low-rank training also `method`, `start` and
            `cut`. None if nothing was trained.
        spectra: of the layers whose errors at all ranks were known.
        curve: of a sweep of the model, to be shown beside the result; None if there is none.
    """

    model: Mapping[str, str]
    settings: Mapping[str, Any]
    layers: tuple[PlannedLayer, ...]
    skipped: tuple[Skipped, ...]
    totals: Totals
    validation: Validation | None
    latency: Latency | None
    notes: tuple[str, ...]
    versions: Mapping[str, str]
    predicted_rel_l2: float | None = None
    latencies: tuple[Latency, ...] = ()
    layer_times: tuple[LayerTime, ...] | None = None
    predicted_latency: Milliseconds | None = None
    training: Mapping[str, Any] | None = None
    spectra: tuple[Spectrum, ...] = ()
    curve: TradeOff | None = None

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data for JSON; see docs/report.md for the schema."""
        data = {"schema_version": SCHEMA_VERSION, **asdict(self)}
        if self.validation is not None:
            data["validation"] = self.validation.to_dict()
        return data


def installed_versions() -> dict[str, str]:
    """Versions of onnxlr and of the libraries that its results depend on, and the machine."""
    names = ("onnxlr", "onnx", "onnx-graphsurgeon", "numpy", "scipy")
    system = {"python": platform.python_version(), **machine(), "onnxruntime": ort_version()}
    return {name: version(name) for name in names} | system


def machine() -> dict[str, str]:
    """Operating system and processor, as far as the system tells."""
    return {"platform": platform.platform(), "processor": processor_name()}
