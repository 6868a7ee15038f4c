"""What a chain is predicted to cost, by its layer: MACs, and how slowly ONNX Runtime does them.

    cost = Σ MACs of a Conv of the chain / its speed  /  (MACs of the layer / its speed)  /  efficiency

The efficiency is a constant of each scheme. The speed is that of a grouped Conv by an ungrouped one's, MAC by
MAC: it falls with the output channels of a group, as the blocks that ONNX Runtime computes are not filled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from onnxlr.conv import ConvSpec, Spatial, link_macs
from onnxlr.layer import Layer
from onnxlr.schemes import Rank, Scheme

__all__ = ["chain_costs", "interpolate"]

Float = NDArray[np.float64]

_CHANNELS = (1, 2, 4, 8, 16, 32)
_SPEEDS = (0.05, 0.09, 0.18, 0.45, 0.75, 1.0)
"""Speed by the output channels of a group; 1 from 32 on."""

_DEPTHWISE_SPEED = 0.11  # has a kernel of its own


def chain_costs(layer: Layer, scheme: Scheme, ranks: Sequence[Rank]) -> tuple[Float, Float]:
    """MACs and cost of the chain at each rank, by those of the layer, `(len(ranks),)` each.

    MACs are per input position where the layer's sizes are unknown.
    """

    def measure(rank: Rank) -> Float:
        return _measures(scheme.chain(layer.conv, rank), layer.spatial)

    groups = [link.group for link in scheme.chain(layer.conv, ranks[0])]
    macs, *channels = np.moveaxis(interpolate(measure, scheme.max_rank(layer.conv), ranks), 1, 0)
    own, *own_channels = _measures((layer.conv,), layer.spatial)
    is_dense = not layer.conv.kernel_shape  # a batch of MatMuls is as fast as one
    before = np.maximum(own, 1.0) / (1.0 if is_dense else _speed([layer.conv.group], *own_channels))
    after = macs / (1.0 if is_dense else _speed(groups, *channels))
    cost = after.sum(axis=1) / before / scheme.efficiency(layer.conv)
    return macs.sum(axis=1) / np.maximum(own, 1.0), cost


def _measures(chain: Sequence[ConvSpec], spatial: Spatial | None) -> Float:
    """`(3, links)`: MACs of each Conv, input and output channels of its groups."""
    inputs = [link.weight_shape[1] for link in chain]
    outputs = [link.out_channels // link.group for link in chain]
    return np.array([link_macs(chain, spatial), inputs, outputs], np.float64)


def _speed(groups: Sequence[int], inputs: Float, outputs: Float) -> Float:
    """Speed of each Conv by the channels of its groups."""
    speed = np.interp(np.log2(outputs), np.log2(_CHANNELS), _SPEEDS)
    speed = np.where(np.maximum(inputs, outputs) == 1, _DEPTHWISE_SPEED, speed)
    return np.where(np.array(groups) == 1, 1.0, speed)


def interpolate(measure: Callable[[Rank], Float], full: Rank, ranks: Sequence[Rank]) -> Float:
    """`measure` at every rank, along a new first axis.

    What it measures must be affine in each rank entry, so the corners of the range tell all.
    """
    position = (np.array(ranks) - 1) / np.maximum(np.array(full) - 1, 1)  # 0 at rank 1, 1 at full rank
    total = np.zeros(())
    for corner in product((0, 1), repeat=len(full)):
        share = np.prod(np.where(corner, position, 1 - position), axis=1)
        value = measure(tuple(f if at_full else 1 for f, at_full in zip(full, corner, strict=True)))
        total = total + share.reshape(-1, *(1,) * value.ndim) * value
    return total
