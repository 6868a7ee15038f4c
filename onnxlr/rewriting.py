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
    unique = {_key(replacement, weights): replacement for replacement in replacements}
    arrays = map_layers(
        lambda replacement: _stored_factors(replacement, weights),
        list(unique.values()),
        lambda replacement: gram_work(replacement.layer),
        workers,
        lambda done: progress("Factorizing", done, len(unique)),
    )
    factors = dict(zip(unique, arrays, strict=True))
    nodes = {node.output[0]: node for node in prepared.proto.graph.node if node.output}
    chains = {
        item.layer.output: _chain_nodes(
            item, factors[_key(item, weights)], attributes(nodes[item.layer.output])
        )
        for item in replacements
    }
    proto = replace_with_chain(prepared.proto, chains) if chains else prepared.proto
    return prepared.with_proto(remove_unused(prepared.proto, proto))


def _key(item: Replacement, weights: LayerWeights) -> tuple[object, ...]:
    """Equal for replacements that need the same factors."""
    return (*weights.shared_key(item.layer), item.scheme.name, item.rank)


def _stored_factors(item: Replacement, weights: LayerWeights) -> list[NDArray[Any]]:
    """The factors in the layout and type of the weight that they replace."""
    factorization = weights.factorize(item.layer, item.scheme, item.rank)
    typed = (link.weight.astype(factorization.dtype) for link in factorization.links)
    return [array.T.copy() if item.layer.transposed else array for array in typed]


def _chain_nodes(
    item: Replacement, factors: Sequence[NDArray[Any]], given: Mapping[str, AttributeProto]
) -> list[ChainNode]:
    specs = item.scheme.chain(item.layer.conv, item.rank)
    describe = {"Conv": _conv_attributes, "Gemm": _gemm_attributes, "MatMul": _no_attributes}
    described = describe[item.layer.op_type](specs, given)
    return [ChainNode(item.layer.op_type, factor, f"lr{i}", described[i]) for i, factor in enumerate(factors)]


def _conv_attributes(specs: Sequence[ConvSpec], _given: Mapping[str, AttributeProto]) -> list[Attributes]:
    return [_conv_node(spec) for spec in specs]


def _conv_node(spec: ConvSpec) -> Attributes:
    padding = {"pads": list(spec.pads)} if spec.auto_pad == "NOTSET" else {"auto_pad": spec.auto_pad}
    return {
        "kernel_shape": list(spec.kernel_shape),
        "strides": list(spec.strides),
        "dilations": list(spec.dilations),
        "group": spec.group,
        **padding,
    }


def _gemm_attributes(specs: Sequence[ConvSpec], given: Mapping[str, AttributeProto]) -> list[Attributes]:
    """alpha, beta and broadcast (opset < 7) belong to the node with the bias, transA to the first one."""
    values = {name: helper.get_attribute_value(attribute) for name, attribute in given.items()}
    trans_b = {"transB": values["transB"]} if "transB" in values else {}
    first = {"transA": values.pop("transA")} if "transA" in values else {}
    return [{**first, **trans_b}, *(trans_b for _ in specs[2:]), values]


def _no_attributes(specs: Sequence[ConvSpec], _given: Mapping[str, AttributeProto]) -> list[Attributes]:
    return [{} for _ in specs]
