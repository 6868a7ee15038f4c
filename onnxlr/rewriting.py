"""Plan + weights -> the rewritten model: the one place that turns factorizations into ONNX nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from numpy.typing import NDArray
from onnx import AttributeProto, NodeProto, TensorProto, helper

from onnxlr.conv import ConvSpec
from onnxlr.factorization import LayerWeights
from onnxlr.layer import Layer
from onnxlr.layout import Layout
from onnxlr.model_file import Model
from onnxlr.parallel import Progress, map_layers
from onnxlr.planning import gram_work
from onnxlr.schemes import Rank, Scheme
from passes import Chain, ChainNode, remove_unused, replace_with_chain
from passes.graph import Key, attributes, scopes

__all__ = ["Replacement", "rewrite"]

Attributes = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Replacement:
    """A layer and what to put in its place; the rank must be in the scheme's range."""

    layer: Layer
    scheme: Scheme
    rank: Rank


def rewrite(
    prepared: Model,
    replacements: Sequence[Replacement],
    weights: LayerWeights,
    workers: int,
    progress: Progress,
) -> Model:
    """Replace layers of the prepared model by chains and remove what that made unused.

    Factors of a model with external data go to a file as soon as they are computed.

    Args:
        prepared: the model after the passes that prepare it; left alone.
        replacements: at most one a layer.
        weights: of the prepared model.
        workers: number of cores to use.
        progress: told the number of layers factorized.
    """
    target, nodes = prepared.with_spill(), _nodes(prepared)
    sites = [_Site(item, attributes(nodes[item.layer.key])) for item in replacements]
    unique = {site.key(weights): site for site in sites}
    tensors = map_layers(
        lambda site: [target.store(array) for array in site.stored_factors(weights)],
        list(unique.values()),
        lambda site: gram_work(site.item.layer),
        workers,
        lambda done: progress("Factorizing", done, len(unique)),
    )
    factors = dict(zip(unique, tensors, strict=True))
    chains = {site.item.layer.key: site.build(factors[site.key(weights)]) for site in sites}
    proto = replace_with_chain(prepared.proto, chains) if chains else prepared.proto
    return target.with_proto(remove_unused(prepared.proto, proto))


def _nodes(model: Model) -> dict[Key, NodeProto]:
    found = ((scope.path, node) for scope in scopes(model.proto) for node in scope.holder.node)
    return {(path, node.output[0]): node for path, node in found if node.output}


@dataclass(frozen=True, eq=False)
class _Site:
    """A replacement and the attributes of the node that it replaces."""

    item: Replacement
    given: Mapping[str, AttributeProto]

    def key(self, weights: LayerWeights) -> tuple[object, ...]:
        """Equal for sites that need the same factors in the same layout."""
        used = tuple(self._layouts)
        return (*weights.shared_key(self.item.layer), self.item.scheme.name, self.item.rank, used)

    def stored_factors(self, weights: LayerWeights) -> list[NDArray[Any]]:
        """The factors in the layout of their nodes."""
        factors = weights.factorize(self.item.layer, self.item.scheme, self.item.rank)
        stored = zip(self._layouts, factors, self._chain, strict=True)
        return [layout.store(factor, spec) for layout, factor, spec in stored]

    def build(self, factors: Sequence[TensorProto]) -> Chain:
        """The chain for these factors."""
        layer = self.item.layer
        position = layer.layout.position
        links = zip(self._ops, factors, self._attributes(), strict=True)
        nodes = [ChainNode(op, f"lr{i}", w, position, given) for i, (op, w, given) in enumerate(links)]
        if self._turns_input:
            nodes.insert(0, ChainNode("Transpose", "transpose", attributes={"perm": [1, 0]}))
        return Chain(nodes, layer.weight.home.path, 1 - position)

    @cached_property
    def _chain(self) -> tuple[ConvSpec, ...]:
        return self.item.scheme.chain(self.item.layer.conv, self.item.rank)

    @cached_property
    def _ops(self) -> list[str]:
        """Of a Gemm only the last node is one: before opset 11 a Gemm cannot do without a bias."""
        op = self.item.layer.op_type
        if op == "Gemm":
            return ["MatMul"] * (len(self._chain) - 1) + ["Gemm"]
        if op == "MatMul":
            return [op] * len(self._chain)
        return ["ConvTranspose" if link.transposed else "Conv" for link in self._chain]

    @cached_property
    def _layouts(self) -> list[Layout]:
        """How the weight of each node is stored."""
        own = self.item.layer.layout

        def swapped(op: str) -> bool:
            return bool(own.position) if op == "MatMul" else op == "ConvTranspose"

        return [own if op == "Gemm" else replace(own, swapped=swapped(op)) for op in self._ops]

    @property
    def _turns_input(self) -> bool:
        """Whether a Gemm reads its other operand transposed; the MatMul that comes first cannot."""
        return self._input_flag in self.given and self.given[self._input_flag].i != 0

    @property
    def _input_flag(self) -> str:
        return "transA" if self.item.layer.layout.position else "transB"

    def _attributes(self) -> list[Attributes]:
        if self.item.layer.conv.kernel_shape:
            return [_conv_node(spec) for spec in self._chain]
        # alpha, beta and broadcast (opset < 7) belong to the node with the bias
        last = {name: helper.get_attribute_value(value) for name, value in self.given.items()}
        last.pop(self._input_flag, None)
        return [{} for _ in self._chain[1:]] + [last]


def _conv_node(spec: ConvSpec) -> Attributes:
    attributes: Attributes = {
        "kernel_shape": list(spec.kernel_shape),
        "strides": list(spec.strides),
        "dilations": list(spec.dilations),
        "group": spec.group,
    }
    if spec.auto_pad == "NOTSET":
        attributes["pads"] = list(spec.pads)
    else:
        attributes["auto_pad"] = spec.auto_pad
    if any(spec.output_padding):
        attributes["output_padding"] = list(spec.output_padding)
    if spec.output_shape:
        attributes["output_shape"] = list(spec.output_shape)
    return attributes
