"""The energy selector."""

from __future__ import annotations

import math

import pytest

from onnxlr.selectors import Candidate, Choice, ModelSize, Refusal
from onnxlr.selectors.energy import Selector
from tests.selectors.builders import candidate, layer


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
        # errors of outputs need not be 0 at full rank
        ([candidate("a", [0.5, 0.6], [0.2, 0.1])], 0.95, Refusal("no allowed rank keeps 0.95 of the energy")),
    ],
)
def test_selection(candidates: list[Candidate], energy: float, expected: Choice | Refusal | str) -> None:
    verdict = Selector(energy)([layer(*candidates)], ModelSize(100, 100))["layer"]
    if isinstance(expected, str):
        assert isinstance(verdict, Refusal)
        assert verdict.reason.startswith(expected)
    else:
        assert verdict == expected


@pytest.mark.parametrize("energy", [0, -0.1, 1.01, math.nan])
def test_energy_is_a_fraction(energy: float) -> None:
    with pytest.raises(ValueError, match="energy is a fraction"):
        Selector(energy)
