"""Multiple-choice knapsack by one multiplier: a choice within the budget, and a bound on the best one.

The problem with λ · cost added to each loss instead of the budget falls apart into the layers (Sinha,
Zoltners 1979). What it gives is

1. a lower bound: Σ min (loss + λ · cost) − λ · budget is at most the loss of any choice within the budget;
2. a choice within the budget whose loss differs from that bound by less than one step of one layer;
3. a reduced cost of each option, loss + λ · cost less its layer's minimum: by at least as much does the bound
   rise for all choices that take the option.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Menu", "Relaxation", "Table", "fill", "make_table", "relax"]

Int = NDArray[np.int64]
Float = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Menu:
    """Options of one layer, of which exactly one is taken.

    Attributes:
        costs: `(options,)`, whole numbers, not negative.
        losses: `(options,)`, not negative.
    """

    costs: Int
    losses: Float


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Options of all layers that are worth a look, layer by layer; in a layer by rising cost, falling loss.

    A choice is an array `(layers,)` of rows.

    Attributes:
        layer: `(rows,)`, number of the layer.
        cost: `(rows,)`.
        loss: `(rows,)`.
        option: `(rows,)`, position in the layer's menu.
    """

    layer: Int
    cost: Int
    loss: Float
    option: Int

    @property
    def starts(self) -> Int:
        """`(layers,)`: row of each layer's cheapest option."""
        return np.flatnonzero(np.diff(self.layer, prepend=-1))

    def rows(self, kept: NDArray[np.bool_]) -> Table:
        """Some of the rows."""
        return Table(self.layer[kept], self.cost[kept], self.loss[kept], self.option[kept])

    def total_cost(self, choice: Int) -> int:
        """Exact."""
        return int(self.cost[choice].sum())

    def total_loss(self, choice: Int) -> float:
        """Correctly rounded, so that equal choices have equal losses."""
        return math.fsum(self.loss[choice])


@dataclass(frozen=True, slots=True, eq=False)
class Relaxation:
    """See the module.

    Attributes:
        multiplier: λ, the one with the highest bound; 0 if the budget does not bind.
        bound: case 1.
        choice: case 2 without its last step.
        reduced: case 3, `(rows,)`.
    """

    multiplier: float
    bound: float
    choice: Int
    reduced: Float


def make_table(menus: Sequence[Menu]) -> Table:
    """The options that no other option of their layer dominates: not only those on the convex hull.

    Of equal ones the first is kept.
    """
    fronts = [_pareto_front(menu) for menu in menus]
    return Table(
        np.repeat(np.arange(len(menus)), [len(front) for front in fronts]),
        np.concatenate([menu.costs[front] for menu, front in zip(menus, fronts, strict=True)]),
        np.concatenate([menu.losses[front] for menu, front in zip(menus, fronts, strict=True)]),
        np.concatenate(fronts),
    )


def _pareto_front(menu: Menu) -> Int:
    """Positions by rising cost and falling loss."""
    order = np.lexsort((menu.losses, menu.costs))  # stable: the first of equals stays first
    losses = menu.losses[order]
    best_before = np.minimum.accumulate(np.append(np.inf, losses[:-1]))
    return order[losses < best_before]


def relax(table: Table, budget: int) -> Relaxation:
    """The best multiplier and what follows from it; the cheapest options must fit into the budget.

    Every layer starts with its cheapest option and goes along its lower convex hull. The steps of all layers
    are taken in order of what they save for their cost, until one does not fit: the rate of that one is λ.
    """
    hulls = [_lower_hull(table, rows) for rows in np.split(np.arange(len(table.cost)), table.starts[1:])]
    layer = np.repeat(np.arange(len(hulls)), [len(hull) - 1 for hull in hulls])
    prices = np.concatenate([np.diff(table.cost[hull]) for hull in hulls])
    rates = np.concatenate([_falling_rates(table, hull) for hull in hulls])
    order = np.argsort(-rates, kind="stable")
    spent = table.total_cost(table.starts) + np.cumsum(prices[order])
    taken = int(np.searchsorted(spent, budget, side="right"))
    multiplier = float(rates[order[taken]]) if taken < len(order) else 0.0
    steps = np.bincount(layer[order[:taken]], minlength=len(hulls))
    choice = np.array([hull[step] for hull, step in zip(hulls, steps, strict=True)])
    total = table.loss + multiplier * table.cost
    least = np.minimum.reduceat(total, table.starts)
    bound = math.fsum(least) - multiplier * budget
    return Relaxation(multiplier, bound, choice, total - least[table.layer])


def _falling_rates(table: Table, hull: list[int]) -> Float:
    """What each step along a hull saves for its cost; rounding must not put a step before an earlier one."""
    rates: Float = -np.diff(table.loss[hull]) / np.diff(table.cost[hull])
    return np.minimum.accumulate(rates)


def _lower_hull(table: Table, rows: Int) -> list[int]:
    """The rows on the lower convex hull of loss over cost (Andrew's monotone chain)."""
    hull: list[int] = []
    cost, loss = table.cost.tolist(), table.loss.tolist()
    for row in rows.tolist():
        while len(hull) > 1:
            first, second = hull[-2:]
            left = (loss[first] - loss[second]) * (cost[row] - cost[second])
            right = (loss[second] - loss[row]) * (cost[second] - cost[first])
            if left > right:
                break
            hull.pop()
        hull.append(row)
    return hull


def fill(table: Table, choice: Int, budget: int) -> Int:
    """A choice with what the budget has left spent greedily: on the step that saves most for its cost."""
    filled = choice.copy()
    while True:
        price = table.cost - table.cost[filled][table.layer]
        saved = table.loss[filled][table.layer] - table.loss
        fits = (price > 0) & (price <= budget - table.total_cost(filled))
        if not fits.any():
            return filled
        best = int(np.argmax(np.where(fits, saved / np.maximum(price, 1), -np.inf)))
        filled[table.layer[best]] = best
