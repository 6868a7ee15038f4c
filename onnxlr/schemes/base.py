"""What a scheme is: shapes and linear algebra of one way to split a Conv into a chain of Convs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from onnxlr.conv import ConvSpec
from onnxlr.linalg import GramFactorization

__all__ = ["Decomposition", "Factors", "PairDecomposition", "Rank", "Scheme", "Weight", "refuse_groups"]

Rank = tuple[int, ...]
"""One entry a rank that can be chosen: (r,) for a pair, (r1, r2) for Tucker-2."""

Weight = NDArray[Any]
"""A Conv's weight `(M, C / group, *kernel_shape)` in any real floating type."""

Factors = tuple[NDArray[np.float64], ...]
"""Weights of the Convs of a chain, first to last, in the shapes of `Scheme.chain`."""


class Decomposition(Protocol):
    """A weight analysed by one scheme: the error of every rank is known, no factor is computed yet."""

    @property
    def residuals(self) -> NDArray[np.float64]:
        """‖W − Ŵ‖² at every rank: one axis a rank entry, of length max_rank + 1, index = rank."""

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes."""

    def factors(self, weight: Weight, rank: Rank) -> Factors:
        """The factors at `rank`; `weight` is the one that was analysed."""


class Scheme(Protocol):
    """One way to split a Conv; a module of this package that has an instance named `scheme`."""

    @property
    def name(self) -> str:
        """What the command line and the plan call it."""

    def efficiency(self, conv: ConvSpec) -> float:
        """Speed-up over the original divided by the ratio of MACs, measured in ONNX Runtime."""

    def refuses(self, conv: ConvSpec) -> str | None:
        """Why this scheme cannot split `conv`, or None if it can."""

    def max_rank(self, conv: ConvSpec) -> Rank:
        """Full rank: the chain then computes exactly what the Conv does."""

    def chain(self, conv: ConvSpec, rank: Rank) -> tuple[ConvSpec, ...]:
        """The Convs that replace `conv`; each entry of `rank` is a number of channels between two of them."""

    def decompose(self, conv: ConvSpec, weight: Weight) -> Decomposition:
        """Analyse the weight: see `Decomposition`."""


class PairDecomposition(ABC):
    """Two factors from the best rank-r approximation of one unfolding of the weight.

    Subclasses say how the weight unfolds to a matrix and how the matrix factors fold back.
    """

    def __init__(self, conv: ConvSpec, weight: Weight) -> None:
        self.conv = conv
        self._matrix = GramFactorization(self.unfold(weight))

    @property
    def residuals(self) -> NDArray[np.float64]:
        """See `Decomposition`; exactly the sum of the discarded σ² of the unfolding."""
        return self._matrix.residuals

    @property
    def nbytes(self) -> int:
        """See `Decomposition`."""
        return self._matrix.nbytes

    def factors(self, weight: Weight, rank: Rank) -> Factors:
        """See `Decomposition`."""
        return self.fold(*self._matrix.factors(self.unfold(weight), *rank))

    @abstractmethod
    def unfold(self, weight: Weight) -> Weight:
        """The weight as the matrix whose rank is truncated."""

    @abstractmethod
    def fold(self, left: NDArray[np.float64], right: NDArray[np.float64]) -> Factors:
        """The matrix factors `(rows, r)` and `(r, columns)` as the weights of the two Convs."""


def refuse_groups(conv: ConvSpec) -> str | None:
    """The reason of the schemes that mix all channels, or None for an ungrouped Conv."""
    if conv.group == 1:
        return None
    return f"{'depthwise' if conv.weight_shape[1] == 1 else 'grouped'} Conv (group = {conv.group})"
