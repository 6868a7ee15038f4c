"""What a scheme is: shapes and linear algebra of one way to split a Conv into a chain of Convs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from onnxlr.conv import ConvSpec
from onnxlr.linalg import GramFactorization, Hosvd
from onnxlr.moments import Sample

__all__ = [
    "Decomposition",
    "Factors",
    "HosvdDecomposition",
    "PairDecomposition",
    "Rank",
    "Regression",
    "RegressionOfParts",
    "Scheme",
    "Unfolding",
    "Weight",
]

Rank = tuple[int, ...]
"""One entry a rank that can be chosen: (r,) for a pair, (r1, r2) for Tucker-2. In groups: of each group."""

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


class Regression(Protocol):
    """A layer's outputs regressed by one scheme: the error of every rank, factors when they are asked for."""

    @property
    def residuals(self) -> NDArray[np.float64]:
        """E‖y − ŷ‖² on held-out pairs at every rank: one axis a rank entry, index = rank."""

    def factors(self, rank: Rank) -> Factors:
        """The factors at `rank`."""


class Scheme(ABC):
    """One way to split a Conv; a module of this package has instances of it in a tuple named `schemes`.

    A subclass splits ungrouped Convs. A grouped Conv is as many of them side by side, so it becomes the chain
    of grouped Convs in which each group has its own factors, of one shared rank. If the scheme is the global
    optimum for one group, this is the global optimum over all such grouped chains: their errors add up.

    >>> import numpy as np
    >>> from onnxlr.conv import ConvSpec
    >>> from onnxlr.schemes import all_schemes
    >>> spatial, conv = all_schemes()["spatial"], ConvSpec.create((16, 8, 3, 3), pads=(1, 1, 1, 1))
    >>> spatial.max_rank(conv), [link.weight_shape for link in spatial.chain(conv, (4,))]
    ((24,), [(4, 8, 3, 1), (16, 4, 1, 3)])
    >>> weight = np.random.default_rng(0).standard_normal(conv.weight_shape)
    >>> decomposition = spatial.decompose(conv, weight)
    >>> decomposition.residuals.shape, bool(np.isclose(decomposition.residuals[0], np.square(weight).sum()))
    ((25,), True)
    >>> [factor.shape for factor in decomposition.factors(weight, (4,))]
    [(4, 8, 3, 1), (16, 4, 1, 3)]
    """

    name: str
    """What the command line and the plan call it."""

    def efficiency(self, conv: ConvSpec) -> float:
        """Speed-up over the original divided by the ratio of MACs, measured in ONNX Runtime.

        Args:
            conv: the layer.
        """
        return 1.0

    def refuses(self, conv: ConvSpec) -> str | None:
        """Why this scheme cannot split `conv`, or None if it can.

        Args:
            conv: the layer, with all its groups.
        """
        return self._refuses(conv.one_group())

    def max_rank(self, conv: ConvSpec) -> Rank:
        """Full rank: the chain then computes exactly what the Conv does, up to rounding.

        Args:
            conv: a layer that is not refused.
        """
        return self._max_rank(conv.one_group())

    def chain(self, conv: ConvSpec, rank: Rank) -> tuple[ConvSpec, ...]:
        """The Convs that replace `conv`, first to last.

        Args:
            conv: a layer that is not refused.
            rank: each entry from 1 to that of `max_rank`: a number of channels, in each group, between two
                Convs.
        """
        links = self._chain(conv.one_group(), rank)
        return links if conv.group == 1 else tuple(link.times(conv.group) for link in links)

    def decompose(self, conv: ConvSpec, weight: Weight) -> Decomposition:
        """Analyse the weight: see `Decomposition`.

        Args:
            conv: a layer that is not refused.
            weight: `(M, C / group, *kernel_shape)`, finite.
        """
        if conv.group == 1:
            return self._decompose(conv, weight)
        one = conv.one_group()
        return _GroupedDecomposition([self._decompose(one, part) for part in _groups(weight, conv.group)])

    def regress(
        self, conv: ConvSpec, weight: Weight, samples: Sequence[Sample], top: Rank, refine: int = 0
    ) -> Regression:
        """Split for the smallest error of the outputs: see `Regression`.

        Args:
            conv: what is split.
            weight: `(M, C / group, *kernel_shape)`.
            samples: of the inputs and outputs, one a group.
            top: the highest rank of interest in every entry.
            refine: steps of alternating least squares where the factors are not the optimum, at most: each
                improves them on held-out pairs, or is not made.
        """
        if conv.group == 1:
            return self._regress(conv, weight, samples[0], top, refine)
        one, weights = conv.one_group(), _groups(weight, conv.group)
        parts = [
            self._regress(one, w, sample, top, refine) for w, sample in zip(weights, samples, strict=True)
        ]
        return RegressionOfParts(parts)

    def _refuses(self, conv: ConvSpec) -> str | None:
        """`refuses` for an ungrouped Conv."""
        return None

    @abstractmethod
    def _max_rank(self, conv: ConvSpec) -> Rank:
        """`max_rank` for an ungrouped Conv."""

    @abstractmethod
    def _chain(self, conv: ConvSpec, rank: Rank) -> tuple[ConvSpec, ...]:
        """`chain` for an ungrouped Conv."""

    @abstractmethod
    def _decompose(self, conv: ConvSpec, weight: Weight) -> Decomposition:
        """`decompose` for an ungrouped Conv."""

    @abstractmethod
    def _regress(self, conv: ConvSpec, weight: Weight, sample: Sample, top: Rank, refine: int) -> Regression:
        """`regress` for an ungrouped Conv."""


class Unfolding(ABC):
    """A weight as a matrix whose rank is truncated, and that matrix's factors as the weights of two Convs."""

    def __init__(self, conv: ConvSpec) -> None:
        self.conv = conv

    @abstractmethod
    def unfold(self, weight: Weight) -> Weight:
        """The weight as a matrix."""

    @abstractmethod
    def fold(self, left: NDArray[np.float64], right: NDArray[np.float64]) -> Factors:
        """The matrix factors `(rows, r)` and `(r, columns)` as the weights of the two Convs."""


class PairDecomposition:
    """Two factors from the best rank-r approximation of one unfolding of the weight."""

    def __init__(self, unfolding: Unfolding, weight: Weight) -> None:
        self._unfolding = unfolding
        self._matrix = GramFactorization(unfolding.unfold(weight))

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
        unfolded = self._unfolding.unfold(weight)
        return self._unfolding.fold(*self._matrix.factors(unfolded, *rank))


class HosvdDecomposition(ABC):
    """Three factors from the truncated HOSVD of the weight as a tensor, over its first two modes.

    Subclasses say how the weight becomes that tensor and how the tensor's factors fold back.
    """

    def __init__(self, conv: ConvSpec, weight: Weight) -> None:
        self.conv = conv
        self._tensor = Hosvd(self.unfold(weight))

    @property
    def residuals(self) -> NDArray[np.float64]:
        """See `Decomposition`; exact."""
        return self._tensor.residuals

    @property
    def nbytes(self) -> int:
        """See `Decomposition`."""
        return self._tensor.nbytes

    def factors(self, weight: Weight, rank: Rank) -> Factors:
        """See `Decomposition`."""
        return self.fold(*self._tensor.factors(self.unfold(weight), *rank))

    @abstractmethod
    def unfold(self, weight: Weight) -> Weight:
        """The weight as a tensor whose second mode meets the chain's input, and the first its output."""

    @abstractmethod
    def fold(
        self, head: NDArray[np.float64], core: NDArray[np.float64], tail: NDArray[np.float64]
    ) -> Factors:
        """Second mode's basis `(·, r1)`, core `(r2, r1, ...)`, first mode's basis `(·, r2)` as weights."""


class _GroupedDecomposition:
    """The decompositions of the groups of a Conv, in order; all get the same rank."""

    def __init__(self, parts: Sequence[Decomposition]) -> None:
        self._parts = parts
        self.residuals = np.sum([part.residuals for part in parts], axis=0)
        self.nbytes = sum(part.nbytes for part in parts)

    def factors(self, weight: Weight, rank: Rank) -> Factors:
        """See `Decomposition`."""
        weights = _groups(weight, len(self._parts))
        factors = [part.factors(w, rank) for part, w in zip(self._parts, weights, strict=True)]
        return tuple(np.concatenate(links) for links in zip(*factors, strict=True))


class RegressionOfParts:
    """Regressions of parts of the outputs, in order; all get the same rank."""

    def __init__(self, parts: Sequence[Regression]) -> None:
        self._parts = parts

    @cached_property
    def residuals(self) -> NDArray[np.float64]:
        """See `Regression`."""
        total: NDArray[np.float64] = np.sum([part.residuals for part in self._parts], axis=0)
        return total

    def factors(self, rank: Rank) -> Factors:
        """See `Regression`."""
        factors = [part.factors(rank) for part in self._parts]
        return tuple(np.concatenate(links) for links in zip(*factors, strict=True))


def _groups(weight: Weight, count: int) -> Weight:
    """`(group, M / group, C / group, *kernel_shape)`."""
    return weight.reshape(count, -1, *weight.shape[1:])
