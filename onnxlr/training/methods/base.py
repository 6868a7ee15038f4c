"""What a method of low-rank training is, and what it trains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from onnxlr.conv import ConvSpec
from onnxlr.layout import Layout
from onnxlr.schemes import Rank, Scheme
from onnxlr.training.constraint import Constraint

__all__ = ["Method", "Target", "TrainedWeight"]


@dataclass(frozen=True, slots=True)
class TrainedWeight:
    """The weight of a Conv, Gemm or MatMul that is trained.

    Attributes:
        parameter: as it is stored.
        conv: the node as a Conv.
        layout: how `parameter` stores the weight `(M, C / group, *kernel_shape)` of `conv`.
    """

    parameter: nn.Parameter
    conv: ConvSpec
    layout: Layout

    @property
    def tensor(self) -> Tensor:
        """The weight `(M, C / group, *kernel_shape)`; gradients go through it."""
        stored: Any = self.parameter
        found: Tensor = self.layout.load(stored, self.conv)  # reshapes tensors as it does arrays
        return found

    def read(self) -> NDArray[np.float64]:
        """The same as an array."""
        return self.tensor.detach().cpu().double().numpy()

    def write(self, weight: NDArray[Any]) -> None:
        """The inverse of `read`."""
        stored = np.ascontiguousarray(self.layout.store(weight, self.conv))
        self.parameter.data.copy_(torch.from_numpy(stored))


@dataclass(frozen=True, slots=True)
class Target:
    """A layer of the plan, in the network that is trained.

    Attributes:
        name: of the layer.
        scheme: that splits it.
        rank: of the scheme.
        conv: the whole layer as a Conv.
        weights: of the chain, first to last; of a network that is cut at the end, that of the layer alone.
    """

    name: str
    scheme: Scheme
    rank: Rank
    conv: ConvSpec
    weights: Sequence[TrainedWeight]


class Method:
    """A way to train a network of low rank; a module of this package has one in a variable named `method`."""

    name: str
    """What the command line calls it."""

    schemes: Sequence[str]
    """That a plan is made with where no others are asked for; none: the network stays as it is."""

    starts_from_scratch: bool
    """Whether weights are drawn anew, where nothing else is said."""

    is_cut: bool
    """Whether the network is trained at full rank, and factorized at the end."""

    is_bound: bool = False
    """Whether it can train no schemes but its own."""

    def constrain(self, targets: Sequence[Target]) -> Constraint:
        """What is asked of the weights: nothing. May bring them into shape before the first step."""
        del targets
        return Constraint()
