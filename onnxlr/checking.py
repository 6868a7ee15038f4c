"""Original + result -> proof: the checker's verdict, output differences, paired latency."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from onnxlr.errors import DataError, ModelError
from onnxlr.feeds import Feed, Feeds, load_feeds, load_labels, random_feeds
from onnxlr.images import ImageOptions
from onnxlr.latency import Latency, measure_latency
from onnxlr.model_file import Model
from onnxlr.model_writing import check
from onnxlr.parallel import Progress
from onnxlr.runtime import Device, Session, find_device
from onnxlr.validation import Limits, Validation, compare_outputs
from passes.graph import scopes

__all__ = ["CheckResult", "Checks", "run_checks"]

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


def run_checks(reference: Model, candidate: Model, checks: Checks, progress: Progress) -> CheckResult:
    """Check `candidate` against `reference`.

    A model with custom operators cannot be run. That is no failure, but a note, unless something was asked
    for that only a run can tell.

    Raises:
        ModelError: onnx.checker or ONNX Runtime rejects a model.
        DataError: data do not fit the models.
        ProviderError: the device is not there.
    """
    device = find_device(checks.device)
    notes = _check_graph(reference, candidate)
    try:
        original = Session(reference, device, checks.threads)
    except ModelError as error:
        custom = _custom_operators(reference)
        if not custom or checks.needs_a_run:
            raise
        note = f"not validated: ONNX Runtime has no operators {', '.join(custom)} ({error})"
        return CheckResult(None, None, (*notes, textwrap.shorten(note, 300, placeholder=" …")))
    result = Session(candidate, device, checks.threads)
    feeds = _find_feeds(original, checks)
    if checks.labels is not None and checks.inputs is None:
        raise DataError("labels were given without inputs; give both")
    labels = None if checks.labels is None else load_labels(checks.labels)
    progress("Comparing outputs", 0, 1)
    validation = compare_outputs(original, result, feeds, checks.limits, labels)
    progress("Comparing outputs", 1, 1)
    if checks.inputs is None:
        notes.append("outputs were compared on random numbers; give real data with --inputs")
    if checks.latency_seconds <= 0:
        return CheckResult(validation, None, tuple(notes))
    latency = _time(reference, device, (original, result), feeds.batches[0], checks, progress)
    return CheckResult(validation, latency, tuple(notes))


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


def _find_feeds(session: Session, checks: Checks) -> Feeds:
    if checks.inputs is not None:
        return load_feeds(checks.inputs, session.inputs, samples=checks.samples, images=checks.images)
    return random_feeds(session.inputs, checks.input_shapes, seed=checks.seed)


def _time(
    reference: Model,
    device: Device,
    sessions: tuple[Session, Session],
    batch: Feed,
    checks: Checks,
    progress: Progress,
) -> Latency:
    original, result = sessions
    control = Session(reference, device, checks.threads)
    fixed = any(value.shape and isinstance(value.shape[0], int) for value in original.inputs)
    one = (
        batch
        if fixed
        else {name: np.ascontiguousarray(array[:1]) if array.ndim else array for name, array in batch.items()}
    )
    return measure_latency(original, control, result, one, checks.latency_seconds, progress, checks.seed)
