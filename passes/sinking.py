"""Let Transposes sink: which values become views, and which nodes can read bases in place of values.

The rules are those of `passes.cancel_transposes`, 1 and 2.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from onnx import ModelProto, NodeProto

from passes.agnostic import Rule
from passes.constants import Constant, ConstantError, Constants
from passes.graph import attributes, count_reads, subgraphs, trained_names
from passes.inference import Dims
from passes.orders import Moved, NewConstant, Perm, compose, inverse, is_identity
from passes.views import Views

__all__ = ["BASE_READERS", "MovedNode", "Operand", "Sinking"]

BASE_READERS = ("Shape", "Size", "Reshape", "Flatten")
"""Operators of rule 4."""


@dataclass(frozen=True, slots=True)
class Operand:
    """How a moved node reads an input; as it is if none of these is set.

    Attributes:
        source: a value; what it is a Transpose of is read.
        constant: what is read in its place.
    """

    source: str = ""
    constant: NewConstant | None = None


@dataclass(frozen=True, slots=True)
class MovedNode:
    """A node that reads bases.

    Attributes:
        moved: what changes.
        order: of its operands.
        operands: how it reads each of them, by position.
    """

    moved: Moved
    order: Perm
    operands: Mapping[int, Operand]

    @property
    def sources(self) -> list[str]:
        """Values whose bases, or Transposes of other bases, it reads."""
        return [operand.source for operand in self.operands.values() if operand.source]


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
        for i, node in enumerate(model.graph.node):
            is_known = not node.output or constants.find(node.output[0]) is not None
            if is_known or node.domain not in ("", "ai.onnx"):
                continue
            if node.op_type == "Transpose":
                self._compose(i, node)
            elif node.op_type in self._rules and not any(subgraphs(node)):
                self._move(i, node)

    def _compose(self, position: int, node: NodeProto) -> None:
        """Rule 1: a Transpose gives a base another order."""
        source, perm = node.input[0], self._perm(node)
        if perm is None:
            return
        base, first = self.views.find(source) or (source, tuple(range(len(perm))))
        if len(first) != len(perm):
            return
        self.views.add(node.output[0], (base, compose(first, perm)))
        self.transposes[position] = perm

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
        perm = self._choose_order(node)
        moved = None if perm is None else self._rules[node.op_type](node, perm, self._constants)
        if perm is None or moved is None:
            return
        names = {i: node.input[i] for i in moved.operands if node.input[i]}
        operands = {i: self._operand(name, moved, perm) for i, name in names.items()}
        read = {i: operand for i, operand in operands.items() if operand is not None}
        if len(read) < len(operands) or not any(self._has_order(name, perm) for name in names.values()):
            return
        self.moved[position] = MovedNode(moved, perm, read)
        if not is_identity(moved.perm):
            for name in filter(None, node.output):
                self.views.add_base(name, moved.perm)

    def _choose_order(self, node: NodeProto) -> Perm | None:
        """The order that most inputs have; of several one of channels-last values of channels-first bases."""
        views = [view for view in map(self.views.find, node.input) if view is not None]
        orders = Counter(perm for _, perm in views if not is_identity(perm))
        rank = max(map(len, orders), default=0)
        usual = (0, *range(2, rank), 1)
        return max(orders, key=lambda perm: (len(perm), perm == usual, orders[perm]), default=None)

    def _has_order(self, name: str, perm: Perm) -> bool:
        view = self.views.find(name)
        return view is not None and view[1] == perm

    def _operand(self, name: str, moved: Moved, perm: Perm) -> Operand | None:
        """How an operand is given the order, None if it has not as many axes."""
        found, view = self._constants.find(name), self.views.find(name)
        if found is not None:
            return self._constant_operand(name, found, moved, perm)
        dims = self.views.dims(name)
        if view is None and _is_ones(dims, perm, moved):
            return Operand()
        rank = len(view[1]) if view is not None else -1 if dims is None else len(dims)
        return Operand(source=name) if rank == len(perm) else None

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
