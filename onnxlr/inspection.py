"""Layers + weights -> what could be done with them: the rank that each energy needs, scheme by scheme."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from onnxlr.analysis import Layer, Skipped
from onnxlr.factorization import LayerWeights
from onnxlr.parallel import Progress, map_layers
from onnxlr.planning import GATES, candidates, gram_work
from onnxlr.schemes import Rank, Scheme
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
    found: Sequence[Layer | Skipped],
    weights: LayerWeights,
    schemes: Mapping[str, Scheme],
    energies: Sequence[float],
    align: int,
    workers: int,
    progress: Progress,
) -> Inspection:
    """Analyse every layer by every scheme; arguments as in `onnxlr.planning.plan_layers`."""
    layers = [item for item in found if isinstance(item, Layer)]

    def inspect(layer: Layer) -> InspectedLayer | Skipped:
        offers = candidates(layer, schemes.values(), weights, align, GATES["macs"])
        if isinstance(offers, Skipped):
            return offers
        rows = tuple(_inspect_scheme(offer, energies) for offer in offers)
        conv = layer.conv
        return InspectedLayer(layer.name, layer.op_type, conv.weight_shape, conv.params, layer.macs, rows)

    results = map_layers(
        inspect,
        layers,
        gram_work,
        workers,
        lambda done: progress("Analysing weights", done, len(layers)),
    )
    refused = [item for item in (*found, *results) if isinstance(item, Skipped)]
    inspected = tuple(item for item in results if isinstance(item, InspectedLayer))
    return Inspection(model, tuple(energies), inspected, tuple(refused))


def _inspect_scheme(offer: Candidate, energies: Sequence[float]) -> InspectedScheme:
    ranks: list[Rank | None] = []
    costs = []
    for energy in energies:
        index = offer.cheapest(keeps_energy(offer, energy))
        assert index is not None, "full rank keeps everything"  # noqa: S101 - holds by construction
        costs.append(float(offer.cost[index]))
        ranks.append(offer.ranks[index] if costs[-1] < offer.limit else None)
    return InspectedScheme(offer.scheme, tuple(ranks), tuple(costs))
