"""Full-rank training towards low rank, and a cut that loses (nearly) nothing: after Yu et al. 2021.

The paper's abstract tells of a low-rank constraint with an adaptive penalty and of a group decomposition for
1×1 Convs; its formulas are not public. Ours: the network is trained at full rank, and of every layer l of
the plan, with its scheme and rank, the energy beyond the rank is penalized:

    loss + Σ_l μ_l / 2 · d_l(W_l)²        d_l(W)² = min over Ŵ of that rank of ‖D⁻¹(W − Ŵ)‖²

D are the norms of the rows of W, as in the plan: every output channel counts alike. For a scheme that is an
unfolding of the weight this is the sum of the squared singular values beyond the rank; Ŵ is the closed form
of the scheme. The penalty is differentiable (its gradient is μ D⁻²(W − Ŵ)), but a stiff one spoils the
optimizer's estimates of the task's gradients, so it acts by its proximal step, which is closed as well:

    W ← (W + μ Ŵ) / (1 + μ)        every 10 steps of the optimizer

μ_l adapts to each layer's own violation. It may keep a share t of its energy beyond the rank that falls from
what it had at the start to 1e-5, geometrically over the first 70 % of the training. Where a layer keeps more,
its μ grows by half; where it keeps less, the penalty fades by as much. At the end each layer is factorized
in closed form, without fine-tuning; what that costs is measured and reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxlr.factorization import nearest
from onnxlr.parallel import available_cores, gram_work, map_layers
from onnxlr.training.constraint import Constraint
from onnxlr.training.methods.base import Method, Target

__all__ = ["method"]

_EVERY = 10
_GROWTH = 1.5
_START, _LEAST, _MOST = 1e-2, 1e-4, 1e4
_LEFT = 1e-5
_UNTIL = 0.7
_TOLERATED = 10.0
"""Share of the energy beyond the rank, in units of `_LEFT`, that a state may have to be the result."""

Array = NDArray[np.float64]


class AdaptiveRank(Method):
    """See the module."""

    name = "adaptive-rank"
    schemes = ("spatial", "channel-out", "group-2", "group-4")
    starts_from_scratch = False
    is_cut = True

    def constrain(self, targets: Sequence[Target]) -> Constraint:
        return EnergyBeyondRank(targets)


class EnergyBeyondRank(Constraint):
    """The penalty of the module's docstring."""

    def __init__(self, targets: Sequence[Target]) -> None:
        self._targets = targets
        self._penalties = [_START] * len(targets)
        self._shares = [1.0] * len(targets)
        self._first: list[float] | None = None
        self._step = 0

    def after_step(self, done: float) -> None:
        self._step += 1
        if self._step % _EVERY:
            return
        found = map_layers(_nearest, self._targets, _work, available_cores(), _ignore)
        for i, (weight, closest, share) in enumerate(found):
            if self._first is not None:
                is_beyond = share > self._allowed(self._first[i], done)
                factor = _GROWTH if is_beyond else 1 / _GROWTH
                self._penalties[i] = min(max(self._penalties[i] * factor, _LEAST), _MOST)
            penalty = self._penalties[i]
            self._targets[i].weights[0].write((weight + penalty * closest) / (1 + penalty))
        self._shares = [share for _, _, share in found]
        self._first = self._first or self._shares

    def _allowed(self, first: float, done: float) -> float:
        """The share of its energy that a layer may have beyond its rank by now."""
        progress = min(done / _UNTIL, 1.0)
        return max(first, _LEFT) ** (1 - progress) * _LEFT**progress

    @property
    def violation(self) -> float | None:
        """The largest share of its energy that a layer has beyond its rank."""
        return max(self._shares, default=None)

    @property
    def is_met(self) -> bool:
        return all(share <= _TOLERATED * _LEFT for share in self._shares)

    def state(self) -> dict[str, Any]:
        return {
            "penalties": self._penalties,
            "shares": self._shares,
            "first": self._first,
            "step": self._step,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self._penalties, self._shares = list(state["penalties"]), list(state["shares"])
        self._first, self._step = state["first"], state["step"]


def _nearest(target: Target) -> tuple[Array, Array, float]:
    """The weight of a layer, the nearest of its rank, and the share of energy between them."""
    weight = target.weights[0].read()
    return weight, *nearest(target.conv, weight, target.scheme, target.rank)


def _work(target: Target) -> float:
    return gram_work(target.conv)


def _ignore(_: int) -> None:
    """Hears how many layers are done."""


method = AdaptiveRank()
