"""Operators that pick elements, pad, or write into a tensor."""

from __future__ import annotations

from collections.abc import Collection
from math import prod

import numpy as np
import torch
from torch import Tensor

from onnxlr.training.elements import Array
from onnxlr.training.operators.base import Node, Operator, Table, axes_of
from onnxlr.training.operators.windows import pad as pad_constant

__all__ = ["OPERATORS"]

_PAD_MODES = {"reflect": "reflect", "edge": "edge", "wrap": "wrap"}  # ONNX's names and numpy's
_SCATTERED = {"none": None, "add": "sum", "mul": "prod", "max": "amax", "min": "amin"}  # and torch's


def slice_(
    node: Node,
    x: Tensor,
    starts: Array | None = None,
    ends: Array | None = None,
    axes: Array | None = None,
    steps: Array | None = None,
) -> Tensor:
    """Bounds are attributes before opset 10; they are clamped as Python's are, and steps may be negative."""
    begins = _listed(node, "starts", starts)
    stops = _listed(node, "ends", ends)
    strides = [1] * len(begins) if steps is None else [int(step) for step in steps]
    chosen = axes_of(node, axes, x.ndim) or list(range(len(begins)))
    for axis, begin, stop, stride in zip(chosen, begins, stops, strides, strict=True):
        x = _cut(x, axis, range(x.shape[axis])[begin:stop:stride])
    return x


def _listed(node: Node, name: str, given: Array | None) -> list[int]:
    return node.ints(name, []) if given is None else [int(value) for value in given]


def _cut(x: Tensor, axis: int, kept: range) -> Tensor:
    """Along one axis, backwards as well, which torch's slices cannot."""
    ascending = kept if kept.step > 0 else kept[::-1]
    whole = (slice(None),) * axis
    y = x[(*whole, slice(ascending.start, max(ascending.stop, ascending.start), ascending.step))]
    return y if kept.step > 0 else y.flip(axis)


def pad(
    node: Node,
    x: Tensor,
    pads: Array | None = None,
    value: Array | None = None,
    axes: Array | None = None,
) -> Tensor:
    """With a constant, reflected, repeated or wrapped around; negative pads crop."""
    begins, ends = _pads(node, x.ndim, pads, axes)
    mode = node.get("mode", "constant")
    if mode == "constant":
        given = node.get("value", 0.0) if value is None else value.item()
        return pad_constant(x, begins, ends, given)
    if mode not in _PAD_MODES:
        raise ValueError(f"mode {mode} of a Pad is not known")
    for axis, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        if begin or end:
            x = _pad_axis(x, axis, begin, end, mode)
    return x


def _pads(node: Node, rank: int, pads: Array | None, axes: Array | None) -> tuple[list[int], list[int]]:
    """Of every axis: begins and ends."""
    given = node.ints("pads", node.ints("paddings", [])) if pads is None else [int(p) for p in pads]
    chosen = list(range(rank)) if axes is None else axes_of(node, axes, rank)
    begins, ends = [0] * rank, [0] * rank
    for i, axis in enumerate(chosen):
        begins[axis], ends[axis] = given[i], given[len(chosen) + i]
    return begins, ends


def _pad_axis(x: Tensor, axis: int, begin: int, end: int, mode: str) -> Tensor:
    kept = np.arange(x.shape[axis])[max(-begin, 0) : x.shape[axis] - max(-end, 0)]
    places = np.pad(kept, (max(begin, 0), max(end, 0)), mode=_PAD_MODES[mode])  # type: ignore[call-overload]
    return x.index_select(axis, torch.tensor(places, device=x.device))


def _from_zero(indices: Tensor, size: int) -> Tensor:
    """Indices that may count from the end, as torch takes them."""
    return torch.where(indices < 0, indices + size, indices).long()


def gather(node: Node, x: Tensor, indices: Tensor) -> Tensor:
    """Slices along an axis; the shape of the indices takes its place."""
    axis = node.get("axis", 0) % x.ndim
    flat = _from_zero(indices, x.shape[axis]).reshape(-1)
    return x.index_select(axis, flat).reshape((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))


def gather_elements(node: Node, x: Tensor, indices: Tensor) -> Tensor:
    """One element for every index."""
    axis = node.get("axis", 0)
    return torch.gather(x, axis, _from_zero(indices, x.shape[axis]))


def gather_nd(node: Node, x: Tensor, indices: Tensor) -> Tensor:
    """Slices at places given by the last axis of the indices, for each of the first `batch_dims` axes."""
    batch = node.get("batch_dims", 0)
    outer = x.shape[:batch]
    flat = x.reshape((prod(outer), *x.shape[batch:]))
    places = indices.reshape(prod(outer), -1, indices.shape[-1])
    sizes = flat.shape[1 : 1 + places.shape[-1]]
    parts = [_from_zero(part, size) for part, size in zip(places.unbind(-1), sizes, strict=True)]
    rows = torch.arange(len(flat), device=x.device).unsqueeze(1)
    found = flat[(rows, *parts)]
    return found.reshape((*indices.shape[:-1], *flat.shape[1 + len(parts) :]))


def scatter_nd(node: Node, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    """A copy of x with updates in place of, or added to, slices."""
    _check_reduction(node, ("none", "add"))
    places = zip(indices.unbind(-1), x.shape, strict=False)
    parts = tuple(_from_zero(part, size) for part, size in places)
    return x.index_put(parts, updates.to(x.dtype), node.get("reduction", "none") == "add")


def scatter_elements(node: Node, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    """A copy of x with updates in place of elements, or combined with them."""
    _check_reduction(node, _SCATTERED)
    axis = node.get("axis", 0)
    places = _from_zero(indices, x.shape[axis])
    reduction = _SCATTERED[node.get("reduction", "none")]
    if reduction is None:
        return x.scatter(axis, places, updates)
    return x.scatter_reduce(axis, places, updates, reduction)


def _check_reduction(node: Node, known: Collection[str]) -> None:
    reduction = node.get("reduction", "none")
    if reduction not in known:
        raise ValueError(f"reduction {reduction} of {node.op_type} is not supported")


OPERATORS: Table = {
    "Gather": Operator(gather),
    "GatherElements": Operator(gather_elements),
    "GatherND": Operator(gather_nd),
    "Pad": Operator(pad, numbers=(1, 2, 3)),
    "ScatterElements": Operator(scatter_elements),
    "ScatterND": Operator(scatter_nd),
    "Slice": Operator(slice_, numbers=(1, 2, 3, 4)),
}
