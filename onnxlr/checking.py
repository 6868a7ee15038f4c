"""Original + result -> proof: the checker's verdict, output differences, paired latency."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from onnxlr.errors import DataError, ModelError, UsageError
from onnxlr.feeds import Feed, load_feeds, load_labels, random_feeds
from onnxlr.images import ImageOptions
from onnxlr.latency import Latency, measure_latency
from onnxlr.model_file import Model
from onnxlr.model_writing import check
from onnxlr.parallel import Progress
from onnxlr.runtime import Session, find_device
from onnxlr.validation import Expected, Limits, Validation, compare_outputs
from passes.graph import scopes

__all__ = ["CheckResult", "Checks", "Reference", "run_checks"]

_KNOWN_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "ai.onnx.preview.training", "com.microsoft")
"""Domains whose operators ONNX Runtime has, besides its internal ones."""


@dataclass(frozen=True, slots=True)
class Checks:
    """How a result is held against its original.

    Attributes:
        inputs: data in one of the formats of `onnxlr.feeds`; None: seeded random numbers.
        labels: .npy file with the class of every sample; None: accuracy is not measured.
        input_shapes: for symbolic dimensions of random inputs.
        limits: past them the result fails.
        device: auto, cpu or cuda.
        threads: intra-op threads of ONNX Runtime, 0 for its default.
        latency_seconds: time to spend on paired timing, 0 for none.
        seed: of random inputs and of the order in timing.
        images: how image files become arrays.
        samples: at most so many of the inputs, evenly spaced; None: all.

    Raises:
        UsageError: a limit needs labels, and there are none.
    """

    inputs: str | None = None
    labels: str | None = None
    input_shapes: Mapping[str, Sequence[int]] | None = None
    limits: Limits = Limits()
    device: str = "auto"
    threads: int = 0
    latency_seconds: float = 5.0
    seed: int = 0
    images: ImageOptions = ImageOptions()
    samples: int | None = None

    def __post_init__(self) -> None:
        if self.limits.max_drop is not None and self.labels is None:
            raise UsageError("max-drop needs labels: give --labels with --inputs")

    @property
    def needs_a_run(self) -> bool:
        """Whether something is asked for that only running the models can tell."""
        return self.limits != Limits() or self.labels is not None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for reports."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What was measured.

    Attributes:
        validation: differences of the outputs, and the limits they broke; None if neither model can be run.
        latency: None if no time was given for it.
        notes: what the user should know, one line each.
    """

    validation: Validation | None
    latency: Latency | None
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        validation = None if self.validation is None else self.validation.to_dict()
        return {**asdict(self), "validation": validation}


class Reference:
    """The original, to hold results against: its session, inputs and labels are there once.

    A model with custom operators cannot be run. That is no failure, but a note, unless something was asked
    for that only a run can tell.

    Args:
        model: the original.
        checks: what to look at.
        progress: told about comparing and timing.
        kept: whether to keep the original's outputs, as there will be several results.

    Raises:
        ModelError: ONNX Runtime rejects the model.
        DataError: data do not fit the model.
        ProviderError: the device is not there.
    """

    def __init__(self, model: Model, checks: Checks, progress: Progress, kept: bool = False) -> None:
        self.checks = checks
        self._model, self._progress = model, progress
        self._device = find_device(checks.device)
        self._control: Session | None = None
        self._notes: tuple[str, ...] = ()
        try:
            self._session = self._open(model)
        except ModelError as error:
            custom = _custom_operators(model)
            if not custom or checks.needs_a_run:
                raise
            note = f"not validated: ONNX Runtime has no operators {', '.join(custom)} ({error})"
            self._notes = (textwrap.shorten(note, 300, placeholder=" …"),)
            self._expected = None
        else:
            self._expected = _find_expected(self._session, checks, kept)
            if checks.inputs is None:
                self._notes = ("outputs were compared on random numbers; give real data with --inputs",)

    def check(self, candidate: Model, timed: bool = True) -> CheckResult:
        """Check a result.

        Args:
            candidate: the result; may be the original itself.
            timed: whether to measure its latency, if the checks leave time for it.

        Raises:
            ModelError: onnx.checker or ONNX Runtime rejects it.
            DataError: there are labels, but no class-like output.
        """
        notes = (*_check_graph(self._model, candidate), *self._notes)
        if self._expected is None:
            return CheckResult(None, None, notes)
        session = self._session if candidate is self._model else self._open(candidate)
        self._progress("Comparing outputs", 0, 1)
        validation = compare_outputs(self._expected, session, self.checks.limits)
        self._progress("Comparing outputs", 1, 1)
        if not timed or self.checks.latency_seconds <= 0:
            return CheckResult(validation, None, notes)
        return CheckResult(validation, self._time(session, self._expected.feeds.batches[0]), notes)

    def _open(self, model: Model) -> Session:
        return Session(model, self._device, self.checks.threads)

    def _time(self, session: Session, batch: Feed) -> Latency:
        """Paired latency: of one sample, where the batch size is not fixed."""
        self._control = self._control or self._open(self._model)
        fixed = any(value.shape and isinstance(value.shape[0], int) for value in self._session.inputs)
        one = (
            batch
            if fixed
            else {
                name: np.ascontiguousarray(array[:1]) if array.ndim else array
                for name, array in batch.items()
            }
        )
        seconds, seed = self.checks.latency_seconds, self.checks.seed
        return measure_latency(self._session, self._control, session, one, seconds, self._progress, seed)


def run_checks(reference: Model, candidate: Model, checks: Checks, progress: Progress) -> CheckResult:
    """Check one result; see `Reference`.

    Raises:
        ModelError: onnx.checker or ONNX Runtime rejects a model.
        DataError: data do not fit the models.
        ProviderError: the device is not there.
    """
    return Reference(reference, checks, progress).check(candidate)


def _check_graph(reference: Model, candidate: Model) -> list[str]:
    """Run onnx.checker; what it also finds in the reference is not the candidate's fault."""
    try:
        check(candidate)
    except ModelError as error:
        try:
            check(reference)
        except ModelError:
            return [textwrap.shorten(f"the original does not pass either: {error}", 200, placeholder=" …")]
        raise
    return []


def _custom_operators(model: Model) -> list[str]:
    """Operators that neither ONNX, ONNX Runtime nor a function of the model defines, as domain:name."""
    nodes = [node for scope in scopes(model.proto) for node in scope.holder.node]
    defined = {(function.domain, function.name) for function in model.proto.functions}
    custom = {(n.domain, n.op_type) for n in nodes if n.domain not in _KNOWN_DOMAINS} - defined
    return [":".join(name) for name in sorted(custom)]


def _find_expected(session: Session, checks: Checks, kept: bool) -> Expected:
    if checks.inputs is None:
        if checks.labels is not None:
            raise DataError("labels were given without inputs; give both")
        return Expected(
            session, random_feeds(session.inputs, checks.input_shapes, seed=checks.seed), kept=kept
        )
    feeds = load_feeds(checks.inputs, session.inputs, samples=checks.samples, images=checks.images)
    return Expected(session, feeds, None if checks.labels is None else load_labels(checks.labels), kept)
