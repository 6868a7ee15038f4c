"""Orders of axes, and what becomes of a node that reads its operands in another one."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Moved", "NewConstant", "Perm", "compose", "int64_constant", "inverse", "is_identity"]

Perm = tuple[int, ...]
"""An order of axes, as Transpose has it."""


@dataclass(frozen=True, slots=True)
class NewConstant:
    """A tensor to store.

    Attributes:
        key: the same for equal tensors.
        stem: what to call it.
        make: computes it.
    """

    key: Hashable
    stem: str
    make: Callable[[], NDArray[Any]] = field(compare=False)


@dataclass(frozen=True, slots=True)
class Moved:
    """A node that was moved to the bases of its operands.

    Attributes:
        operands: positions of the inputs that are read as bases.
        perm: the order that its outputs have.
        attributes: the ones that change.
        constants: inputs that change, by position.
        op: another operator; None for the same.
        broadcasts: whether operands may have fewer axes than perm.
    """

    operands: Sequence[int]
    perm: Perm
    attributes: Mapping[str, int | list[int]] = field(default_factory=dict)
    constants: Mapping[int, NewConstant] = field(default_factory=dict)
    op: str | None = None
    broadcasts: bool = False


def is_identity(perm: Perm) -> bool:
    """Whether an order is the one that axes have anyway."""
    return perm == tuple(range(len(perm)))


def compose(first: Perm, second: Perm) -> Perm:
    """The order of `Transpose(Transpose(x, first), second)`."""
    return tuple(first[axis] for axis in second)


def inverse(perm: Perm) -> Perm:
    """The order that takes another one back."""
    return tuple(sorted(range(len(perm)), key=perm.__getitem__))


def int64_constant(stem: str, values: Sequence[int]) -> NewConstant:
    """A vector of integers to store."""
    return NewConstant(("int64", *values), stem, lambda: np.array(values, np.int64))
