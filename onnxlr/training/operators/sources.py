"""Operators that make values from numbers, and those that tell or change types and sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from onnx import numpy_helper
from torch import Tensor

from onnxlr.training.elements import Array, torch_type, widened
from onnxlr.training.operators.base import Node, Operator, Table

__all__ = ["OPERATORS"]

_LISTS: dict[str, Any] = {
    "value_int": np.int64,
    "value_ints": np.int64,
    "value_float": np.float32,
    "value_floats": np.float32,
}


def constant(node: Node) -> Array:
    """The value of an attribute.

    Raises:
        ValueError: strings, or a sparse tensor.
    """
    if "value" in node.attributes:
        return numpy_helper.to_array(node.attributes["value"])
    name = next((name for name in _LISTS if name in node.attributes), None)
    if name is None:
        raise ValueError("constants that are strings or sparse are not supported")
    return np.asarray(node.attributes[name], _LISTS[name])


def constant_of_shape(node: Node, shape: Array) -> Array:
    """A shape filled with one value, by default 0.0."""
    sizes = [int(size) for size in shape]
    if "value" not in node.attributes:
        return np.zeros(sizes, np.float32)
    value = widened(numpy_helper.to_array(node.attributes["value"]))
    return np.full(sizes, value.item(), value.dtype)


def range_(start: Array, limit: Array, delta: Array) -> Array:
    """Numbers from `start` in steps of `delta`, without `limit`."""
    return np.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)


def shape(node: Node, x: Tensor) -> Array:
    """Sizes of the axes, or of some of them."""
    return np.asarray(list(x.shape)[slice(node.get("start", 0), node.get("end", None))], np.int64)


def size(x: Tensor) -> Array:
    """Number of elements."""
    return np.asarray(x.numel(), np.int64)


def cast(node: Node, x: Tensor) -> Tensor:
    """To another type; half precision is float32 here."""
    return x.to(torch_type(node.get("to", 1)))


def cast_like(x: Tensor, other: Tensor) -> Tensor:
    """To the type of another tensor."""
    return x.to(other.dtype)


def triangle(node: Node, x: Tensor, diagonal: Array | None = None) -> Tensor:
    """The upper or lower triangle of matrices."""
    k = 0 if diagonal is None else int(diagonal.item())
    return torch.triu(x, k) if node.flag("upper", True) else torch.tril(x, k)


OPERATORS: Table = {
    "Cast": Operator(cast),
    "CastLike": Operator(cast_like, takes_node=False),
    "Constant": Operator(constant),
    "ConstantOfShape": Operator(constant_of_shape, numbers=(0,)),
    "Range": Operator(range_, numbers=(0, 1, 2), takes_node=False),
    "Shape": Operator(shape, has_gradient=False),
    "Size": Operator(size, takes_node=False, has_gradient=False),
    "Trilu": Operator(triangle, numbers=(1,)),
}
