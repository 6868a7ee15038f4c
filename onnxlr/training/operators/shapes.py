"""Operators that rearrange elements."""

from __future__ import annotations

from math import prod

import numpy as np
import torch
from torch import Tensor

from onnxlr.training.elements import Array
from onnxlr.training.operators.base import Node, Operator, Table, axes_of

__all__ = ["OPERATORS"]


def reshape(node: Node, x: Tensor, shape: Array) -> Tensor:
    """A 0 keeps the size of that axis, unless `allowzero`."""
    sizes = [int(size) for size in shape]
    if not node.flag("allowzero"):
        sizes = [x.shape[i] if size == 0 else size for i, size in enumerate(sizes)]
    return x.reshape(sizes)


def flatten(node: Node, x: Tensor) -> Tensor:
    """To a matrix: the axes before `axis`, and the others."""
    axis = node.get("axis", 1)
    axis = axis + x.ndim if axis < 0 else axis
    return x.reshape(prod(x.shape[:axis]), prod(x.shape[axis:]))


def transpose(node: Node, x: Tensor) -> Tensor:
    """The axes in the order of `perm`, by default reversed."""
    return x.permute(node.ints("perm", list(reversed(range(x.ndim)))))


def squeeze(node: Node, x: Tensor, axes: Array | None = None) -> Tensor:
    """Without the axes given, by default without all of size 1."""
    chosen = axes_of(node, axes, x.ndim) or [i for i, size in enumerate(x.shape) if size == 1]
    if any(x.shape[axis] != 1 for axis in chosen):
        raise ValueError(f"axes {chosen} of a tensor of shape {tuple(x.shape)} cannot be squeezed")
    return x.squeeze(chosen)


def unsqueeze(node: Node, x: Tensor, axes: Array | None = None) -> Tensor:
    """With axes of size 1, at places counted in the result."""
    count = len(node.ints("axes", [])) if axes is None else axes.size
    for axis in sorted(axes_of(node, axes, x.ndim + count)):
        x = x.unsqueeze(axis)
    return x


def expand(x: Tensor, shape: Array) -> Tensor:
    """Broadcast to a shape, which may have 1 where x has more."""
    sizes = np.broadcast_shapes(x.shape, tuple(int(size) for size in shape))
    return x.expand(sizes)


def tile(x: Tensor, repeats: Array) -> Tensor:
    """Repeated along every axis."""
    return x.repeat([int(count) for count in repeats])


def concat(node: Node, *parts: Tensor) -> Tensor:
    """Along an axis."""
    return torch.cat(parts, node.get("axis", 1))


def split(node: Node, x: Tensor, sizes: Array | None = None) -> tuple[Tensor, ...]:
    """Into parts of the sizes given, or into equal ones of which the last may be smaller."""
    axis = node.get("axis", 0)
    given = node.ints("split", []) if sizes is None else [int(size) for size in sizes]
    if not given:
        count = node.get("num_outputs", len(node.outputs))
        return x.split(-(-x.shape[axis] // count), axis)
    return x.split(given, axis)


def depth_to_space(node: Node, x: Tensor) -> Tensor:
    """Blocks of channels become blocks of pixels; in CRD mode the channel is the slowest index."""
    block = node.get("blocksize", 1)
    batch, channels, height, width = x.shape
    depth = channels // block**2
    if node.get("mode", "DCR") == "DCR":
        y = x.reshape(batch, block, block, depth, height, width).permute(0, 3, 4, 1, 5, 2)
    else:
        y = x.reshape(batch, depth, block, block, height, width).permute(0, 1, 4, 2, 5, 3)
    return y.reshape(batch, depth, height * block, width * block)


def space_to_depth(node: Node, x: Tensor) -> Tensor:
    """Blocks of pixels become blocks of channels; in CRD mode the channel is the slowest index."""
    block = node.get("blocksize", 1)
    batch, channels, height, width = x.shape
    y = x.reshape(batch, channels, height // block, block, width // block, block)
    y = y.permute(*((0, 3, 5, 1, 2, 4) if node.get("mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)))
    return y.reshape(batch, channels * block**2, height // block, width // block)


def identity(x: Tensor) -> Tensor:
    """The tensor itself, so that statistics behind an Identity can be updated."""
    return x


OPERATORS: Table = {
    "Concat": Operator(concat),
    "DepthToSpace": Operator(depth_to_space),
    "Expand": Operator(expand, numbers=(1,), takes_node=False),
    "Flatten": Operator(flatten),
    "Identity": Operator(identity, takes_node=False),
    "Reshape": Operator(reshape, numbers=(1,)),
    "SpaceToDepth": Operator(space_to_depth),
    "Split": Operator(split, numbers=(1,)),
    "Squeeze": Operator(squeeze, numbers=(1,)),
    "Tile": Operator(tile, numbers=(1,), takes_node=False),
    "Transpose": Operator(transpose),
    "Unsqueeze": Operator(unsqueeze, numbers=(1,)),
}
