"""`Result`: an optimized model, its plan and its report."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from onnx import ModelProto

from onnxlr.checking import CheckResult, Checks
from onnxlr.job import Job
from onnxlr.model_file import Model
from onnxlr.plan import Plan
from onnxlr.report import LayerTime, Report, installed_versions
from onnxlr.saving import save

__all__ = ["Result", "make_result"]


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """An optimized model.

    Attributes:
        model: the new ModelProto. Where the original has external data, what was not touched still refers to
            them, and new weights to a temporary file that lives as long as this; `save` brings both along.
        plan: what was factorized how.
        report: what was done and measured.
        loaded: the model with where its external data are.
    """

    model: ModelProto
    plan: Plan
    report: Report
    loaded: Model = field(repr=False)

    def save(self, path: str | os.PathLike[str], external_data: str = "auto") -> list[Path]:
        """Write the model; it appears whole or not at all, and may replace the original.

        Args:
            path: of the model's file; external data go to `<name>.data` beside it (`<name>.2.data` and so on
                where there is such a file: none is ever overwritten).
            external_data: `always` writes tensors above 1 KiB to a data file, `never` none, `auto` does if
                the original has external data, or if the model takes more than protobuf's 2 GB.

        Returns:
            The files written, the model's first.

        Raises:
            UsageError: it cannot be written there, or is too large for one file.

        >>> import onnxlr, os, tempfile
        >>> result = onnxlr.optimize("models/digits/digits.onnx", energy=0.9, checks=None)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     [path.name for path in result.save(os.path.join(folder, "smaller.onnx"))]
        ['smaller.onnx']
        """
        return save(self.loaded, path, external_data)


def make_result(
    job: Job,
    plan: Plan,
    model: Model,
    checks: Checks | None = None,
    checked: CheckResult | None = None,
    notes: Sequence[str] = (),
    layer_times: tuple[LayerTime, ...] | None = None,
) -> Result:
    """A result with its report.

    Args:
        job: the original.
        plan: what was done to it.
        model: the plan applied.
        checks: how it was checked; None: not at all.
        checked: what was measured.
        notes: what else the user should know.
        layer_times: of the layers that were replaced; None: not measured.
    """
    report = Report(
        model=plan.model,
        settings={**plan.settings, **({} if checks is None else {"checks": checks.to_dict()})},
        layers=plan.layers,
        skipped=plan.skipped,
        totals=job.totals(model),
        predicted_rel_l2=plan.predicted_rel_l2,
        predicted_latency=plan.latency,
        validation=checked.validation if checked else None,
        latency=checked.latency if checked else None,
        latencies=checked.latencies if checked else (),
        notes=(*job.notes, *(checked.notes if checked else ()), *notes),
        versions=installed_versions(),
        layer_times=layer_times,
        spectra=job.spectra(plan),
    )
    return Result(model.proto, plan, report, model)
