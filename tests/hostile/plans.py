"""Plans that something is wrong with."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnxlr
from tests.hostile.cases import Case

__all__ = ["PLANS"]

APPLY = ("apply", "m.onnx", "p.json")


def _plan(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """A good plan for the model, with a change."""

    def write(folder: Path) -> None:
        plan = onnxlr.plan(folder / "m.onnx", energy=0.5, align=4, gate="none", schemes=["spatial"])
        data = json.loads(json.dumps(plan.to_dict()))
        changed = change(data)
        text = changed if isinstance(changed, str) else json.dumps(data)
        (folder / "p.json").write_text(text)

    return write


def _at(path: str, value: object) -> Callable[[dict[str, Any]], None]:
    """Set what a path such as `layers.0.rank` leads to."""

    def change(data: dict[str, Any]) -> None:
        *way, last = path.split(".")
        at: Any = data
        for step in way:
            at = at[int(step)] if step.isdigit() else at[step]
        at[int(last) if last.isdigit() else last] = value

    return change


def _without(path: str) -> Callable[[dict[str, Any]], None]:
    def change(data: dict[str, Any]) -> None:
        *way, last = path.split(".")
        at: Any = data
        for step in way:
            at = at[int(step)] if step.isdigit() else at[step]
        del at[last]

    return change


def _texts() -> Iterator[Case]:
    unread = "cannot be read as a plan"
    texts = {
        "empty": ("", unread),
        "text": ("hello", unread),
        "half": ('{"schema_version": 1, "model"', unread),
        "list": ("[]", "not a plan, but a JSON list"),
        "number": ("1", "not a plan, but a JSON int"),
        "text-in-json": ('"plan"', "not a plan, but a JSON str"),
        "null": ("null", "not a plan, but a JSON NoneType"),
        "nothing-in-it": ("{}", "schema version None"),
        "report": ('{"schema_version": 1, "totals": {}}', "not a valid plan"),
        "deep-lists": ("[" * 100_000, unread),
        "deep-objects": ('{"a":' * 100_000, unread),
        "digits": ("1" * 10_000, unread),
    }
    for name, (text, says) in texts.items():
        yield Case(
            f"plan-{name}", lambda folder, text=text: (folder / "p.json").write_text(text), APPLY, 3, says
        )
    for name, content in {"binary": bytes(range(256)), "utf-16": "{}".encode("utf-16")}.items():
        yield Case(
            f"plan-{name}",
            lambda folder, content=content: (folder / "p.json").write_bytes(content),
            APPLY,
            3,
            unread,
        )


def _values() -> Iterator[Case]:
    wrong: dict[str, tuple[str, object, str]] = {
        "version-2": ("schema_version", 2, "schema version 2"),
        "version-text": ("schema_version", "1", "schema version '1'"),
        "hash-of-another-model": ("model.hash", "sha256:" + "0" * 64, "make a new plan"),
        "hash-number": ("model.hash", 5, "make a new plan"),
        "model-text": ("model", "m.onnx", "model cannot be"),
        "model-null": ("model", None, "model cannot be"),
        "unknown-field": ("colour", "red", "colour"),
        "unknown-field-of-a-layer": ("layers.0.colour", "red", "colour"),
        "layers-null": ("layers", None, "not a valid plan"),
        "layers-number": ("layers", 3, "not a valid plan"),
        "layer-text": ("layers.0", "conv", "not a valid plan"),
        "layer-null": ("layers.0", None, "not a valid plan"),
        "no-such-layer": ("layers.0.name", "nowhere", "names 'nowhere'"),
        "layer-name-number": ("layers.0.name", 7, "name of layer"),
        "layer-name-null": ("layers.0.name", None, "name of layer"),
        "no-such-scheme": ("layers.0.scheme", "svd", "no scheme named 'svd'"),
        "scheme-null": ("layers.0.scheme", None, "scheme of layer"),
        "scheme-that-refuses": ("layers.0.scheme", "tucker2", "rank"),
        "rank-zero": ("layers.0.rank", [0], "rank [0] is not within"),
        "rank-negative": ("layers.0.rank", [-1], "rank [-1] is not within"),
        "rank-beyond": ("layers.0.rank", [49], "rank [49] is not within"),
        "rank-huge": ("layers.0.rank", [10**100], "is not within"),
        "rank-float": ("layers.0.rank", [1.5], "rank of layer"),
        "rank-true": ("layers.0.rank", [True], "rank of layer"),
        "rank-text": ("layers.0.rank", "8", "rank of layer"),
        "rank-null": ("layers.0.rank", None, "rank of layer"),
        "rank-number": ("layers.0.rank", 8, "rank of layer"),
        "ranks-none": ("layers.0.rank", [], "is not within"),
        "ranks-two": ("layers.0.rank", [8, 8], "is not within"),
        "ranks-nested": ("layers.0.rank", [[8]], "rank of layer"),
        "params-null": ("layers.0.params", None, "not a valid plan"),
        "params-text": ("layers.0.params.before", "many", "params of layer"),
        "error-text": ("layers.0.error", "small", "error of layer"),
        "energy-null": ("layers.0.energy", None, "energy of layer"),
        "shape-text": ("layers.0.weight_shape", "3x3", "weight_shape of layer"),
        "latency-number": ("layers.0.latency", 3, "not a valid plan"),
        "settings-list": ("settings", [], "settings cannot be"),
        "settings-null": ("settings", None, "settings cannot be"),
        "input-shapes-list": ("settings.input_shapes", [], "input_shapes cannot be"),
        "input-shapes-text": ("settings.input_shapes", {"x": "1,16,9,7"}, "input_shapes"),
        "input-shapes-of-nothing": ("settings.input_shapes", {"y": [1]}, "input shape given for 'y'"),
        "skipped-null": ("skipped", None, "not a valid plan"),
        "skipped-number": ("skipped", [1], "not a valid plan"),
    }
    for name, (path, value, says) in wrong.items():
        code = 2 if name == "input-shapes-of-nothing" else 3
        yield Case(f"plan-{name}", _plan(_at(path, value)), APPLY, code, says)
    for field in (
        "model",
        "settings",
        "layers",
        "skipped",
        "layers.0.rank",
        "layers.0.scheme",
        "layers.0.name",
    ):
        yield Case(f"plan-without-{field}", _plan(_without(field)), APPLY, 3, "not a valid plan")
    twice = _plan(lambda data: data["layers"].append(data["layers"][0]))
    yield Case("plan-layer-twice", twice, APPLY, 3, "names a layer twice")
    yield Case(
        "plan-nan",
        _plan(lambda data: json.dumps(data).replace('"rank": [', '"rank": [NaN, ')),
        APPLY,
        3,
        "rank",
    )
    yield Case("plan-infinity", _plan(_at("layers.0.rank", [float("inf")])), APPLY, 3, "rank of layer")


PLANS = [*_texts(), *_values()]
