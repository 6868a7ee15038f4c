"""Inputs and outputs of two exports of one network -> which is which, and how axes have to be moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from onnxlr.errors import ModelError, UsageError
from onnxlr.runtime import Value
from passes.orders import Perm, inverse

__all__ = ["Binding", "Port", "bind"]


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output of a model.

    Attributes:
        value: its name, type and shape.
        channel_axis: the axis of the channels; None where neither the graph nor the user tells.
    """

    value: Value
    channel_axis: int | None = None

    @property
    def name(self) -> str:
        """Its name."""
        return self.value.name

    @property
    def is_channels_last(self) -> bool:
        """Whether it is known to have the channels last."""
        return self.channel_axis is not None and self.channel_axis == len(self.value.shape) - 1

    def __str__(self) -> str:
        sizes = ", ".join("?" if size is None else str(size) for size in self.value.shape)
        return f"'{self.name}' {self.value.dtype} [{sizes}]"


@dataclass(frozen=True, slots=True)
class Binding:
    """What an input or output of the first model is in another one.

    Attributes:
        first: of the first model.
        other: of the other one.
        perm: axes of the first one's array in the order of the other; None: they are the same, but for axes
            of size 1 that only one of the two has.
    """

    first: Port
    other: Port
    perm: Perm | None

    def to_other(self, array: NDArray[Any]) -> NDArray[Any]:
        """An array of the first model as the other one has it."""
        turned = _reshaped(array, self.other) if self.perm is None else array.transpose(self.perm)
        return np.asarray(turned, dtype=self.other.value.dtype, order="C")

    def to_first(self, array: NDArray[Any]) -> NDArray[Any]:
        """An array of the other model as the first one has it, but for its type."""
        return _reshaped(array, self.first) if self.perm is None else array.transpose(inverse(self.perm))


def bind(
    what: str, first: Sequence[Port], other: Sequence[Port], given: Mapping[str, str], names: tuple[str, str]
) -> list[Binding]:
    """Find what each input (or each output) of the first model is in the other one.

    1. What the user says holds;
    2. then equal names, where shapes and types fit;
    3. then what fits nothing else.

    Args:
        what: "input" or "output", for messages.
        first: of the first model.
        other: of the other model; some may be left over.
        given: names of the first model -> names of the other one; what is in neither does not count.
        names: of the two models, for messages.

    Raises:
        UsageError: there is more than one way; `given` has to say which.
        ModelError: there is none.
    """
    free = {port.name: port for port in other}
    found: dict[str, Binding] = {}
    for port in first:  # 1
        if given.get(port.name) in free:
            match = free.pop(given[port.name])
            found[port.name] = Binding(port, match, _forced(what, port, match, names))
    for port in first:  # 2
        namesake = free.get(port.name)
        if port.name not in found and namesake is not None and _fits(port, namesake):
            found[port.name] = _binding(port, free.pop(port.name))
    while waiting := [port for port in first if port.name not in found]:  # 3
        choices = {
            port.name: [name for name, match in free.items() if _fits(port, match)] for port in waiting
        }
        single = next((port for port in waiting if len(choices[port.name]) == 1), None)
        if single is None:
            _refuse(what, waiting[0], choices[waiting[0].name], other, names)
        (name,) = choices[single.name]
        found[single.name] = _binding(single, free.pop(name))
    return [found[port.name] for port in first]


def _forced(what: str, first: Port, other: Port, names: tuple[str, str]) -> Perm | None:
    perms = _perms(first, other)
    if not perms:
        raise ModelError(f"{what} {first} of {names[0]} cannot be {other} of {names[1]}: shapes differ")
    return perms[0]


def _binding(first: Port, other: Port) -> Binding:
    return Binding(first, other, _perms(first, other)[0])


def _fits(first: Port, other: Port) -> bool:
    kinds = [port.value.dtype.kind.replace("u", "i") for port in (first, other)]
    return kinds[0] == kinds[1] and bool(_perms(first, other))


def _perms(first: Port, other: Port) -> list[Perm | None]:
    """The orders of axes in which the shapes fit, the one with most equal sizes first; the batch stays."""
    rank = len(first.value.shape)
    if len(other.value.shape) != rank:
        return [None] if _differ_in_ones(first, other) else []
    known = first.channel_axis, other.channel_axis
    last, back = (0, *range(2, rank), 1), (0, rank - 1, *range(1, rank - 1))
    wanted: list[Perm | None] = [None]
    if rank >= 3 and None in known:
        wanted += [last, back]
    elif rank >= 3 and known[0] != known[1]:
        wanted = [back if first.is_channels_last else last]
    equal = {perm: _count_equal(first, other, perm) for perm in wanted}
    fitting = [perm for perm in wanted if equal[perm] is not None]
    return sorted(fitting, key=lambda perm: -(equal[perm] or 0))


def _differ_in_ones(first: Port, other: Port) -> bool:
    """Whether all sizes but the first are known, and the same but for ones: [N, 10, 1, 1] and [N, 10]."""
    sizes = [port.value.shape[1:] for port in (first, other)]
    known = all(isinstance(size, int) for shape in sizes for size in shape)
    without = [[size for size in shape if size != 1] for shape in sizes]
    return known and without[0] == without[1] and all(port.value.shape for port in (first, other))


def _reshaped(array: NDArray[Any], port: Port) -> NDArray[Any]:
    """An array with as many axes as the port has."""
    if array.ndim == len(port.value.shape):
        return array
    return array.reshape(len(array), *(int(size or 1) for size in port.value.shape[1:]))


def _count_equal(first: Port, other: Port, perm: Perm | None) -> int | None:
    """How many sizes are known and equal; None if two contradict each other."""
    sizes = first.value.shape if perm is None else [first.value.shape[i] for i in perm]
    pairs = list(zip(sizes, other.value.shape, strict=True))[1:]
    fixed = [(a, b) for a, b in pairs if isinstance(a, int) and isinstance(b, int)]
    return len(fixed) if all(a == b for a, b in fixed) else None


def _refuse(
    what: str, port: Port, choices: Sequence[str], other: Sequence[Port], names: tuple[str, str]
) -> NoReturn:
    if not choices:
        there = ", ".join(map(str, other)) or "none"
        raise ModelError(
            f"{names[1]} has no {what} that fits {port} of {names[0]}; it has {there}; "
            f"name it with --map {port.name}=NAME if there is one"
        )
    raise UsageError(
        f"{what} {port} of {names[0]} could be {' or '.join(map(repr, choices))} of {names[1]}; "
        f"say which with --map {port.name}={choices[0]}"
    )
