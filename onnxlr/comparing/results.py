"""What `optimize` made of each export, and why it is not the same where it is not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from onnxlr.comparing.timing import ExportLatency
from onnxlr.layer import Skipped
from onnxlr.plan import BeforeAfter, PlannedLayer
from onnxlr.report import Report, Totals

__all__ = ["OptimizedExport", "Outcome", "judge_results"]

_CLOSE = 0.01
"""Relative difference of parameters or MACs from which on it is told."""


@dataclass(frozen=True, slots=True)
class OptimizedExport:
    """One export, optimized.

    Attributes:
        name: of the model.
        layers: what was factorized, in graph order.
        skipped: what was left alone, and why.
        totals: counted from the graphs, before and after.
        rel_l2: largest relative L2 error of an output against the export's own.
        latency: None if it was not asked for.
        same_as_first: whether the same layers were factorized as in the first model, by the same schemes at
            the same ranks.
        differences: what is not as in the first model, one line each.
    """

    name: str
    layers: tuple[PlannedLayer, ...]
    skipped: tuple[Skipped, ...]
    totals: Totals
    rel_l2: float
    latency: ExportLatency | None
    same_as_first: bool
    differences: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is known of one optimized export.

    Attributes:
        name: of the model.
        report: of its optimization.
        rel_l2: see `OptimizedExport`.
        latency: see `OptimizedExport`.
        names: layers of the first model -> the layer of this one.
        operators: of the optimized model.
    """

    name: str
    report: Report
    rel_l2: float
    latency: ExportLatency | None
    names: Mapping[str, str]
    operators: Counter[str]


def judge_results(outcomes: Sequence[Outcome]) -> tuple[OptimizedExport, ...]:
    """Hold every outcome against the first one."""
    first = outcomes[0]
    found = []
    for outcome in outcomes:
        plan = list(_plan_differences(first, outcome))
        others = [*_size_differences(first, outcome), *_latency_differences(first, outcome)]
        report = outcome.report
        found.append(
            OptimizedExport(
                outcome.name,
                report.layers,
                report.skipped,
                report.totals,
                outcome.rel_l2,
                outcome.latency,
                not plan,
                (*plan, *others),
            )
        )
    return tuple(found)


def _plan_differences(first: Outcome, outcome: Outcome) -> Iterator[str]:
    mine = {layer.name: layer for layer in outcome.report.layers}
    reasons = {item.name: item.reason for item in outcome.report.skipped}
    for layer in first.report.layers:
        name = outcome.names.get(layer.name)
        own = mine.pop(name, None) if name is not None else None
        if own is None:
            why = (
                "has no counterpart" if name is None else f"is left alone: {reasons.get(name, 'not offered')}"
            )
            yield f"{layer.name} ({_choice(layer)} in {first.name}) {why}"
        elif (own.scheme, own.rank) != (layer.scheme, layer.rank):
            yield f"{layer.name}: {_choice(own)}, in {first.name} {_choice(layer)}"
    for layer in mine.values():
        yield f"{layer.name}: {_choice(layer)}, left alone in {first.name}"


def _choice(layer: PlannedLayer) -> str:
    return f"{layer.scheme} {'×'.join(map(str, layer.rank))}"


def _size_differences(first: Outcome, outcome: Outcome) -> Iterator[str]:
    for name in ("params", "macs"):
        sizes: list[BeforeAfter] = [getattr(item.report.totals, name) for item in (first, outcome)]
        before, after = sizes[0].after, sizes[1].after
        if before and after is not None and abs(after / before - 1) > _CLOSE:
            yield f"{name} {after:,}, in {first.name} {before:,}"


def _latency_differences(first: Outcome, outcome: Outcome) -> Iterator[str]:
    if outcome.latency is None or outcome.latency.as_fast:
        return
    ratio = outcome.latency.after_ratio
    more, fewer = outcome.operators - first.operators, first.operators - outcome.operators
    parts = [
        f"{count} {op} {word}"
        for counts, word in ((more, "more"), (fewer, "fewer"))
        for op, count in counts.items()
    ]
    why = f"it has {', '.join(parts)}" if parts else "its operators are the same"
    yield f"takes {ratio.median:.2f} [{ratio.low:.2f}, {ratio.high:.2f}] times as long as {first.name}: {why}"
