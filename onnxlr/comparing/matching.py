"""Which layers of two models are the same ones.

Layers are matched

1. by their weights, whatever their names and operators: up to the order of input channels (transposition),
   to scales of output channels (BatchNormalization folded) and to their order
   (`onnxlr.comparing.fingerprint`);
2. chains, as factorization makes them, to the layer whose shapes they have and whose weight they are nearest;
3. what is left over by shapes, in the order of the graph: after the same layers that were matched before.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto
from scipy.optimize import linear_sum_assignment

from onnxlr.comparing.fingerprint import distance, find_permutation
from onnxlr.comparing.rows import compare_rows
from onnxlr.comparing.sides import Side
from onnxlr.conv import ConvSpec
from onnxlr.factorization import compose

__all__ = ["Match", "Matching", "match_layers"]

Places = tuple[int, ...]

_ROUNDING: dict[int, float] = {TensorProto.FLOAT16: 1e-3, TensorProto.BFLOAT16: 8e-3}
_FINEST = 1e-5
"""What folding in float32 rounds off."""

_FLOOR = 1e-6
_NEVER = 1e6
"""Cost of a match that the shapes forbid."""


@dataclass(frozen=True, slots=True, eq=False)
class Match:
    """One layer of a model, and what it is in another one.

    Attributes:
        first: its place among the layers of the first model, or the places of a chain's links.
        other: the same of the other model; at most one of the two is a chain.
        by: "weights", "chain" or "shapes".
        permutation: for every output channel of the first model the one of the other; None: the same.
        weight_error: ‖W − Ŵ‖ / ‖W‖, after the permutation, of what both compute.
        scales: smallest and largest ratio of an output channel's norm, other by first; None if all are zero.
    """

    first: Places
    other: Places
    by: str
    permutation: NDArray[np.intp] | None
    weight_error: float
    scales: tuple[float, float] | None


@dataclass(frozen=True, slots=True, eq=False)
class Matching:
    """All matches in the order of the first model, and what has no counterpart."""

    matches: Sequence[Match]
    first_left: Sequence[int]
    other_left: Sequence[int]


def match_layers(first: Side, other: Side) -> Matching:
    """Match the layers of two prepared models; see the module."""
    matcher = _Matcher(first, other)
    matcher.by_weights()
    matcher.by_chains()
    matcher.by_shapes()
    matches = sorted(matcher.found, key=lambda match: match.first)
    return Matching(matches, sorted(matcher.free[0]), sorted(matcher.free[1]))


class _Matcher:
    """What is matched so far, and which layers of either side are free."""

    def __init__(self, first: Side, other: Side) -> None:
        self.sides = (first, other)
        self.found: list[Match] = []
        self.free = (set(range(len(first.layers))), set(range(len(other.layers))))

    def by_weights(self) -> None:
        """Pairs whose fingerprints agree, the most alike first; where several do, those at like places."""
        first, other = self.sides
        pairs = [
            (gap > _FLOOR, abs(i / len(first.layers) - j / len(other.layers)), i, j)
            for i, j in self._alike()
            if (gap := distance(first.moments[i], other.moments[j])) <= self._tolerance(i, j)
        ]
        for _, _, i, j in sorted(pairs):
            if i in self.free[0] and j in self.free[1]:
                self._take((i,), (j,), "weights")

    def by_chains(self) -> None:
        """Chains of either side and the layer of the other one."""
        for side, turned in ((1, False), (0, True)):
            wholes, parts = self.sides[1 - side], self.sides[side]
            for place in sorted(self.free[1 - side]):
                best = _best_chain(wholes, place, parts, self.free[side])
                if best is not None:
                    first, other = (best, (place,)) if turned else ((place,), best)
                    self._take(first, other, "chain")

    def by_shapes(self) -> None:
        """The best assignment of what has the same shapes, by place and likeness of the weights."""
        pairs = list(self._alike())
        if not pairs:
            return
        rows, columns = (sorted({pair[side] for pair in pairs}) for side in (0, 1))
        costs = np.full((len(rows), len(columns)), _NEVER)
        for i, j in pairs:
            costs[bisect_left(rows, i), bisect_left(columns, j)] = self._strangeness(i, j)
        for row, column in zip(*linear_sum_assignment(costs), strict=True):
            if costs[row, column] < _NEVER:
                self._take((rows[row],), (columns[column],), "shapes")

    def _alike(self) -> Iterator[tuple[int, int]]:
        """Free layers of both sides with the same signature."""
        first, other = self.sides
        by_signature: dict[Any, list[int]] = {}
        for j in sorted(self.free[1]):
            by_signature.setdefault(other.signatures[j], []).append(j)
        for i in sorted(self.free[0]):
            yield from ((i, j) for j in by_signature.get(first.signatures[i], ()))

    def _tolerance(self, i: int, j: int) -> float:
        layers = self.sides[0].layers[i], self.sides[1].layers[j]
        rounding = max(_ROUNDING.get(layer.weight.data_type, _FINEST) for layer in layers)
        window = layers[0].conv.params // layers[0].conv.out_channels
        return 4 * rounding / float(np.sqrt(window)) + _FLOOR  # the fourth power multiplies errors by 4

    def _strangeness(self, i: int, j: int) -> float:
        """How many matches lie between the places of two layers, and how unlike their weights are."""
        before = [
            sum(match.first[-1] < i for match in self.found),
            sum(match.other[-1] < j for match in self.found),
        ]
        first, other = self.sides
        unlike = distance(first.moments[i], other.moments[j])
        return abs(before[0] - before[1]) + (unlike if unlike < 1 else 1.0)  # also where it is NaN

    def _take(self, first: Places, other: Places, by: str) -> None:
        self.free[0].difference_update(first)
        self.free[1].difference_update(other)
        self.found.append(_judged(self.sides, first, other, by))


def _judged(sides: tuple[Side, Side], first: Places, other: Places, by: str) -> Match:
    """A match with what its weights differ by."""
    whole = sides[0].layers[first[0]].conv if len(first) == 1 else sides[1].layers[other[0]].conv
    a, b = (_composed(side, places, whole) for side, places in zip(sides, (first, other), strict=True))
    rows, permutation = compare_rows(a, b), None
    if by == "weights" and not rows.same_but_for_scales:
        found = find_permutation(sides[0].moments[first[0]], sides[1].moments[other[0]])
        permutation = None if (found == np.arange(len(found))).all() else found
        b = b if permutation is None else b[permutation]
        rows = compare_rows(a, b)
        if not rows.same_but_for_scales:  # the order of the inputs is another one as well
            rows = compare_rows(*(np.sort(np.abs(x.reshape(len(x), -1))) for x in (a, b)))
    return Match(first, other, by, permutation, rows.error, rows.scales)


def _best_chain(wholes: Side, place: int, parts: Side, free: set[int]) -> Places | None:
    """The chain of free layers that computes most of what one layer does."""
    whole = wholes.layers[place].conv
    chains = [c for c in parts.chains(free) if _composes([parts.layers[i].conv for i in c], whole)]
    if len(chains) < 2:
        return chains[0] if chains else None
    weight = wholes.weight(place)
    return min(chains, key=lambda chain: compare_rows(weight, _composed(parts, chain, whole)).error)


def _composed(side: Side, places: Places, whole: ConvSpec) -> NDArray[Any]:
    """The weight that layers in a row compute."""
    if len(places) == 1:
        return side.weight(places[0])
    convs = [side.layers[i].conv for i in places]
    return compose([side.weight(i) for i in places], convs, whole.group)


def _composes(chain: Sequence[ConvSpec], whole: ConvSpec) -> bool:
    """Whether a chain has the shapes of one Conv, and `compose` can be used on it."""
    axes = len(whole.kernel_shape)
    if any(len(link.kernel_shape) != axes for link in chain):
        return False
    if any(link.transposed != whole.transposed and not link.is_pointwise for link in chain):
        return False
    kernels = [sorted(link.kernel_shape[axis] for link in chain) for axis in range(axes)]
    return (
        chain[0].in_channels == whole.in_channels
        and chain[-1].out_channels == whole.out_channels
        and all(link.group % whole.group == 0 for link in chain)
        and all(
            kernel[-1] == size and prod(kernel[:-1]) == 1
            for kernel, size in zip(kernels, whole.kernel_shape, strict=True)
        )
        and all(prod(link.strides[axis] for link in chain) == whole.strides[axis] for axis in range(axes))
    )
