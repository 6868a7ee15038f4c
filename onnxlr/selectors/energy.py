"""`energy`: per layer, the smallest rank that keeps a fraction of Σσ²; of the schemes the cheapest one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from onnxlr.selectors.base import Candidate, Choice, Refusal

__all__ = ["Selector", "keeps_energy"]


def keeps_energy(candidate: Candidate, energy: float) -> NDArray[np.bool_]:
    """`(len(candidate.ranks),)`: which ranks keep `energy`; at 1 only full rank does."""
    return candidate.error <= (1 - energy) * (1 + 1e-9)  # so that 0.1 is within 1 - 0.9


class Selector:
    """Energy selector.

    Args:
        value: the fraction of each weight's energy ‖W‖² to keep, 0 < value ≤ 1.
    """

    name = "energy"
    help = "Keep this fraction of every weight's energy (sum of squared singular values).  [default: 0.95]"

    def __init__(self, value: float) -> None:
        if not 0 < value <= 1:
            raise ValueError(f"energy is a fraction, 0 < energy <= 1; got {value}")
        self.value = value

    def __call__(self, candidates: Sequence[Candidate]) -> Mapping[str, Choice | Refusal]:
        """See `RankSelector`."""
        by_layer: defaultdict[str, list[Candidate]] = defaultdict(list)
        for candidate in candidates:
            by_layer[candidate.layer].append(candidate)
        return {layer: self._select(layer, group) for layer, group in by_layer.items()}

    def _select(self, layer: str, candidates: Sequence[Candidate]) -> Choice | Refusal:
        options = []
        for candidate in candidates:
            index = candidate.cheapest(keeps_energy(candidate, self.value))
            if index is not None:
                options.append((candidate.cost[index], candidate, index))
        if not options:
            return Refusal(f"no allowed rank keeps {self.value:g} of the energy")
        cost, best, index = min(options, key=lambda option: option[0])
        if cost < best.limit:
            return Choice(layer, best.scheme, best.ranks[index])
        rank = "×".join(map(str, best.ranks[index]))
        return Refusal(
            f"no gain at energy {self.value:g}: the cheapest chain ({best.scheme}, rank {rank}) "
            f"costs {cost:.2f} of the layer"
        )
