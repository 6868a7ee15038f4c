"""Report -> sections: what was replaced, what that saves, what it costs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from onnxlr.latency import Latency
from onnxlr.layer import Skipped
from onnxlr.plan import PlannedLayer
from onnxlr.report.formats import by_reason, count, dims, kept_percent, short_count, short_name
from onnxlr.report.schema import LayerTime, Report
from onnxlr.report.sections import Grid, Line, Section
from onnxlr.report.tradeoff import labelled, largest_rel_l2
from onnxlr.validation import Validation

__all__ = ["before_after_section", "check_sections", "interval", "plan_section", "reasons", "report_sections"]

_SHOWN = 3
"""Layers of a reason that are named where not all are."""


def report_sections(report: Report, complete: bool = True) -> Iterator[Section]:
    """Everything about an optimization.

    Args:
        report: what was done and measured.
        complete: whether to name all layers that were left alone, and how and where it was made.
    """
    yield plan_section(report.layers, report.skipped, complete)
    yield before_after_section(report)
    if report.layer_times:
        yield Section("Layers in place", [_layer_times(report.layer_times)])
    if report.training is not None:
        yield Section("Training", list(_training(report.training)))
    yield from check_sections(report.validation, report.latencies, report.notes)
    if predictions := list(_predictions(report)):
        yield Section("Predicted", predictions)
    if complete:
        yield Section("How", [_pairs("setting", report.settings), _pairs("version", report.versions)])


def plan_section(
    layers: Sequence[PlannedLayer], skipped: Sequence[Skipped], complete: bool = True
) -> Section:
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
    columns = ("layer", "weight", "scheme", ">rank", ">params", ">MACs", ">energy", ">error")
    told = Line(f"{count(len(layers), 'layer')} factorized, {len(skipped)} left alone", "strong")
    return Section("Layers", [Grid(columns, rows), told, *reasons(skipped, complete)])


def before_after_section(report: Report) -> Section:
    """What was saved, and what that costs: the one table that everyone looks for."""
    rows = list(_before_after(report))
    return Section("Before and after", [Grid(("total", ">before", ">after", ">kept"), rows)])


def check_sections(
    validation: Validation | None,
    latencies: Sequence[Latency],
    notes: Iterable[str],
) -> Iterator[Section]:
    """Output differences, timing, and what the user should know."""
    if validation is not None:
        yield Section("Outputs", list(_validation(validation)))
    if latencies:
        yield Section("Latency", [*_latency(latencies[0]), *map(_another_latency, latencies[1:])])
    if told := [Line(note, "note") for note in notes]:
        yield Section("Notes", told)


def reasons(skipped: Iterable[Skipped], complete: bool = True) -> list[Line]:
    """Layers that were left alone, by reason in short; some of each, or all."""
    lines = []
    for reason, names in by_reason(skipped).items():
        shown = names if complete else [short_name(name) for name in names[:_SHOWN]]
        more = ", …" if len(names) > len(shown) else ""
        lines.append(Line(f"  {len(names)}x {reason}: {', '.join(shown)}{more}", "quiet"))
    return lines


def _before_after(report: Report) -> Iterator[tuple[str, str, str, str]]:
    totals = report.totals
    for name, value in (("params", totals.params), ("MACs", totals.macs), ("bytes", totals.bytes)):
        before, after = (
            "?" if count is None else short_count(count) for count in (value.before, value.after)
        )
        yield name, before, after, kept_percent(value)
    if (latency := report.latency) is not None:
        speedup = f"{latency.speedup:.2f}x [{interval(latency)}]"
        yield "latency, ms", f"{latency.before:.3g}", f"{latency.after:.3g}", speedup
    outputs = () if report.validation is None else report.validation.outputs
    if (error := largest_rel_l2(outputs)) is not None:
        yield "relative L2 error", "", f"{error:.3g}", ""
    found = labelled(outputs)
    if found is not None and found.top1_before is not None and found.top1_after is not None:
        change = f"{100 * (found.top1_after - found.top1_before):+.2f} points"
        yield "top-1 accuracy", f"{found.top1_before:.2%}", f"{found.top1_after:.2%}", change


def _layer_times(times: Sequence[LayerTime]) -> Grid:
    rows = [
        (entry.name, f"{entry.before:.3g}", f"{entry.after:.3g}", f"{entry.before / entry.after:.2f}x")
        for entry in times
    ]
    return Grid(("layer, in place", ">ms before", ">ms after", ">speed-up"), rows)


def _training(training: Mapping[str, Any]) -> Iterator[Line | Grid]:
    """Method and cut are only there for low-rank training."""
    history = training["history"]
    if "method" in training:
        yield Line(f"method {training['method']}, started from {training['start']}")
    if history:
        yield Line(f"{len(history)} epochs in {history[-1]['seconds']:.0f} s")
        chosen = history[:: -(-len(history) // 10)]
        names = [name for name in history[-1] if any(entry[name] is not None for entry in history)]
        rows = [[_number(entry[name]) for name in names] for entry in (*chosen[:-1], history[-1])]
        yield Grid([f">{name.replace('_', ' ')}" for name in names], rows)
    for output in (training.get("cut") or {}).get("outputs", ()):
        accuracy = ""
        if output["top1_before"] is not None:
            accuracy = (
                f", top-1 accuracy {output['top1_before']:.2%} before, {output['top1_after']:.2%} after"
            )
        yield Line(f"the cut at the end: relative L2 of {output['name']} {output['rel_l2']:.3g}{accuracy}")


def _validation(validation: Validation) -> Iterator[Line | Grid]:
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
    yield Grid(("output", ">max abs", ">rel. L2", ">cosine", ">top-1 agreement"), rows)
    yield Line(f"on {validation.samples} samples: {validation.inputs}")
    for output in validation.outputs:
        if output.top1_before is not None:
            yield Line(f"top-1 accuracy: {output.top1_before:.2%} before, {output.top1_after:.2%} after")
    for violation in validation.violations:
        yield Line(f"FAILED: {violation}", "bad")


def _latency(latency: Latency) -> Iterator[Line]:
    threads = latency.threads or "default"
    yield Line(
        f"latency: {latency.before:.3g} ms before, {latency.after:.3g} ms after: "
        f"{latency.speedup:.2f}x [{interval(latency)}], noise ±{latency.noise_floor:.1%}: {latency.verdict}",
        _kind(latency),
    )
    text = f"  batch {latency.batch}, {latency.device}, threads: {threads}"
    if latency.before_p99 is not None and latency.after_p99 is not None:
        text += f", p99 {latency.before_p99:.3g} → {latency.after_p99:.3g} ms"
    yield Line(text)
    if latency.before_memory is not None and latency.after_memory is not None:
        before, after = short_count(latency.before_memory), short_count(latency.after_memory)
        yield Line(f"  peak memory: {before}B → {after}B")


def _another_latency(latency: Latency) -> Line:
    """One line: at another batch size, or at the one of the line before with a CUDA graph."""
    rates = ""
    if latency.before_throughput is not None and latency.after_throughput is not None:
        rates = f"{_rate(latency.before_throughput)} → {_rate(latency.after_throughput)} samples/s, "
    name = "CUDA graph" if latency.cuda_graph else f"batch {latency.batch}"
    verdict = latency.verdict.removesuffix(" beyond noise")
    return Line(f"  {name}: {rates}{latency.speedup:.2f}x [{interval(latency)}]: {verdict}", _kind(latency))


def _predictions(report: Report) -> Iterator[Line]:
    if report.predicted_rel_l2 is not None and report.validation is not None:
        yield Line(f"relative L2 that the layers' errors predicted: {report.predicted_rel_l2:.3g}")
    if report.predicted_latency is not None:
        predicted = report.predicted_latency
        yield Line(
            f"latency that was predicted: {predicted.before:.3g} ms before, {predicted.after:.3g} ms after: "
            f"{predicted.before / predicted.after:.2f}x"
        )


def _pairs(what: str, values: Mapping[str, Any]) -> Grid:
    return Grid((what, "value"), [(name, str(value)) for name, value in values.items() if value is not None])


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def interval(latency: Latency) -> str:
    """Of the speed-up."""
    low, high = latency.interval
    return f"{low:.2f}, {high:.2f}"


def _kind(latency: Latency) -> str:
    return {"faster": "good", "slower": "bad"}.get(latency.verdict, "note")


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
