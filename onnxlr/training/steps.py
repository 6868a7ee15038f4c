"""A graph as a list of steps: one a node, in order, with what each reads, writes and may forget."""

from __future__ import annotations

import contextlib
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from onnx import GraphProto, NodeProto
from torch import Tensor

from onnxlr.errors import ModelError
from onnxlr.training.elements import Value, as_array, as_tensor
from onnxlr.training.operators import OPERATORS, Node, Operator

__all__ = ["Step", "check_operators", "make_steps"]

_SHOWN = 3  # nodes that a message names
_CPU = torch.device("cpu")

Place = Callable[[str, Value], Tensor]
"""Brings the value of a name to the device that a graph runs on."""


@dataclass(frozen=True, slots=True)
class Step:
    """One node of a graph.

    Attributes:
        node: without its inputs.
        operator: what computes it.
        inputs: names; "" for what is left out.
        finished: values that no later step reads.
        is_frozen: whether it behaves in training as in evaluation.
    """

    node: Node
    operator: Operator
    inputs: tuple[str, ...]
    finished: tuple[str, ...] = ()
    is_frozen: bool = False

    def run(self, values: MutableMapping[str, Value], place: Place, training: bool) -> None:
        """Compute the node's outputs; on the host, without gradients, if all it reads is known there.

        Args:
            values: by name; the outputs are added.
            place: brings a value to where the others are.
            training: whether BatchNormalization and Dropout behave as in training.

        Raises:
            ValueError: its inputs do not fit, or it asks for what is not supported.
        """
        inputs = [values[name] if name else None for name in self.inputs]
        is_known = not any(isinstance(value, Tensor) for value in inputs)
        with torch.no_grad() if is_known else contextlib.nullcontext():
            results = self._call(inputs, _on_host if is_known else place, training)
        for name, result in zip(self.node.outputs, results, strict=False):
            if name:
                values[name] = as_array(result) if is_known else result

    def _call(self, inputs: Sequence[Value | None], place: Place, training: bool) -> Sequence[Value]:
        arguments: list[Any] = [self.node] if self.operator.takes_node else []
        for position, (name, value) in enumerate(zip(self.inputs, inputs, strict=True)):
            if value is None:
                arguments.append(None)
            elif position in self.operator.numbers:
                arguments.append(as_array(value))
            else:
                arguments.append(place(name, value))
        options = {"training": training and not self.is_frozen} if self.operator.has_modes else {}
        results = self.operator.function(*arguments, **options)
        return results if isinstance(results, tuple | list) else (results,)


def _on_host(_: str, value: Value) -> Tensor:
    return as_tensor(value, _CPU)


def check_operators(graph: GraphProto, name: str) -> None:
    """All operators of a graph are known.

    Raises:
        ModelError: names every one that is not, and its nodes.
    """
    missing: defaultdict[str, list[str]] = defaultdict(list)
    for node in graph.node:
        domain = "" if node.domain == "ai.onnx" else node.domain
        if domain or node.op_type not in OPERATORS:
            operator = f"{domain}:{node.op_type}" if domain else node.op_type
            missing[operator].append(node.name or next(filter(None, node.output), ""))
    if missing:
        listed = "; ".join(f"{operator} ({_listed(nodes)})" for operator, nodes in sorted(missing.items()))
        count = f"{len(missing)} operator{'s' if len(missing) > 1 else ''}"
        raise ModelError(
            f"{name}: {count} cannot be trained through: {listed}; "
            "export the network without them, or cut them off: train the part before them"
        )


def _listed(nodes: Sequence[str]) -> str:
    shown = ", ".join(f"'{node}'" for node in nodes[:_SHOWN])
    more = f" and {len(nodes) - _SHOWN} more" if len(nodes) > _SHOWN else ""
    return f"node{'s' if len(nodes) > 1 else ''} {shown}{more}"


def make_steps(graph: GraphProto, opset: int, frozen: Collection[str]) -> list[Step]:
    """The steps of a graph whose operators are known; its outputs are never forgotten.

    Args:
        graph: its nodes are in an order in which they can run, as ONNX demands.
        opset: version of its operators.
        frozen: outputs of nodes that do not change with training.
    """
    read = Counter(value.name for value in graph.output)
    steps = []
    for proto in reversed(graph.node):
        inputs = list(proto.input)
        finished = tuple({name for name in (*inputs, *proto.output) if name and not read[name]})
        read.update(inputs)
        steps.append(_step(proto, opset, finished, not set(proto.output).isdisjoint(frozen)))
    return steps[::-1]


def _step(proto: NodeProto, opset: int, finished: tuple[str, ...], is_frozen: bool) -> Step:
    operator = OPERATORS[proto.op_type]
    return Step(Node.of(proto, opset), operator, tuple(proto.input), finished, is_frozen)
