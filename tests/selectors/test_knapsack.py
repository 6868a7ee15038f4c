"""The knapsack: against brute force and dynamic programming, and what happens at its limits."""

from __future__ import annotations

import logging
import math
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import milp

from onnxlr.selectors import knapsack
from onnxlr.selectors.knapsack import Menu, solve
from onnxlr.selectors.lagrange import fill, make_table, relax

Items = list[tuple[int, float]]


def menu(*items: tuple[int, float]) -> Menu:
    costs, losses = zip(*items, strict=True)
    return Menu(np.array(costs, np.int64), np.array(losses, np.float64))


def totals(menus: list[Menu], taken: list[int]) -> tuple[int, float]:
    pairs = list(zip(menus, taken, strict=True))
    return sum(int(m.costs[i]) for m, i in pairs), math.fsum(m.losses[i] for m, i in pairs)


def brute_force(menus: list[Menu], budget: int) -> float | None:
    """Least loss within the budget, None if nothing is."""
    choices = product(*(range(len(m.costs)) for m in menus))
    fitting = [loss for cost, loss in (totals(menus, list(c)) for c in choices) if cost <= budget]
    return min(fitting, default=None)


def by_dynamic_programming(menus: list[Menu], budget: int) -> float:
    """Least loss within the budget, cost by cost."""
    best = np.zeros(budget + 1)
    for m in menus:
        shifted = [
            np.concatenate([np.full(min(c, budget + 1), np.inf), best[: max(budget + 1 - c, 0)]]) + loss
            for c, loss in zip(m.costs.tolist(), m.losses.tolist(), strict=True)
        ]
        best = np.min(shifted, axis=0)
    return float(best[budget])


def random_menus(layers: int, options: int, seed: int, top: int = 60) -> list[Menu]:
    """Losses that fall with the cost, but not along a convex curve; costs without a common divisor."""
    rng = np.random.default_rng(seed)
    menus = []
    for _ in range(layers):
        costs = rng.integers(1, top, options)
        losses = (top - costs + 3 * rng.standard_normal(options)).clip(0) * rng.uniform(0.5, 2)
        menus.append(Menu(np.append(top, costs), np.append(0.0, losses)))
    return menus


ITEMS = st.lists(
    st.tuples(st.integers(0, 30), st.integers(0, 40).map(lambda x: x / 8)), min_size=1, max_size=6
)


@settings(deadline=None, max_examples=300)
@given(st.lists(ITEMS, min_size=1, max_size=4), st.integers(0, 120))
def test_the_optimum_is_that_of_brute_force(items: list[Items], budget: int) -> None:
    menus = [menu(*options) for options in items]
    best = brute_force(menus, budget)
    if best is None:
        with pytest.raises(ValueError, match="lowest cost"):
            solve(menus, budget)
        return
    cost, loss = totals(menus, solve(menus, budget))
    assert cost <= budget
    assert loss == best


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 1000),
    st.integers(1, 10**11),
    st.sampled_from([1e-12, 1e-3, 1.0, 1e9]),
    st.floats(0.1, 0.9),
)
def test_the_optimum_does_not_depend_on_units(seed: int, unit: int, scale: float, share: float) -> None:
    menus = random_menus(5, 4, seed)
    lowest = sum(int(m.costs.min()) for m in menus)
    budget = lowest + int(share * (300 - lowest))
    best = brute_force(menus, budget)
    scaled = [Menu(m.costs * unit, m.losses * scale) for m in menus]
    cost, loss = totals(menus, solve(scaled, (budget + 1) * unit - 1))
    assert cost <= budget
    assert loss == pytest.approx(best, rel=1e-9)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("share", [0.3, 0.6])
def test_the_optimum_of_many_layers(seed: int, share: float) -> None:
    menus = random_menus(40, 25, seed)
    budget = int(share * 40 * 60)
    cost, loss = totals(menus, solve(menus, budget))
    assert cost <= budget
    assert loss == pytest.approx(by_dynamic_programming(menus, budget), rel=1e-9)


def test_the_optimum_need_not_be_on_the_convex_hull() -> None:
    menus = [menu((10, 0.0), (6, 5.0), (0, 8.0))]  # (6, 5) is above the line from (0, 8) to (10, 0)
    assert solve(menus, 9) == [1]


@pytest.mark.parametrize(
    ("menus", "budget", "taken"),
    [
        # of equal options the first: to leave the layer alone
        ([menu((5, 0.0), (5, 0.0), (2, 1.0))], 5, [0]),
        # what costs less at an equal loss
        ([menu((5, 0.0), (3, 0.0), (2, 1.0))], 5, [1]),
        # a budget of everything
        ([menu((5, 0.0), (2, 1.0)), menu((7, 0.0), (1, 0.1))], 12, [0, 0]),
        # a budget of the least
        ([menu((5, 0.0), (2, 1.0)), menu((7, 0.0), (1, 0.1))], 3, [1, 1]),
        # no options but one
        ([menu((5, 0.0)), menu((7, 3.0))], 12, [0, 0]),
        # no loss at all
        ([menu((5, 0.0), (0, 0.0)), menu((7, 0.0), (0, 0.0))], 0, [1, 1]),
        ([], 0, []),
    ],
)
def test_cases(menus: list[Menu], budget: int, taken: list[int]) -> None:
    assert solve(menus, budget) == taken


def test_a_budget_below_the_least_is_an_error() -> None:
    with pytest.raises(ValueError, match="the budget is 2, the lowest cost 3"):
        solve([menu((5, 0.0), (2, 1.0)), menu((7, 0.0), (1, 0.1))], 2)


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 10**6), st.floats(0.0, 1.0))
def test_the_multiplier_bounds_the_best_choice(seed: int, share: float) -> None:
    menus = random_menus(12, 8, seed)
    lowest = sum(int(m.costs.min()) for m in menus)
    budget = lowest + int(share * (720 - lowest))
    best = by_dynamic_programming(menus, budget)
    table = make_table(menus)
    relaxed = relax(table, budget)
    filled = fill(table, relaxed.choice, budget)
    assert table.total_cost(filled) <= budget
    assert relaxed.bound <= best + 1e-9
    assert best - 1e-9 <= table.total_loss(filled) <= table.total_loss(relaxed.choice)
    # one step of one layer, the one that did not fit, lies between the bound and the choice
    steps = [np.ptp(m.losses) for m in menus]
    assert table.total_loss(filled) - relaxed.bound <= max(steps) + 1e-9


def test_what_is_left_of_the_budget_buys_no_step() -> None:
    menus = random_menus(30, 20, 7)
    taken = solve(menus, 900)
    cost, _ = totals(menus, taken)
    for m, i in zip(menus, taken, strict=True):
        better = m.costs[m.losses < m.losses[i]]
        assert (better - m.costs[i] > 900 - cost).all()


@pytest.mark.parametrize("limit", ["_MOST_OPTIONS", "_TIME_LIMIT"])
def test_past_its_limits_it_says_how_far_the_best_may_be(
    limit: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    menus = random_menus(40, 25, 3)
    best = by_dynamic_programming(menus, 1200)
    monkeypatch.setattr(knapsack, limit, 0)
    with caplog.at_level(logging.WARNING):
        cost, loss = totals(menus, solve(menus, 1200))
    assert cost <= 1200
    (record,) = caplog.records
    (percent,) = record.args  # type: ignore[misc]
    assert isinstance(percent, float)
    assert best <= loss <= best / (1 - percent / 100) * (1 + 1e-9)
    assert percent < 1
    assert "not proven" in record.getMessage()


@pytest.mark.parametrize("wrong", ["costs too much", "two of a layer", "worse"])
def test_a_wrong_answer_of_the_solver_is_not_taken(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    menus = random_menus(40, 25, 3)

    def lie(objective: Any, **options: Any) -> Any:
        solution = milp(objective, **options)
        one_each, spent = (c.A.toarray() for c in options["constraints"])
        if wrong == "two of a layer":
            solution.x = np.ones_like(objective)
            return solution
        key = spent[0] if wrong == "costs too much" else -spent[0]
        rows = [np.flatnonzero(row)[np.argmax(key[np.flatnonzero(row)])] for row in one_each]
        solution.x = np.isin(np.arange(len(objective)), rows).astype(float)
        return solution

    monkeypatch.setattr(knapsack, "milp", lie)
    cost, loss = totals(menus, solve(menus, 1200))
    assert cost <= 1200
    assert loss <= 1.01 * by_dynamic_programming(menus, 1200)
