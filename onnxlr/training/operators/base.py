"""A node as its operator sees it, and what the interpreter has to know of an operator."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from onnx import NodeProto, helper

from onnxlr.training.elements import Array

__all__ = ["Node", "Operator", "Table", "axes_of"]


@dataclass(frozen=True, slots=True)
class Node:
    """One node without its inputs.

    Attributes:
        op_type: the operator.
        name: its name, or what it computes if it has none.
        opset: version of the operators that its graph uses.
        outputs: names of its outputs; "" for those that nothing reads.
        attributes: by name; strings are decoded.
    """

    op_type: str
    name: str
    opset: int
    outputs: tuple[str, ...] = ("",)
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, proto: NodeProto, opset: int) -> Node:
        """The node of a graph."""
        values = {item.name: helper.get_attribute_value(item) for item in proto.attribute}
        decoded = {name: v.decode() if isinstance(v, bytes) else v for name, v in values.items()}
        outputs = tuple(proto.output)
        name = proto.name or next(filter(None, outputs), "")
        return cls(proto.op_type, name, opset, outputs, decoded)

    def get(self, name: str, default: Any) -> Any:
        """An attribute, or the default of its operator."""
        return self.attributes.get(name, default)

    def ints(self, name: str, default: Sequence[int]) -> list[int]:
        """An attribute that is a list of integers, or the default where it is absent or empty."""
        return [int(value) for value in self.attributes.get(name) or default]

    def flag(self, name: str, default: bool = False) -> bool:
        """An attribute that is 0 or 1."""
        return bool(self.attributes.get(name, default))


@dataclass(frozen=True, slots=True)
class Operator:
    """How an ONNX operator is computed.

    Attributes:
        function: takes the node and its inputs, None for those left out; gives a tensor, an array of what is
            known without the data, or several of them. Errors are ValueErrors.
        numbers: positions of inputs that it takes as arrays: sizes, axes, bounds. They are never trained.
        layer_weights: positions of inputs that are weights whatever their size: in elementwise operators a
            single number is a constant of the network.
        takes_node: False for functions of the inputs alone.
        has_modes: whether the function takes `training` as well.
        has_gradient: whether its result depends on its inputs in a way that can be trained.
    """

    function: Callable[..., Any]
    numbers: Collection[int] = ()
    layer_weights: Collection[int] = ()
    takes_node: bool = True
    has_modes: bool = False
    has_gradient: bool = True


Table = Mapping[str, Operator]
"""Operators by `op_type`."""


def axes_of(node: Node, given: Array | None, rank: int) -> list[int]:
    """Axes from 0 on, as an input gives them or, before the opset that made it one, an attribute; or [].

    Raises:
        ValueError: an axis is out of range.
    """
    values = node.ints("axes", []) if given is None else [int(value) for value in given.reshape(-1)]
    if any(not -rank <= axis < rank for axis in values):
        raise ValueError(f"axes {values} of a tensor with {rank} dimensions")
    return [axis % rank for axis in values]
