"""Curves -> SVG. The only module that imports matplotlib, and not before something is drawn."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Bar", "Line", "Panel", "Trace", "draw", "draw_bars", "draw_traces", "plot_problem"]

_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "onnxlr",  # else names of elements are random
    "svg.fonttype": "none",  # text stays text
    "text.parse_math": False,  # also a $ in it
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
}
_WIDTH, _HEIGHT = 6.4, 2.4  # inches; the height is that of a panel


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a panel.

    Attributes:
        label: for the legend.
        x: from the lowest to the highest.
        y: as many.
        intervals: `(low, high)` of each point; empty for none.
        is_aside: whether it is drawn less strongly than the others.
        is_mark: whether it is drawn as large marks.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    intervals: Sequence[tuple[float, float]] = ()
    is_aside: bool = False
    is_mark: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    """Lines over the same axes.

    Attributes:
        label: of the vertical axis.
        lines: at least one.
        level: height of a horizontal line, with its label: what the original has.
        is_percent: whether the numbers are fractions that are shown in percent.
    """

    label: str
    lines: Sequence[Line]
    level: tuple[str, float] | None = None
    is_percent: bool = False


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar.

    Attributes:
        label: beside it.
        value: its length, a fraction.
        text: what is told of it when it is pointed at.
        is_aside: whether it is drawn less strongly than the others.
    """

    label: str
    value: float
    text: str
    is_aside: bool = False


@dataclass(frozen=True, slots=True)
class Trace:
    """One line among many.

    Attributes:
        x: from the lowest to the highest.
        y: as many, above 0.
        text: what is told of it when it is pointed at.
        mark: a point on it that is marked; None for none.
        is_aside: whether it is drawn less strongly than the others.
    """

    x: Sequence[float]
    y: Sequence[float]
    text: str
    mark: tuple[float, float] | None = None
    is_aside: bool = False


def plot_problem() -> str | None:
    """Why nothing can be drawn here; None if it can."""
    try:
        import matplotlib.figure  # noqa: F401, PLC0415 - an extra, and slow
    except ImportError:
        return "there is no plot, as matplotlib is missing: pip install 'onnxlr[plot]'"
    return None


def draw(title: str, x_label: str, panels: Sequence[Panel]) -> bytes:
    """Panels above each other as SVG, the same bytes for the same numbers, whatever the user's settings.

    Args:
        title: above them.
        x_label: below them; its numbers are fractions, shown in percent.
        panels: at least one.
    """
    from matplotlib.ticker import PercentFormatter  # noqa: PLC0415 - an extra, and slow

    with _figure(_HEIGHT * len(panels) + 0.6) as (figure, file):
        all_axes = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
        for axes, panel in zip(all_axes, panels, strict=True):
            _draw_panel(axes, panel)
            if panel.is_percent:
                axes.yaxis.set_major_formatter(PercentFormatter(1.0))
                axes.set_ylim(top=min(axes.get_ylim()[1], 1.005))
        figure.align_ylabels(all_axes)
        all_axes[-1].set_xlabel(x_label)
        all_axes[-1].xaxis.set_major_formatter(PercentFormatter(1.0))
        figure.suptitle(title)
    return file.getvalue()


def draw_bars(x_label: str, bars: Sequence[Bar]) -> bytes:
    """Horizontal bars as SVG, the first at the top, the same bytes for the same numbers.

    Args:
        x_label: below them; lengths are fractions, shown in percent.
        bars: at least one.
    """
    from matplotlib.ticker import PercentFormatter  # noqa: PLC0415 - an extra, and slow

    with _figure(0.19 * len(bars) + 0.8) as (figure, file):
        axes = figure.subplots()
        places = range(len(bars), 0, -1)
        patches = axes.barh(places, [bar.value for bar in bars], 0.8)
        for i, (bar, patch) in enumerate(zip(bars, patches, strict=True)):
            patch.set_gid(f"bar{i}")
            patch.set_alpha(0.25 if bar.is_aside else 1.0)
        axes.set_yticks(places, [bar.label for bar in bars], fontsize=7)
        axes.set_ylim(0.4, len(bars) + 0.6)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(x_label)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    return _with_titles(file.getvalue(), "bar", [bar.text for bar in bars])


def draw_traces(x_label: str, y_label: str, traces: Sequence[Trace]) -> bytes:
    """Many lines over the same axes as SVG, in colours from the first to the last; y is logarithmic.

    Args:
        x_label: below them; its numbers are fractions, shown in percent.
        y_label: beside them.
        traces: at least one.
    """
    import matplotlib as mpl  # noqa: PLC0415 - an extra, and slow
    from matplotlib.ticker import PercentFormatter  # noqa: PLC0415

    with _figure(1.4 * _HEIGHT) as (figure, file):
        axes = figure.subplots()
        colors = mpl.colormaps["viridis"]
        for i, trace in enumerate(traces):
            color = colors(0.9 * i / len(traces))
            style: dict[str, Any] = {"linewidth": 1, "linestyle": ":", "alpha": 0.7} if trace.is_aside else {}
            (line,) = axes.semilogy(trace.x, trace.y, color=color, **style)
            line.set_gid(f"trace{i}")
            if trace.mark is not None:
                axes.plot(*trace.mark, "o", color=color, markersize=5)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.yaxis.set_major_formatter("{x:g}")
    return _with_titles(file.getvalue(), "trace", [trace.text for trace in traces])


def _with_titles(drawn: bytes, name: str, texts: Sequence[str]) -> bytes:
    """SVG whose elements `name0`, `name1`, … tell a text when they are pointed at."""
    svg = drawn.decode()
    for i, text in enumerate(texts):
        opening = f'<g id="{name}{i}">'
        svg = svg.replace(opening, f"{opening}<title>{escape(text)}</title>")
    return svg.encode()


@contextmanager
def _figure(height: float) -> Iterator[tuple[Figure, io.BytesIO]]:
    """A figure of a height in inches, and where its SVG is afterwards."""
    import matplotlib as mpl  # noqa: PLC0415 - an extra, and slow
    from matplotlib.backends.backend_svg import FigureCanvasSVG  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    file = io.BytesIO()
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        figure = Figure((_WIDTH, height), layout="constrained")
        FigureCanvasSVG(figure)
        yield figure, file
        figure.savefig(file, format="svg", metadata={"Date": None})


def _draw_panel(axes: Axes, panel: Panel) -> None:
    for line in panel.lines:
        style: dict[str, Any] = {"label": line.label, "marker": "o", "markersize": 4}
        if line.is_mark:
            style |= {"linestyle": "none", "marker": "*", "markersize": 14, "zorder": 3}
        elif line.is_aside:
            style |= {"linestyle": "--", "alpha": 0.6}
        if line.intervals:
            low, high = zip(*line.intervals, strict=True)
            below = [max(y - bound, 0.0) for y, bound in zip(line.y, low, strict=True)]
            above = [max(bound - y, 0.0) for y, bound in zip(line.y, high, strict=True)]
            axes.errorbar(line.x, line.y, [below, above], capsize=3, **style)
        else:
            axes.plot(line.x, line.y, **style)
    if panel.level is not None:
        label, height = panel.level
        axes.axhline(height, color="gray", linewidth=1, label=label)
    axes.set_ylabel(panel.label)
    axes.legend(frameon=False)
