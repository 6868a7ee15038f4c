"""What every pass asks of a model: which scopes it has, who reads a value, which names are free."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet
from onnx import (
    AttributeProto,
    FunctionProto,
    GraphProto,
    ModelProto,
    NodeProto,
    OperatorSetIdProto,
    TensorProto,
    helper,
)

__all__ = [
    "Key",
    "Scope",
    "add_initializers",
    "all_tensors",
    "attributes",
    "copy_model",
    "count_reads",
    "drop",
    "free_name",
    "is_operator",
    "loaded_tensors",
    "opset",
    "reads_of",
    "scopes",
    "subgraphs",
    "trained_names",
    "value_names",
]


Key = tuple[str, str]
"""A node anywhere in a model: the path of its scope and the name of its first output."""


@dataclass(frozen=True, slots=True, eq=False)
class Scope:
    """A list of nodes in one namespace: the main graph, a body of a node, or a local function.

    Attributes:
        path: tells the scopes of a model apart, "" for the main graph; it names outputs and functions, so it
            is the same before and after a pass that keeps those.
        place: where that is, for people.
        holder: what has the nodes.
        opset: version of ONNX's default operators in it, 0 if it uses none.
        outer: the scope whose values a body sees as well.
    """

    path: str
    place: str
    holder: GraphProto | FunctionProto
    opset: int
    outer: Scope | None = None

    @property
    def initializers(self) -> Sequence[TensorProto]:
        """Stored tensors; a function has none."""
        return self.holder.initializer if isinstance(self.holder, GraphProto) else ()

    @property
    def is_main(self) -> bool:
        """Whether it is the main graph."""
        return not self.path

    @property
    def input_names(self) -> list[str]:
        """Names of the values that come from outside."""
        if isinstance(self.holder, GraphProto):
            return [value.name for value in self.holder.input]
        return list(self.holder.input)

    def bodies(self) -> Iterator[Scope]:
        """The scopes of the bodies of its nodes, those in bodies of bodies included."""
        for node in self.holder.node:
            for i, body in enumerate(subgraphs(node)):
                stem = next(filter(None, node.output), node.name)
                path = f"{self.path}/{quote(stem)}[{i}]"
                place = f"body of {node.op_type} '{node.name or stem}'"
                inner = Scope(path, place, body, self.opset, self)
                yield inner
                yield from inner.bodies()


def scopes(model: ModelProto) -> Iterator[Scope]:
    """Every scope of a model: the main graph, its bodies, the local functions and their bodies."""
    main = Scope("", "main graph", model.graph, opset(model))
    yield main
    yield from main.bodies()
    for function in model.functions:
        names = [function.domain, function.name, *filter(None, [function.overload])]
        path = "function " + ":".join(quote(name, safe="") for name in names)
        version = _opset_of(function.opset_import)
        scope = Scope(path, f"function '{':'.join(names)}'", function, version)
        yield scope
        yield from scope.bodies()


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """Bodies of an If, Loop or Scan node."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == AttributeProto.GRAPHS:
            yield from attribute.graphs


def count_reads(holder: GraphProto | FunctionProto) -> Counter[str]:
    """How often each value is read: by nodes, by bodies of nodes, and as an output."""
    reads = Counter(value if isinstance(value, str) else value.name for value in holder.output)
    for node in holder.node:
        _add_reads(reads, node)
    return reads


def reads_of(node: NodeProto) -> Counter[str]:
    """How often a node and its bodies read each value."""
    reads: Counter[str] = Counter()
    _add_reads(reads, node)
    return reads


def _add_reads(reads: Counter[str], node: NodeProto) -> None:
    for name in node.input:
        if name:
            reads[name] += 1  # one counter for all: graphs may have a hundred thousand nodes
    for body in subgraphs(node):
        reads.update(count_reads(body))


def all_tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Every tensor stored anywhere in the model: initializers and attributes, bodies and functions."""
    yield from _graph_tensors(model.graph)
    for function in model.functions:
        yield from _node_tensors(function.node)
    for training in model.training_info:
        yield from _graph_tensors(training.initialization)
        yield from _graph_tensors(training.algorithm)


def loaded_tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Tensors whose external data `onnx.load` brings back: initializers and attributes.

    It leaves out sparse initializers, training_info, and initializers in bodies within functions.
    """
    for scope in scopes(model):
        if not scope.path.startswith("function"):
            yield from scope.initializers
            for node in scope.holder.node:
                yield from _attribute_tensors(node)


def _graph_tensors(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield sparse.values
        yield sparse.indices
    yield from _node_tensors(graph.node)


def _node_tensors(nodes: Iterable[NodeProto]) -> Iterator[TensorProto]:
    for node in nodes:
        yield from _attribute_tensors(node)
        for body in subgraphs(node):
            yield from _graph_tensors(body)


def _attribute_tensors(node: NodeProto) -> Iterator[TensorProto]:
    for attribute in node.attribute:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors


def value_names(model: ModelProto) -> set[str]:
    """Every name of a value or node anywhere in the model: what a new name must not collide with."""
    names: set[str] = set()
    for scope in (*scopes(model), *_training_scopes(model)):
        names.update(scope.input_names)
        names.update(tensor.name for tensor in scope.initializers)
        for node in scope.holder.node:
            names.update((node.name, *node.input, *node.output))
        if isinstance(scope.holder, GraphProto):
            names.update(tensor.values.name for tensor in scope.holder.sparse_initializer)
            declared = (*scope.holder.output, *scope.holder.value_info)
            names.update(value.name for value in declared)
    return names


def trained_names(model: ModelProto) -> set[str]:
    """Names that training_info refers to: what they stand for has to stay as it is."""
    names: set[str] = set()
    for info in model.training_info:
        names.update(count_reads(info.initialization), count_reads(info.algorithm))
        names.update(binding.key for binding in (*info.initialization_binding, *info.update_binding))
    return names


def _training_scopes(model: ModelProto) -> Iterator[Scope]:
    for info in model.training_info:
        for graph in (info.initialization, info.algorithm):
            scope = Scope("training_info", "training_info", graph, opset(model))
            yield scope
            yield from scope.bodies()


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
    return _opset_of(model.opset_import)


def _opset_of(imports: Iterable[OperatorSetIdProto]) -> int:
    return next((entry.version for entry in imports if entry.domain in ("", "ai.onnx")), 0)


def is_operator(node: NodeProto, *names: str) -> bool:
    """Whether a node is one of these operators of ONNX itself."""
    return node.op_type in names and node.domain in ("", "ai.onnx")


def attributes(node: NodeProto) -> Mapping[str, AttributeProto]:
    """A node's attributes by name."""
    return {attribute.name: attribute for attribute in node.attribute}
