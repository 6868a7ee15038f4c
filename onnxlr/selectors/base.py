"""What a rank selector sees and returns. It never sees ONNX, nor weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from onnxlr.schemes import Rank

__all__ = ["Candidate", "Choice", "RankSelector", "Refusal"]


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """One scheme for one layer, at every rank that may be chosen.

    Attributes:
        layer: the layer's name.
        scheme: the scheme's name.
        ranks: what may be chosen.
        macs: `(len(ranks),)`, multiply-accumulates of the chain by those of the layer.
        cost: `(len(ranks),)`, predicted cost of the chain by that of the layer.
        error: `(len(ranks),)`, ‖W − Ŵ‖² / ‖W‖².
        limit: cost below which the gate lets a chain pass; infinite without a gate.
    """

    layer: str
    scheme: str
    ranks: Sequence[Rank]
    macs: NDArray[np.float64]
    cost: NDArray[np.float64]
    error: NDArray[np.float64]
    limit: float

    def cheapest(self, allowed: NDArray[np.bool_]) -> int | None:
        """Position of the cheapest allowed rank (the more accurate one of equals), or None."""
        if not allowed.any():
            return None
        return int(np.lexsort((self.error, self.cost, ~allowed))[0])

    def error_at(self, rank: Rank) -> float:
        """‖W − Ŵ‖² / ‖W‖² at one of the ranks."""
        return float(self.error[self.ranks.index(rank)])


@dataclass(frozen=True, slots=True)
class Choice:
    """Factorize a layer by a scheme at a rank."""

    layer: str
    scheme: str
    rank: Rank


@dataclass(frozen=True, slots=True)
class Refusal:
    """Leave a layer alone, for a reason."""

    reason: str


class RankSelector(Protocol):
    """Chooses scheme and rank of every layer; a budget is global, so it sees all candidates at once.

    A module of this package has a class named `Selector` with `name`, the option that selects it, `help` for
    that option, and a constructor that takes the option's number.
    """

    name: str
    help: str
    value: float

    def __init__(self, value: float) -> None:
        """Raise ValueError for a number out of range."""

    def __call__(self, candidates: Sequence[Candidate]) -> Mapping[str, Choice | Refusal]:
        """A choice or a refusal for every layer among the candidates."""
