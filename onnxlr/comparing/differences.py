"""Outputs of several models on the same inputs, every two of them side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from onnx import TensorProto

from onnxlr.comparing.running import Export
from onnxlr.errors import ModelError
from onnxlr.feeds import Feed, batch_size
from onnxlr.validation import DifferenceSums, OutputDifference
from passes.graph import all_tensors

__all__ = ["PairDifference", "compare_pairs"]

_TOLERANCE = 1e-4
_HALF_TOLERANCE = 2e-2
_HALF = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


@dataclass(frozen=True, slots=True)
class PairDifference:
    """Two models on the same inputs.

    Attributes:
        first: name of one.
        other: name of the other.
        outputs: what their outputs differ by, under the names of the first model of all.
        tolerance: relative L2 up to which outputs count as the same.
        same: whether all outputs are.
    """

    first: str
    other: str
    outputs: tuple[OutputDifference, ...]
    tolerance: float
    same: bool


def _default_tolerance(models: Sequence[Export]) -> float:
    """What models may differ by that compute the same: 2e-2 with half precision in one of them, else 1e-4."""
    tensors = (tensor for model in models for tensor in all_tensors(model.model.proto))
    return _HALF_TOLERANCE if any(tensor.data_type in _HALF for tensor in tensors) else _TOLERANCE


def compare_pairs(
    models: Sequence[Export], feeds: Sequence[Feed], tolerance: float | None
) -> list[PairDifference]:
    """Run every model once on all feeds, and compare the outputs of every two.

    Raises:
        ModelError: ONNX Runtime fails, outputs have different shapes, or none is numeric.
    """
    names = [binding.first.name for binding in models[0].outputs]
    pairs = list(combinations(range(len(models)), 2))
    sums = {pair: [DifferenceSums(name) for name in names] for pair in pairs}
    for feed in feeds:
        found = [model.run(feed) for model in models]
        for i, j in pairs:
            for k, entry in enumerate(sums[i, j]):
                try:
                    entry.add(found[i][k], found[j][k], batch_size(feed))
                except ModelError as error:
                    raise ModelError(f"{models[j].name} against {models[i].name}: {error}") from error
    return [
        _judged(
            models[i], models[j], [entry.difference() for entry in sums[i, j] if entry.is_numeric], tolerance
        )
        for i, j in pairs
    ]


def _judged(
    first: Export, other: Export, outputs: Sequence[OutputDifference], tolerance: float | None
) -> PairDifference:
    limit = _default_tolerance((first, other)) if tolerance is None else tolerance
    if not outputs:
        raise ModelError(f"{first.name} and {other.name} have no numeric output to compare")
    same = all(output.rel_l2 <= limit for output in outputs)  # not so for NaN
    return PairDifference(first.name, other.name, tuple(outputs), limit, same)
