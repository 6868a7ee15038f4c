"""Plan + weights -> the rewritten model: the one place that turns factorizations into ONNX nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray
from onnx import AttributeProto, helper

from onnxlr.analysis import Layer
from onnxlr.conv import ConvSpec
from onnxlr.factorization import LayerWeights
from onnxlr.model_file import Model
from onnxlr.parallel import Progress, map_layers
from onnxlr.planning import gram_work
from onnxlr.schemes import Rank, Scheme
from passes import ChainNode, remove_unused, replace_with_chain
from passes.graph import attributes

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

    Args:
        prepared: the model after `passes.fold_batchnorm`; left alone.
        replacements: at most one a layer.
        weights: of the prepared model.
        workers: number of cores to use.
        progress: told the number of layers factorized.
    """
    nodes = {node.output[0]: node for node in prepared.proto.graph.node if node.output}
    sites = [_Site(item, attributes(nodes[item.layer.output])) for item in replacements]
    unique = {site.key(weights): site for site in sites}
    arrays = map_layers(
        lambda site: site.stored_factors(weights),
        list(unique.values()),
        lambda site: gram_work(site.item.layer),
        workers,
        lambda done: progress("Factorizing", done, len(unique)),
    )
    factors = dict(zip(unique, arrays, strict=True))
    chains = {site.item.layer.output: site.nodes(factors[site.key(weights)]) for site in sites}
    proto = replace_with_chain(prepared.proto, chains) if chains else prepared.proto
    return prepared.with_proto(remove_unused(prepared.proto, proto))


@dataclass(frozen=True, slots=True, eq=False)
class _Site:
    """A replacement and the attributes of the node that it replaces."""

    item: Replacement
    given: Mapping[str, AttributeProto]

    def key(self, weights: LayerWeights) -> tuple[object, ...]:
        """Equal for sites that need the same factors in the same layout."""
        return (*weights.shared_key(self.item.layer), self.item.scheme.name, self.item.rank, self._ops())

    def stored_factors(self, weights: LayerWeights) -> list[NDArray[Any]]:
        """The factors in the layout of their nodes."""
        factors = weights.factorize(self.item.layer, self.item.scheme, self.item.rank)
        is_transposed = [op == "MatMul" or self.item.layer.transposed for op in self._ops()]
        return [w.T.copy() if turn else w for w, turn in zip(factors, is_transposed, strict=True)]

    def nodes(self, factors: Sequence[NDArray[Any]]) -> list[ChainNode]:
        """The chain for these factors."""
        links = zip(self._ops(), factors, self._attributes(), strict=True)
        return [ChainNode(op, factor, f"lr{i}", given) for i, (op, factor, given) in enumerate(links)]

    def _chain(self) -> tuple[ConvSpec, ...]:
        return self.item.scheme.chain(self.item.layer.conv, self.item.rank)

    def _ops(self) -> tuple[str, ...]:
        """Of a Gemm only the last node has to be one: before opset 11 a Gemm cannot do without a bias."""
        op, count = self.item.layer.op_type, len(self._chain())
        if op != "Gemm":
            return (op,) * count
        first = "Gemm" if "transA" in self.given and self.given["transA"].i else "MatMul"
        return first, *("MatMul",) * (count - 2), "Gemm"

    def _attributes(self) -> list[Attributes]:
        chain = self._chain()
        match self.item.layer.op_type:
            case "Conv":
                return [_conv_node(spec) for spec in chain]
            case "Gemm":
                return [self._first_gemm(), *({} for _ in chain[2:]), self._last_gemm()]
            case _:
                return [{} for _ in chain]

    def _first_gemm(self) -> Attributes:
        names = [name for name in ("transA", "transB") if name in self.given and self._ops()[0] == "Gemm"]
        return {name: self.given[name].i for name in names}

    def _last_gemm(self) -> Attributes:
        """alpha, beta and broadcast (opset < 7) belong to the node with the bias."""
        return {name: helper.get_attribute_value(a) for name, a in self.given.items() if name != "transA"}


def _conv_node(spec: ConvSpec) -> Attributes:
    padding = {"pads": list(spec.pads)} if spec.auto_pad == "NOTSET" else {"auto_pad": spec.auto_pad}
    return {
        "kernel_shape": list(spec.kernel_shape),
        "strides": list(spec.strides),
        "dilations": list(spec.dilations),
        "group": spec.group,
        **padding,
    }
