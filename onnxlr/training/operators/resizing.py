"""Resize and Upsample, one axis after another.

Along an axis every output is a weighted sum of inputs, so a resize is a matrix `(out, in)`, which
`resampling` gives.
1. Where torch has the same interpolation, that is faster.
2. A matrix that only picks is an index.
3. Else it is a product with the matrix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import floor
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from onnxlr.training.elements import Array
from onnxlr.training.operators.base import Node, Operator, Table, axes_of
from onnxlr.training.operators.resampling import Rule, matrix, picked

__all__ = ["OPERATORS"]

_TORCH_LINEAR: Mapping[int, str] = {3: "linear", 4: "bilinear", 5: "trilinear"}


def resize(node: Node, x: Tensor, *inputs: Array | None) -> Tensor:
    """Inputs are the scales in opset 10, and roi, scales and sizes from opset 11 on."""
    given = (None, *inputs) if node.opset < 11 else inputs
    _, scales, sizes = (*given, None, None, None)[:3]
    target = _sizes(node, x, sizes) if sizes is not None and sizes.size else _scales(node, x, scales)
    return _resized(x, target, _rule(node))


def upsample(node: Node, x: Tensor, scales: Array | None = None) -> Tensor:
    """Resize as it was until opset 9; scales are an attribute before that."""
    factors = node.get("scales", ()) if scales is None else scales.tolist()
    return _resized(x, _scaled(x, range(x.ndim), factors), _rule(node))


_Target = dict[int, tuple[int, float]]  # of each axis that changes: its new size, and the scale


def _rule(node: Node) -> Rule:
    """How the node interpolates; before opset 11 there was no choice."""
    mode = node.get("mode", "nearest")
    if node.opset < 11:
        return Rule("linear" if mode == "bilinear" else mode, "asymmetric", "simple")
    return Rule(
        mode,
        node.get("coordinate_transformation_mode", "half_pixel"),
        node.get("nearest_mode", "round_prefer_floor"),
        node.get("cubic_coeff_a", -0.75),
        node.flag("exclude_outside"),
        node.flag("antialias"),
    )


def _scales(node: Node, x: Tensor, scales: Array | None) -> _Target:
    if scales is None or not scales.size:
        raise ValueError("neither scales nor sizes are given")
    return _scaled(x, _axes(node, x), scales.tolist())


def _scaled(x: Tensor, axes: Sequence[int], scales: Sequence[float]) -> _Target:
    pairs = zip(axes, scales, strict=True)
    return {axis: (floor(x.shape[axis] * scale), scale) for axis, scale in pairs if scale != 1}


def _sizes(node: Node, x: Tensor, sizes: Array) -> _Target:
    """`keep_aspect_ratio_policy` makes all axes follow the smallest or largest scale."""
    axes = _axes(node, x)
    wanted = dict(zip(axes, (int(size) for size in sizes), strict=True))
    scales = {axis: size / x.shape[axis] for axis, size in wanted.items()}
    policy = node.get("keep_aspect_ratio_policy", "stretch")
    if policy != "stretch":
        scale = min(scales.values()) if policy == "not_larger" else max(scales.values())
        scales = dict.fromkeys(axes, scale)
        wanted = {axis: floor(scale * x.shape[axis] + 0.5) for axis in axes}
    return {axis: (wanted[axis], scales[axis]) for axis in axes if wanted[axis] != x.shape[axis]}


def _axes(node: Node, x: Tensor) -> list[int]:
    return axes_of(node, None, x.ndim) or list(range(x.ndim))


def _resized(x: Tensor, target: _Target, rule: Rule) -> Tensor:
    if not target:
        return x
    native = _torch_mode(x, target, rule)
    if native is not None:  # 1
        sizes = [target[axis][0] if axis in target else x.shape[axis] for axis in range(2, x.ndim)]
        return F.interpolate(x, sizes, **native)
    for axis, (size, scale) in target.items():
        x = _resized_axis(x, axis, size, scale, rule)
    return x


def _torch_mode(x: Tensor, target: _Target, rule: Rule) -> dict[str, Any] | None:
    """Arguments of `interpolate` that compute the same, or None."""
    if x.ndim not in _TORCH_LINEAR or min(target) < 2 or not x.is_floating_point():
        return None
    plain = all(scale == size / x.shape[axis] for axis, (size, scale) in target.items())
    if rule.mode == "nearest":
        grows = plain and all(size % x.shape[axis] == 0 for axis, (size, _) in target.items())
        return {"mode": "nearest"} if grows and rule.repeats else None
    if rule.mode != "linear" or not plain or rule.antialias:
        return None
    if rule.coordinates == "align_corners":
        return {"mode": _TORCH_LINEAR[x.ndim], "align_corners": True}
    is_half = rule.coordinates == "half_pixel" or (
        rule.coordinates == "pytorch_half_pixel" and all(size > 1 for size, _ in target.values())
    )
    return {"mode": _TORCH_LINEAR[x.ndim], "align_corners": False} if is_half else None


def _resized_axis(x: Tensor, axis: int, size: int, scale: float, rule: Rule) -> Tensor:
    if rule.mode == "nearest":  # 2
        places = torch.tensor(picked(x.shape[axis], size, scale, rule), device=x.device)
        return x.index_select(axis, places)
    weights = torch.tensor(matrix(x.shape[axis], size, scale, rule), dtype=x.dtype, device=x.device)
    return (x.movedim(axis, -1) @ weights.T).movedim(-1, axis)  # 3


OPERATORS: Table = {
    "Resize": Operator(resize, numbers=(1, 2, 3)),
    "Upsample": Operator(upsample, numbers=(1,)),
}
