"""A plan that gives layers the ranks that another tool gave them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnxlr
from onnxlr.selectors import Choice, Judges, LayerOptions, ModelSize, Refusal

__all__ = ["write_plan_with"]

SCHEME = "spatial"


class GivenRanks:
    """Takes ranks as they are given.

    Args:
        ranks: of each layer, by its name; others are left alone.
    """

    name = "given-ranks"
    help = "Take these ranks."
    takes_value = False
    value = 1.0
    judges: Judges = "weights"

    def __init__(self, ranks: Mapping[str, Sequence[int]]) -> None:
        self._ranks = ranks

    def __call__(self, options: Sequence[LayerOptions], model: ModelSize) -> Mapping[str, Choice | Refusal]:  # noqa: ARG002 - no budget
        """See `onnxlr.selectors.RankSelector`."""
        return {layer.layer: self._verdict(layer.layer) for layer in options}

    def _verdict(self, layer: str) -> Choice | Refusal:
        if layer not in self._ranks:
            return Refusal("the other tool left it alone")
        return Choice(layer, SCHEME, tuple(self._ranks[layer]))


def write_plan_with(ranks: Mapping[str, Sequence[int]], model: str, path: Path) -> None:
    """Write a plan of `spatial` at these ranks.

    Raises:
        ValueError: the model has no such layers.
    """
    plan = onnxlr.plan(model, selector=GivenRanks(ranks), schemes=[SCHEME], align=1, gate="none")
    planned = {layer.name for layer in plan.layers}
    if planned != set(ranks):
        raise ValueError(f"{model}: not planned like the other tool: {sorted(planned ^ set(ranks))}")
    onnxlr.write_plan(plan, path)
