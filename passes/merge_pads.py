"""Merge a Pad with zeros into the Conv after it.

    Conv(Pad(x, p), W, b; pads = q) = Conv(x, W, b; pads = p + q)

A Pad is merged into a Conv where
1. its mode is constant, and its value is a constant zero (-0.0 too) or not given;
2. its pads and, if given, axes are constant (`passes.constants`), no pad is negative, and none is along the
   batch or channel axis;
3. its output is the data of the Conv, which lies in the same scope;
4. the Conv's auto_pad is NOTSET, or VALID and it has no pads (ONNX forbids both); its number of spatial axes
   is known from pads, kernel_shape or a constant weight, and the Pad's fits;
5. no attribute of the two is given by the caller of a function.
Everything else stays as it is: ConvTranspose, whose pads crop, pooling, whose pads may not count, and others.
Pads in a row are merged from the last up, as far as the rules allow; a Pad of several Convs into each that
can take it; in bodies of nodes and in local functions too. The Pad itself is not touched: `remove_unused`
takes it once nothing reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper

from passes.constants import ConstantError, Constants, all_constants
from passes.graph import attributes, drop, is_operator, scopes

__all__ = ["merge_pads"]

Pads = NDArray[np.int64]
"""Of shape `(2, spatial axes)`: begins and ends."""

_INPUTS = ("data", "pads", "value", "axes")  # of a Pad; ONNX calls the third one constant_value


@dataclass(frozen=True, slots=True, eq=False)
class _Merged:
    """What a Conv reads and how it pads from now on."""

    data: str
    pads: Pads


def merge_pads(model: ModelProto, base_dir: str = "") -> ModelProto:
    """Merge every Pad that the module's rules allow.

    Args:
        model: left alone; returned itself where nothing was merged. The Pads and what they read stay for
            `remove_unused`.
        base_dir: the folder that locations of external data are relative to.
    """
    plans = [_plan(constants) for constants in all_constants(model, base_dir)]
    if not any(plans):
        return model
    result = ModelProto()
    result.CopyFrom(model)
    for scope, plan in zip(scopes(result), plans, strict=True):
        for position, merged in plan.items():
            _apply(scope.holder.node[position], merged)
    return result


def _plan(constants: Constants) -> dict[int, _Merged]:
    """Position of each Conv of a scope that a Pad is merged into -> what becomes of it."""
    nodes = constants.scope.holder.node
    pads = {node.output[0]: node for node in nodes if _is(node, "Pad")}
    plan = {}
    for i, node in enumerate(nodes):
        if _is(node, "Conv") and node.input[0] in pads:  # rule 3
            merged = _merge(node, pads, constants)
            if merged is not None:
                plan[i] = merged
    return plan


def _merge(conv: NodeProto, pads: Mapping[str, NodeProto], constants: Constants) -> _Merged | None:
    """Walk up from the Conv as long as there are Pads to merge; None if there are none."""
    data, total = conv.input[0], _own_pads(conv, constants)
    if total is None:
        return None
    for _ in pads:  # of n Pads at most n are in a row, also where an invalid graph has a cycle
        added = _added_pads(pads[data], total.shape[1], constants) if data in pads else None
        if added is None:
            break
        data, total = pads[data].input[0], total + added
    return None if data == conv.input[0] else _Merged(data, total)


def _own_pads(conv: NodeProto, constants: Constants) -> Pads | None:
    """The pads of a Conv, or None if it can take no others: rule 4."""
    given = attributes(conv)
    auto_pad = given["auto_pad"].s if "auto_pad" in given else b"NOTSET"
    axes = _spatial_axes(conv, constants)
    if auto_pad not in (b"NOTSET", b"VALID") or axes is None or axes < 1:
        return None
    if "pads" not in given:
        return np.zeros((2, axes), np.int64)
    pads = np.asarray(given["pads"].ints, np.int64)
    return pads.reshape(2, axes) if auto_pad == b"NOTSET" and pads.size == 2 * axes else None


def _spatial_axes(conv: NodeProto, constants: Constants) -> int | None:
    """How many spatial axes a Conv has, from the first that tells."""
    given = attributes(conv)
    if "pads" in given:
        return len(given["pads"].ints) // 2
    if "kernel_shape" in given:
        return len(given["kernel_shape"].ints)
    weight = constants.find(conv.input[1])
    try:
        return None if weight is None else len(weight.shape) - 2
    except ConstantError:
        return None


def _added_pads(pad: NodeProto, spatial: int, constants: Constants) -> Pads | None:
    """What a Pad adds to the spatial axes, or None if it is none to merge."""
    mode, rank = attributes(pad).get("mode"), 2 + spatial
    if mode is not None and mode.s != b"constant":  # rule 1
        return None
    value, pads, axes = (_operand(pad, name, constants) for name in ("value", "pads", "axes"))
    if value is None or value.any() or pads is None or axes is None:  # rules 1 and 2
        return None
    axes = axes if axes.size else np.arange(rank)
    if not _are_axes(axes, rank) or pads.size != 2 * axes.size:  # rule 4
        return None
    full = np.zeros((2, rank), np.int64)
    full[:, axes] = pads.reshape(2, -1)
    return None if full.min() < 0 or full[:, :2].any() else full[:, 2:]  # rule 2


def _are_axes(axes: NDArray[Any], rank: int) -> bool:
    """Whether these are different axes of a tensor, counted from its end if negative."""
    in_range = axes.min() >= -rank and axes.max() < rank
    return bool(in_range) and np.unique(axes % rank).size == axes.size


def _operand(pad: NodeProto, name: str, constants: Constants) -> NDArray[Any] | None:
    """What a Pad is given, flat: nothing if it is absent, None if it is not constant."""
    given, position = attributes(pad), _INPUTS.index(name)
    if constants.scope.opset < 11:
        return np.ravel(helper.get_attribute_value(given[name])) if name in given else np.empty(0)
    source = pad.input[position] if position < len(pad.input) else ""
    if not source:
        return np.empty(0)
    found = constants.find(source)
    try:
        return None if found is None else found.read().reshape(-1)
    except ConstantError:
        return None


def _is(node: NodeProto, op: str) -> bool:
    """Whether it is this operator of ONNX with all its attributes known."""
    known = not any(attribute.ref_attr_name for attribute in node.attribute)  # rule 5
    return known and is_operator(node, op)


def _apply(conv: NodeProto, merged: _Merged) -> None:
    """Rewrite a Conv, in a copy of the model that was searched."""
    conv.input[0] = merged.data
    pads = helper.make_attribute("pads", merged.pads.reshape(-1).tolist())
    given = attributes(conv)
    if "pads" in given:
        given["pads"].CopyFrom(pads)
    else:
        conv.attribute.append(pads)
    drop(conv.attribute, [a.name == "auto_pad" and a.s == b"VALID" for a in conv.attribute])
