"""`Constraint`: what a method asks of the weights while they are trained."""

from __future__ import annotations

from typing import Any

from torch import Tensor

__all__ = ["Constraint"]


class Constraint:
    """Asks nothing; methods override what they need."""

    def loss(self) -> Tensor | None:
        """What is added to the loss of a batch; None: nothing."""
        return None

    def after_step(self, done: float) -> None:
        """Hears that the optimizer has made a step; `done` is the fraction of the training behind it."""

    @property
    def violation(self) -> float | None:
        """How far the weights are from what is asked, as it was last seen; None: nothing is asked."""
        return None

    @property
    def is_met(self) -> bool:
        """Whether a state may be the result."""
        return True

    def state(self) -> dict[str, Any]:
        """Plain data to go on from after an interruption."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
