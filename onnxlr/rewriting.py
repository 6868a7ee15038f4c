"""Plan + weights -> the rewritten model: the one place that turns factorizations into ONNX nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray
from onnx import NodeProto, TensorProto

from onnxlr.chains import Site
from onnxlr.conv import ConvSpec
from onnxlr.factorization import LayerWeights
from onnxlr.fitting import Fit
from onnxlr.layer import Layer
from onnxlr.model_file import Model
from onnxlr.parallel import Progress, gram_work, map_layers
from onnxlr.schemes import Rank, Scheme
from passes import remove_unused, replace_with_chain
from passes.graph import Key, scopes

__all__ = ["Replacement", "rewrite"]


@dataclass(frozen=True, slots=True)
class Replacement:
    """A layer and what to put in its place; the rank must be in the scheme's range.

    Attributes:
        layer: what is replaced.
        scheme: how it is split; None: it stays one node with other weights.
        rank: of the scheme.
        fit: the factors; None: those of the stored weight.
    """

    layer: Layer
    scheme: Scheme | None
    rank: Rank
    fit: Fit | None = None

    @property
    def links(self) -> tuple[ConvSpec, ...]:
        """The Convs that replace the layer."""
        return (self.layer.conv,) if self.scheme is None else self.scheme.chain(self.layer.conv, self.rank)

    def key(self, weights: LayerWeights) -> tuple[object, ...]:
        """Equal for replacements that have the same factors."""
        if self.fit is not None or self.scheme is None:
            return (self.layer.key,)
        return (*weights.shared_key(self.layer), self.scheme.name, self.rank)

    def factors(self, weights: LayerWeights) -> Sequence[NDArray[Any]]:
        """Weights of `links`."""
        if self.fit is not None:
            return self.fit.factors
        if self.scheme is None:
            raise ValueError(f"nothing to replace '{self.layer.name}' with")
        return weights.factorize(self.layer, self.scheme, self.rank)


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
    proto = replace_with_chain(prepared.proto, chains) if chains else prepared.proto
    return target.with_proto(remove_unused(prepared.proto, proto))


def _nodes(model: Model) -> dict[Key, NodeProto]:
    found = ((scope.path, node) for scope in scopes(model.proto) for node in scope.holder.node)
    return {(path, node.output[0]): node for path, node in found if node.output}
