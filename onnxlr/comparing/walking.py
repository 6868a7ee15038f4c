"""Through two exports side by side: where do the values behind the layers begin to differ?

The models are those after the passes that prepare them: what an exporter wrote around a layer is drawn into
it, so that values behind matched layers can be compared number by number.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, ValueInfoProto

from onnxlr.comparing.matching import Match, Matching
from onnxlr.comparing.reasons import find_reasons
from onnxlr.comparing.running import Export
from onnxlr.comparing.sides import Side
from onnxlr.feeds import Feed

__all__ = ["Divergence", "LayerDifference", "Prepared", "Walk", "walk"]

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class LayerDifference:
    """A layer of the first model against the same layer of another one.

    Attributes:
        name: in the first model; of a chain the last link.
        others: in the other model; several for a chain that took the layer's place.
        matched_by: weights, chain or shapes.
        weight_error: ‖W − Ŵ‖ / ‖W‖ of what both compute, BatchNormalization folded.
        rel_l2: ‖y − ŷ‖ / ‖y‖ of the values behind the layer; None where their shapes differ.
    """

    name: str
    others: tuple[str, ...]
    matched_by: str
    weight_error: float
    rel_l2: float | None


@dataclass(frozen=True, slots=True)
class Divergence:
    """The first layer behind which the models differ.

    Attributes:
        name: in the first model.
        other: in the other model.
        rel_l2: see `LayerDifference`.
        input_rel_l2: the same of the values that the layer reads; None where their shapes differ.
        reasons: what is different about the layer, one line each.
    """

    name: str
    other: str
    rel_l2: float | None
    input_rel_l2: float | None
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Walk:
    """All layers of two models side by side.

    Attributes:
        first: name of the first model.
        other: name of the other one.
        layers: in the order of the first model.
        first_left: layers of the first model without counterpart.
        other_left: layers of the other model without counterpart.
        divergence: None where no value differs by more than the tolerance.
    """

    first: str
    other: str
    layers: tuple[LayerDifference, ...]
    first_left: tuple[str, ...]
    other_left: tuple[str, ...]
    divergence: Divergence | None


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """An export after the passes that prepare it, with its layers."""

    export: Export
    side: Side

    def values(self, names: Sequence[str], feeds: Sequence[Feed]) -> Iterator[Mapping[str, Array]]:
        """Values inside the graph, for one feed after the other.

        Raises:
            ModelError: ONNX Runtime rejects the prepared model.
        """
        wanted = list(dict.fromkeys(names))
        model = self.side.model
        session = self.export.open(model.with_proto(_giving(model.proto, wanted)))
        for feed in feeds:
            yield dict(zip(wanted, self.export.values(session, feed, wanted), strict=True))


def walk(
    first: Prepared, other: Prepared, matching: Matching, feeds: Sequence[Feed], tolerance: float
) -> Walk:
    """Compare the values behind matched layers, in the order of the first model.

    Args:
        first: a model.
        other: another one.
        matching: of their layers.
        feeds: batches of the model that all are compared with.
        tolerance: relative L2 beyond which values differ.

    Raises:
        ModelError: ONNX Runtime rejects a prepared model.
    """
    behind = [_Seen.behind(match, first.side, other.side) for match in matching.matches]
    errors = _errors(first, other, behind, feeds)
    layers = [
        LayerDifference(
            first.side.layers[match.first[-1]].name,
            tuple(other.side.layers[i].name for i in match.other),
            match.by,
            match.weight_error,
            error,
        )
        for match, error in zip(matching.matches, errors, strict=True)
    ]
    differs = (i for i, error in enumerate(errors) if error is None or not error <= tolerance)
    at = next(differs, None)
    divergence = None
    if at is not None:
        divergence = _explain(first, other, matching.matches[at], layers[at], feeds, tolerance)
    return Walk(
        first.export.name,
        other.export.name,
        tuple(layers),
        tuple(first.side.layers[i].name for i in matching.first_left),
        tuple(other.side.layers[i].name for i in matching.other_left),
        divergence,
    )


def _explain(
    first: Prepared,
    other: Prepared,
    match: Match,
    difference: LayerDifference,
    feeds: Sequence[Feed],
    tolerance: float,
) -> Divergence:
    """What is different about a layer behind which the models differ."""
    (before,) = _errors(first, other, [_Seen.before(match, first.side, other.side)], feeds)
    reasons = list(find_reasons(first.side, other.side, match))
    if before is not None and before > tolerance:
        reasons.append(
            f"the values that it reads differ already, by {before:.2g}: what stands before it, behind the"
            " layers before, is not the same"
        )
    name, other_name = difference.name, difference.others[-1]
    return Divergence(name, other_name, difference.rel_l2, before, tuple(reasons))


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """A value of both models.

    Attributes:
        names: of the value in the first model and in the other one.
        axes: where the channels are.
        permutation: for every channel of the first one the one of the other; None: the same.
    """

    names: tuple[str, str]
    axes: tuple[int, int]
    permutation: NDArray[np.intp] | None

    @classmethod
    def behind(cls, match: Match, first: Side, other: Side) -> _Seen:
        """What matched layers give."""
        i, j = match.first[-1], match.other[-1]
        names = first.output_name(i), other.output_name(j)
        return cls(names, (first.channel_axis(i), other.channel_axis(j)), match.permutation)

    @classmethod
    def before(cls, match: Match, first: Side, other: Side) -> _Seen:
        """What matched layers read."""
        i, j = match.first[0], match.other[0]
        names = first.input_name(i), other.input_name(j)
        return cls(names, (first.channel_axis(i), other.channel_axis(j)), None)

    def rows(self, value: Array, other: Array) -> tuple[Array, Array]:
        """Both with the channels last and in the same order, float64."""
        x, y = (
            np.moveaxis(array, axis, -1).astype(np.float64)
            for array, axis in zip((value, other), self.axes, strict=True)
        )
        if self.permutation is not None and y.shape[-1] == len(self.permutation):
            y = y[..., self.permutation]
        without = [[size for size in array.shape if size != 1] for array in (x, y)]
        return x, y.reshape(x.shape) if without[0] == without[1] else y  # a Gemm against a 1×1 Conv


def _errors(
    first: Prepared, other: Prepared, seen: Sequence[_Seen], feeds: Sequence[Feed]
) -> list[float | None]:
    """Relative L2 of values over all feeds; None where shapes differ, infinite where one is not finite."""
    gaps, norms = np.zeros(len(seen)), np.zeros(len(seen))
    comparable = np.ones(len(seen), bool)
    found = first.values([item.names[0] for item in seen], feeds)
    others = other.values([item.names[1] for item in seen], feeds)
    for values, other_values in zip(found, others, strict=True):
        for i, item in enumerate(seen):
            x, y = item.rows(values[item.names[0]], other_values[item.names[1]])
            if x.shape != y.shape:
                comparable[i] = False
                continue
            gaps[i] += _squared_gap(x, y)
            norms[i] += np.square(x[np.isfinite(x)]).sum()
    ratios = [_ratio(gap, norm) for gap, norm in zip(gaps, norms, strict=True)]
    return [ratio if known else None for ratio, known in zip(ratios, comparable, strict=True)]


def _squared_gap(x: Array, y: Array) -> float:
    """‖x − y‖²; numbers that are equally not finite are no difference."""
    same = (x == y) | (np.isnan(x) & np.isnan(y))
    with np.errstate(invalid="ignore"):
        gap = float(np.square(np.where(same, 0.0, x - y)).sum())
    return gap if np.isfinite(gap) else inf


def _ratio(gap: float, norm: float) -> float:
    """Relative error; 0 for 0 / 0, infinite where only the reference is 0."""
    if gap == 0:
        return 0.0
    return float(np.sqrt(gap / norm)) if norm else inf


def _giving(proto: ModelProto, names: Sequence[str]) -> ModelProto:
    """A model that gives further values."""
    result = ModelProto()
    result.CopyFrom(proto)
    given = {value.name for value in result.graph.output}
    result.graph.output.extend(ValueInfoProto(name=name) for name in names if name not in given)
    return result
