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
from onnxlr.report.formats import by_reason, dims, kept_percent, short_count
from onnxlr.report.points import SweepPoint, kept
from onnxlr.report.schema import LayerTime, Report, Totals
from onnxlr.report.sections import Line, Section
from onnxlr.validation import Validation

__all__ = [
    "render_checks",
    "render_inspection",
    "render_plan",
    "render_report",
    "render_sections",
    "render_sweep",
]

_STYLES = {"plain": "", "good": "bold green", "bad": "bold red", "note": "yellow", "quiet": "dim"}


def render_report(report: Report, width: int = 80) -> Iterator[RenderableType]:
    """Everything about an optimization, part by part, for a terminal of `width` columns."""
    yield from render_plan(report.layers, report.skipped, width)
    yield _totals(report.totals)
    if report.layer_times:
        yield _layer_times(report.layer_times, width)
    yield from render_checks(report.validation, report.latencies, report.notes)
    if report.predicted_rel_l2 is not None and report.validation is not None:
        yield Text(f"relative L2 that the layers' errors predicted: {report.predicted_rel_l2:.3g}")
    if report.predicted_latency is not None:
        predicted = report.predicted_latency
        yield Text(
            f"latency that was predicted: {predicted.before:.3g} ms before, {predicted.after:.3g} ms after: "
            f"{predicted.before / predicted.after:.2f}x"
        )


def render_plan(
    layers: Sequence[PlannedLayer], skipped: Sequence[Skipped], width: int = 80
) -> Iterator[RenderableType]:
    """The factorized layers, and the others by reason."""
    rows = [
        (
            layer.name,
            dims(layer.weight_shape),
            layer.scheme,
            dims(layer.rank),
            kept_percent(layer.params),
            kept_percent(layer.macs),
            f"{layer.energy:.3f}",
            f"{layer.error:.3f}",
        )
        for layer in layers
    ]
    if rows:
        columns = ("layer", "weight", "scheme", ">rank", ">params", ">MACs", ">energy", ">error")
        yield _table(columns, rows, width)
    yield Text(f"{len(layers)} layers factorized, {len(skipped)} left alone", style="bold")
    yield from _reasons(skipped)


def render_checks(
    validation: Validation | None, latencies: Sequence[Latency], notes: Iterable[str]
) -> Iterator[RenderableType]:
    """Output differences, timing, and what the user should know."""
    if validation is not None:
        yield from _validation(validation)
    if latencies:
        yield _latency(latencies[0])
        yield from map(_another_latency, latencies[1:])
    for note in notes:
        yield Text(f"Note: {note}", style="yellow")


def render_inspection(inspection: Inspection, width: int = 80) -> Iterator[RenderableType]:
    """Every layer with its cost, and for each scheme the rank that each energy needs."""
    rows = [row for layer in inspection.layers for row in _inspection_rows(layer, len(inspection.energies))]
    if rows:
        energies = (f">{energy:g}" for energy in inspection.energies)
        yield _table(("layer", "weight", ">params", ">MACs", *energies), rows, width)
        yield Text("Numbers on the right: rank that keeps this much of the energy; - if that does not pay.")
    yield Text(f"{len(inspection.layers)} layers, {len(inspection.skipped)} left alone", style="bold")
    yield from _reasons(inspection.skipped)


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
        yield Text(f"Note: {note}", style="yellow")


def render_sections(sections: Iterable[Section], width: int = 80) -> Iterator[RenderableType]:
    """Sections one below the other, for a terminal of `width` columns."""
    for section in sections:
        yield Text(section.title, style="bold underline")
        for part in section.parts:
            if isinstance(part, Line):
                yield Text(part.text, style=_STYLES[part.kind])
            elif part.rows:
                yield _table(part.columns, part.rows, width)
        yield Text()


def _point_row(point: SweepPoint) -> tuple[str, ...]:
    """What is not known is empty."""
    predicted, latency = point.plan.predicted_rel_l2, point.latency
    speedup = "" if latency is None else f"{latency.speedup:.2f}x [{_range(latency)}]"
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


def _range(latency: Latency) -> str:
    low, high = latency.interval
    return f"{low:.2f}, {high:.2f}"


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
        table.add_row(Text(_short(first, width - taken - 3)), *rest)
    return table


def _totals(totals: Totals) -> Table:
    rows = []
    for name, value in (("params", totals.params), ("MACs", totals.macs), ("bytes", totals.bytes)):
        counts = ("?" if count is None else short_count(count) for count in (value.before, value.after))
        rows.append((name, *counts, kept_percent(value)))
    return _table(("total", ">before", ">after", ">kept"), rows, 80)


def _validation(validation: Validation) -> Iterator[RenderableType]:
    rows = [
        (
            output.name,
            f"{output.max_abs:.3g}",
            f"{output.rel_l2:.3g}",
            f"{output.cosine:.6f}",
            "" if output.top1_agreement is None else f"{output.top1_agreement:.2%}",
        )
        for output in validation.outputs
    ]
    yield _table(("output", ">max abs", ">rel. L2", ">cosine", ">top-1 agreement"), rows, 80)
    yield Text(f"on {validation.samples} samples: {validation.inputs}")
    for output in validation.outputs:
        if output.top1_before is not None:
            yield Text(f"top-1 accuracy: {output.top1_before:.2%} before, {output.top1_after:.2%} after")
    for violation in validation.violations:
        yield Text(f"FAILED: {violation}", style="bold red")


def _layer_times(times: Sequence[LayerTime], width: int) -> Table:
    rows = [
        (entry.name, f"{entry.before:.3g}", f"{entry.after:.3g}", f"{entry.before / entry.after:.2f}x")
        for entry in times
    ]
    return _table(("layer, in place", ">ms before", ">ms after", ">speed-up"), rows, width)


def _latency(latency: Latency) -> Text:
    threads = latency.threads or "default"
    text = Text(
        f"latency: {latency.before:.3g} ms before, {latency.after:.3g} ms after: "
        f"{latency.speedup:.2f}x [{_range(latency)}], noise ±{latency.noise_floor:.1%}: "
    )
    text.append(latency.verdict, _style(latency))
    text.append(f"\n  batch {latency.batch}, {latency.device}, threads: {threads}")
    if latency.before_p99 is not None and latency.after_p99 is not None:
        text.append(f", p99 {latency.before_p99:.3g} → {latency.after_p99:.3g} ms")
    if latency.before_memory is not None and latency.after_memory is not None:
        before, after = short_count(latency.before_memory), short_count(latency.after_memory)
        text.append(f"\n  peak memory: {before}B → {after}B")
    return text


def _another_latency(latency: Latency) -> Text:
    """One line: at another batch size, or at the one of the line before with a CUDA graph."""
    name = "CUDA graph" if latency.cuda_graph else f"batch {latency.batch}"
    text = Text(f"  {name}: ")
    if latency.before_throughput is not None and latency.after_throughput is not None:
        before, after = _rate(latency.before_throughput), _rate(latency.after_throughput)
        text.append(f"{before} → {after} samples/s, ")
    text.append(f"{latency.speedup:.2f}x [{_range(latency)}]: ")
    return text.append(latency.verdict.removesuffix(" beyond noise"), _style(latency))


def _style(latency: Latency) -> str:
    return {"faster": "bold green", "slower": "bold red"}.get(latency.verdict, "bold yellow")


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _reasons(skipped: Iterable[Skipped]) -> Iterator[Text]:
    """Layers by reason in short; what is left out is in the JSON."""
    for reason, names in by_reason(skipped).items():
        shown = ", ".join(_short(name) for name in names[:3]) + (", …" if len(names) > 3 else "")
        yield Text(f"  {len(names)}x {reason}: {shown}", style="dim")


def _short(name: str, limit: int = 24) -> str:
    """The end of a long name: exporters put what differs there."""
    limit = max(limit, 13)
    return name if len(name) <= limit else f"…{name[1 - limit :]}"
