"""The energy selector."""

from __future__ import annotations

import math

import numpy as np
import pytest

from onnxlr.selectors import Candidate, Choice, Refusal, all_selectors
from onnxlr.selectors.energy import Selector


def candidate(scheme: str, cost: list[float], error: list[float], limit: float = 1.0) -> Candidate:
    ranks = [(8 * (i + 1),) for i in range(len(cost))]
    return Candidate("layer", scheme, ranks, np.array(cost), np.array(cost), np.array(error), limit)


@pytest.mark.parametrize(
    ("candidates", "energy", "expected"),
    [
        # the smallest rank that keeps the energy
        ([candidate("a", [0.2, 0.4, 0.6], [0.3, 0.1, 0.0])], 0.9, Choice("layer", "a", (16,))),
        ([candidate("a", [0.2, 0.4, 0.6], [0.3, 0.1, 0.0])], 0.91, Choice("layer", "a", (24,))),
        # the cheapest scheme, although another one has the smaller rank
        (
            [candidate("a", [0.5, 0.9], [0.1, 0.0]), candidate("b", [0.1, 0.3], [0.2, 0.05])],
            0.9,
            Choice("layer", "b", (16,)),
        ),
        # of equal cost the more accurate one
        ([candidate("a", [0.5, 0.5], [0.1, 0.05])], 0.9, Choice("layer", "a", (16,))),
        # without a gate whatever it costs
        ([candidate("a", [1.5, 3.0], [0.1, 0.0], math.inf)], 1.0, Choice("layer", "a", (16,))),
        # the gate
        (
            [candidate("a", [0.5, 1.2], [0.1, 0.0])],
            0.95,
            Refusal("no gain at energy 0.95: the cheapest chain (a, rank 16) costs 1.20 of the layer"),
        ),
        ([candidate("a", [0.5, 1.0], [0.1, 0.0])], 1.0, "no gain at energy 1"),
    ],
)
def test_selection(candidates: list[Candidate], energy: float, expected: Choice | Refusal | str) -> None:
    verdict = Selector(energy)(candidates)["layer"]
    if isinstance(expected, str):
        assert isinstance(verdict, Refusal)
        assert verdict.reason.startswith(expected)
    else:
        assert verdict == expected


@pytest.mark.parametrize("energy", [0, -0.1, 1.01, math.nan])
def test_energy_is_a_fraction(energy: float) -> None:
    with pytest.raises(ValueError, match="energy is a fraction"):
        Selector(energy)


def test_selectors_are_found_by_being_there() -> None:
    assert all_selectors() == {"energy": Selector}
