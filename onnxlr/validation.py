"""Two models + inputs -> how far apart their outputs are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxlr.errors import DataError, ModelError
from onnxlr.feeds import Feeds, batch_size
from onnxlr.runtime import Session

__all__ = ["Limits", "OutputDifference", "Validation", "compare_outputs"]


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


@dataclass(frozen=True, slots=True)
class Limits:
    """What the outputs must keep to; None: no limit. NaN and infinities in the result alone always fail."""

    max_rel_l2: float | None = None
    min_agreement: float | None = None

    def violations(self, outputs: Sequence[OutputDifference]) -> list[str]:
        """One line for every limit that an output breaks."""
        found = []
        for output in outputs:
            if not np.isfinite(output.max_abs):
                found.append(f"output '{output.name}' is not finite where the original's is")
            # written so that NaN fails
            if self.max_rel_l2 is not None and not output.rel_l2 <= self.max_rel_l2:
                found.append(f"output '{output.name}': relative L2 {output.rel_l2:.3g} > {self.max_rel_l2:g}")
            agreement = output.top1_agreement
            if self.min_agreement is not None and agreement is not None and agreement < self.min_agreement:
                found.append(
                    f"output '{output.name}': top-1 agreement {agreement:.4f} < {self.min_agreement:g}"
                )
        if self.max_rel_l2 is not None and not outputs:
            found.append("no output is numeric, so a relative L2 cannot be measured")
        if self.min_agreement is not None and all(output.top1_agreement is None for output in outputs):
            found.append("no output is class-like, so a top-1 agreement cannot be measured")
        return found


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


def compare_outputs(
    reference: Session,
    candidate: Session,
    feeds: Feeds,
    limits: Limits,
    labels: NDArray[np.int64] | None = None,
) -> Validation:
    """Run both models on the same batches; sums are kept, outputs are not.

    Raises:
        ModelError: the models have different outputs.
        DataError: there are not as many labels as samples, or labels without a class-like output.
    """
    if reference.output_names != candidate.output_names:
        raise ModelError(f"outputs differ: {reference.output_names} against {candidate.output_names}")
    if labels is not None and len(labels) != feeds.samples:
        raise DataError(f"{len(labels)} labels for {feeds.samples} samples")
    sums = [_Sums(name) for name in reference.output_names]
    start = 0
    for feed in feeds.batches:
        results = zip(sums, reference.run(feed), candidate.run(feed), strict=True)
        size = batch_size(feed)
        part = None if labels is None else labels[start : start + size]
        start += size
        for entry, expected, actual in results:
            entry.add(expected, actual, size, part)
    outputs = tuple(entry.difference() for entry in sums if entry.is_numeric)
    if labels is not None and all(output.top1_before is None for output in outputs):
        raise DataError("labels were given, but no output is class-like: (samples, classes)")
    return Validation(outputs, feeds.source, feeds.samples, tuple(limits.violations(outputs)))


@dataclass(slots=True)
class _Sums:
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

    def add(self, expected: Any, actual: Any, samples: int, labels: NDArray[np.int64] | None) -> None:
        if not isinstance(expected, np.ndarray) or expected.dtype.kind not in "fiub":
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


def _has_classes(x: NDArray[np.float64]) -> bool:
    return x.ndim == 2 and x.shape[1] > 1


def _ratio(difference: float, reference: float) -> float:
    """Relative error; 0 for 0 / 0, infinite where only the reference is 0."""
    if difference == 0:
        return 0.0
    return difference / reference if reference else float("inf")
