"""Plan + weights -> the rewritten model: the one place that turns factorizations into ONNX nodes."""

from __future__ import annotations

from collections.abc import Sequence

from onnx import NodeProto, TensorProto

from onnxlr.chains import Site
from onnxlr.factorization import LayerWeights
from onnxlr.model_file import Model
from onnxlr.parallel import Progress, gram_work, map_layers
from onnxlr.replacement import Replacement
from passes import remove_unused, replace_with_chain
from passes.graph import Key, scopes

__all__ = ["rewrite"]


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
        replacements: at most one a layer; not empty.
        weights: of the prepared model.
        workers: number of cores to use.
        progress: told the number of layers factorized.
    """
    target, nodes = prepared.with_spill(), _nodes(prepared)
    sites = {item.layer.key: Site.of(item.layer, item.links, nodes[item.layer.key]) for item in replacements}

    def key(item: Replacement) -> tuple[object, ...]:
        return (*item.key(weights), *sites[item.layer.key].layouts)

    def store(item: Replacement) -> tuple[list[TensorProto], TensorProto | None]:
        stored = sites[item.layer.key].stored(item.factors(weights))
        bias = None if item.fit is None or item.fit.bias is None else target.store(item.fit.bias)
        return [target.store(array) for array in stored], bias

    unique = {key(item): item for item in replacements}
    tensors = map_layers(
        store,
        list(unique.values()),
        lambda item: gram_work(item.layer.conv),
        workers,
        lambda done: progress("Factorizing", done, len(unique)),
    )
    stored = dict(zip(unique, tensors, strict=True))
    chains = {item.layer.key: sites[item.layer.key].build(*stored[key(item)]) for item in replacements}
    return target.with_proto(remove_unused(prepared.proto, replace_with_chain(prepared.proto, chains)))


def _nodes(model: Model) -> dict[Key, NodeProto]:
    found = ((scope.path, node) for scope in scopes(model.proto) for node in scope.holder.node)
    return {(path, node.output[0]): node for path, node in found if node.output}
