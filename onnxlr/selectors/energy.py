"""`energy`: per layer, the smallest rank that keeps a fraction of Σσ²; of the schemes the cheapest one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from onnxlr.selectors.base import (
    Candidate,
    Choice,
    Judges,
    LayerOptions,
    ModelSize,
    Refusal,
    cheapest_chain,
    checked_fraction,
)

__all__ = ["Selector", "keeps_energy"]


def keeps_energy(candidate: Candidate, energy: float) -> NDArray[np.bool_]:
    """`(len(candidate.ranks),)`: which ranks keep `energy`; at 1 only full rank does.

    Args:
        candidate: one scheme for one layer.
        energy: a fraction, 0 < energy ≤ 1.

    >>> error = np.array([0.3, 0.1, 0.0])
    >>> ones = np.ones(3)
    >>> offer = Candidate("conv", "spatial", ((8,), (16,), (24,)), ones, ones, ones, error, 0.9, ())
    >>> keeps_energy(offer, 0.9).tolist()
    [False, True, True]
    """
    return candidate.error <= (1 - energy) * (1 + 1e-9)  # so that 0.1 is within 1 - 0.9


class Selector:
    """Energy selector.

    Args:
        value: the fraction of each weight's energy ‖W‖² to keep, 0 < value ≤ 1.

    >>> import onnxlr
    >>> rule = Selector(0.9)  # as energy=0.9
    >>> onnxlr.plan("models/digits/digits.onnx", selector=rule, include="conv2").layers[0].rank
    (16, 16)
    """

    name = "energy"
    help = (
        "Keep this fraction of every weight's energy (sum of squared singular values)."
        "  [default: 0.95, unless limits are given]"
    )
    takes_value = True
    judges: Judges = "outputs"

    def __init__(self, value: float) -> None:
        self.value = checked_fraction(self.name, value)

    def __call__(self, options: Sequence[LayerOptions], model: ModelSize) -> Mapping[str, Choice | Refusal]:  # noqa: ARG002 - no budget
        """See `RankSelector`."""
        return {layer.layer: self._select(layer) for layer in options}

    def _select(self, options: LayerOptions) -> Choice | Refusal:
        chains = [
            (candidate, index)
            for candidate in options.candidates
            if (index := candidate.cheapest(keeps_energy(candidate, self.value))) is not None
        ]
        if not chains:
            return Refusal(f"no allowed rank keeps {self.value:g} of the energy")
        return cheapest_chain(options.layer, chains, f"energy {self.value:g}")
