"""Poolings in 1-D, 2-D and 3-D."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf, prod

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from onnxlr.training.operators.base import Node, Operator, Table
from onnxlr.training.operators.windows import Window, pad, read_window

__all__ = ["OPERATORS"]

_MAX: Mapping[int, Callable[..., Tensor]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE: Mapping[int, Callable[..., Tensor]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_CONV: Mapping[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def max_pool(node: Node, x: Tensor) -> Tensor:
    """The largest element of each window of `x`, `(N, C, *sizes)`; indices are not computed.

    Raises:
        ValueError: the indices are read.
    """
    if len(list(filter(None, node.outputs))) > 1:
        raise ValueError("the indices of a MaxPool are not supported; remove what reads them")
    window = _window(node, x)
    padding = [0] * len(window.kernel)
    if _is_native(window):
        padding = window.begins
    else:
        x = pad(x, window.begins, window.ends, -inf)
    return _MAX[x.ndim - 2](x, window.kernel, window.strides, padding, window.dilations)


def average_pool(node: Node, x: Tensor) -> Tensor:
    """The mean of each window of `x`, `(N, C, *sizes)`.

    A mean is over the elements of the input and, if they count, those of `pads`; never over those that
    `ceil_mode` adds.
    """
    window = _window(node, x)
    given = read_window(node, window.kernel, x.shape[2:])
    counts = node.flag("count_include_pad")
    if window == given and _is_native(window) and set(window.dilations) == {1}:
        pool = _AVERAGE[x.ndim - 2]
        return pool(x, window.kernel, window.strides, window.begins, count_include_pad=counts)
    inside = torch.ones((1, 1, *x.shape[2:]), dtype=x.dtype, device=x.device)
    inside = pad(inside, given.begins, given.ends, float(counts))
    added = [end - other for end, other in zip(window.ends, given.ends, strict=True)]
    inside = pad(inside, [0] * len(added), added)
    return _means(pad(x, window.begins, window.ends), window) / _means(inside, window)


def _means(x: Tensor, window: Window) -> Tensor:
    """The mean of each window of an input that is padded already."""
    axes = x.ndim - 2
    if set(window.dilations) == {1}:
        return _AVERAGE[axes](x, window.kernel, window.strides)
    kernel = torch.full((1, 1, *window.kernel), 1 / prod(window.kernel), dtype=x.dtype, device=x.device)
    planes = x.flatten(0, 1).unsqueeze(1)
    y = _CONV[axes](planes, kernel, None, window.strides, 0, window.dilations)
    return y.reshape(*x.shape[:2], *y.shape[2:])


def _window(node: Node, x: Tensor) -> Window:
    """The window, its ends padded so that as many fit as `ceil_mode` asks for."""
    kernel = node.ints("kernel_shape", [])
    if len(kernel) != x.ndim - 2 or len(kernel) not in _MAX:
        raise ValueError(f"kernel_shape {kernel} for an input of shape {tuple(x.shape)}")
    window = read_window(node, kernel, x.shape[2:])
    if not node.flag("ceil_mode"):
        return window
    extra = []
    for i, size in enumerate(x.shape[2:]):
        stride, extent, begin = window.strides[i], window.extents[i], window.begins[i]
        whole = size + begin + window.ends[i]
        count = -(-(whole - extent) // stride) + 1
        if (count - 1) * stride >= size + begin:  # it would start behind the input
            count -= 1
        extra.append(max((count - 1) * stride + extent - whole, 0))
    return window.lengthened(extra)


def _is_native(window: Window) -> bool:
    """Whether torch's poolings can do the padding: alike on both sides, at most half a window."""
    halves = zip(window.begins, window.kernel, strict=True)
    return window.is_symmetric and all(2 * begin <= k for begin, k in halves)


def global_average_pool(x: Tensor) -> Tensor:
    """The mean of each plane; spatial axes stay, with size 1."""
    return x.mean(tuple(range(2, x.ndim)), keepdim=True)


def global_max_pool(x: Tensor) -> Tensor:
    """The largest element of each plane; spatial axes stay, with size 1."""
    return x.amax(tuple(range(2, x.ndim)), keepdim=True)


OPERATORS: Table = {
    "AveragePool": Operator(average_pool),
    "GlobalAveragePool": Operator(global_average_pool, takes_node=False),
    "GlobalMaxPool": Operator(global_max_pool, takes_node=False),
    "MaxPool": Operator(max_pool),
}
