"""Remove what became unused between two versions of a model, and only that.

A value is removed if something read it in the version before and nothing reads it now: its initializer (also
where it is a graph input as well, IR 3), the node that computes it once none of its outputs is read, and, in
turn, what only that node read. value_info and quantization annotations of values that are gone go too. The
same holds in bodies of nodes and in local functions. What was unused from the start stays.
"""

from __future__ import annotations

from onnx import GraphProto, ModelProto, NodeProto

from passes.graph import Scope, copy_model, count_reads, drop, reads_of, scopes

__all__ = ["remove_unused"]


def remove_unused(before: ModelProto, after: ModelProto) -> ModelProto:
    """`after` without what only `before` used.

    Args:
        before: a version of the model in which everything that may go was still read. Left alone.
        after: the version to clean. Left alone; returned itself where nothing became unused.
    """
    if after is before:
        return after
    earlier = {scope.path: scope for scope in scopes(before)}
    was_read = {path: set(count_reads(scope.holder)) for path, scope in earlier.items()}

    def find(scope: Scope) -> tuple[set[str], set[str]]:
        unread = _unread(scope, was_read[scope.path])
        return unread, _known(earlier[scope.path]) - _known(scope) | unread

    found = {scope.path: find(scope) for scope in scopes(after) if scope.path in earlier}
    if not any(gone for _, gone in found.values()):
        return after
    result = copy_model(after, without=found[""][0])
    for scope in reversed(list(scopes(result))):  # bodies first: what they read lies outside
        if scope.path in earlier:
            _strip(scope, earlier[scope.path], *find(scope))
    return result


def _unread(scope: Scope, was_read: set[str]) -> set[str]:
    """Values of `scope` that nothing reads any more, found back to front so that chains of nodes fall."""
    reads = count_reads(scope.holder)
    unread = set()
    for node in reversed(scope.holder.node):
        outputs = [name for name in node.output if name]
        if was_read.intersection(outputs) and not any(reads[name] for name in outputs):
            unread.update(outputs)
            reads.subtract(reads_of(node))
    unread.update(t.name for t in scope.initializers if t.name in was_read and not reads[t.name])
    return unread


def _known(scope: Scope) -> set[str]:
    """Values that the nodes of a scope compute, or that are stored in it."""
    computed = {name for node in scope.holder.node for name in node.output if name}
    return computed | {tensor.name for tensor in scope.initializers}


def _strip(scope: Scope, earlier: Scope, unread: set[str], gone: set[str]) -> None:
    """Drop nodes of unread values, initializers with their graph inputs, and notes on vanished values."""

    def computes_unread(node: NodeProto) -> bool:
        return any(name in unread for name in node.output)

    holder = scope.holder
    drop(holder.node, [computes_unread(node) for node in holder.node])
    drop(holder.value_info, [value.name in gone for value in holder.value_info])
    if isinstance(holder, GraphProto):
        stored = {tensor.name for tensor in earlier.initializers} & gone
        drop(holder.input, [value.name in stored for value in holder.input])
        drop(holder.initializer, [tensor.name in unread for tensor in holder.initializer])
        drop(holder.quantization_annotation, [a.tensor_name in gone for a in holder.quantization_annotation])
