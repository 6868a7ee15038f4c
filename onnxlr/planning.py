"""Layers + selector -> Plan."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import product

import numpy as np

from onnxlr.conv import ConvSpec, chain_params
from onnxlr.cost import chain_costs
from onnxlr.factorization import LayerWeights
from onnxlr.layer import Layer, Skipped
from onnxlr.parallel import Progress, map_layers
from onnxlr.plan import BeforeAfter, PlannedLayer
from onnxlr.schemes import Decomposition, Rank, Scheme
from onnxlr.selectors import Candidate, Choice, RankSelector

__all__ = [
    "GATES",
    "aligned_ranks",
    "all_candidates",
    "candidates",
    "filter_layers",
    "gram_work",
    "plan_layers",
]

GATES: Mapping[str, float] = {"macs": 0.9, "none": np.inf}
"""Cost below which a chain may replace its layer, by the name of the gate.

The margin of 10 % is what efficiencies of schemes differ by between machines; less is not worth an error.
"""


def filter_layers(
    found: Iterable[Layer | Skipped], include: str | None, exclude: str | None
) -> list[Layer | Skipped]:
    """Skip layers whose name does not match `include` or matches `exclude` (`re.search`)."""

    def judge(item: Layer | Skipped) -> Layer | Skipped:
        if isinstance(item, Layer) and include is not None and not re.search(include, item.name):
            return Skipped(item.name, f"not matched by include '{include}'")
        if isinstance(item, Layer) and exclude is not None and re.search(exclude, item.name):
            return Skipped(item.name, f"matched by exclude '{exclude}'")
        return item

    return [judge(item) for item in found]


def candidates(
    layer: Layer, schemes: Iterable[Scheme], weights: LayerWeights, align: int, limit: float
) -> list[Candidate] | Skipped:
    """What each scheme offers for a layer, or why none of them does.

    Of schemes whose chains have the same shapes only the first is tried: over one function class, closed-form
    optima have the same error. A scheme that the gate would not let pass at any rank is not tried either.
    """
    accepted: dict[tuple[ConvSpec, ...], Scheme] = {}
    reasons: dict[str, str] = {}
    for scheme in schemes:
        reason = scheme.refuses(layer.conv)
        if reason is not None:
            reasons[scheme.name] = reason
            continue
        lowest = scheme.chain(layer.conv, (1,) * len(scheme.max_rank(layer.conv)))
        accepted.setdefault(lowest, scheme)
    if not accepted:
        return Skipped(layer.name, _join(reasons))
    offers = [_Offer(layer, scheme, align) for scheme in accepted.values()]
    promising = [offer for offer in offers if offer.cost.min() < limit]
    if not promising:
        lowest = min(offer.cost.min() for offer in offers)
        return Skipped(
            layer.name, f"too small to gain: at the lowest rank a chain costs {lowest:.2f} of the layer"
        )
    return [offer.candidate(weights.decompose(layer, offer.scheme), limit) for offer in promising]


def plan_layers(
    found: Sequence[Layer | Skipped],
    weights: LayerWeights,
    schemes: Mapping[str, Scheme],
    selector: RankSelector,
    align: int,
    gate: str,
    workers: int,
    progress: Progress,
) -> tuple[list[PlannedLayer], list[Skipped]]:
    """Choose scheme and rank of every layer; the two lists account for everything that was found.

    Args:
        found: layers and what was skipped, in graph order.
        weights: their weights.
        schemes: by name, in order of preference between equals.
        selector: chooses among the candidates.
        align: ranks are multiples of it, or full.
        gate: a name in `GATES`.
        workers: number of cores to use.
        progress: told the number of layers analysed.
    """
    offers = all_candidates(found, weights, schemes, align, gate, workers, progress)
    selected = selector([c for offer in offers if not isinstance(offer, Skipped) for c in offer[1]])
    planned, skipped = [], []
    for offer in offers:
        if isinstance(offer, Skipped):
            skipped.append(offer)
            continue
        layer, tried = offer
        verdict = selected[layer.name]
        if isinstance(verdict, Choice):
            chosen = next(candidate for candidate in tried if candidate.scheme == verdict.scheme)
            error = chosen.error_at(verdict.rank)
            planned.append(_planned(layer, schemes[verdict.scheme], verdict.rank, error))
        else:
            skipped.append(Skipped(layer.name, verdict.reason))
    return planned, skipped


def all_candidates(
    found: Sequence[Layer | Skipped],
    weights: LayerWeights,
    schemes: Mapping[str, Scheme],
    align: int,
    gate: str,
    workers: int,
    progress: Progress,
) -> list[tuple[Layer, list[Candidate]] | Skipped]:
    """Every layer with its `candidates`, or why there are none; in the order of `found`.

    Arguments as in `plan_layers`.
    """
    layers = [item for item in found if isinstance(item, Layer)]
    offers = map_layers(
        lambda layer: candidates(layer, schemes.values(), weights, align, GATES[gate]),
        layers,
        gram_work,
        workers,
        lambda done: progress("Analysing weights", done, len(layers)),
    )
    tried = iter(zip(layers, offers, strict=True))
    return [item if isinstance(item, Skipped) else _offer(*next(tried)) for item in found]


def _offer(layer: Layer, tried: list[Candidate] | Skipped) -> tuple[Layer, list[Candidate]] | Skipped:
    return tried if isinstance(tried, Skipped) else (layer, tried)


def gram_work(layer: Layer) -> float:
    """Multiply-accumulates of the Gram matrix of the layer's channel-out unfolding: a measure of its cost."""
    rows = layer.conv.out_channels
    columns = layer.conv.params // rows
    return float(rows * columns * min(rows, columns))


@lru_cache(maxsize=256)  # layers of equal shape share them: there may be thousands for Tucker-2
def aligned_ranks(max_rank: Rank, align: int) -> tuple[Rank, ...]:
    """Every rank whose entries are multiples of `align` or full.

    >>> aligned_ranks((27,), 8)
    ((8,), (16,), (24,), (27,))
    """
    axes = [[*range(align, full, align), full] for full in max_rank]
    return tuple(product(*axes))


class _Offer:
    """One scheme for one layer, and what its chain costs at every rank; the error is not known yet."""

    def __init__(self, layer: Layer, scheme: Scheme, align: int) -> None:
        self.scheme = scheme
        self._layer = layer
        # the channels between depthwise Convs are a multiple of the layer's at any rank
        step = 1 if layer.conv.is_depthwise else align
        self._ranks = aligned_ranks(scheme.max_rank(layer.conv), step)
        self._macs, self.cost = chain_costs(layer, scheme, self._ranks)

    def candidate(self, decomposition: Decomposition, limit: float) -> Candidate:
        """The candidate, with the error of every rank."""
        residuals = decomposition.residuals
        total = residuals[(0,) * residuals.ndim]
        error = residuals[tuple(np.array(self._ranks).T)] / (total if total > 0 else 1.0)
        return Candidate(self._layer.name, self.scheme.name, self._ranks, self._macs, self.cost, error, limit)


def _planned(layer: Layer, scheme: Scheme, rank: Rank, error: float) -> PlannedLayer:
    chain = scheme.chain(layer.conv, rank)
    return PlannedLayer(
        layer.name,
        layer.op_type,
        layer.conv.weight_shape,
        scheme.name,
        rank,
        BeforeAfter(layer.conv.params, chain_params(chain)),
        BeforeAfter(layer.macs, layer.chain_macs(chain)),
        energy=1 - error,
        error=error**0.5,
    )


def _join(reasons: Mapping[str, str]) -> str:
    """One reason if all schemes agree, else each with its scheme."""
    if len(set(reasons.values())) == 1:
        return next(iter(reasons.values()))
    return "no scheme accepts it: " + "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
