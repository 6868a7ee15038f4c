"""A part of the main graph as a model of its own: what runs a network piece by piece stands on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from onnx import GraphProto, ModelProto, NodeProto, TypeProto, ValueInfoProto

from passes.graph import reads_of

__all__ = ["cut", "reads_between", "values_between"]


def values_between(graph: GraphProto, positions: Sequence[int]) -> list[set[str]]:
    """For each position in the list of nodes, the values computed before it that are read from it on.

    Graph inputs count as computed, graph outputs as read at the end; stored tensors never count.
    """
    stored = _stored_names(graph)
    reads = Counter({value.name for value in graph.output})
    available = {value.name for value in graph.input} | {v for node in graph.node for v in node.output}
    late: set[str] = set()
    wanted = dict.fromkeys(sorted(positions, reverse=True))
    nodes = list(graph.node)
    at = len(nodes)
    for position in wanted:
        for node in nodes[position:at]:
            reads.update(reads_of(node))
            late.update(node.output)
        at = position
        wanted[position] = (set(reads) & available) - late - stored
    return [wanted[position] or set() for position in positions]


def reads_between(graph: GraphProto, start: int, stop: int) -> set[str]:
    """Values that the nodes `start` to `stop` read and do not compute, stored tensors left out."""
    nodes = graph.node[start:stop]
    return set(_reads(nodes)) - {value for node in nodes for value in node.output} - _stored_names(graph)


def cut(
    model: ModelProto,
    start: int,
    stop: int,
    inputs: Mapping[str, TypeProto],
    outputs: Iterable[str],
) -> ModelProto:
    """The nodes `start` to `stop` of the main graph as a model, with the stored tensors that they read.

    Args:
        model: left alone; nodes are in topological order, as ONNX asks.
        start: first node.
        stop: the one behind the last.
        inputs: values to feed, and their types.
        outputs: values to give out: computed by these nodes.
    """
    part = ModelProto(ir_version=max(model.ir_version, 4))  # before 4 weights had to be inputs as well
    part.opset_import.extend(model.opset_import)
    part.functions.extend(model.functions)
    part.graph.name = f"{model.graph.name or 'graph'} {start}-{stop}"
    part.graph.node.extend(model.graph.node[start:stop])
    part.graph.input.extend(ValueInfoProto(name=name, type=kind) for name, kind in inputs.items())
    part.graph.output.extend(ValueInfoProto(name=name) for name in outputs)
    read = _reads(part.graph.node)
    part.graph.initializer.extend(
        t for t in model.graph.initializer if t.name in read and t.name not in inputs
    )
    part.graph.sparse_initializer.extend(t for t in model.graph.sparse_initializer if t.values.name in read)
    return part


def _reads(nodes: Iterable[NodeProto]) -> Counter[str]:
    reads: Counter[str] = Counter()
    for node in nodes:
        reads.update(reads_of(node))
    return reads


def _stored_names(graph: GraphProto) -> set[str]:
    sparse = {tensor.values.name for tensor in graph.sparse_initializer}
    return {tensor.name for tensor in graph.initializer} | sparse
