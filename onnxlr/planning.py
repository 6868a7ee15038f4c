"""Judged prospects + selector -> what is planned and what is left alone."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence

from onnxlr.clock import Clock
from onnxlr.conv import chain_params
from onnxlr.judging import Judgement
from onnxlr.layer import Layer, Skipped
from onnxlr.offers import Prospect
from onnxlr.plan import BeforeAfter, Milliseconds, PlannedLayer
from onnxlr.schemes import Rank, Scheme
from onnxlr.selectors import Candidate, Choice, LayerOptions, ModelSize, RankSelector

__all__ = ["filter_layers", "plan_layers"]


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


def plan_layers(
    found: Sequence[Prospect | Skipped],
    judgement: Judgement,
    selector: RankSelector,
    size: ModelSize,
    shared_key: Callable[[Layer], Hashable],
    clock: Clock | None = None,
) -> tuple[list[PlannedLayer], list[Skipped]]:
    """Choose scheme and rank of every layer; the two lists account for everything that was found.

    Layers that read one stored weight the same way get the same chain, so that it is stored once as before.

    Args:
        found: prospects and what was skipped, in graph order.
        judgement: of the prospects.
        selector: chooses among the candidates.
        size: of the whole model.
        shared_key: equal for layers whose factors at equal rank are equal.
        clock: tells the times of layers, if they are asked for.

    Raises:
        UsageError: the selector cannot have what was asked for.
    """
    groups: defaultdict[Hashable, list[Prospect]] = defaultdict(list)
    for item in found:
        if isinstance(item, Prospect):
            groups[shared_key(item.layer)].append(item)
    options = {key: _options(group, judgement, clock) for key, group in groups.items()}
    verdicts = selector([option for option in options.values() if option.candidates], size)
    planned, skipped = [], []
    for item in found:
        if isinstance(item, Skipped):
            skipped.append(item)
            continue
        option = options[shared_key(item.layer)]
        verdict = verdicts.get(option.layer)
        if verdict is None:
            skipped.append(Skipped(item.layer.name, "no scheme could be judged"))
        elif isinstance(verdict, Choice):
            scheme = next(o.scheme for o in item.offers if o.scheme.name == verdict.scheme)
            candidate = next(c for c in option.candidates if c.scheme == verdict.scheme)
            seconds = None if clock is None else clock.seconds(item.layer)
            planned.append(_planned(item.layer, scheme, verdict.rank, candidate, seconds, judgement))
        else:
            skipped.append(Skipped(item.layer.name, verdict.reason))
    return planned, skipped


def _options(group: Sequence[Prospect], judgement: Judgement, clock: Clock | None) -> LayerOptions:
    """The options of layers that are one as far as choices go, under the name of the first."""
    first = group[0].layer
    macs = [prospect.layer.macs for prospect in group]
    total = None if None in macs else sum(count for count in macs if count is not None)
    weighed = sum(judgement.weighed(prospect.layer) for prospect in group)
    seconds = None if clock is None else sum(clock.seconds(prospect.layer) or 0.0 for prospect in group)
    return LayerOptions(
        first.name, total, first.conv.params, weighed, judgement.candidates(group[0]), seconds
    )


def _planned(
    layer: Layer,
    scheme: Scheme,
    rank: Rank,
    candidate: Candidate,
    seconds: float | None,
    judgement: Judgement,
) -> PlannedLayer:
    chain = scheme.chain(layer.conv, rank)
    error, time = candidate.error_at(rank), candidate.time_at(rank)
    before = None if seconds is None else seconds * 1e3
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
        judged_by="outputs" if layer.key in judgement.of_outputs else "weight",
        sensitivity=judgement.sensitivity.get(layer.key),
        latency=None if before is None or time is None else Milliseconds(before, before * time),
    )
