"""Values as bases in an order of axes, and what it costs to make them by Transposes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import nan, prod

from onnx import ModelProto

from passes.inference import Dims, infer_values
from passes.orders import Perm, compose, inverse, is_identity

__all__ = ["Cost", "View", "Views"]

View = tuple[str, Perm]
"""A base in an order of axes. A base that a moved node computes has the name of the output it stands for."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Transposes: those that move data, all of them, and how many elements they move; nan if unknown."""

    moving: int = 0
    count: int = 0
    elements: float = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.moving + other.moving, self.count + other.count, self.elements + other.elements)

    def has_fewer(self, other: Cost) -> bool:
        """Whether there are fewer Transposes; those that move data count first."""
        return (self.moving, self.count) < (other.moving, other.count)

    def gains_on(self, other: Cost) -> bool:
        """Whether something is less and nothing is more, as far as that is known."""
        has_more = self.moving > other.moving or self.count > other.count or self.moves_more(other)
        return self.has_fewer(other) and not has_more

    def moves_more(self, other: Cost) -> bool:
        """Whether more elements are moved, as far as that is known."""
        return self.elements > other.elements


class Views:
    """The values of a main graph that are bases in an order.

    Args:
        model: whose main graph it is.
        base_dir: the folder that locations of external data are relative to.
    """

    def __init__(self, model: ModelProto, base_dir: str) -> None:
        self._model = model
        self._base_dir = base_dir
        self._views: dict[str, View] = {}
        self._orders: dict[str, Perm] = {}  # of outputs whose bases are new
        self._returned: dict[str, Perm] = {}  # that outputs had until they became values again

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    def add(self, name: str, view: View) -> None:
        """Say what a value is."""
        self._views[name] = view

    def add_base(self, name: str, perm: Perm) -> None:
        """Say that a new base is computed in place of a value, which is that base in an order."""
        self._views[name] = name, perm
        self._orders[name] = perm

    def return_base(self, name: str) -> None:
        """Say that the value is computed after all; views of the base become views of it."""
        self._returned[name] = self._orders.pop(name)

    def order(self, name: str) -> Perm | None:
        """The order that a value has of its new base; None if it has none."""
        return self._orders.get(name)

    def find(self, name: str) -> View | None:
        """What a value is; None if it is its own base."""
        if name not in self._views:
            return None
        base, perm = self._views[name]
        if base in self._returned:
            perm = compose(inverse(self._returned[base]), perm)
        return None if base == name and is_identity(perm) else (base, perm)

    def relative(self, name: str, order: Perm) -> View:
        """What a value is a Transpose of, by `order`: a base if it has that order, else a view."""
        base, perm = self.find(name) or (name, tuple(range(len(order))))
        return base, compose(perm, inverse(order))

    @cached_property
    def _dims(self) -> dict[str, Dims]:
        values = infer_values(self._model, self._base_dir)
        return {name: t.dims for (path, name), t in values.items() if not path and t.dims is not None}

    def dims(self, name: str) -> Dims | None:
        """Dimensions of a value of the model; None if not even their number is known."""
        return self._dims.get(name)

    def base_dims(self, base: str) -> Dims | None:
        """Dimensions of a base."""
        dims, order = self.dims(base), self._orders.get(base)
        if dims is None or order is None:
            return dims
        return tuple(dims[axis] for axis in inverse(order)) if len(dims) == len(order) else None

    def moves_ones(self, view: View) -> bool:
        """Whether the order is another one only for axes of size 1, so that no element moves."""
        return _moves_ones(self.base_dims(view[0]), view[1])

    def cost(self, view: View) -> Cost:
        """Of the Transpose that makes a view."""
        return _cost(self.base_dims(view[0]), view[1])

    def value_cost(self, name: str, perm: Perm) -> Cost:
        """Of a Transpose of a value of the model."""
        return _cost(self.dims(name), perm)


def _moves_ones(dims: Dims | None, perm: Perm) -> bool:
    if dims is None or len(dims) != len(perm):
        return is_identity(perm)
    others = [axis for axis in perm if dims[axis] != 1]
    return others == sorted(others)


def _cost(dims: Dims | None, perm: Perm) -> Cost:
    if _moves_ones(dims, perm):
        return Cost(0, 1, 0)
    return Cost(1, 1, nan if dims is None else prod(1 if size is None else size for size in dims))
