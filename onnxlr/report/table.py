"""Reports as rich tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from onnxlr.inspection import InspectedLayer, Inspection
from onnxlr.latency import Latency
from onnxlr.layer import Skipped
from onnxlr.plan import PlannedLayer
from onnxlr.report.curve import Sweep
from onnxlr.report.formats import count, dims, short_count, short_name
from onnxlr.report.points import SweepPoint, kept
from onnxlr.report.schema import Report
from onnxlr.report.sections import Grid, Line, Section
from onnxlr.report.summary import check_sections, interval, plan_section, reasons, report_sections
from onnxlr.validation import Validation

__all__ = [
    "render_checks",
    "render_inspection",
    "render_plan",
    "render_report",
    "render_sections",
    "render_sweep",
]

_STYLES = {
    "plain": "",
    "good": "bold green",
    "strong": "bold",
    "bad": "bold red",
    "note": "yellow",
    "quiet": "dim",
}


def render_report(report: Report, width: int = 80) -> Iterator[RenderableType]:
    """Everything about an optimization, part by part, for a terminal of `width` columns."""
    yield from render_sections(report_sections(report, complete=False), width)


def render_plan(
    layers: Sequence[PlannedLayer], skipped: Sequence[Skipped], width: int = 80
) -> Iterator[RenderableType]:
    """The factorized layers, and the others by reason."""
    yield from render_sections([plan_section(layers, skipped, complete=False)], width)


def render_checks(
    validation: Validation | None, latencies: Sequence[Latency], notes: Iterable[str]
) -> Iterator[RenderableType]:
    """Output differences, timing, and what the user should know."""
    yield from render_sections(check_sections(validation, latencies, notes))


def render_inspection(inspection: Inspection, width: int = 80) -> Iterator[RenderableType]:
    """Every layer with its cost, and for each scheme the rank that each energy needs."""
    rows = [row for layer in inspection.layers for row in _inspection_rows(layer, len(inspection.energies))]
    if rows:
        energies = (f">{energy:g}" for energy in inspection.energies)
        yield _table(("layer", "weight", ">params", ">MACs", *energies), rows, width)
        yield Text("Numbers on the right: rank that keeps this much of the energy; - if that does not pay.")
    yield Text(
        f"{count(len(inspection.layers), 'layer')}, {len(inspection.skipped)} left alone", style="bold"
    )
    yield from render_sections([Section("Left alone", reasons(inspection.skipped, complete=False))], 80)


def render_sweep(sweep: Sweep) -> Iterator[RenderableType]:
    """A row a point, and the budgets that cannot be reached."""
    columns = ("target", ">MACs", ">params", ">predicted", ">rel. L2", ">agree", ">top-1", ">speed-up")
    rows = [_point_row(point) for point in sweep.points]
    used = [i for i in range(len(columns)) if any(row[i] for row in rows)]
    yield _table([columns[i] for i in used], [[row[i] for i in used] for row in rows], 80)
    first = sweep.points[0]
    if first.validation is not None:
        yield Text(f"on {first.validation.samples} samples: {first.validation.inputs}")
    if first.labelled is not None and first.labelled.top1_before is not None:
        yield Text(f"top-1 accuracy of the original: {first.labelled.top1_before:.2%}")
    for point in sweep.points:
        if point.validation is not None and not point.validation.passed:
            yield Text(f"{point.target:g} FAILED: {'; '.join(point.validation.violations)}", style="bold red")
    if sweep.unreachable:
        targets = ", ".join(f"{item.target:g}" for item in sweep.unreachable)
        yield Text(f"cannot be reached: {targets} ({sweep.unreachable[0].reason})", style="yellow")
    for note in sweep.notes:
        yield Text(note, style="yellow")


def render_sections(sections: Iterable[Section], width: int = 80) -> Iterator[RenderableType]:
    """Sections one below the other, for a terminal of `width` columns."""
    for section in sections:
        yield Text(section.title, style="bold underline")
        for part in section.parts:
            if isinstance(part, Line):
                yield Text(part.text, style=_STYLES[part.kind])
            elif isinstance(part, Grid) and part.rows:
                yield _table(part.columns, part.rows, width)
        if not (section.parts and isinstance(section.parts[-1], Grid)):  # a table ends with an empty line
            yield Text()


def _point_row(point: SweepPoint) -> tuple[str, ...]:
    """What is not known is empty."""
    predicted, latency = point.plan.predicted_rel_l2, point.latency
    speedup = "" if latency is None else f"{latency.speedup:.2f}x [{interval(latency)}]"
    return (
        f"{point.target:g}",
        _known(kept(point.totals.macs), ".1%"),
        _known(kept(point.totals.params), ".1%"),
        _known(predicted, ".3g"),
        _known(point.rel_l2, ".3g"),
        _known(point.agreement, ".2%"),
        _known(point.top1, ".2%"),
        speedup,
    )


def _known(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _inspection_rows(layer: InspectedLayer, energies: int) -> Iterator[tuple[str, ...]]:
    macs = "?" if layer.macs is None else short_count(layer.macs)
    yield layer.name, dims(layer.weight_shape), short_count(layer.params), macs, *[""] * energies
    for offer in layer.schemes:
        ranks = ("-" if rank is None else dims(rank) for rank in offer.ranks)
        yield f"  {offer.scheme}", "", "", "", *ranks


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> Table:
    """A table; a leading > aligns a column to the right, and the first column gets what the others leave."""
    table = Table(box=box.SIMPLE_HEAD, padding=0)
    for column in columns:
        name = column.removeprefix(">")
        table.add_column(name, justify="left" if name == column else "right", no_wrap=True)
    # one blank between columns and at either edge
    taken = sum(max(len(cell) for cell in cells) + 1 for cells in list(zip(columns, *rows, strict=True))[1:])
    for first, *rest in rows:
        table.add_row(Text(short_name(first, width - taken - 3)), *rest)
    return table
