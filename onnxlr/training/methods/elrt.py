"""Tucker-2 factors trained from scratch, kept orthogonal: after ELRT (arXiv 2401.10341).

Every k×k Conv is a 1×1 Conv U₁, a k×k core and a 1×1 Conv U₂, of low rank from the first step to the last;
that and the soft orthogonality are what the paper's abstract tells, its formula is not public. Ours:

    loss + λ · Σ over layers of (‖U₁U₁ᵀ − I‖² / r₁ + ‖U₂ᵀU₂ − I‖² / r₂)        λ = 0.1

with U₁ (r₁, C) and U₂ (O, r₂), group by group; divided by the ranks so that layers of all sizes count alike.
Orthogonal factors keep the core's conditioning apart from theirs: without the penalty the split of a layer
into three factors is not unique, and gradients of badly scaled ones vanish or explode. BatchNormalization
behind U₂ takes the scale that the factors then cannot have. They start exactly orthogonal: by QR
decompositions whose triangles go into the core, so that the function does not change.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from onnxlr.training.constraint import Constraint
from onnxlr.training.methods.base import Method, Target

__all__ = ["method"]

_WEIGHT = 0.1


class Elrt(Method):
    """See the module."""

    name = "elrt"
    schemes = ("tucker2",)
    starts_from_scratch = True
    is_cut = False
    is_bound = True

    def constrain(self, targets: Sequence[Target]) -> Constraint:
        for target in targets:
            _orthonormalize(target)
        return SoftOrthogonality(targets)


class SoftOrthogonality(Constraint):
    """The penalty of the module's docstring."""

    def __init__(self, targets: Sequence[Target]) -> None:
        self._targets = targets
        self._seen: float | None = None

    def loss(self) -> Tensor | None:
        if not self._targets:
            return None
        gaps = torch.stack([gap for target in self._targets for gap in _gaps(target)])
        self._seen = float(gaps.detach().max())
        return _WEIGHT * gaps.sum()

    @property
    def violation(self) -> float | None:
        """The largest ‖UᵀU − I‖² / r of a factor."""
        return self._seen


def _gaps(target: Target) -> tuple[Tensor, Tensor]:
    """‖U₁U₁ᵀ − I‖² / r₁ and ‖U₂ᵀU₂ − I‖² / r₂, the means over groups."""
    head, _, tail = (_matrices(weight.tensor, target.conv.group) for weight in target.weights)
    return _gap(head), _gap(tail.mT)


def _gap(rows: Tensor) -> Tensor:
    """Of matrices `(groups, r, n)` whose rows shall be orthonormal."""
    eye = torch.eye(rows.shape[1], dtype=rows.dtype, device=rows.device)
    return (rows @ rows.mT - eye).square().sum() / (len(rows) * rows.shape[1])


def _matrices(weight: Any, groups: int) -> Any:
    """A weight `(M, C / groups, *kernel_shape)`, tensor or array, as `(groups, M / groups, rest)`."""
    return weight.reshape(groups, len(weight) // groups, -1)


def _orthonormalize(target: Target) -> None:
    """Make the outer factors of a chain orthonormal, exactly: U₁ = LQ, U₂ = QR; the core becomes R·core·L."""
    groups = target.conv.group
    head, core, tail = target.weights
    weights = [weight.read() for weight in target.weights]
    first, last = _matrices(weights[0], groups), _matrices(weights[2], groups)
    rows, lower = np.linalg.qr(first.swapaxes(1, 2))  # U₁ᵀ = Q Lᵀ
    columns, upper = np.linalg.qr(last)
    middle = weights[1].reshape(groups, -1, *weights[1].shape[1:])
    middle = np.einsum("gab,gbc...,gcd->gad...", upper, middle, lower.swapaxes(1, 2))
    head.write(rows.swapaxes(1, 2).reshape(weights[0].shape))
    core.write(middle.reshape(weights[1].shape))
    tail.write(columns.reshape(weights[2].shape))


method = Elrt()
