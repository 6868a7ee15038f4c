"""Elementwise arithmetic, comparisons and logic; shapes broadcast as in numpy."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import torch
from torch import Tensor

from onnxlr.training.operators.base import Node, Operator, Table

__all__ = ["OPERATORS"]


def divide(x: Tensor, y: Tensor) -> Tensor:
    """Integers are cut off towards 0."""
    both = x.is_floating_point() or y.is_floating_point()
    return x / y if both else torch.div(x, y, rounding_mode="trunc")


def power(x: Tensor, y: Tensor) -> Tensor:
    """In the type of x."""
    return torch.pow(x, y).to(x.dtype)


def modulo(node: Node, x: Tensor, y: Tensor) -> Tensor:
    """With the sign of y, or with `fmod` that of x."""
    return torch.fmod(x, y) if node.flag("fmod") else torch.remainder(x, y)


def total(*terms: Tensor) -> Tensor:
    """The sum of any number of tensors."""
    return reduce(torch.add, terms)


def mean(*terms: Tensor) -> Tensor:
    """The mean of any number of tensors."""
    return total(*terms) / len(terms)


def maximum(*terms: Tensor) -> Tensor:
    """The largest of any number of tensors."""
    return reduce(torch.maximum, terms)


def minimum(*terms: Tensor) -> Tensor:
    """The smallest of any number of tensors."""
    return reduce(torch.minimum, terms)


def is_infinite(node: Node, x: Tensor) -> Tensor:
    """Of the signs that are asked for."""
    above = torch.isposinf(x) & node.flag("detect_positive", True)
    below = torch.isneginf(x) & node.flag("detect_negative", True)
    return above | below


def _plain(function: Callable[..., Tensor]) -> Operator:
    return Operator(function, takes_node=False)


def _fixed(function: Callable[..., Tensor]) -> Operator:
    return Operator(function, takes_node=False, has_gradient=False)


OPERATORS: Table = {
    "Abs": _plain(torch.abs),
    "Acos": _plain(torch.acos),
    "Add": _plain(torch.add),
    "And": _fixed(torch.logical_and),
    "Asin": _plain(torch.asin),
    "Atan": _plain(torch.atan),
    "Ceil": _fixed(torch.ceil),
    "Cos": _plain(torch.cos),
    "Cosh": _plain(torch.cosh),
    "Div": _plain(divide),
    "Equal": _fixed(torch.eq),
    "Erf": _plain(torch.erf),
    "Exp": _plain(torch.exp),
    "Floor": _fixed(torch.floor),
    "Greater": _fixed(torch.gt),
    "GreaterOrEqual": _fixed(torch.ge),
    "IsInf": Operator(is_infinite, has_gradient=False),
    "IsNaN": _fixed(torch.isnan),
    "Less": _fixed(torch.lt),
    "LessOrEqual": _fixed(torch.le),
    "Log": _plain(torch.log),
    "Max": _plain(maximum),
    "Mean": _plain(mean),
    "Min": _plain(minimum),
    "Mod": Operator(modulo),
    "Mul": _plain(torch.mul),
    "Neg": _plain(torch.neg),
    "Not": _fixed(torch.logical_not),
    "Or": _fixed(torch.logical_or),
    "Pow": _plain(power),
    "Reciprocal": _plain(torch.reciprocal),
    "Round": _fixed(torch.round),
    "Sign": _fixed(torch.sign),
    "Sin": _plain(torch.sin),
    "Sinh": _plain(torch.sinh),
    "Sqrt": _plain(torch.sqrt),
    "Sub": _plain(torch.sub),
    "Sum": _plain(total),
    "Tan": _plain(torch.tan),
    "Where": _plain(torch.where),
    "Xor": _fixed(torch.logical_xor),
}
