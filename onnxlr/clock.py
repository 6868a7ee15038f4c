"""How long layers and the chains in their place take: what was measured in place, times a predicted ratio.

    chain = layer, measured in place · chain, by the cost model / layer, by the cost model

So what the cost model does not know of a layer (what was fused into it, what lay in the cache) cancels. A
layer that could not be measured in place takes what the cost model says, scaled as those that could.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from onnxlr.cost import interpolate
from onnxlr.cost_model import CostModel
from onnxlr.layer import Layer
from onnxlr.schemes import Rank, Scheme
from passes.graph import Key

__all__ = ["Clock"]

Float = NDArray[np.float64]


class Clock:
    """Tells times of one model's layers.

    Args:
        cost_model: of the machine that the result is to be fast on.
        layers: all that were found.
        batch: samples in a run by those that `Layer.repeats` counts.
        measured: seconds in place, by layer; of those that could be told apart.
        whole: seconds of a run of the whole model; None if it was not measured.
        elsewhere: whether the cost model is of another machine than the one measured on: then times are those
            of the cost model, and what is measured only tells the share of all that is not a layer.

    Attributes:
        cost_model: as given.
        whole: seconds of a run of the whole model, as far as they are known.
    """

    def __init__(
        self,
        cost_model: CostModel,
        layers: Iterable[Layer],
        batch: int = 1,
        measured: Mapping[Key, float] | None = None,
        whole: float | None = None,
        elsewhere: bool = False,
    ) -> None:
        self.cost_model = cost_model
        self._batch = batch
        predicted = {layer.key: self._predict(layer) for layer in layers if self.knows(layer)}
        times = {key: seconds for key, seconds in (measured or {}).items() if key in predicted}
        here, there = sum(times.values()), sum(predicted[key] for key in times)
        scale = here / there if times else 1.0
        if elsewhere:
            times, whole, scale = {}, None if whole is None else whole / scale, 1.0
        self._seconds = {key: times.get(key, scale * seconds) for key, seconds in predicted.items()}
        self.whole = max(whole or 0.0, sum(self._seconds.values()))

    def knows(self, layer: Layer) -> bool:
        """Whether the layer's sizes are known, and so its time."""
        return layer.macs is not None

    def seconds(self, layer: Layer) -> float | None:
        """Of one run of a layer; None where its sizes are not known."""
        return self._seconds.get(layer.key)

    def chain_times(self, layer: Layer, scheme: Scheme, ranks: Sequence[Rank]) -> Float:
        """Time of the chain at each rank by that of the layer, `(len(ranks),)`.

        Args:
            layer: whose sizes are known.
            scheme: accepts it.
            ranks: at least one.
        """

        def channels(rank: Rank) -> Float:
            return np.array([(k.in_channels, k.out_channels) for k in scheme.chain(layer.conv, rank)], float)

        assert layer.spatial is not None and layer.repeats is not None, layer.name  # noqa: S101, PT018
        counts = np.rint(interpolate(channels, scheme.max_rank(layer.conv), ranks))
        total, spatial = np.zeros(len(ranks)), layer.spatial
        for i, link in enumerate(scheme.chain(layer.conv, ranks[0])):
            total += self.cost_model.seconds_at(
                link, spatial, layer.repeats * self._batch, counts[:, i, 0], counts[:, i, 1]
            )
            spatial = link.output_spatial(spatial)
        return total / self._predict(layer)

    def _predict(self, layer: Layer) -> float:
        assert layer.spatial is not None and layer.repeats is not None, layer.name  # noqa: S101, PT018
        return self.cost_model.seconds(layer.conv, layer.spatial, layer.repeats * self._batch)
