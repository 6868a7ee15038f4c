"""Which axis of a model's inputs and outputs has the channels, as the graph tells.

A value is followed, from an input to its readers and from an output to its producer, through operators that
leave axes alone and through Transposes, until a node is met that has the channels at axis 1.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from onnx import GraphProto, NodeProto, ValueInfoProto

from passes.graph import attributes
from passes.orders import Perm, compose, inverse

__all__ = ["find_channel_axes"]

_CHANNELS_FIRST = {
    *("AveragePool", "BatchNormalization", "Conv", "ConvTranspose", "DepthToSpace", "GlobalAveragePool"),
    *("GlobalMaxPool", "GroupNormalization", "InstanceNormalization", "LRN", "MaxPool", "SpaceToDepth"),
}
_AXES_STAY = {
    *(
        "Abs",
        "Add",
        "Cast",
        "Clip",
        "Div",
        "Elu",
        "Erf",
        "Exp",
        "Gelu",
        "HardSigmoid",
        "HardSwish",
        "Identity",
    ),
    *("LeakyRelu", "LogSoftmax", "Max", "Min", "Mul", "Neg", "Pad", "PRelu", "Relu", "Sigmoid", "Softmax"),
    *("Softplus", "Sqrt", "Sub", "Tanh"),
}

Axes = tuple[int, ...]
"""For each axis of a value on the way, which axis of the input or output it is."""


def find_channel_axes(graph: GraphProto) -> dict[str, int]:
    """The axis of the channels by the name of an input or output; what nothing is known of is left out."""
    readers: dict[str, list[NodeProto]] = defaultdict(list)
    producers: dict[str, NodeProto] = {}
    for node in graph.node:
        producers.update((name, node) for name in node.output if name)
        for name in node.input[:1] if node.op_type in _CHANNELS_FIRST else node.input:
            readers[name].append(node)
    stored = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in stored]
    found = {name: _from_input(name, axes, readers) for name, axes in _ranked(inputs)}
    found |= {name: _from_output(name, axes, producers) for name, axes in _ranked(graph.output)}
    return {name: axis for name, axis in found.items() if axis is not None}


def _ranked(values: Iterable[ValueInfoProto]) -> Iterator[tuple[str, Axes]]:
    """Values that can have channels beside a batch and something else."""
    for value in values:
        rank = len(value.type.tensor_type.shape.dim)
        if rank >= 3:
            yield value.name, tuple(range(rank))


def _from_input(name: str, axes: Axes, readers: dict[str, list[NodeProto]]) -> int | None:
    waiting, seen = [(name, axes)], {name}
    while waiting:
        value, axes = waiting.pop()
        for node in readers[value]:
            if node.op_type in _CHANNELS_FIRST:
                return axes[1]
            following = _through(node, axes)
            if following is not None and node.output[0] not in seen:
                seen.add(node.output[0])
                waiting.append((node.output[0], following))
    return None


def _from_output(name: str, axes: Axes, producers: dict[str, NodeProto]) -> int | None:
    waiting, seen = [(name, axes)], {name}
    while waiting:
        value, axes = waiting.pop()
        node = producers.get(value)
        if node is None:
            continue
        if node.op_type in _CHANNELS_FIRST:
            return axes[1]
        if node.op_type == "Transpose":
            axes = compose(axes, inverse(_order(node, len(axes))))
        elif node.op_type not in _AXES_STAY:
            continue
        for source in node.input:
            if source not in seen:
                seen.add(source)
                waiting.append((source, axes))
    return None


def _through(node: NodeProto, axes: Axes) -> Axes | None:
    """What the axes of the output are; None where that cannot be said."""
    if node.op_type == "Transpose":
        return compose(axes, _order(node, len(axes)))
    return axes if node.op_type in _AXES_STAY else None


def _order(node: NodeProto, rank: int) -> Perm:
    given = attributes(node).get("perm")
    return tuple(reversed(range(rank))) if given is None else tuple(given.ints)
