"""Which stored tensors are trained, which are statistics, and which are numbers of the network.

1. What a BatchNormalization reads as mean and variance, directly or through Identity nodes, is a statistic.
2. A tensor of floats is trained if the outputs depend on it other than as a number (a scale of a Resize, a
   bound of a Clip), and it has several elements or is the weight of a layer. A single number in arithmetic
   is a constant of the network, as the 3 and the 6 of a hard swish; so is what is not finite, as a mask.
3. Everything else stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from onnx import GraphProto, NodeProto, TensorProto

from onnxlr.training.elements import is_float
from onnxlr.training.operators import OPERATORS

__all__ = ["Roles", "find_roles"]

_STATISTICS = (3, 4)  # inputs of a BatchNormalization
_INTEGERS = frozenset(
    getattr(TensorProto, f"{sign}INT{bits}") for sign in ("", "U") for bits in (8, 16, 32, 64)
) | {TensorProto.BOOL}


@dataclass(frozen=True, slots=True)
class Roles:
    """Names of stored tensors.

    Attributes:
        trained: candidates for parameters, in the order in which the graph stores them; whether they are
            finite is not known yet.
        statistics: means and variances of BatchNormalizations.
        frozen: outputs of BatchNormalizations whose statistics are computed: they keep them.
    """

    trained: tuple[str, ...]
    statistics: frozenset[str]
    frozen: frozenset[str]


def find_roles(graph: GraphProto, stored: Mapping[str, TensorProto]) -> Roles:
    """The roles of the stored tensors of a graph; all its operators are known."""
    aliases = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Identity"}
    statistics: set[str] = set()
    frozen: set[str] = set()
    for node in graph.node:
        if node.op_type == "BatchNormalization":
            origins = [_origin(node.input[i], aliases) for i in _STATISTICS]
            if all(origin in stored for origin in origins):
                statistics.update(origins)
            else:
                frozen.update(filter(None, node.output))
    needed, weights = _needed(graph)
    trained = tuple(
        name
        for name, tensor in stored.items()
        if is_float(tensor.data_type)
        and name in needed - statistics
        and (prod(tensor.dims) > 1 or name in weights)
    )
    return Roles(trained, frozenset(statistics), frozenset(frozen))


def _origin(name: str, aliases: Mapping[str, str]) -> str:
    while name in aliases:
        name = aliases[name]
    return name


def _needed(graph: GraphProto) -> tuple[set[str], set[str]]:
    """Values that a gradient reaches, and those of them that are weights of layers; from the outputs back."""
    needed = {value.name for value in graph.output}
    weights: set[str] = set()
    for node in reversed(graph.node):
        operator = OPERATORS[node.op_type]
        if not needed.intersection(node.output) or not operator.has_gradient or _is_to_integer(node):
            continue
        passes_on = node.op_type in ("Identity", "Cast") and node.output[0] in weights
        is_norm = node.op_type == "BatchNormalization"
        constant = _STATISTICS if is_norm else operator.numbers  # positions that have no gradient
        for i, name in enumerate(node.input):
            if name and i not in constant:
                needed.add(name)
                if i in operator.layer_weights or passes_on:
                    weights.add(name)
    return needed, weights


def _is_to_integer(node: NodeProto) -> bool:
    return node.op_type == "Cast" and any(
        item.name == "to" and item.i in _INTEGERS for item in node.attribute
    )
