"""The selectors with a budget: target-macs, target-params, and target-latency."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from onnxlr.errors import UsageError
from onnxlr.selectors import Choice, LayerOptions, ModelSize, Refusal, all_selectors
from tests.selectors.builders import candidate, layer

UNITS = {"target-macs": "MACs", "target-params": "parameters", "target-latency": "predicted latency"}
HALVES = candidate("a", [0.25, 0.5, 0.75], [0.3, 0.2, 0.1])
BETTER_SPENT = Refusal("the budget is better spent on other layers")


def first(rank: int) -> Choice:
    return Choice("first", "a", (rank,))


@pytest.mark.parametrize(
    ("options", "value", "expected"),
    [
        # half of 300, of which 100 are not of layers: 50 for both
        ({}, 0.5, [first(8), Choice("second", "a", (8,))]),
        # where an error counts less the budget is cut first
        ({"sensitivity": 0.01}, 0.6, [first(8), Choice("second", "a", (16,))]),
        ({"sensitivity": 0.01}, 0.9, [first(16), BETTER_SPENT]),
        # everything
        ({}, 1.0, [Refusal("{name} 1 is met without it"), Refusal("{name} 1 is met without it")]),
        # ranks that the gate stops do not count
        (
            {"candidates": [candidate("a", [0.25, 0.5, 0.75], [0.3, 0.2, 0.1], limit=0.3)]},
            0.6,
            [first(8), Choice("second", "a", (16,))],
        ),
        (
            {"candidates": [candidate("a", [0.25, 0.5], [0.3, 0.2], limit=0.2)]},
            0.75,
            [Refusal("no rank that the gate lets pass has fewer {unit}"), Choice("second", "a", (8,))],
        ),
        # of schemes the one with the smaller error at what it costs
        (
            {"candidates": [candidate("b", [0.3], [0.9]), candidate("a", [0.5, 0.25], [0.1, 0.2])]},
            0.5,
            [Choice("first", "a", (16,)), Choice("second", "a", (8,))],
        ),
    ],
)
@pytest.mark.parametrize(("name", "unit"), UNITS.items())
def test_selection(
    name: str, unit: str, options: Any, value: float, expected: list[Choice | Refusal]
) -> None:
    changed = layer(
        *options.get("candidates", [HALVES]), name="first", sensitivity=options.get("sensitivity", 1.0)
    )
    verdicts = all_selectors()[name](value)(
        [changed, layer(HALVES, name="second")], ModelSize(300, 300, 300.0)
    )
    filled = [
        Refusal(verdict.reason.format(name=name, unit=unit)) if isinstance(verdict, Refusal) else verdict
        for verdict in expected
    ]
    assert list(verdicts.values()) == filled
    assert list(verdicts) == ["first", "second"]


def uneven() -> list[LayerOptions]:
    """A layer with many MACs, one with many weights, and one that takes long; a chain for each halves all."""
    halving = candidate("a", [0.5], [0.1])
    return [
        layer(halving, name="many MACs", macs=1000, params=10, seconds=10.0),
        layer(halving, name="many weights", macs=10, params=1000, seconds=10.0),
        layer(halving, name="much time", macs=10, params=10, seconds=1000.0),
    ]


@pytest.mark.parametrize(
    ("name", "replaced"),
    [("target-macs", "many MACs"), ("target-params", "many weights"), ("target-latency", "much time")],
)
def test_what_is_budgeted_is_what_counts(name: str, replaced: str) -> None:
    verdicts = all_selectors()[name](0.6)(uneven(), ModelSize(1020, 1020, 1020.0))
    assert [layer for layer, verdict in verdicts.items() if isinstance(verdict, Choice)] == [replaced]


@pytest.mark.parametrize(("name", "unit"), UNITS.items())
def test_what_cannot_be_reached_is_said(name: str, unit: str) -> None:
    options, model = [layer(HALVES)], ModelSize(300, 300, 300.0)  # at best 225 of 300 are left
    with pytest.raises(UsageError) as caught:
        all_selectors()[name](0.7)(options, model)
    assert str(caught.value) == (
        f"{name} 0.7: the lowest that can be reached is 0.75 of the {unit}; "
        "raise the target, or use --gate none, a smaller --align, or more schemes"
    )
    assert all_selectors()[name](0.75)(options, model) == {"layer": Choice("layer", "a", (8,))}


def test_the_lowest_that_is_named_can_be_reached() -> None:
    options, model = [layer(candidate("a", [1 / 3], [0.1]), macs=99_999)], ModelSize(123_456, 1)
    with pytest.raises(UsageError, match=r"reached is 0\.4601 of"):  # 56,790 of 123,456 are 0.460002
        all_selectors()["target-macs"](0.46)(options, model)
    assert isinstance(all_selectors()["target-macs"](0.4601)(options, model)["layer"], Choice)


def test_the_target_is_a_decimal_number() -> None:
    """0.3 of 10 is 3, although the double 0.3 is a little less than 3/10."""
    options = [layer(candidate("a", [0.2, 0.3], [0.2, 0.1]), macs=10)]
    verdicts = all_selectors()["target-macs"](0.3)(options, ModelSize(10, 10))
    assert verdicts == {"layer": Choice("layer", "a", (16,))}


@pytest.mark.parametrize(
    ("of_layer", "of_model"),
    [(None, None), (100, None), (None, 300)],
)
def test_unknown_macs(of_layer: float | None, of_model: float | None) -> None:
    options, model = [layer(HALVES, macs=of_layer)], ModelSize(of_model, 300)
    with pytest.raises(UsageError, match=r"target-macs: MACs are unknown.*give --input-shape"):
        all_selectors()["target-macs"](0.9)(options, model)
    assert isinstance(all_selectors()["target-params"](0.9)(options, model)["layer"], Choice)


def test_times_that_were_not_predicted() -> None:
    selector = all_selectors()["target-latency"](0.9)
    with pytest.raises(UsageError, match="target-latency: no times were predicted"):
        selector([layer(HALVES)], ModelSize(300, 300))
    with pytest.raises(UsageError, match="target-latency: no times were predicted"):
        selector([layer(replace(HALVES, time=None))], ModelSize(300, 300, 300.0))


@pytest.mark.parametrize("name", UNITS)
@pytest.mark.parametrize("value", [0, -0.1, 1.01, math.nan])
def test_the_target_is_a_fraction(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} is a fraction, 0 < {name} <= 1; got"):
        all_selectors()[name](value)
