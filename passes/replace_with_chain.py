"""Replace single nodes by chains of nodes of the same kind.

    y = Conv(x, W, b)   ->   h = Conv(x, W1);  y = Conv(h, W2, b)

onnx-graphsurgeon builds the new nodes; they are spliced into the model where the old node was. The output
name and the inputs beyond the weight (a Conv's bias, a Gemm's C) go to the last node. An array that appears
in several chains becomes one initializer: weights that were shared stay shared. Initializers that only the
old nodes read are not copied; what else became unused is left to `remove_unused`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter

from passes.graph import add_initializers, copy_model, count_reads, free_name, value_names

__all__ = ["ChainNode", "replace_with_chain"]


@dataclass(frozen=True, slots=True, eq=False)
class ChainNode:
    """One node of a chain.

    Attributes:
        op: operator of ONNX's default domain.
        weight: its second input, in the type it is to be stored in.
        attributes: by ONNX name.
        role: suffix of the node's and the weight's names, unique in the chain.
    """

    op: str
    weight: NDArray[Any]
    role: str
    attributes: Mapping[str, int | float | str | list[int]] = field(default_factory=dict)


def replace_with_chain(model: ModelProto, chains: Mapping[str, Sequence[ChainNode]]) -> ModelProto:
    """Replace nodes of the main graph.

    Args:
        model: left alone.
        chains: by the output name of the node to replace; not empty.

    Raises:
        KeyError: a name is no output of a node in the main graph.
    """
    result = copy_model(model, without=_freed_weights(model.graph, set(chains)))
    del result.graph.node[:]
    splicer = _Splicer(value_names(model.graph))
    missing = set(chains)
    for node in model.graph.node:
        output = node.output[0] if node.output else ""
        missing.discard(output)
        result.graph.node.extend(splicer.build(node, chains[output]) if output in chains else [node])
    if missing:
        raise KeyError(f"no node of the main graph has the output {sorted(missing)}")
    add_initializers(result, splicer.tensors)
    return result


def _freed_weights(graph: GraphProto, replaced: set[str]) -> set[str]:
    """Weights that only the replaced nodes read."""
    reads = count_reads(graph)
    weights = [node.input[1] for node in graph.node if not replaced.isdisjoint(node.output)]
    reads.subtract(weights)
    inputs = {value.name for value in graph.input}  # stay until `remove_unused` takes both
    return {name for name in weights if not reads[name] and name not in inputs}


class _Splicer:
    """Builds chains under free names; keeps every new weight, each array once."""

    def __init__(self, taken: set[str]) -> None:
        self.tensors: list[TensorProto] = []
        self._taken = taken
        self._names: dict[int, str] = {}  # by identity of the array

    def build(self, old: NodeProto, chain: Sequence[ChainNode]) -> Iterator[NodeProto]:
        """The nodes that replace `old`."""
        stem = old.name or old.output[0]
        value = gs.Variable(old.input[0])
        for link in chain:
            is_last = link is chain[-1]
            name = free_name(f"{stem}_{link.role}", self._taken)
            output = old.output[0] if is_last else free_name(f"{name}_output", self._taken)
            inputs = [value, gs.Variable(self._weight_name(link, name))]
            inputs += [gs.Variable(extra) for extra in (old.input[2:] if is_last else ())]
            value = gs.Variable(output)
            node = gs.Node(link.op, name, dict(link.attributes), inputs, [value])
            yield OnnxExporter.export_node(node)

    def _weight_name(self, link: ChainNode, node_name: str) -> str:
        key = id(link.weight)
        if key not in self._names:
            self._names[key] = free_name(f"{node_name}_weight", self._taken)
            self.tensors.append(numpy_helper.from_array(link.weight, self._names[key]))
        return self._names[key]
