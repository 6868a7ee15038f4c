"""`TradeOff`: the curve of a sweep in few numbers, to draw it and to show where a result lies on it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from onnxlr.errors import DataError
from onnxlr.regular_files import read_text
from onnxlr.report.plot import Line, Panel
from onnxlr.validation import OutputDifference

__all__ = ["TradeOff", "TradeOffPoint", "labelled", "largest_rel_l2", "panels", "read_curve"]

Number = float | None


@dataclass(frozen=True, slots=True)
class TradeOffPoint:
    """One result; None for what is not known.

    Attributes:
        kept: fraction of the unit that is left.
        rel_l2: largest relative L2 error of an output.
        predicted_rel_l2: what the layers' errors predict.
        top1: accuracy.
        speedup: median of the paired ratios.
        speedup_low: of its interval.
        speedup_high: of its interval.
    """

    kept: Number
    rel_l2: Number = None
    predicted_rel_l2: Number = None
    top1: Number = None
    speedup: Number = None
    speedup_low: Number = None
    speedup_high: Number = None


Value = Callable[[TradeOffPoint], Number]
Interval = Callable[[TradeOffPoint], tuple[Number, Number]]


@dataclass(frozen=True, slots=True)
class TradeOff:
    """A curve.

    Attributes:
        unit: what budgets are fractions of: macs, params or latency.
        inputs: what it was measured on; None if the models were not run.
        top1_before: accuracy of the original, where labels were given.
        points: from the largest budget to the smallest.
    """

    unit: str
    inputs: str | None
    top1_before: Number
    points: tuple[TradeOffPoint, ...]

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TradeOff:
        """The inverse of `dataclasses.asdict`.

        Raises:
            TypeError: something is missing, unknown, or of another type.
        """
        curve = cls(**{**data, "points": tuple(TradeOffPoint(**entry) for entry in data["points"])})
        numbers = [getattr(point, field.name) for point in curve.points for field in fields(point)]
        if not isinstance(curve.unit, str) or not isinstance(curve.inputs, str | None):
            raise TypeError("unit and inputs are texts")
        if not all(isinstance(value, int | float | None) for value in (*numbers, curve.top1_before)):
            raise TypeError("points are numbers")
        return curve


def read_curve(folder: str | os.PathLike[str], model: Mapping[str, str]) -> TradeOff:
    """Read the curve that `onnxlr sweep` wrote.

    Args:
        folder: with `sweep.json` in it.
        model: `name` and `hash` of the model that it has to be of.

    Raises:
        DataError: there is no such file, it is no curve, or it is another model's.
    """
    path = Path(folder) / "sweep.json"
    try:
        data = json.loads(read_text(path))
        of, curve = dict(data["model"]), TradeOff.from_dict(data["curve"])
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as what `onnxlr sweep` writes ({error})") from error
    except (KeyError, TypeError) as error:
        raise DataError(f"{path}: is not what `onnxlr sweep` writes ({error!r})") from error
    if of.get("hash") != model["hash"]:
        raise DataError(
            f"{path}: is of '{of.get('name')}' ({of.get('hash')}), not of '{model['name']}'"
            f" ({model['hash']}); sweep this model"
        )
    return curve


def largest_rel_l2(outputs: Sequence[OutputDifference]) -> float | None:
    """Relative L2 error of the output that has the largest; NaN if one is; None for no outputs."""
    return max((output.rel_l2 for output in outputs), key=lambda e: (math.isnan(e), e), default=None)


def labelled(outputs: Sequence[OutputDifference]) -> OutputDifference | None:
    """The output whose accuracy was best before: others that look class-like are hardly the classes."""
    known = [output for output in outputs if output.top1_before is not None]
    return max(known, key=lambda output: output.top1_before or 0.0, default=None)


def panels(curve: TradeOff, chosen: TradeOffPoint | None = None) -> list[Panel]:
    """Error, accuracy and speed-up over what is kept, as far as they are known.

    Args:
        curve: to draw.
        chosen: a result to mark.
    """

    def lines(label: str, value: Value, interval: Interval | None = None) -> list[Line]:
        found = [_line(label, curve.points[::-1], value, interval)]
        if chosen is not None:
            found.append(replace(_line("this result", [chosen], value), is_mark=True))
        return [line for line in found if line.x]

    predicted = _line("predicted by the layers' errors", curve.points[::-1], lambda p: p.predicted_rel_l2)
    errors = lines("measured", lambda point: point.rel_l2)
    if predicted.x:
        errors.append(replace(predicted, is_aside=True))
    found = [Panel("relative L2 error", errors)]
    if curve.top1_before is not None:
        level = ("original", curve.top1_before)
        found.append(Panel("top-1 accuracy", lines("result", lambda point: point.top1), level, True))
    timed = lines(
        "result, with its 95 % interval",
        lambda point: point.speedup,
        lambda point: (point.speedup_low, point.speedup_high),
    )
    found.append(Panel("speed-up", timed, ("original", 1.0)))
    return [panel for panel in found if panel.lines]


def _line(
    label: str, points: Sequence[TradeOffPoint], value: Value, interval: Interval | None = None
) -> Line:
    """What is known and finite of a value."""
    values = [(point.kept, _finite(value(point)), point) for point in points]
    known = [(x, y, point) for x, y, point in values if x is not None and y is not None]
    bounds = [] if interval is None else [interval(point) for _, _, point in known]
    return Line(
        label,
        [x for x, _, _ in known],
        [y for _, y, _ in known],
        [(low, high) for low, high in bounds if low is not None and high is not None],
    )


def _finite(value: Number) -> Number:
    return value if value is not None and math.isfinite(value) else None
