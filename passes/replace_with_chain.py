"""Replace single nodes by chains of nodes.

    y = Conv(x, W, b)   ->   h = Conv(x, W1);  y = Conv(h, W2, b)

onnx-graphsurgeon builds the new nodes; they are spliced into the model where the old node was, in the main
graph, in a body of a node or in a local function. The output name, the inputs beyond the weight (a Conv's
bias, a Gemm's C), doc_string and metadata_props go to the last node. New weights are stored in the scope
where the old one was: as initializers; as Constant nodes where there can be none (functions; bodies up to
IR 3). A tensor that appears in several chains is stored once: weights that were shared stay shared.
Initializers that only the old nodes read are not copied; what else became unused is left to `remove_unused`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import onnx_graphsurgeon as gs
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter

from passes.graph import Key, Scope, add_initializers, copy_model, count_reads, free_name, scopes, value_names

__all__ = ["Chain", "ChainNode", "replace_with_chain"]


@dataclass(frozen=True, slots=True, eq=False)
class ChainNode:
    """One node of a chain.

    Attributes:
        op: operator of ONNX's default domain.
        role: suffix of the node's and the weight's names, unique in the chain.
        weight: a tensor, which gets its name here; None for a node that has only the value as input.
        position: of the weight among the inputs, 0 or 1; the value is the other one.
        attributes: by ONNX name.
        bias: third input, in place of the old node's; only of the last node.
    """

    op: str
    role: str
    weight: TensorProto | None = None
    position: int = 1
    attributes: Mapping[str, int | float | str | list[int]] = field(default_factory=dict)
    bias: TensorProto | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Chain:
    """What replaces a node.

    Attributes:
        nodes: first to last; not empty.
        home: path of the scope that stores the weights.
        value: which input of the old node goes into the chain.
    """

    nodes: Sequence[ChainNode]
    home: str = ""
    value: int = 0


def replace_with_chain(model: ModelProto, chains: Mapping[Key, Chain]) -> ModelProto:
    """Replace nodes.

    Args:
        model: left alone.
        chains: by the scope and output name of the node to replace; not empty.

    Raises:
        KeyError: there is no such node, or no such scope to store weights in.
    """
    result = copy_model(model, without=_freed_weights(model.graph, chains))
    splicer = _Splicer(model, chains)
    for scope in reversed(list(scopes(result))):  # bodies first: the node that has one is copied with it
        splicer.rewrite(scope)
    if splicer.missing:
        raise KeyError(f"no node has the output {sorted(splicer.missing)}")
    for scope in reversed(list(scopes(result))):
        _store(result, scope, splicer.tensors.pop(scope.path, []))
    if splicer.tensors:
        raise KeyError(f"no scope to store weights in: {sorted(splicer.tensors)}")
    return result


def _freed_weights(graph: GraphProto, chains: Mapping[Key, Chain]) -> set[str]:
    """Weights of the main graph that only replaced nodes read."""
    replaced = {output for path, output in chains if not path}
    weights = []
    for node in graph.node:
        if node.output and node.output[0] in replaced:
            weights.append(node.input[1 - chains["", node.output[0]].value])
    reads = count_reads(graph)
    reads.subtract(weights)
    inputs = {value.name for value in graph.input}  # stay until `remove_unused` takes both
    return {name for name in weights if not reads[name] and name not in inputs}


class _Splicer:
    """Builds chains under free names; keeps every new weight, each tensor once."""

    def __init__(self, model: ModelProto, chains: Mapping[Key, Chain]) -> None:
        self.tensors: dict[str, list[TensorProto]] = {}  # by the path of their scope
        self.missing = set(chains)
        self._chains = chains
        self._taken = value_names(model)
        self._names: dict[tuple[str, int], str] = {}  # by scope and identity of the tensor
        self._given: set[int] = set()  # tensors that have their name

    def rewrite(self, scope: Scope) -> None:
        """Replace the nodes of one scope."""
        keys = [(scope.path, next(iter(node.output), "")) for node in scope.holder.node]
        if self.missing.isdisjoint(keys):
            return
        nodes = list(scope.holder.node)
        del scope.holder.node[:]
        for key, node in zip(keys, nodes, strict=True):
            found = self._chains.get(key)
            self.missing.discard(key)
            scope.holder.node.extend([node] if found is None else self._build(node, found))

    def _build(self, old: NodeProto, chain: Chain) -> Iterator[NodeProto]:
        stem = old.name or old.output[0]
        value = gs.Variable(old.input[chain.value])
        for link in chain.nodes:
            is_last = link is chain.nodes[-1]
            name = free_name(f"{stem}_{link.role}", self._taken)
            output = old.output[0] if is_last else free_name(f"{name}_output", self._taken)
            inputs = [value]
            if link.weight is not None:
                inputs.insert(link.position, gs.Variable(self._weight_name(link.weight, chain.home, name)))
            if link.bias is not None:
                inputs.append(gs.Variable(self._weight_name(link.bias, chain.home, name, "bias")))
            elif is_last:
                inputs += [gs.Variable(extra) for extra in old.input[2:]]
            value = gs.Variable(output)
            node = OnnxExporter.export_node(gs.Node(link.op, name, dict(link.attributes), inputs, [value]))
            if is_last:
                node.doc_string = old.doc_string
                node.metadata_props.extend(old.metadata_props)
            yield node

    def _weight_name(self, weight: TensorProto, home: str, node_name: str, kind: str = "weight") -> str:
        key = home, id(weight)
        if key not in self._names:
            self._names[key] = free_name(f"{node_name}_{kind}", self._taken)
            named = weight if id(weight) not in self._given else copy.copy(weight)
            self._given.add(id(weight))
            named.name = self._names[key]
            self.tensors.setdefault(home, []).append(named)
        return self._names[key]


def _store(model: ModelProto, scope: Scope, tensors: Sequence[TensorProto]) -> None:
    """Add new weights to their scope."""
    if not tensors:
        return
    if scope.is_main:
        add_initializers(model, tensors)
    elif isinstance(scope.holder, GraphProto) and model.ir_version >= 4:
        scope.holder.initializer.extend(tensors)
    else:
        kept = list(scope.holder.node)
        del scope.holder.node[:]
        constants = [helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in tensors]
        scope.holder.node.extend(constants + kept)
