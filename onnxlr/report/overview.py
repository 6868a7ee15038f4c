"""Report -> its page: the sections of the terminal, complete, and a chart of the layers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from onnxlr.plan import BeforeAfter, PlannedLayer
from onnxlr.report.formats import dims, kept_percent, short_name
from onnxlr.report.page import to_html
from onnxlr.report.plot import Bar, draw_bars, plot_problem
from onnxlr.report.schema import Report
from onnxlr.report.sections import Line, Picture, Section
from onnxlr.report.summary import report_sections

__all__ = ["report_page"]

_LABEL = 44
"""Characters of a layer's name beside its bar."""


def report_page(report: Report) -> str:
    """One self-contained page of HTML. Its chart needs the extra `plot`; without it a line says so."""
    return to_html(f"onnxlr: {report.model.get('name', 'model')}", _sections(report))


def _sections(report: Report) -> Iterator[Section]:
    first, *others = report_sections(report)
    if report.layers or report.skipped:
        yield replace(first, parts=[_chart(report), *first.parts])
    else:
        yield first
    yield from others


def _chart(report: Report) -> Picture | Line:
    problem = plot_problem()
    if problem is not None:
        return Line(problem, "note")
    in_macs = all(layer.macs.before and layer.macs.after is not None for layer in report.layers)
    bars = [_bar(layer, layer.macs if in_macs else layer.params) for layer in report.layers]
    bars += [
        Bar(short_name(item.name, _LABEL), 1.0, f"{item.name}\nleft alone: {item.reason}", is_aside=True)
        for item in report.skipped
    ]
    what = f"{'MACs' if in_macs else 'parameters'} that are kept of each layer; pale: left alone"
    drawn = draw_bars(what, bars).decode()
    return Picture(drawn[drawn.index("<svg") :], what)


def _bar(layer: PlannedLayer, cost: BeforeAfter) -> Bar:
    share = (cost.after or 0) / (cost.before or 1)
    text = (
        f"{layer.name}\n{layer.op_type} {dims(layer.weight_shape)}\n{layer.scheme}, rank {dims(layer.rank)}\n"
        f"kept: {kept_percent(layer.params)} of the parameters, {kept_percent(layer.macs)} of the MACs\n"
        f"error {layer.error:.3f} (by its {layer.judged_by})"
    )
    return Bar(short_name(layer.name, _LABEL), share, text)
