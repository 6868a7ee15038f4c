"""Budgets: the least loss over all layers, within a fraction of what the whole model has of something."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from onnxlr.errors import UsageError
from onnxlr.selectors.base import (
    Candidate,
    Choice,
    Judges,
    LayerOptions,
    ModelSize,
    Refusal,
    checked_fraction,
    loss,
)
from onnxlr.selectors.knapsack import Menu, solve

__all__ = ["BudgetSelector"]


class BudgetSelector(ABC):
    """Meets a target from below, within one rank step of any layer, at the least sum of losses.

    What cannot be factorized, or was not to be, keeps its size; the layers share what that leaves of the
    budget. Ranks that the gate would not let pass are not considered.

    Args:
        value: the fraction of the model's total to keep, 0 < value ≤ 1.
    """

    name: ClassVar[str]
    help: ClassVar[str]
    unit: ClassVar[str]
    """What is budgeted, as messages call it."""

    takes_value = True
    judges: Judges = "outputs"

    def __init__(self, value: float) -> None:
        self.value = checked_fraction(self.name, value)

    @abstractmethod
    def amount(self, size: LayerOptions | ModelSize) -> int:
        """What a layer or the model has of what is budgeted.

        Raises:
            UsageError: it is not known.
        """

    @abstractmethod
    def shares(self, candidate: Candidate) -> NDArray[np.float64]:
        """`(len(ranks),)`: what the chains have of it, by what the layer has."""

    def __call__(self, options: Sequence[LayerOptions], model: ModelSize) -> Mapping[str, Choice | Refusal]:
        """See `RankSelector`."""
        offers = [_Offers(self, layer) for layer in options]
        total, of_layers = self.amount(model), sum(offer.own for offer in offers)
        rest = total - of_layers
        budget = math.floor(Fraction(str(self.value)) * total) - rest  # as a decimal: 0.3 of 10 is 3
        lowest = sum(int(offer.menu.costs.min()) for offer in offers)
        if lowest > budget:
            raise UsageError(self._too_low(Fraction(rest + lowest, total)))
        reason = "the budget is better spent on other layers"
        if of_layers <= budget:
            reason = f"{self.name} {self.value:g} is met without it"
        taken = solve([offer.menu for offer in offers], budget)
        return {offer.layer: offer.verdict(i, reason) for offer, i in zip(offers, taken, strict=True)}

    def _too_low(self, lowest: Fraction) -> str:
        reachable = math.ceil(lowest * 10**4) / 10**4  # rounded up, so that it can be asked for
        return (
            f"{self.name} {self.value:g}: the lowest that can be reached is {reachable:g} of the {self.unit};"
            " raise the target, or use --gate none, a smaller --align, or more schemes"
        )


class _Offers:
    """A layer's options as a menu: to leave it alone first, then every rank that the gate lets pass."""

    def __init__(self, selector: BudgetSelector, options: LayerOptions) -> None:
        self.layer = options.layer
        self.own = selector.amount(options)
        self._unit = selector.unit
        self._parts = [(c, np.flatnonzero(c.cost < c.limit)) for c in options.candidates]
        costs = [np.rint(selector.shares(c)[passing] * self.own) for c, passing in self._parts]
        losses = [loss(options, c)[passing] for c, passing in self._parts]
        self.menu = Menu(
            np.concatenate([[self.own], *costs]).astype(np.int64), np.concatenate([[0.0], *losses])
        )

    def verdict(self, option: int, reason: str) -> Choice | Refusal:
        """What an option of the menu means; `reason` is that of leaving alone what could be replaced."""
        if option == 0:
            saves = self.menu.costs.min() < self.own
            return Refusal(reason if saves else f"no rank that the gate lets pass has fewer {self._unit}")
        position = option - 1
        for candidate, passing in self._parts:
            if position < len(passing):
                return Choice(self.layer, candidate.scheme, candidate.ranks[passing[position]])
            position -= len(passing)
        raise IndexError(option)
