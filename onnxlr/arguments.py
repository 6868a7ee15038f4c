"""Options of the command line -> arguments of the API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnxlr
from onnxlr.errors import UsageError
from onnxlr.selectors import RankSelector, all_selectors

__all__ = ["with_comparison", "with_data", "with_selector", "with_shapes"]

_CALIBRATION = ("calibration", "calibration_samples", "sensitivity", "refine")
_CHECKS = ("inputs", "labels", "latency_seconds", "batches", "prefer_nhwc")
_LIMITS = ("max_rel_l2", "min_agreement", "max_drop")
_IMAGES = ("image_size", "mean", "std", "layout")
_RUN = ("device", "threads", "seed")


def with_shapes(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options with the input shapes as a mapping."""
    return {**options, "input_shapes": dict(options["input_shapes"])}


def with_selector(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options with a selector object in place of the option of each selector.

    Raises:
        UsageError: two of them, or a number out of range.
    """
    rest = dict(options)
    given = {
        name: value for name in all_selectors() if (value := rest.pop(name.replace("-", "_"))) is not None
    }
    if len(given) > 1:
        raise UsageError(f"give one of {', '.join(f'--{name}' for name in given)}")
    selectors = [_make_selector(name, value) for name, value in given.items()]
    return {**rest, "selector": selectors[0] if selectors else None}


def with_data(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options with `calibration`, `machine` and `checks` in place of those that are about data and runs.

    A command that has no options of one of these gets no such object.

    Raises:
        UsageError: a number is out of range.
    """
    rest = dict(options)
    images = onnxlr.ImageOptions(*(rest.pop(name) for name in _IMAGES))
    run = {name: rest.pop(name) for name in _RUN}
    if "calibration" in rest:
        inputs, samples, *how = (rest.pop(name) for name in _CALIBRATION)
        rest["calibration"] = (
            None if inputs is None else onnxlr.Calibration(inputs, samples, images, *how, **run)
        )
    if "cost_model" in rest:
        batch = rest.get("batches", (1,))[0]
        rest["machine"] = onnxlr.Machine(rest.pop("cost_model"), run["device"], run["threads"], batch)
    if "labels" in rest:
        limits = onnxlr.Limits(**{name: rest.pop(name) for name in _LIMITS})
        taken = {name: rest.pop(name) for name in (*_CHECKS, "require_speedup") if name in rest}
        rest["checks"] = onnxlr.Checks(
            limits=limits, images=images, input_shapes=rest["input_shapes"], **taken, **run
        )
    return rest


def with_comparison(options: Mapping[str, Any]) -> tuple[onnxlr.CompareOptions, dict[str, Any] | None]:
    """How to compare, and arguments to optimize every model by; None where that was not asked for.

    Raises:
        UsageError: a number is out of range, or rank rules contradict each other.
    """
    rest = dict(options)
    optimized = rest.pop("optimize")
    images = onnxlr.ImageOptions(*(rest[name] for name in _IMAGES[:-1]))
    compared = onnxlr.CompareOptions(
        input_shapes=dict(rest["input_shapes"]),
        mapping=dict(rest.pop("mapping")),
        layouts=dict(rest.pop("layouts")),
        images=images,
        **{name: rest.pop(name) for name in ("inputs", "tolerance", "latency_seconds")},
        **{name: rest[name] for name in _RUN},
    )
    return compared, with_selector(with_data({**rest, "layout": "auto"})) if optimized else None


def _make_selector(name: str, value: float) -> RankSelector:
    try:
        return all_selectors()[name](value)
    except ValueError as error:
        raise UsageError(f"--{name}: {error}") from error
