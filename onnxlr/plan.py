"""`Plan`: which layer is factorized how, as data that a person can read, edit, and diff. No arrays."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from onnxlr.errors import PlanError
from onnxlr.layer import Skipped
from onnxlr.regular_files import read_text
from onnxlr.schemes import Rank
from onnxlr.staging import staged_file

__all__ = ["BeforeAfter", "Milliseconds", "Plan", "PlannedLayer", "plan_bytes", "read_plan", "write_plan"]

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class BeforeAfter:
    """A quantity of the original and of the result; None where it is not known."""

    before: int | None
    after: int | None


@dataclass(frozen=True, slots=True)
class Milliseconds:
    """Predicted time of one run, of the original and of the result."""

    before: float
    after: float


@dataclass(frozen=True, slots=True)
class PlannedLayer:
    """A layer to factorize. Only `name`, `scheme` and `rank` are instructions, the rest informs.

    Attributes:
        name: the node's name, or its output's where that is empty or not unique.
        op_type: Conv, Gemm or MatMul.
        weight_shape: `(M, C / group, *kernel_shape)`.
        scheme: name of the scheme.
        rank: one entry a rank of the scheme.
        params: weights of the layer and of the chain, without the bias.
        macs: multiply-accumulates in one run of the model (a symbolic batch counts as 1).
        energy: 1 − error².
        error: relative error of what the layer is judged by. Of the outputs: (E‖y − ŷ‖² / E‖y‖²)^½ on inputs
            that nothing was fitted on, both without their mean. Of the weight: ‖W − Ŵ‖ / ‖W‖, in the scale
            from before a BatchNormalization was folded.
        judged_by: `outputs`, or `weight` without calibration data.
        sensitivity: relative squared error of the model's outputs for each unit of that of the layer's; None
            where it was not measured.
        latency: of the layer and of the chain, on the machine in the plan's settings; None if times were not
            asked for.
    """

    name: str
    op_type: str
    weight_shape: tuple[int, ...]
    scheme: str
    rank: Rank
    params: BeforeAfter
    macs: BeforeAfter
    energy: float
    error: float
    judged_by: str = "weight"
    sensitivity: float | None = None
    latency: Milliseconds | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """Which layer is factorized how; from `onnxlr.plan`, for `onnxlr.apply`.

    Attributes:
        model: `name` and `hash` of the model it was made for.
        settings: the options it was made with.
        layers: what to factorize, in graph order.
        skipped: what is left alone, and why.
        latency: of the whole model, on the machine in the settings; None if times were not asked for.

    >>> import onnxlr
    >>> plan = onnxlr.plan("models/digits/digits.onnx", energy=0.9, include="conv2")
    >>> plan == onnxlr.Plan.from_dict(plan.to_dict())
    True
    """

    model: Mapping[str, str]
    settings: Mapping[str, Any]
    layers: tuple[PlannedLayer, ...]
    skipped: tuple[Skipped, ...]
    latency: Milliseconds | None = None

    @property
    def predicted_rel_l2(self) -> float | None:
        """Relative L2 error of the model's outputs if the layers' errors add up; None if not measured."""
        shares = [None if x.sensitivity is None else x.sensitivity * x.error**2 for x in self.layers]
        known = [share for share in shares if share is not None]
        return sum(known) ** 0.5 if len(known) == len(shares) else None

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain data, for JSON."""
        return {"schema_version": SCHEMA_VERSION, **asdict(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Plan:
        """The inverse of `to_dict`; unknown fields are an error, so that a typing mistake is not ignored.

        Raises:
            PlanError: something is missing, unknown, or of the wrong type.
        """
        fields = dict(data)
        version = fields.pop("schema_version", None)
        if version != SCHEMA_VERSION:
            raise PlanError(f"plan of schema version {version!r}; this onnxlr reads version {SCHEMA_VERSION}")
        try:
            layers = tuple(_layer(dict(entry)) for entry in fields.pop("layers"))
            skipped = tuple(_skipped(entry) for entry in fields.pop("skipped"))
            latency = _milliseconds(fields.pop("latency", None), "the model")
            plan = cls(layers=layers, skipped=skipped, latency=latency, **fields)
            _check(plan.model, Mapping, "model")
            _check_settings(plan.settings)
            return plan
        except (TypeError, ValueError, KeyError) as error:
            raise PlanError(f"not a valid plan: {error}") from error


def _layer(entry: dict[str, Any]) -> PlannedLayer:
    name = entry["name"]
    for key in ("name", "op_type", "scheme"):
        _check(entry[key], str, f"{key} of layer {name!r}")
    for key in ("energy", "error"):
        _check(entry[key], (int, float), f"{key} of layer {name!r}")
    _check(entry.get("judged_by", ""), str, f"judged_by of layer {name!r}")
    _check(entry.get("sensitivity"), (int, float, type(None)), f"sensitivity of layer {name!r}")
    for key in ("params", "macs"):
        entry[key] = BeforeAfter(**entry[key])
        for count in (entry[key].before, entry[key].after):
            _check(count, (int, type(None)), f"{key} of layer {name!r}")
    for key in ("rank", "weight_shape"):
        entry[key] = _sizes(entry[key], f"{key} of layer {name!r}")
    entry["latency"] = _milliseconds(entry.get("latency"), f"layer {name!r}")
    return PlannedLayer(**entry)


def _milliseconds(entry: Mapping[str, Any] | None, of: str) -> Milliseconds | None:
    if entry is None:
        return None
    found = Milliseconds(**entry)
    for value in (found.before, found.after):
        _check(value, (int, float), f"latency of {of}")
    return found


def _skipped(entry: Mapping[str, Any]) -> Skipped:
    for key in ("name", "reason"):
        _check(entry[key], str, f"{key} of what is skipped")
    return Skipped(**entry)


def _check_settings(settings: Mapping[str, Any]) -> None:
    """The shapes of the inputs are instructions, the rest informs."""
    _check(settings, Mapping, "settings")
    shapes = settings.get("input_shapes", {})
    _check(shapes, Mapping, "input_shapes")
    for name, shape in shapes.items():
        _sizes(shape, f"input_shapes of {name!r}")


def _sizes(value: Any, what: str) -> tuple[int, ...]:
    _check(value, (list, tuple), what)
    for size in value:
        _check(size, int, what)
    return tuple(value)


def _check(value: Any, kind: type | tuple[type, ...], what: str) -> None:
    if not isinstance(value, kind) or isinstance(value, bool):  # True and False are no numbers here
        raise TypeError(f"{what} cannot be {value!r}")


def read_plan(path: str | os.PathLike[str]) -> Plan:
    """Read a plan file.

    Args:
        path: of the file, as `write_plan` or a person wrote it.

    Returns:
        The plan; whether it fits a model is seen when it is applied.

    Raises:
        PlanError: there is no such file, or it is not a plan.

    >>> import onnxlr
    >>> onnxlr.read_plan("no/such/plan.json")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    onnxlr.errors.PlanError: no/such/plan.json: cannot be read as a plan ...
    """
    try:
        data = json.loads(read_text(path))
    except (OSError, ValueError, RecursionError) as error:
        raise PlanError(f"{path}: cannot be read as a plan ({error})") from error
    if not isinstance(data, dict):
        raise PlanError(f"{path}: not a plan, but a JSON {type(data).__name__}")
    try:
        return Plan.from_dict(data)
    except PlanError as error:
        raise PlanError(f"{path}: {error}") from error


def write_plan(plan: Plan, path: str | os.PathLike[str]) -> None:
    """Write a plan file, whole or not at all.

    Args:
        plan: of `onnxlr.plan`.
        path: of the file; one that is there is replaced.

    Raises:
        UsageError: it cannot be written there.

    >>> import onnxlr, os, tempfile
    >>> plan = onnxlr.plan("models/digits/digits.onnx", energy=0.9)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "plan.json")
    ...     onnxlr.write_plan(plan, path)
    ...     onnxlr.read_plan(path) == plan
    True
    """
    with staged_file(path) as file:
        file.write(plan_bytes(plan))


def plan_bytes(plan: Plan) -> bytes:
    """What `write_plan` writes."""
    return json.dumps(plan.to_dict(), indent=2).encode() + b"\n"
