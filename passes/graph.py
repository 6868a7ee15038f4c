"""What every pass asks of a graph: who reads a value, which tensors are constant, which names are free."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper

__all__ = [
    "add_initializers",
    "all_tensors",
    "attributes",
    "constant_tensors",
    "copy_model",
    "count_reads",
    "drop",
    "free_name",
    "opset",
    "reads_of",
    "subgraphs",
    "value_names",
]


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """Bodies of an If, Loop or Scan node."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == AttributeProto.GRAPHS:
            yield from attribute.graphs


def count_reads(graph: GraphProto) -> Counter[str]:
    """How often each value is read: by nodes, by bodies of nodes, and as an output of the graph."""
    reads = Counter(output.name for output in graph.output)
    for node in graph.node:
        reads.update(reads_of(node))
    return reads


def reads_of(node: NodeProto) -> Counter[str]:
    """How often a node and its bodies read each value."""
    reads = Counter(name for name in node.input if name)
    for body in subgraphs(node):
        reads.update(count_reads(body))
    return reads


def constant_tensors(graph: GraphProto) -> dict[str, TensorProto]:
    """Values known before the run, by name: initializers, Constant nodes with a tensor, Identity of such.

    An initializer that is a graph input as well counts: IR 3 made every initializer an input.
    """
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and "value" in attributes(node):
            tensors[node.output[0]] = attributes(node)["value"].t
        elif node.op_type == "Identity" and node.input[0] in tensors:
            tensors[node.output[0]] = tensors[node.input[0]]
    return tensors


def all_tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Every tensor stored anywhere in the model: initializers and attributes, bodies and functions."""
    yield from _graph_tensors(model.graph)
    for function in model.functions:
        yield from _node_tensors(function.node)
    for training in model.training_info:
        yield from _graph_tensors(training.initialization)
        yield from _graph_tensors(training.algorithm)


def _graph_tensors(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield sparse.values
        yield sparse.indices
    yield from _node_tensors(graph.node)


def _node_tensors(nodes: Iterable[NodeProto]) -> Iterator[TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
        for body in subgraphs(node):
            yield from _graph_tensors(body)


def value_names(graph: GraphProto) -> set[str]:
    """Every name of a value or node in the graph and its bodies: what a new name must not collide with."""
    names = {tensor.name for tensor in graph.initializer}
    names.update(tensor.values.name for tensor in graph.sparse_initializer)
    names.update(value.name for values in (graph.input, graph.output, graph.value_info) for value in values)
    for node in graph.node:
        names.update((node.name, *node.input, *node.output))
        for body in subgraphs(node):
            names |= value_names(body)
    return names


def free_name(wanted: str, taken: set[str]) -> str:
    """`wanted`, or `wanted_2`, `wanted_3`, … if it is taken; the result is added to `taken`."""
    name, count = wanted, 1
    while name in taken:
        count += 1
        name = f"{wanted}_{count}"
    taken.add(name)
    return name


def copy_model(model: ModelProto, without: Collection[str] = ()) -> ModelProto:
    """A copy that lacks some initializers of the main graph; weights that are left out are never copied."""
    copy = ModelProto()
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in without]
    if UnknownFieldSet(model) or UnknownFieldSet(model.graph):  # of a newer ONNX: only a full copy keeps them
        copy.CopyFrom(model)
        del copy.graph.initializer[:]
        copy.graph.initializer.extend(kept)
        return copy
    _copy_fields(model, copy, without=["graph"])
    _copy_fields(model.graph, copy.graph, without=["initializer"])
    copy.graph.initializer.extend(kept)
    return copy


def _copy_fields(source: Message, target: Message, without: Collection[str]) -> None:
    """Copy every field that is set, but for those named."""
    for field, value in source.ListFields():
        if field.name in without:
            continue
        if isinstance(value, Message):
            getattr(target, field.name).CopyFrom(value)
        elif isinstance(value, str | bytes | int | float):
            setattr(target, field.name, value)
        else:
            getattr(target, field.name).extend(value)


def add_initializers(model: ModelProto, tensors: Iterable[TensorProto]) -> None:
    """Append initializers; up to IR 3 each of them has to be an input of the graph as well."""
    for tensor in tensors:
        model.graph.initializer.append(tensor)
        if model.ir_version < 4:
            value = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            model.graph.input.append(value)


def drop(repeated: Any, doomed: Sequence[bool]) -> None:
    """Delete the marked elements of a repeated field, back to front."""
    for i in reversed(range(len(doomed))):
        if doomed[i]:
            del repeated[i]


def opset(model: ModelProto) -> int:
    """Version of ONNX's default operators that the model uses; 0 if it uses none."""
    return next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)


def attributes(node: NodeProto) -> Mapping[str, AttributeProto]:
    """A node's attributes by name."""
    return {attribute.name: attribute for attribute in node.attribute}
