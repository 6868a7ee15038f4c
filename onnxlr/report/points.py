"""`SweepPoint`: what one budget was spent on and what that does, as data and as a row of CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from onnxlr.latency import Latency
from onnxlr.plan import BeforeAfter, Milliseconds, Plan
from onnxlr.report.schema import Totals
from onnxlr.report.tradeoff import TradeOffPoint, labelled, largest_rel_l2
from onnxlr.validation import OutputDifference, Validation

__all__ = ["UNITS", "SweepPoint", "Unreachable", "kept", "kept_of_unit", "to_csv"]

UNITS: Mapping[str, str] = {"macs": "MACs", "params": "parameters", "latency": "predicted latency"}
"""What budgets may be fractions of, by its name in options, as messages call it."""


@dataclass(frozen=True, slots=True)
class SweepPoint:
    """One budget: what it was spent on, and what that does.

    Attributes:
        target: the fraction to keep at most.
        plan: the best one within it.
        totals: counted from the two graphs.
        validation: None if the models were not run.
        latency: at the first batch size, without CUDA graph; None if it was not asked for.
        latencies: at every batch size; `latency` is the first.
    """

    target: float
    plan: Plan
    totals: Totals
    validation: Validation | None
    latency: Latency | None
    latencies: tuple[Latency, ...] = ()

    @property
    def plan_file(self) -> str:
        """Name of the plan's file."""
        return f"plan-{self.target:g}.json"

    @property
    def outputs(self) -> tuple[OutputDifference, ...]:
        """Differences of the outputs; none if the models were not run."""
        return () if self.validation is None else self.validation.outputs

    @property
    def rel_l2(self) -> float | None:
        """Relative L2 error of the output that has the largest; NaN if one is."""
        return largest_rel_l2(self.outputs)

    @property
    def agreement(self) -> float | None:
        """Top-1 agreement of the class-like output that has the least."""
        return min((o.top1_agreement for o in self.outputs if o.top1_agreement is not None), default=None)

    @property
    def labelled(self) -> OutputDifference | None:
        """The output whose accuracy counts."""
        return labelled(self.outputs)

    @property
    def top1(self) -> float | None:
        """Accuracy of that output now."""
        return None if self.labelled is None else self.labelled.top1_after

    @property
    def speedup(self) -> float | None:
        """See `Latency`."""
        return None if self.latency is None else self.latency.speedup

    def kept(self, unit: str) -> float | None:
        """The fraction that is left, of times the predicted one; `unit` is macs, params or latency."""
        return kept_of_unit(self.totals, self.plan.latency, unit)

    def on_curve(self, unit: str) -> TradeOffPoint:
        """The point in few numbers."""
        low, high = (None, None) if self.latency is None else self.latency.interval
        predicted = self.plan.predicted_rel_l2
        return TradeOffPoint(self.kept(unit), self.rel_l2, predicted, self.top1, self.speedup, low, high)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {
            "target": self.target,
            **asdict(self.totals),
            "predicted_rel_l2": self.plan.predicted_rel_l2,
            "outputs": [asdict(output) for output in self.outputs],
            "violations": [] if self.validation is None else list(self.validation.violations),
            "latency": None if self.latency is None else asdict(self.latency),
            "latencies": [asdict(latency) for latency in self.latencies],
            "plan": self.plan_file,
        }


@dataclass(frozen=True, slots=True)
class Unreachable:
    """A budget that no plan keeps, and why."""

    target: float
    reason: str


def kept(value: BeforeAfter) -> float | None:
    """The fraction that is left; None where it is not known."""
    return value.after / value.before if value.before and value.after is not None else None


def kept_of_unit(totals: Totals, predicted: Milliseconds | None, unit: str) -> float | None:
    """The fraction of macs or params that is left, or of the latency that is predicted."""
    if unit != "latency":
        return kept(getattr(totals, unit))
    return predicted.after / predicted.before if predicted else None


def to_csv(points: Iterable[SweepPoint]) -> str:
    """A line a point, under a header; what is not known is empty."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows([column(point) for column in _COLUMNS.values()] for point in points)
    return file.getvalue()


def _of_latency(name: str) -> Callable[[SweepPoint], Any]:
    return lambda point: None if point.latency is None else getattr(point.latency, name)


_COLUMNS: Mapping[str, Callable[[SweepPoint], Any]] = {
    "target": lambda point: point.target,
    "macs": lambda point: point.totals.macs.after,
    "macs_kept": lambda point: kept(point.totals.macs),
    "params": lambda point: point.totals.params.after,
    "params_kept": lambda point: kept(point.totals.params),
    "bytes": lambda point: point.totals.bytes.after,
    "bytes_kept": lambda point: kept(point.totals.bytes),
    "predicted_rel_l2": lambda point: point.plan.predicted_rel_l2,
    "rel_l2": lambda point: point.rel_l2,
    "top1_agreement": lambda point: point.agreement,
    "top1_before": lambda point: None if point.labelled is None else point.labelled.top1_before,
    "top1_after": lambda point: point.top1,
    "violations": lambda point: None if point.validation is None else len(point.validation.violations),
    "ms_before": _of_latency("before"),
    "ms_after": _of_latency("after"),
    "speedup": lambda point: point.speedup,
    "speedup_low": lambda point: None if point.latency is None else point.latency.interval[0],
    "speedup_high": lambda point: None if point.latency is None else point.latency.interval[1],
    "verdict": _of_latency("verdict"),
    "plan": lambda point: point.plan_file,
}
