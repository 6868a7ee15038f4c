"""Reductions along axes, and what finds or orders elements."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from onnxlr.training.elements import Array
from onnxlr.training.operators.base import Node, Operator, Table, axes_of

__all__ = ["OPERATORS"]


@dataclass(frozen=True, slots=True)
class Reduction:
    """A Reduce operator; axes are an attribute, and from opset 13 (ReduceSum) or 18 (others) an input.

    Attributes:
        function: takes a tensor, axes and whether they stay with size 1.
    """

    function: Callable[[Tensor, list[int], bool], Tensor]

    def __call__(self, node: Node, x: Tensor, axes: Array | None = None) -> Tensor:
        """Over the axes; over all of them, or none with `noop_with_empty_axes`, where there are none."""
        chosen = axes_of(node, axes, x.ndim)
        if not chosen and node.flag("noop_with_empty_axes"):
            return x
        return self.function(x, chosen or list(range(x.ndim)), node.flag("keepdims", True))


def mean(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    """Of integers too."""
    return x.mean(axes, keep) if x.is_floating_point() else total(x, axes, keep) // _count(x, axes)


def _count(x: Tensor, axes: list[int]) -> int:
    count = 1
    for axis in axes:
        count *= x.shape[axis]
    return count


def total(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    """In the type of x."""
    return x.sum(axes, keep, dtype=x.dtype) if axes else x


def product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    """One axis after another: torch takes no more."""
    for axis in sorted(axes, reverse=True):
        x = x.prod(axis, keep, dtype=x.dtype)
    return x


def largest(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    """The gradient is shared by equal elements."""
    return x.amax(axes, keep)


def smallest(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    """The gradient is shared by equal elements."""
    return x.amin(axes, keep)


def sum_of_absolutes(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    """The 1-norm."""
    return total(x.abs(), axes, keep)


def norm(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    """The 2-norm; its gradient at 0 is 0."""
    return torch.linalg.vector_norm(x, 2, axes, keep)


def sum_of_squares(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    """The square of the 2-norm."""
    return total(x.square(), axes, keep)


def log_sum(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    """The logarithm of the sum."""
    return total(x, axes, keep).log()


def log_sum_exp(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    """Without overflow."""
    return torch.logsumexp(x, axes, keep)


def arg_max(node: Node, x: Tensor) -> Tensor:
    """Places of the largest elements along an axis, the first or the last of equal ones."""
    axis, keep = node.get("axis", 0) % x.ndim, node.flag("keepdims", True)
    if not node.flag("select_last_index"):
        return x.argmax(axis, keep)
    return x.shape[axis] - 1 - x.flip(axis).argmax(axis, keep)


def arg_min(node: Node, x: Tensor) -> Tensor:
    """Places of the smallest elements."""
    return arg_max(node, -x)


def top_k(node: Node, x: Tensor, k: Array | None = None) -> tuple[Tensor, Tensor]:
    """The k largest or smallest elements along an axis, and their places; of equal ones the first."""
    count, axis = node.get("k", 1) if k is None else int(k.item()), node.get("axis", -1)
    values, places = torch.sort(x, dim=axis, descending=node.flag("largest", True), stable=True)
    return values.narrow(axis, 0, count), places.narrow(axis, 0, count)


def cumulated(node: Node, x: Tensor, axis: Array) -> Tensor:
    """Sums of all elements up to each, itself included unless `exclusive`."""
    along = int(axis.item())
    ordered = x.flip(along) if node.flag("reverse") else x
    sums = ordered.cumsum(along, dtype=x.dtype)
    sums = sums - ordered if node.flag("exclusive") else sums
    return sums.flip(along) if node.flag("reverse") else sums


def non_zero(x: Tensor) -> Tensor:
    """Places, `(rank, count)`."""
    return x.nonzero().T


_REDUCTIONS = {
    "ReduceL1": sum_of_absolutes,
    "ReduceL2": norm,
    "ReduceLogSum": log_sum,
    "ReduceLogSumExp": log_sum_exp,
    "ReduceMax": largest,
    "ReduceMean": mean,
    "ReduceMin": smallest,
    "ReduceProd": product,
    "ReduceSum": total,
    "ReduceSumSquare": sum_of_squares,
}

OPERATORS: Table = {
    **{name: Operator(Reduction(function), numbers=(1,)) for name, function in _REDUCTIONS.items()},
    "ArgMax": Operator(arg_max, has_gradient=False),
    "ArgMin": Operator(arg_min, has_gradient=False),
    "CumSum": Operator(cumulated, numbers=(1,)),
    "NonZero": Operator(non_zero, takes_node=False, has_gradient=False),
    "TopK": Operator(top_k, numbers=(1,)),
}
