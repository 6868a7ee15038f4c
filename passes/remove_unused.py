"""Remove what became unused between two versions of a model, and only that.

A value is removed if something read it in the version before and nothing reads it now: its initializer (also
where it is a graph input as well, IR 3), the node that computes it once none of its outputs is read, and, in
turn, what only that node read. value_info and quantization annotations of values that are gone go too.
What was unused from the start stays.
"""

from __future__ import annotations

from onnx import GraphProto, ModelProto, NodeProto

from passes.graph import copy_model, count_reads, drop, reads_of

__all__ = ["remove_unused"]


def remove_unused(before: ModelProto, after: ModelProto) -> ModelProto:
    """`after` without what only `before` used.

    Args:
        before: a version of the model in which everything that may go was still read. Left alone.
        after: the version to clean. Left alone; returned itself where nothing became unused.
    """
    was_read = set(count_reads(before.graph))
    unread = _unread(after.graph, was_read)
    gone = _vanished(before.graph, after.graph) | unread
    if not gone:
        return after
    stored = {tensor.name for tensor in after.graph.initializer if tensor.name in unread}
    result = copy_model(after, without=stored)
    _strip(result.graph, stored, unread, gone)
    return result


def _unread(graph: GraphProto, was_read: set[str]) -> set[str]:
    """Values of `graph` that nothing reads any more, found back to front so that chains of nodes fall."""
    reads = count_reads(graph)
    unread = set()
    for node in reversed(graph.node):
        outputs = [name for name in node.output if name]
        if was_read.intersection(outputs) and not any(reads[name] for name in outputs):
            unread.update(outputs)
            reads.subtract(reads_of(node))
    unread.update(t.name for t in graph.initializer if t.name in was_read and not reads[t.name])
    return unread


def _vanished(before: GraphProto, after: GraphProto) -> set[str]:
    """Values that `before` computed or stored and `after` does not."""

    def known(graph: GraphProto) -> set[str]:
        computed = {name for node in graph.node for name in node.output if name}
        return computed | {tensor.name for tensor in graph.initializer}

    return known(before) - known(after)


def _strip(graph: GraphProto, stored: set[str], unread: set[str], gone: set[str]) -> None:
    """Drop inputs that were initializers, nodes of unread values, and notes on vanished values."""

    def computes_unread(node: NodeProto) -> bool:
        return any(name in unread for name in node.output)

    drop(graph.node, [computes_unread(node) for node in graph.node])
    drop(graph.input, [value.name in stored for value in graph.input])
    drop(graph.value_info, [value.name in gone for value in graph.value_info])
    drop(graph.quantization_annotation, [a.tensor_name in gone for a in graph.quantization_annotation])
