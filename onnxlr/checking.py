"""Original + result -> proof: the checker's verdict, output differences, paired latency."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from onnxlr.errors import DataError, ModelError, UsageError
from onnxlr.feeds import load_feeds, load_labels, random_feeds
from onnxlr.images import ImageOptions
from onnxlr.latency import Latency
from onnxlr.model_file import Model
from onnxlr.model_writing import check
from onnxlr.parallel import Progress
from onnxlr.profiling import measure_layers
from onnxlr.providers import CPU, TENSORRT, Device, GpuOptions
from onnxlr.runtime import Session, Value, check_device_name, find_device
from onnxlr.timing import Timer, TimingOptions, timing_feeds
from onnxlr.validation import Expected, Limits, Validation, compare_outputs
from passes.graph import Key, scopes

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
        device: auto, cpu, cuda or tensorrt.
        threads: intra-op threads of ONNX Runtime, 0 for its default.
        latency_seconds: time to spend on paired timing at each batch size, in seconds; 0 for none.
        seed: of random inputs and of the order in timing.
        images: how image files become arrays.
        samples: at most so many of the inputs, evenly spaced; None: all.
        batches: sizes of a batch to time at, where the model leaves it open.
        prefer_nhwc: whether CUDA computes Convs with channels last.
        require_speedup: the result fails if it is not this many times as fast as the original, by the median
            at the first batch size; None: no limit.

    Raises:
        UsageError: a limit needs labels or timing, and there are none; a batch size is below 1 or there
            twice; there is no such device; or a number is negative.

    >>> import onnxlr
    >>> checks = onnxlr.Checks("test.npz", "labels.npy", limits=onnxlr.Limits(max_drop=0.01), batches=(1, 8))
    >>> onnxlr.Checks("test.npz", limits=onnxlr.Limits(max_drop=0.01))
    Traceback (most recent call last):
    onnxlr.errors.UsageError: max-drop needs labels: give --labels with --inputs
    """

    inputs: str | os.PathLike[str] | None = None
    labels: str | os.PathLike[str] | None = None
    input_shapes: Mapping[str, Sequence[int]] | None = None
    limits: Limits = Limits()
    device: str = "auto"
    threads: int = 0
    latency_seconds: float = 5.0
    seed: int = 0
    images: ImageOptions = ImageOptions()
    samples: int | None = None
    batches: tuple[int, ...] = (1,)
    prefer_nhwc: bool = False
    require_speedup: float | None = None

    def __post_init__(self) -> None:
        for name in ("inputs", "labels"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else os.fspath(value))
        check_device_name(self.device)
        if self.threads < 0 or not self.latency_seconds >= 0:
            raise UsageError("threads and latency_seconds must not be negative")
        if self.limits.max_drop is not None and self.labels is None:
            raise UsageError("max-drop needs labels: give --labels with --inputs")
        if self.require_speedup is not None and self.latency_seconds <= 0:
            raise UsageError("require-speedup needs timing: give --latency-seconds above 0")
        if not self.batches or min(self.batches) < 1 or len(set(self.batches)) < len(self.batches):
            raise UsageError(f"batch sizes are different numbers from 1 on, got {list(self.batches)}")

    @property
    def needs_a_run(self) -> bool:
        """Whether something is asked for that only running the models can tell."""
        wanted = self.limits != Limits(), self.labels is not None, self.require_speedup is not None
        return any(wanted)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for reports."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What was measured.

    Attributes:
        validation: differences of the outputs, and the limits they broke; None if neither model can be run.
        latency: at the first batch size, without CUDA graph; None if no time was given for it.
        notes: what the user should know, one line each.
        latencies: at every batch size, on a GPU also with a CUDA graph; `latency` is the first.
    """

    validation: Validation | None
    latency: Latency | None
    notes: tuple[str, ...]
    latencies: tuple[Latency, ...] = ()

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
        fixed: a model whose inputs have sizes that the original leaves open: data are cut to them.

    Raises:
        ModelError: ONNX Runtime rejects the model.
        DataError: data do not fit the model.
        ProviderError: the device is not there.
    """

    def __init__(
        self,
        model: Model,
        checks: Checks,
        progress: Progress,
        kept: bool = False,
        fixed: Model | None = None,
    ) -> None:
        self.checks = checks
        self._model, self._progress = model, progress
        self._device = find_device(checks.device)
        self._timer: Timer | None = None
        self._timing_notes: Sequence[str] = ()
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
            self._inputs = [_with_sizes(value, fixed) for value in self._session.inputs]
            self._expected = _find_expected(self._session, self._inputs, checks, kept)
            self._notes = (*_device_notes(checks, self._device),)

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
        timed = timed and self.checks.latency_seconds > 0
        timer = self._find_timer(self._expected) if timed else None
        ready = None if timer is None else timer.load(candidate)
        if candidate is self._model:
            session = self._session
        else:
            session = ready.session if ready and self._device == CPU else self._open(candidate)
        self._progress("Comparing outputs", 0, 1)
        validation = compare_outputs(self._expected, session, self.checks.limits)
        self._progress("Comparing outputs", 1, 1)
        if timer is None or ready is None:
            return CheckResult(validation, None, notes)
        latencies, found = timer.measure(ready)
        violations = (*validation.violations, *_too_slow(latencies[0], self.checks.require_speedup))
        validation = replace(validation, violations=violations)
        return CheckResult(validation, latencies[0], (*notes, *self._timing_notes, *found), latencies)

    def time_layers(self, model: Model, chains: Mapping[Key, int]) -> Mapping[Key, float]:
        """Seconds of layers, or of chains in their place, in a model; see `measure_layers`.

        They are those of the batch that latency is measured on first. Nothing can be timed of a model that
        cannot be run, if the original cannot either.

        Raises:
            ModelError: ONNX Runtime rejects it.
        """
        if self._expected is None:
            return {}
        batch = self._expected.feeds.batches[0]
        feeds, _ = timing_feeds(self._inputs, batch, self.checks.batches)
        return measure_layers(model, chains, self._device, self.checks.threads, feeds[0]).layers

    def _open(self, model: Model) -> Session:
        """A session to look at outputs with: without TF32."""
        gpu = GpuOptions(prefer_nhwc=self.checks.prefer_nhwc)
        return Session(model, self._device, self.checks.threads, gpu=gpu)

    def _find_timer(self, expected: Expected) -> Timer:
        if self._timer is None:
            checks = self.checks
            feeds, self._timing_notes = timing_feeds(self._inputs, expected.feeds.batches[0], checks.batches)
            options = TimingOptions(
                self._device, checks.threads, checks.latency_seconds, checks.prefer_nhwc, checks.seed
            )
            self._timer = Timer(self._model, feeds, options, self._progress)
        return self._timer


def run_checks(reference: Model, candidate: Model, checks: Checks, progress: Progress) -> CheckResult:
    """Check one result; see `Reference`.

    Raises:
        ModelError: onnx.checker or ONNX Runtime rejects a model.
        DataError: data do not fit the models.
        ProviderError: the device is not there.
    """
    return Reference(reference, checks, progress, fixed=candidate).check(candidate)


def _with_sizes(value: Value, model: Model | None) -> Value:
    """An input, with what another model with an input of that name and number of axes fixes of its sizes."""
    for port in () if model is None else model.proto.graph.input:
        dims = port.type.tensor_type.shape.dim
        if port.name == value.name and len(dims) == len(value.shape):
            sizes = zip(value.shape, dims, strict=True)
            shape = tuple(dim.dim_value if dim.dim_value > 0 else size for size, dim in sizes)
            return replace(value, shape=shape)
    return value


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


def _too_slow(latency: Latency, required: float | None) -> Iterator[str]:
    if required is not None and not latency.speedup >= required:
        yield f"speed-up {latency.speedup:.3g} < {required:g}"


def _device_notes(checks: Checks, device: Device) -> Iterator[str]:
    if checks.inputs is None:
        yield "outputs were compared on random numbers; give real data with --inputs"
    if device == TENSORRT:
        yield "TensorRT may round float32 products to TF32, also where outputs are compared"
    if device == CPU and checks.prefer_nhwc:
        yield "--prefer-nhwc does nothing on the CPU"


def _find_expected(session: Session, inputs: Sequence[Value], checks: Checks, kept: bool) -> Expected:
    if checks.inputs is None:
        if checks.labels is not None:
            raise DataError("labels were given without inputs; give both")
        return Expected(session, random_feeds(inputs, checks.input_shapes, seed=checks.seed), kept=kept)
    feeds = load_feeds(checks.inputs, inputs, samples=checks.samples, images=checks.images)
    return Expected(session, feeds, None if checks.labels is None else load_labels(checks.labels), kept)
