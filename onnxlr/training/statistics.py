"""Mean and variance of the channels of values, over data: what unfolding a BatchNormalization needs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from onnxlr.errors import DataError
from onnxlr.training.module import GraphModule
from passes.unfold_batchnorm import ChannelStatistics

__all__ = ["channel_statistics"]


def channel_statistics(
    module: GraphModule, feeds: Iterable[Mapping[str, Any]], names: Collection[str]
) -> dict[str, ChannelStatistics]:
    """Of values `(N, M, ...)` over all axes but the second, and over all feeds; in evaluation mode.

    Args:
        module: its mode is as before afterwards.
        feeds: batches; an array or a tensor for every input.
        names: of the values.

    Raises:
        DataError: there are no feeds.
    """
    moments: dict[str, _Moments] = {name: _Moments() for name in names}
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            for feed in feeds:
                for name, value in module(feed, names).items():
                    moments[name].add(value)
    finally:
        module.train(was_training)
    return {name: moment.statistics(name) for name, moment in moments.items()}


class _Moments:
    """Count, mean and sum of squared deviations of each channel; merged after Chan et al. (1979)."""

    def __init__(self) -> None:
        self._count = 0
        self._mean: Any = 0.0
        self._squares: Any = 0.0

    def add(self, value: Tensor) -> None:
        """Take in a batch."""
        rows = value.double().movedim(1, 0).flatten(1)
        count = rows.shape[1]
        mean = rows.mean(1)
        total = self._count + count
        difference = mean - self._mean
        self._squares = self._squares + (rows - mean[:, None]).square().sum(1)
        self._squares = self._squares + difference.square() * (self._count * count / total)
        self._mean = self._mean + difference * (count / total)
        self._count = total

    def statistics(self, name: str) -> ChannelStatistics:
        """What was found."""
        if not self._count:
            raise DataError(f"no data to measure '{name}' on")
        variance = self._squares / self._count
        return ChannelStatistics(np.asarray(self._mean.cpu()), np.asarray(variance.cpu()))
