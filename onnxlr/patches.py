"""Input and output of a layer -> pairs of vectors (x, y) with y = W x + b, one a sampled output position.

For a Conv x is the window under an output position, `C / group · prod(kernel_shape)` numbers with zeros where
it lies outside; for a ConvTranspose the input values that a position gets, with zeros at taps that meet none;
for Gemm and MatMul a row. W is the layer's weight as `(M / group, -1)`, group by group.

Windows are numbered tap by tap, not channel by channel as weights are: so all channels of a tap are copied at
once, ten times faster. `weight_order` tells where an entry of W has its counterpart.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxlr.conv import ConvSpec
from onnxlr.layer import Layer

__all__ = ["count_positions", "input_rows", "output_rows", "weight_order"]

Array = NDArray[Any]
Shape = tuple[int, ...]


_SPARSE = 0.5
"""Values to copy, by those of the input, from which it pays to bring the channels together before."""


def weight_order(conv: ConvSpec) -> NDArray[np.intp]:
    """`(D,)`: for every entry of a row of W the number of the entry of x that it multiplies."""
    taps = prod(conv.kernel_shape)
    return np.arange(conv.params // conv.out_channels).reshape(taps, -1).T.ravel()


def count_positions(layer: Layer, shape: Shape) -> int:
    """Output positions in one run, over all samples, by the shape of the output."""
    if layer.conv.kernel_shape:
        return shape[0] * prod(shape[2:])
    return prod(shape) // layer.conv.out_channels


def output_rows(layer: Layer, output: Array, positions: Array) -> Array:
    """Vectors y at some positions, `(positions, group, M / group)`, float32.

    Args:
        layer: the layer.
        output: its output in one run.
        positions: sorted, in `range(count_positions(layer, output.shape))`.

    Raises:
        ValueError: axes of a batch of matrices that broadcast; rows of such a MatMul are not told apart.
    """
    if not layer.conv.kernel_shape:
        return _dense_rows(layer, output, output.shape, positions)
    sample, *place = np.unravel_index(positions, (len(output), *output.shape[2:]))
    where = np.ravel_multi_index(tuple(place), output.shape[2:])
    rows: Array = output.reshape(*output.shape[:2], prod(output.shape[2:]))[sample, :, where]
    group = layer.conv.group
    return rows.reshape(len(positions), group, rows.shape[1] // group).astype(np.float32)


def input_rows(layer: Layer, value: Array, shape: Shape, positions: Array, turned: bool = False) -> Array:
    """Vectors x behind some output positions, `(positions, group, D)`, float32; `weight_order` numbers them.

    Args:
        layer: the layer.
        value: its input in one run.
        shape: of its output in that run.
        positions: as in `output_rows`.
        turned: whether a Gemm reads its input transposed.

    Raises:
        ValueError: as in `output_rows`.
    """
    if not layer.conv.kernel_shape:
        return _dense_rows(layer, value.T if turned else value, shape, positions)
    conv = layer.conv
    sample, *place = np.unravel_index(positions, (shape[0], *shape[2:]))
    index, inside = _taps(conv, value.shape[2:], shape[2:], place)
    batch, channels, size = *value.shape[:2], prod(value.shape[2:])
    flat = value.reshape(batch, channels, size)
    if index.size < _SPARSE * batch * size:
        windows = flat[sample[:, None], :, index]
    else:
        together = np.ascontiguousarray(flat.swapaxes(1, 2)).reshape(-1, channels)
        windows = np.take(together, sample[:, None] * size + index, axis=0)
    windows[~inside] = 0  # a product would keep NaN
    parts = windows.reshape(*index.shape, conv.group, channels // conv.group).swapaxes(1, 2)
    return parts.reshape(len(parts), conv.group, conv.params // conv.out_channels).astype(
        np.float32, copy=False
    )


def _taps(conv: ConvSpec, spatial: Shape, sizes: Shape, place: list[Array]) -> tuple[Array, Array]:
    """For every position and tap the flat index of the input value, and whether there is one."""
    index = np.zeros((len(place[0]), 1), np.int64)
    inside = np.ones((len(place[0]), 1), bool)
    for axis, size in enumerate(spatial):
        taps = np.arange(conv.kernel_shape[axis]) * conv.dilations[axis]
        stride, pad = conv.strides[axis], _pad_begin(conv, axis, size, sizes[axis])
        if conv.transposed:
            at, rest = np.divmod(place[axis][:, None] + pad - taps, stride)
            found = (rest == 0) & (at >= 0) & (at < size)
        else:
            at = place[axis][:, None] * stride + taps - pad
            found = (at >= 0) & (at < size)
        at = np.where(found, at, 0)
        count = index.shape[1] * len(taps)
        index = (index[:, :, None] * size + at[:, None]).reshape(len(at), count)
        inside = (inside[:, :, None] & found[:, None]).reshape(len(at), count)
    return index, inside


def _pad_begin(conv: ConvSpec, axis: int, size: int, output_size: int) -> int:
    """Padding before the first value along an axis."""
    if conv.auto_pad == "VALID":
        return 0
    if conv.auto_pad == "NOTSET" and not conv.output_shape:
        return conv.pads[axis]
    window = (conv.kernel_shape[axis] - 1) * conv.dilations[axis] + 1
    if conv.transposed:
        total = (size - 1) * conv.strides[axis] + conv.output_padding[axis] + window - output_size
    else:
        total = (output_size - 1) * conv.strides[axis] + window - size
    total = max(total, 0)
    return total // 2 if conv.auto_pad == "SAME_UPPER" else total - total // 2


def _dense_rows(layer: Layer, value: Array, shape: Shape, positions: Array) -> Array:
    """Rows of an operand or of the output, whose shape is `shape`."""
    conv, batch = layer.conv, layer.layout.batch
    if layer.layout.position == 0 and len(shape) > 1:  # W x: columns are the vectors
        value, shape = value.swapaxes(-1, -2), (*shape[:-2], shape[-1], shape[-2])
    if conv.group == 1:
        return value.reshape(-1, 1, value.shape[-1])[positions].astype(np.float32)
    if shape[: len(shape) - 2][-len(batch) :] != batch:
        raise ValueError("axes of the matrices broadcast")
    value = np.broadcast_to(value, (*shape[:-1], value.shape[-1]))
    blocks = value.reshape(-1, conv.group, *value.shape[-2:]).swapaxes(1, 2)
    return blocks.reshape(-1, conv.group, value.shape[-1])[positions].astype(np.float32)
