"""Layers + selector -> Plan."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from onnxlr.analysis import Layer, Skipped
from onnxlr.conv import ConvSpec, chain_params
from onnxlr.factorization import LayerWeights
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
    optima have the same error.
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
    return [
        _candidate(layer, scheme, weights.decompose(layer, scheme), align, limit)
        for scheme in accepted.values()
    ]


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


def aligned_ranks(max_rank: Rank, align: int) -> list[Rank]:
    """Every rank whose entries are multiples of `align` or full.

    >>> aligned_ranks((27,), 8)
    [(8,), (16,), (24,), (27,)]
    """
    axes = [[*range(align, full, align), full] for full in max_rank]
    return list(product(*axes))


def _candidate(
    layer: Layer, scheme: Scheme, decomposition: Decomposition, align: int, limit: float
) -> Candidate:
    ranks = aligned_ranks(scheme.max_rank(layer.conv), align)
    residuals = decomposition.residuals
    total = residuals[(0,) * residuals.ndim]
    error = residuals[tuple(np.array(ranks).T)] / (total if total > 0 else 1.0)
    macs = _relative_macs(layer, scheme, ranks)
    cost = macs / scheme.efficiency(layer.conv)
    return Candidate(layer.name, scheme.name, ranks, macs, cost, error, limit)


def _relative_macs(layer: Layer, scheme: Scheme, ranks: Sequence[Rank]) -> NDArray[np.float64]:
    """`(len(ranks),)`: MACs of the chain at each rank by those of the layer.

    A rank entry is a channel count, so MACs are affine in each of them: the corners of the range tell all.
    """
    full = np.array(scheme.max_rank(layer.conv))
    position = (np.array(ranks) - 1) / np.maximum(full - 1, 1)  # 0 at rank 1, 1 at full rank
    macs = np.zeros(len(ranks))
    for corner in product((0, 1), repeat=len(full)):
        rank = tuple(int(r) for r in np.where(corner, full, 1))
        weight = np.prod(np.where(corner, position, 1 - position), axis=1)
        macs += weight * layer.relative_macs(scheme.chain(layer.conv, rank))
    return macs


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
    return "; ".join(f"{name}: {reason}" for name, reason in reasons.items()) or "no scheme was given"
