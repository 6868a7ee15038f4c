"""Conv and ConvTranspose in 1-D, 2-D and 3-D."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from onnxlr.training.operators.base import Node, Operator, Table
from onnxlr.training.operators.windows import pad, padded, read_window

__all__ = ["OPERATORS"]

_CONVS: Mapping[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED: Mapping[int, Callable[..., Tensor]] = {
    1: F.conv_transpose1d,
    2: F.conv_transpose2d,
    3: F.conv_transpose3d,
}


def _of_rank(functions: Mapping[int, Callable[..., Tensor]], x: Tensor) -> Callable[..., Tensor]:
    if x.ndim - 2 not in functions:
        raise ValueError(f"an input with {x.ndim - 2} spatial axes; 1 to 3 are supported")
    return functions[x.ndim - 2]


def conv(node: Node, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    """`x` of shape `(N, C, *sizes)`, `w` `(M, C / group, *kernel)`, `b` `(M,)`."""
    function = _of_rank(_CONVS, x)
    window = read_window(node, w.shape[2:], x.shape[2:])
    x, padding = padded(x, window)
    return function(x, w, b, window.strides, padding, window.dilations, node.get("group", 1))


def conv_transpose(node: Node, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    """`x` of shape `(N, C, *sizes)`, `w` `(C, M / group, *kernel)`, `b` `(M,)`.

    1. Symmetric pads are torch's `padding`.
    2. Else all that the kernel reaches is computed, then `pads` are cut off and `output_padding` is put on.
    """
    function = _of_rank(_TRANSPOSED, x)
    axes = x.ndim - 2
    group, extra = node.get("group", 1), node.ints("output_padding", [0] * axes)
    window = read_window(_without_auto_pad(node), w.shape[2:], x.shape[2:])
    begins, ends = _pads(node, x, window.strides, window.extents, extra)
    steps = zip(extra, window.strides, window.dilations, strict=True)
    if begins == ends and min(begins) >= 0 and all(e < max(s, d) for e, s, d in steps):  # 1
        return function(x, w, b, window.strides, begins, extra, group, window.dilations)
    y = function(x, w, None, window.strides, 0, 0, group, window.dilations)  # 2
    y = pad(y, [-begin for begin in begins], [e - end for e, end in zip(extra, ends, strict=True)])
    return y if b is None else y + b.reshape(-1, *[1] * axes)


def _without_auto_pad(node: Node) -> Node:
    """The node, whose pads then say what is given and not what a Conv would make of `auto_pad`."""
    kept: dict[str, Any] = {name: v for name, v in node.attributes.items() if name != "auto_pad"}
    return Node(node.op_type, node.name, node.opset, node.outputs, kept)


def _pads(
    node: Node, x: Tensor, strides: list[int], extents: list[int], extra: list[int]
) -> tuple[list[int], list[int]]:
    """Begins and ends: given, or such that the output has the shape asked for."""
    mode = node.get("auto_pad", "NOTSET")
    sizes, axes = list(x.shape[2:]), x.ndim - 2
    is_same = mode in ("SAME_UPPER", "SAME_LOWER")
    shape = node.ints("output_shape", [n * s for n, s in zip(sizes, strides, strict=True)] if is_same else [])
    if not shape:
        pads = node.ints("pads", [0] * (2 * axes)) if mode != "VALID" else [0] * (2 * axes)
        return pads[:axes], pads[axes:]
    parts = zip(sizes, strides, extents, extra, shape[-axes:], strict=True)
    totals = [s * (n - 1) + e + extent - size for n, s, extent, e, size in parts]
    smaller = [max(total, 0) // 2 for total in totals]  # where more is asked for, it comes at the end
    larger = [total - half for total, half in zip(totals, smaller, strict=True)]
    if mode == "SAME_UPPER" or min(totals) < 0:
        return smaller, larger
    return larger, smaller


OPERATORS: Table = {
    "Conv": Operator(conv, layer_weights=(1, 2)),
    "ConvTranspose": Operator(conv_transpose, layer_weights=(1, 2)),
}
