"""`Replacement`: a layer and what takes its place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from onnxlr.conv import ConvSpec
from onnxlr.factorization import LayerWeights
from onnxlr.fitting import Fit
from onnxlr.layer import Layer
from onnxlr.schemes import Rank, Scheme

__all__ = ["Replacement"]


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
    rank: Rank = ()
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
