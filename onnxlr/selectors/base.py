"""What a rank selector sees and returns. It never sees ONNX, nor weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from onnxlr.schemes import Rank

__all__ = [
    "Candidate",
    "Choice",
    "Judges",
    "LayerOptions",
    "ModelSize",
    "RankSelector",
    "Refusal",
    "cheapest_chain",
    "checked_fraction",
    "loss",
]

Judges = Literal["outputs", "weights"]
"""What a selector judges a rank by."""


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """One scheme for one layer, at every rank that may be chosen.

    Attributes:
        layer: the layer's name.
        scheme: the scheme's name.
        ranks: what may be chosen.
        macs: `(len(ranks),)`, multiply-accumulates of the chain by those of the layer.
        params: `(len(ranks),)`, weights of the chain by those of the layer.
        cost: `(len(ranks),)`, predicted cost of the chain by that of the layer.
        error: `(len(ranks),)`, relative squared error: of the weight, ‖W − Ŵ‖² / ‖W‖², or of the outputs.
        limit: cost below which the gate lets a chain pass; infinite without a gate.
        spectra: for each rank entry the σ² of the unfolding of the weight that it truncates, largest first,
            as many as the entry's full rank; empty where they are unknown.
        groups: number of groups of channels that are truncated alike; the spectra are sums over them.
        time: `(len(ranks),)`, predicted time of the chain by that of the layer; None if it was not asked for.
    """

    layer: str
    scheme: str
    ranks: Sequence[Rank]
    macs: NDArray[np.float64]
    params: NDArray[np.float64]
    cost: NDArray[np.float64]
    error: NDArray[np.float64]
    limit: float
    spectra: tuple[NDArray[np.float64], ...]
    groups: int = 1
    time: NDArray[np.float64] | None = None

    def cheapest(self, allowed: NDArray[np.bool_]) -> int | None:
        """Position of the cheapest allowed rank (the more accurate one of equals), or None."""
        if not allowed.any():
            return None
        return int(np.lexsort((self.error, self.cost, ~allowed))[0])

    def error_at(self, rank: Rank) -> float:
        """The error at one of the ranks."""
        return float(self.error[self.ranks.index(rank)])

    def time_at(self, rank: Rank) -> float | None:
        """The time at one of the ranks."""
        return None if self.time is None else float(self.time[self.ranks.index(rank)])


@dataclass(frozen=True, slots=True, eq=False)
class LayerOptions:
    """A layer and everything that may be done with it.

    Attributes:
        layer: its name.
        macs: multiply-accumulates in one run of the model, None if sizes are unknown.
        params: number of weights, without the bias.
        sensitivity: what one unit of relative squared error of its outputs counts; 1 where not measured.
        candidates: one a scheme that was tried.
        seconds: of one run of the layer, as measured in place or predicted; None if it was not asked for.
    """

    layer: str
    macs: float | None
    params: int
    sensitivity: float
    candidates: tuple[Candidate, ...]
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class ModelSize:
    """Size of the whole model, with what cannot be factorized.

    Attributes:
        macs: multiply-accumulates of all linear layers in one run, None if sizes are unknown.
        params: elements of all float tensors.
        seconds: of one run; None if times were not asked for.
    """

    macs: float | None
    params: int
    seconds: float | None = None


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
    """Chooses scheme and rank of every layer; a budget is global, so it sees all layers at once.

    A module of this package has a class named `Selector` with these attributes and a constructor that takes
    the option's number.

    Attributes:
        name: of the option that selects it.
        help: for that option.
        value: the option's number.
        takes_value: whether the option has one; else it is a flag, and stands for 1.0.
        judges: `weights` where candidates must have errors of the weights even if there are data;
            `outputs` where they have errors of the outputs if there are data.
    """

    name: str
    help: str
    value: float
    takes_value: bool
    judges: Judges

    def __init__(self, value: float) -> None:
        """Raise ValueError for a number out of range."""

    def __call__(self, options: Sequence[LayerOptions], model: ModelSize) -> Mapping[str, Choice | Refusal]:
        """A choice or a refusal for every layer.

        Raises:
            UsageError: what was asked for cannot be had.
        """


def loss(options: LayerOptions, candidate: Candidate) -> NDArray[np.float64]:
    """`(len(ranks),)`: what each rank of a candidate is taken to cost in quality; adds up over layers.

    √sensitivity · error: between counting every layer alike (power 0) and trusting the measured sensitivity
    fully (power 1), which a few samples do not justify.
    """
    return float(options.sensitivity**0.5) * candidate.error


def checked_fraction(name: str, value: float) -> float:
    """`value` itself.

    Raises:
        ValueError: it is not within 0 < value ≤ 1.
    """
    if not 0 < value <= 1:
        raise ValueError(f"{name} is a fraction, 0 < {name} <= 1; got {value}")
    return value


def cheapest_chain(layer: str, chains: Sequence[tuple[Candidate, int]], asked: str) -> Choice | Refusal:
    """The cheapest of some chains if the gate lets it pass.

    Args:
        layer: whose chains they are.
        chains: candidates and positions of their ranks, at least one.
        asked: what the chains fulfil, for the refusal.
    """
    best, index = min(chains, key=lambda chain: chain[0].cost[chain[1]])
    cost, rank = best.cost[index], best.ranks[index]
    if cost < best.limit:
        return Choice(layer, best.scheme, rank)
    shown = "×".join(map(str, rank))
    return Refusal(
        f"no gain at {asked}: the cheapest chain ({best.scheme}, rank {shown}) costs {cost:.2f} of the layer"
    )
