"""Layers + weights -> what could be done with them: the rank that each energy needs, scheme by scheme."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from onnxlr.errors import UsageError
from onnxlr.factorization import LayerWeights
from onnxlr.judging import judge_weights
from onnxlr.layer import Layer, Skipped
from onnxlr.offers import Prospect
from onnxlr.parallel import Progress
from onnxlr.schemes import Rank
from onnxlr.selectors import Candidate
from onnxlr.selectors.energy import keeps_energy

__all__ = ["InspectedLayer", "InspectedScheme", "Inspection", "inspect_layers"]


@dataclass(frozen=True, slots=True)
class InspectedScheme:
    """One scheme for one layer.

    Attributes:
        scheme: its name.
        ranks: for each energy the cheapest rank that keeps it; None where that costs more than the layer.
        costs: predicted cost of these chains by that of the layer, whether they cost more or not.
    """

    scheme: str
    ranks: tuple[Rank | None, ...]
    costs: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class InspectedLayer:
    """A layer that some scheme accepts."""

    name: str
    op_type: str
    weight_shape: tuple[int, ...]
    params: int
    macs: int | None
    schemes: tuple[InspectedScheme, ...]


@dataclass(frozen=True, slots=True)
class Inspection:
    """Every linear node of a model: inspected, or skipped with its reason."""

    model: str
    energies: tuple[float, ...]
    layers: tuple[InspectedLayer, ...]
    skipped: tuple[Skipped, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {"schema_version": 1, **asdict(self)}


def inspect_layers(
    model: str,
    found: Sequence[Prospect | Skipped],
    weights: LayerWeights,
    energies: Sequence[float],
    workers: int,
    progress: Progress,
) -> Inspection:
    """Look at every prospect by every scheme that it is offered.

    Args:
        model: its name.
        found: prospects and what was skipped, in graph order.
        weights: of the prospects.
        energies: fractions of ‖W‖² to keep.
        workers: number of cores to use.
        progress: told the number of layers analysed.

    Raises:
        UsageError: an energy is out of range.
    """
    if not all(0 < energy <= 1 for energy in energies):
        raise UsageError(f"energies are fractions, 0 < energy ≤ 1; got {list(energies)}")
    judgement = judge_weights(found, weights, workers, progress)
    prospects = [item for item in found if isinstance(item, Prospect)]
    inspected = (_inspect_layer(item.layer, judgement.candidates(item), energies) for item in prospects)
    skipped = (item for item in found if isinstance(item, Skipped))
    return Inspection(model, tuple(energies), tuple(inspected), tuple(skipped))


def _inspect_layer(layer: Layer, offers: Sequence[Candidate], energies: Sequence[float]) -> InspectedLayer:
    rows = tuple(_inspect_scheme(offer, energies) for offer in offers)
    conv = layer.conv
    return InspectedLayer(layer.name, layer.op_type, conv.weight_shape, conv.params, layer.macs, rows)


def _inspect_scheme(offer: Candidate, energies: Sequence[float]) -> InspectedScheme:
    ranks: list[Rank | None] = []
    costs = []
    for energy in energies:
        index = offer.cheapest(keeps_energy(offer, energy))
        assert index is not None, "full rank keeps everything"  # noqa: S101 - holds by construction
        costs.append(float(offer.cost[index]))
        ranks.append(offer.ranks[index] if costs[-1] < offer.limit else None)
    return InspectedScheme(offer.scheme, tuple(ranks), tuple(costs))
