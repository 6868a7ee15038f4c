"""Let Transposes sink: which values become views, and which nodes can read bases in place of values.

The rules are those of `passes.cancel_transposes`, 1 and 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from onnx import ModelProto, NodeProto

from passes.agnostic import Moved, NewConstant, Perm, Rule, compose, inverse, is_identity
from passes.constants import Constant, ConstantError, Constants
from passes.graph import attributes, count_reads, subgraphs, trained_names
from passes.inference import Dims
from passes.views import View, Views

__all__ = ["BASE_READERS", "MovedNode", "Operand", "Sinking"]

BASE_READERS = ("Shape", "Size", "Reshape", "Flatten")
"""Operators of rule 4."""


@dataclass(frozen=True, slots=True)
class Operand:
    """How a moved node reads an input; as it is if none of these is set.

    Attributes:
        base_of: a value whose base is read.
        view: what is read, by a Transpose of the base.
        constant: what is read in its place.
    """

    base_of: str = ""
    view: View | None = None
    constant: NewConstant | None = None


@dataclass(frozen=True, slots=True)
class MovedNode:
    """A node that reads bases, and how it reads each operand, by position."""

    moved: Moved
    operands: Mapping[int, Operand]

    @property
    def sources(self) -> list[str]:
        """Values whose bases it reads."""
        return [operand.base_of for operand in self.operands.values() if operand.base_of]

    @property
    def extra_views(self) -> list[View]:
        """What it reads by Transposes."""
        return [operand.view for operand in self.operands.values() if operand.view is not None]


class Sinking:
    """The main graph of a model after all its Transposes have sunk as far as they can.

    Args:
        model: left alone.
        constants: those of its main graph.
        rules: of the operators that can be moved.

    Attributes:
        views: what the values are.
        transposes: the Transposes that became views, position -> order.
        moved: moved nodes by position, in the order of positions.
        pinned: values that are needed under their names: outputs, those that bodies of nodes read, and those
            that training_info or a quantization annotation names.
    """

    def __init__(self, model: ModelProto, constants: Constants, rules: Mapping[str, Rule]) -> None:
        self.views = Views(model, constants.folder)
        self.transposes: dict[int, Perm] = {}
        self.moved: dict[int, MovedNode] = {}
        self._constants = constants
        self._rules = rules
        self._trained = trained_names(model)
        self.pinned = _pinned(model) | self._trained
        self._needed = self._read_by_others(model) | self.pinned
        self._there: set[View] = set()  # views that some node reads that cannot be moved
        for i, node in enumerate(model.graph.node):
            is_known = not node.output or constants.find(node.output[0]) is not None
            if is_known or node.domain not in ("", "ai.onnx"):
                continue
            if node.op_type == "Transpose":
                self._compose(i, node)
            elif node.op_type in self._rules and not any(subgraphs(node)):
                self._move(i, node)

    def _read_by_others(self, model: ModelProto) -> set[str]:
        free = {*self._rules, *BASE_READERS, "Transpose"}
        return {name for node in model.graph.node if node.op_type not in free for name in node.input}

    def _compose(self, position: int, node: NodeProto) -> None:
        """Rule 1: a Transpose gives a base another order."""
        source, output = node.input[0], node.output[0]
        perm = self._perm(node)
        if perm is None:
            return
        base, first = self.views.find(source) or (source, tuple(range(len(perm))))
        if len(first) != len(perm):
            return
        view = base, compose(first, perm)
        self.views.add(output, view)
        self.transposes[position] = perm
        if output in self._needed:
            self._there.add(view)

    def _perm(self, node: NodeProto) -> Perm | None:
        """The order that a Transpose makes; None if it is unknown or none."""
        given = attributes(node)
        if "perm" in given:
            perm = tuple(given["perm"].ints)
            return perm if is_identity(tuple(sorted(perm))) else None
        dims = self.views.dims(node.input[0])
        return None if dims is None else tuple(reversed(range(len(dims))))

    def _move(self, position: int, node: NodeProto) -> None:
        """Rule 2: a node reads bases."""
        views = [view for view in map(self.views.find, node.input) if view is not None]
        orders = {perm for _, perm in views if not is_identity(perm)}
        if len(orders) != 1:
            return
        (perm,) = orders
        moved = self._rules[node.op_type](node, perm, self._constants)
        if moved is None:
            return
        names = {i: node.input[i] for i in moved.operands if node.input[i]}
        operands = {i: self._operand(name, moved, perm) for i, name in names.items()}
        read = {i: operand for i, operand in operands.items() if operand is not None}
        found = MovedNode(moved, read)
        if len(read) < len(operands) or not found.sources:
            return
        self.moved[position] = found
        if not is_identity(moved.perm):
            for name in filter(None, node.output):
                self.views.add_base(name, moved.perm)

    def _operand(self, name: str, moved: Moved, perm: Perm) -> Operand | None:
        """How an operand is given the order, None if that is not free."""
        base, order = self.views.find(name) or (name, None)
        if order == perm:
            return Operand(base_of=name)
        if order is not None and not is_identity(order):
            return None
        found = self._constants.find(name)
        if found is not None:
            return self._constant_operand(name, found, moved, perm)
        dims = self.views.dims(base)
        if _is_ones(dims, perm, moved):
            return Operand()
        view, rank = (base, inverse(perm)), None if dims is None else len(dims)
        if self.views.order(base) is not None or rank not in (None, len(perm)):
            return None
        is_free = view in self._there or (rank is not None and self.views.moves_ones(view))
        return Operand(view=view) if is_free else None

    def _constant_operand(self, name: str, found: Constant, moved: Moved, perm: Perm) -> Operand | None:
        try:
            dims, rank, back = found.shape, len(perm), inverse(perm)
        except ConstantError:
            return None
        if _is_ones(dims, perm, moved):
            return Operand()
        fits = len(dims) == rank or (len(dims) < rank and moved.broadcasts)
        if not fits or not self._trained.isdisjoint((name, found.name)):
            return None
        full = (1,) * (rank - len(dims)) + dims
        stem, key = f"{name}_transposed", (found, full, back)
        return Operand(constant=NewConstant(key, stem, lambda: found.read().reshape(full).transpose(back)))


def _is_ones(dims: Dims | None, perm: Perm, moved: Moved) -> bool:
    """Whether an operand has one element, and so is the same in any order."""
    if dims is None or any(size != 1 for size in dims):
        return False
    return len(dims) == len(perm) or (len(dims) < len(perm) and moved.broadcasts)


def _pinned(model: ModelProto) -> set[str]:
    """Outputs of the main graph, and what bodies of its nodes and annotations refer to."""
    names = {value.name for value in model.graph.output}
    names.update(note.tensor_name for note in model.graph.quantization_annotation)
    for node in model.graph.node:
        for body in subgraphs(node):
            names.update(count_reads(body))
    return names
