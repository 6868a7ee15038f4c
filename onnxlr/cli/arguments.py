"""Options of the command line -> arguments of the API."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import onnxlr
from onnxlr.errors import UsageError
from onnxlr.selectors import RankSelector, all_selectors

__all__ = [
    "with_comparison",
    "with_data",
    "with_finetuning",
    "with_method",
    "with_selector",
    "with_shapes",
    "with_training",
]

_CALIBRATION = ("calibration", "calibration_samples", "sensitivity", "refine")
_CHECKS = ("inputs", "labels", "latency_seconds", "batches", "prefer_nhwc")
_LIMITS = ("max_rel_l2", "min_agreement", "max_drop")
_IMAGES = ("image_size", "mean", "std", "layout")
_RUN = ("device", "threads", "seed")
_PLANNED = ("selector", "schemes", "align", "include", "exclude", "gate", "input_shapes", "workers")
_TRAINED = (
    *("epochs", "time_budget", "optimizer", "learning_rate", "weight_decay", "batch_size", "flip", "crop"),
    *("held_out", "patience", "autocast"),
)


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


def with_training(options: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `onnxlr.training.finetune`, but for the model, in place of the options they are made of.

    Raises:
        UsageError: torch is not installed, or a number is out of range.
    """
    from onnxlr import training  # noqa: PLC0415 - an extra, which needs torch

    rest = dict(options)
    images = onnxlr.ImageOptions(*(rest.pop(name) for name in _IMAGES))
    inputs, labels, samples = (rest.pop(name) for name in ("data", "labels", "samples"))
    run = {"device": rest.pop("device"), "threads": rest.pop("threads")}
    seed = rest.pop("seed")
    checks = onnxlr.Checks(
        inputs=rest.pop("inputs") or inputs,
        labels=rest.pop("input_labels"),
        images=images,
        latency_seconds=rest.pop("latency_seconds"),
        limits=onnxlr.Limits(**{name: rest.pop(name) for name in _LIMITS}),
        seed=seed,
        **run,
    )
    trained = {name: rest.pop(name) for name in _TRAINED}
    return {
        **rest,
        **run,
        "data": training.TrainingData(inputs, labels, images, samples),
        "options": training.TrainingOptions(seed=seed, **trained),
        "checks": checks,
    }


def with_method(options: Mapping[str, Any]) -> tuple[dict[str, Any], onnxlr.Plan | None, dict[str, Any]]:
    """Arguments of `onnxlr.training.train` but for model and plan, the plan given, else those of `plan`.

    Raises:
        UsageError: torch is not installed, a number is out of range, or a plan and how to make one are given.
    """
    from onnxlr import training  # noqa: PLC0415 - an extra, which needs torch

    rest = with_selector(with_shapes(options))
    asked = {name: rest.pop(name) for name in _PLANNED}
    path = rest.pop("plan")
    rest["workers"] = asked["workers"]
    schemes = training.all_methods()[rest["method"]].schemes
    if path is not None or not schemes:
        given = [name for name, value in asked.items() if value and name != "workers"]
        if given:
            what = "--method full replaces nothing" if path is None else "--plan says what is replaced"
            raise UsageError(f"{what}; leave out what chooses it ({', '.join(given)})")
    asked["schemes"] = asked["schemes"] or schemes
    plan = None if path is None else onnxlr.read_plan(path)
    return with_training(rest), plan, asked


def with_finetuning(
    options: Mapping[str, Any], seconds: float | None, data: str | None
) -> tuple[dict[str, Any], Callable[..., onnxlr.Result] | None]:
    """Arguments of `onnxlr.optimize`, and what trains its result; None where that was not asked for.

    Limits are for the trained network: they are taken out of what is checked before.

    Raises:
        UsageError: torch is not installed, or there are no data to train on.
    """
    if seconds is None:
        return dict(options), None
    from onnxlr import training  # noqa: PLC0415 - an extra, which needs torch

    calibration, checks = options["calibration"], options["checks"]
    if data is None and calibration is None:
        raise UsageError("--finetune needs data: give --finetune-data, or --calibration")
    if options["selector"] is None and checks.limits != onnxlr.Limits():
        raise UsageError("--finetune needs a rank rule: limits are judged after training, not searched for")
    data = data or calibration.inputs
    trained = partial(
        training.finetune_result,
        data=training.TrainingData(data, images=checks.images),
        options=training.TrainingOptions(time_budget=seconds, seed=checks.seed),
        checks=replace(checks, inputs=checks.inputs or data),
        device="cuda" if checks.device == "tensorrt" else checks.device,
        threads=checks.threads,
    )
    before = replace(checks, limits=onnxlr.Limits(), require_speedup=None)
    return {**options, "checks": before}, trained


def _make_selector(name: str, value: float) -> RankSelector:
    try:
        return all_selectors()[name](value)
    except ValueError as error:
        raise UsageError(f"--{name}: {error}") from error
