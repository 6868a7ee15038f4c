"""Layers + weights -> what could be done with them: the rank that each energy needs, scheme by scheme."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from onnxlr.factorization import LayerWeights
from onnxlr.layer import Layer, Skipped
from onnxlr.parallel import Progress
from onnxlr.planning import all_candidates
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
    offers = all_candidates(found, weights, schemes, align, "macs", workers, progress)
    inspected, skipped = [], []
    for offer in offers:
        if isinstance(offer, Skipped):
            skipped.append(offer)
        else:
            inspected.append(_inspect_layer(*offer, energies))
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
