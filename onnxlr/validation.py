"""Two models + inputs -> how far apart their outputs are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxlr.errors import DataError, ModelError, UsageError
from onnxlr.feeds import Feed, Feeds, batch_size
from onnxlr.runtime import Session
from onnxlr.shelf import Shelf

__all__ = ["DifferenceSums", "Expected", "Limits", "OutputDifference", "Validation", "compare_outputs"]

_ROUNDING = 1e-9
"""What the difference of two fractions may be off by: less than one sample of as many as there can be."""


@dataclass(frozen=True, slots=True)
class OutputDifference:
    """One output of the result against the original's, over all samples.

    Attributes:
        name: of the output.
        max_abs: largest absolute difference.
        rel_l2: ‖y − ŷ‖ / ‖y‖.
        cosine: ⟨y, ŷ⟩ / (‖y‖ ‖ŷ‖).
        top1_agreement: fraction of samples with the same largest entry; None unless the output is
            `(samples, classes)`.
        top1_before: accuracy of the original, where labels were given.
        top1_after: accuracy of the result, where labels were given.
    """

    name: str
    max_abs: float
    rel_l2: float
    cosine: float
    top1_agreement: float | None
    top1_before: float | None = None
    top1_after: float | None = None

    @property
    def top1_drop(self) -> float | None:
        """Loss of accuracy, where labels were given."""
        if self.top1_before is None or self.top1_after is None:
            return None
        return self.top1_before - self.top1_after


@dataclass(frozen=True, slots=True)
class Limits:
    """What the outputs must keep to; None: no limit. NaN and infinities in the result alone always fail.

    Attributes:
        max_rel_l2: largest relative L2 error ‖y − ŷ‖ / ‖y‖ of any output, at least 0.
        min_agreement: least top-1 agreement, a fraction of the samples.
        max_drop: largest loss of top-1 accuracy, as a fraction: `top1_before` − `top1_after`.

    Raises:
        UsageError: a limit is out of range.

    >>> import onnxlr
    >>> onnxlr.Limits(max_drop=0.01)  # one point in a hundred
    Limits(max_rel_l2=None, min_agreement=None, max_drop=0.01)
    """

    max_rel_l2: float | None = None
    min_agreement: float | None = None
    max_drop: float | None = None

    def __post_init__(self) -> None:
        if self.max_rel_l2 is not None and self.max_rel_l2 < 0:  # NaN is a limit that nothing keeps
            raise UsageError(f"max_rel_l2 must be at least 0, got {self.max_rel_l2}")
        if self.min_agreement is not None and (self.min_agreement < 0 or self.min_agreement > 1):
            raise UsageError(f"min_agreement is a fraction, from 0 to 1; got {self.min_agreement}")
        if self.max_drop is not None and abs(self.max_drop) > 1:  # below 0 a gain is asked for
            raise UsageError(f"max_drop is a fraction, up to 1; got {self.max_drop}")

    def violations(self, outputs: Sequence[OutputDifference]) -> list[str]:
        """One line for every limit that an output breaks, or that cannot be measured."""
        broken = (f"output '{output.name}'{what}" for output in outputs for what in self._broken(output))
        return [*broken, *self._not_measured(outputs)]

    def _broken(self, output: OutputDifference) -> Iterator[str]:
        """What is wrong with an output; comparisons are written so that NaN fails."""
        if not np.isfinite(output.max_abs):
            yield " is not finite where the original's is"
        if self.max_rel_l2 is not None and not output.rel_l2 <= self.max_rel_l2:
            yield f": relative L2 {output.rel_l2:.3g} > {self.max_rel_l2:g}"
        agreement, drop = output.top1_agreement, output.top1_drop
        if self.min_agreement is not None and agreement is not None and not agreement >= self.min_agreement:
            yield f": top-1 agreement {agreement:.4f} < {self.min_agreement:g}"
        if self.max_drop is not None and drop is not None and not drop <= self.max_drop + _ROUNDING:
            yield f": top-1 accuracy drops by {drop:.4f} > {self.max_drop:g}"

    def _not_measured(self, outputs: Sequence[OutputDifference]) -> Iterator[str]:
        if self.max_rel_l2 is not None and not outputs:
            yield "no output is numeric, so a relative L2 cannot be measured"
        if self.min_agreement is not None and all(output.top1_agreement is None for output in outputs):
            yield "no output is class-like, so a top-1 agreement cannot be measured"
        if self.max_drop is not None and all(output.top1_drop is None for output in outputs):
            yield "there are no labels, or no output is class-like, so a drop of accuracy cannot be measured"


@dataclass(frozen=True, slots=True)
class Validation:
    """Outputs of a model and its optimized version on the same inputs.

    Attributes:
        outputs: one entry a numeric output.
        inputs: where the inputs came from; random ones say so.
        samples: number of samples.
        violations: the limits that were broken.
    """

    outputs: tuple[OutputDifference, ...]
    inputs: str
    samples: int
    violations: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether every limit held."""
        return not self.violations

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {**asdict(self), "passed": self.passed}


class Expected:
    """What the original makes of some inputs.

    Args:
        session: the original.
        feeds: its inputs.
        labels: class of every sample.
        kept: whether to keep the outputs (beyond 1 GiB in a file) instead of running the original each time.

    Raises:
        DataError: there are not as many labels as samples.
    """

    def __init__(
        self, session: Session, feeds: Feeds, labels: NDArray[np.int64] | None = None, kept: bool = False
    ) -> None:
        if labels is not None and len(labels) != feeds.samples:
            raise DataError(f"{len(labels)} labels for {feeds.samples} samples")
        self.session = session
        self.feeds = feeds
        self.labels = labels
        self._kept = kept
        self._outputs: Sequence[list[Any]] | None = None

    def __iter__(self) -> Iterator[tuple[Feed, list[Any]]]:
        """Batches, and the outputs for each."""
        if self._outputs is not None:
            yield from zip(self.feeds.batches, self._outputs, strict=True)
            return
        shelf, outputs = Shelf(), []
        for feed in self.feeds.batches:
            found = self.session.run(feed)
            if self._kept:
                outputs.append([shelf.put(array) if _is_numeric(array) else None for array in found])
            yield feed, found
        if self._kept:
            self._outputs = outputs


def compare_outputs(expected: Expected, candidate: Session, limits: Limits) -> Validation:
    """Run the candidate on what the original was run on; sums are kept, its outputs are not.

    Args:
        expected: of the original.
        candidate: the result; the original's session itself is not run a second time.
        limits: what to keep to.

    Raises:
        ModelError: the models have different outputs.
        DataError: there are labels, but no class-like output.
    """
    names, itself = expected.session.output_names, candidate is expected.session
    if names != candidate.output_names:
        raise ModelError(f"outputs differ: {names} against {candidate.output_names}")
    feeds, labels = expected.feeds, expected.labels
    sums = [DifferenceSums(name) for name in names]
    start = 0
    for feed, outputs in expected:
        results = zip(sums, outputs, outputs if itself else candidate.run(feed), strict=True)
        size = batch_size(feed)
        part = None if labels is None else labels[start : start + size]
        start += size
        for entry, before, after in results:
            entry.add(before, after, size, part)
    differences = tuple(entry.difference() for entry in sums if entry.is_numeric)
    if labels is not None and all(output.top1_before is None for output in differences):
        raise DataError("labels were given, but no output is class-like: (samples, classes)")
    return Validation(differences, feeds.source, feeds.samples, tuple(limits.violations(differences)))


@dataclass(slots=True)
class DifferenceSums:
    """Running sums over batches for one output."""

    name: str
    is_numeric: bool = True
    max_abs: float = 0.0
    difference_squared: float = 0.0
    expected_squared: float = 0.0
    actual_squared: float = 0.0
    dot: float = 0.0
    is_class_like: bool = True
    has_labels: bool = False
    samples: int = 0
    hits: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("agree", "before", "after"), 0))

    def add(self, expected: Any, actual: Any, samples: int, labels: NDArray[np.int64] | None = None) -> None:
        """Count in one batch of so many samples.

        Raises:
            ModelError: the outputs have different shapes.
        """
        if not _is_numeric(expected):
            self.is_numeric = False
            return
        if expected.shape != actual.shape:
            raise ModelError(
                f"output '{self.name}' has the shape {actual.shape}, originally {expected.shape}"
            )
        x, y = expected.astype(np.float64), actual.astype(np.float64)
        self._add_distance(x, y)
        self.is_class_like &= expected.dtype.kind == "f" and x.shape[:1] == (samples,) and _has_classes(x)
        if self.is_class_like:
            self._add_classes(x.argmax(axis=1), y.argmax(axis=1), labels)

    def _add_distance(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> None:
        same = (x == y) | (np.isnan(x) & np.isnan(y))  # equal infinities and NaNs are no difference
        with np.errstate(invalid="ignore", over="ignore"):
            difference = np.where(same, 0.0, x - y)
            self.max_abs = float(np.max(np.abs(difference), initial=self.max_abs))
            self.difference_squared += float(np.square(difference).sum())
            finite = np.isfinite(x) & np.isfinite(y)
            x, y = x[finite], y[finite]
            self.expected_squared += float(x @ x)
            self.actual_squared += float(y @ y)
            self.dot += float(x @ y)

    def _add_classes(
        self, before: NDArray[np.intp], after: NDArray[np.intp], labels: NDArray[np.int64] | None
    ) -> None:
        self.samples += len(before)
        self.hits["agree"] += int((before == after).sum())
        if labels is not None:
            self.has_labels = True
            self.hits["before"] += int((before == labels).sum())
            self.hits["after"] += int((after == labels).sum())

    def difference(self) -> OutputDifference:
        """Of what was counted in."""
        norms = (self.expected_squared * self.actual_squared) ** 0.5
        fractions = {key: hits / max(self.samples, 1) for key, hits in self.hits.items()}
        labelled = self.is_class_like and self.has_labels
        return OutputDifference(
            self.name,
            self.max_abs,
            _ratio(self.difference_squared**0.5, self.expected_squared**0.5),
            self.dot / norms if norms else float(self.expected_squared == self.actual_squared),
            fractions["agree"] if self.is_class_like and self.samples else None,
            fractions["before"] if labelled else None,
            fractions["after"] if labelled else None,
        )


def _is_numeric(output: Any) -> bool:
    return isinstance(output, np.ndarray) and output.dtype.kind in "fiub"


def _has_classes(x: NDArray[np.float64]) -> bool:
    return x.ndim == 2 and x.shape[1] > 1


def _ratio(difference: float, reference: float) -> float:
    """Relative error; 0 for 0 / 0, infinite where only the reference is 0."""
    if difference == 0:
        return 0.0
    return difference / reference if reference else float("inf")
