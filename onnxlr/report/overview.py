"""Report -> its page: the terminal's sections, complete, with charts of layers, spectra and trade-off."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from onnxlr.plan import BeforeAfter, PlannedLayer
from onnxlr.report.formats import dims, kept_percent, short_name, sparkline
from onnxlr.report.page import to_html
from onnxlr.report.plot import Bar, Trace, draw, draw_bars, draw_traces, plot_problem
from onnxlr.report.points import UNITS, kept, kept_of_unit
from onnxlr.report.schema import Report
from onnxlr.report.sections import Line, Picture, Section
from onnxlr.report.summary import report_sections
from onnxlr.report.tradeoff import TradeOff, TradeOffPoint, labelled, largest_rel_l2, panels
from onnxlr.schemes import Rank
from onnxlr.spectra import Mode, Spectrum

__all__ = ["report_page"]

_LABEL = 44
"""Characters of a layer's name beside its bar."""

_FAINT = 1e-4
"""Singular values below this, by the largest, are not drawn."""


def report_page(report: Report) -> str:
    """One self-contained page of HTML. Its charts need the extra `plot`; without it a line says so."""
    return to_html(f"onnxlr: {report.model.get('name', 'model')}", _sections(report))


def _sections(report: Report) -> Iterator[Section]:
    layers, before_after, *others = report_sections(report)
    asked = Line(f"asked for: {', '.join(_asked(report.settings))}", "quiet")
    yield Section(before_after.title, [asked, *before_after.parts])
    if report.curve is not None and report.curve.points:
        yield Section("Trade-off", list(_trade_off(report, report.curve)))
    charted = report.layers or report.skipped
    chart = [_drawn(lambda: _layer_chart(report))] if charted else []
    yield Section(layers.title, [*chart, *layers.parts])
    if report.spectra:
        yield Section("Spectra", [_drawn(lambda: _spectra_chart(report)), Line(_SPECTRA, "quiet")])
    yield from others


def _drawn(chart: Callable[[], Picture]) -> Picture | Line:
    problem = plot_problem()
    return chart() if problem is None else Line(problem, "note")


def _asked(settings: Mapping[str, Any]) -> Iterator[str]:
    """The rule, the limits and the data, in short; all settings stand at the end of the page."""
    for name, value in settings.items():
        if isinstance(value, float):
            yield f"{name} {value:g}"
    for what in ("calibration", "checks"):
        chosen = settings.get(what) or {}
        named = [f"{key} {value}" for key, value in chosen.get("limits", {}).items() if value is not None]
        yield from (f"{name.replace('_', ' ')}" for name in named)
        if chosen.get("inputs") is not None:
            yield f"{'fitted' if what == 'calibration' else 'checked'} on {chosen['inputs']}"


def _trade_off(report: Report, curve: TradeOff) -> Iterator[Picture | Line]:
    def chart() -> Picture:
        chosen = _on_curve(report, curve.unit)
        what = f"{UNITS[curve.unit]} kept"
        return _picture(draw("", what, panels(curve, chosen)), f"error, accuracy and speed-up by {what}")

    yield _drawn(chart)
    if curve.inputs is not None:
        yield Line(f"the curve was measured on: {curve.inputs}", "quiet")


def _on_curve(report: Report, unit: str) -> TradeOffPoint:
    outputs = () if report.validation is None else report.validation.outputs
    found, latency = labelled(outputs), report.latency
    return TradeOffPoint(
        kept_of_unit(report.totals, report.predicted_latency, unit),
        largest_rel_l2(outputs),
        None,
        None if found is None else found.top1_after,
        None if latency is None else latency.speedup,
    )


def _layer_chart(report: Report) -> Picture:
    spectra = {spectrum.name: spectrum for spectrum in report.spectra}
    in_macs = all(layer.macs.before and layer.macs.after is not None for layer in report.layers)
    bars = [
        _bar(layer, layer.macs if in_macs else layer.params, spectra.get(layer.name))
        for layer in report.layers
    ]
    for item in report.skipped:
        text = f"{item.name}\nleft alone: {item.reason}{_describe(spectra.get(item.name))}"
        bars.append(Bar(short_name(item.name, _LABEL), 1.0, text, is_aside=True))
    what = f"{'MACs' if in_macs else 'parameters'} that are kept of each layer; pale: left alone"
    return _picture(draw_bars(what, bars), what)


def _bar(layer: PlannedLayer, cost: BeforeAfter, spectrum: Spectrum | None) -> Bar:
    text = (
        f"{layer.name}\n{layer.op_type} {dims(layer.weight_shape)}\n{layer.scheme}, rank {dims(layer.rank)}\n"
        f"kept: {kept_percent(layer.params)} of the parameters, {kept_percent(layer.macs)} of the MACs\n"
        f"error {layer.error:.3f} (by its {layer.judged_by}){_describe(spectrum)}"
    )
    return Bar(short_name(layer.name, _LABEL), kept(cost) or 0.0, text)


def _describe(spectrum: Spectrum | None) -> str:
    """A line for each rank entry."""
    if spectrum is None:
        return ""
    return "".join(f"\nspectrum ({spectrum.scheme}) {sparkline(mode.values)}" for mode in spectrum.modes)


_SPECTRA = (
    "singular values of each layer by the largest, over the share of full rank; dots: the ranks chosen;"
    " dotted: layers left alone. A steep line is a layer of low rank, a flat one has nothing to give."
)


def _spectra_chart(report: Report) -> Picture:
    ranks = {layer.name: layer.rank for layer in report.layers}
    found = [
        _trace(spectrum, i, mode, ranks.get(spectrum.name))
        for spectrum in report.spectra
        for i, mode in enumerate(spectrum.modes)
    ]
    return _picture(draw_traces("share of full rank", "singular value", found), "singular values of layers")


def _trace(spectrum: Spectrum, entry: int, mode: Mode, rank: Rank | None) -> Trace:
    top = max(mode.values, default=0.0) or 1.0
    known = [(r / mode.full, v / top) for r, v in zip(mode.ranks, mode.values, strict=True)]
    drawn = [(x, y) for x, y in known if y >= _FAINT]
    text = f"{spectrum.name}\n{spectrum.scheme}, rank {entry + 1} of {len(spectrum.modes)}, full {mode.full}"
    mark = None
    if rank is not None:
        text += f", chosen {rank[entry]}"
        mark = min(drawn, key=lambda point: abs(point[0] - rank[entry] / mode.full), default=None)
    return Trace([x for x, _ in drawn], [y for _, y in drawn], text, mark, is_aside=rank is None)


def _picture(drawn: bytes, text: str) -> Picture:
    svg = drawn.decode()
    return Picture(svg[svg.index("<svg") :], text)
