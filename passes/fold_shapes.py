"""Sizes that are known before the run, as constants.

    Gather(Shape(x), 2) = 32   where x is [N, 3, 32, 32]

Exporters compute pads from sizes that never change; once these are constants, so are the pads
(`passes.constants`). What is replaced by a Constant node:
1. a Shape, if all sizes of its input are known (`passes.inference`);
2. a Gather of a Shape at constant indices, if the sizes there are known; the others may be symbolic.
The Shape has no `start` and no `end`. Local functions are left alone: sizes in them are not known.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper

from passes.constants import ConstantError, Constants, all_constants
from passes.graph import Key, attributes, is_operator, scopes
from passes.inference import Dims, ValueType, infer_values

__all__ = ["fold_shapes"]

Sizes = NDArray[np.int64]


def fold_shapes(model: ModelProto, base_dir: str = "") -> ModelProto:
    """Fold every size that the module's rules allow.

    Args:
        model: left alone; returned itself where nothing was folded.
        base_dir: the folder that locations of external data are relative to.
    """
    plans = _plans(model, base_dir)
    if not any(plans):
        return model
    result = ModelProto()
    result.CopyFrom(model)
    while any(plans):  # sizes behind a Pad are known once its pads are
        for scope, plan in zip(scopes(result), plans, strict=True):
            for position, sizes in plan.items():
                node = scope.holder.node[position]
                value = numpy_helper.from_array(sizes, node.output[0])
                node.CopyFrom(helper.make_node("Constant", [], list(node.output), node.name, value=value))
        plans = _plans(result, base_dir)
    return result


def _plans(model: ModelProto, base_dir: str) -> list[dict[int, Sizes]]:
    """For every scope: position of each node that gives known sizes -> these sizes."""
    searched = list(all_constants(model, base_dir))
    if not any(is_operator(node, "Shape") for constants in searched for node in constants.scope.holder.node):
        return []
    types = infer_values(model, base_dir)
    return [_plan(constants, types) for constants in searched]


def _plan(constants: Constants, types: Mapping[Key, ValueType]) -> dict[int, Sizes]:
    """See `_plans`."""
    scope = constants.scope
    known: dict[str, Dims] = {}
    plan: dict[int, Sizes] = {}
    for i, node in enumerate(scope.holder.node):
        if is_operator(node, "Shape") and not node.attribute:
            value = types.get((scope.path, node.input[0]))
            if value is None or value.dims is None:
                continue
            known[node.output[0]] = value.dims
            if None not in value.dims:  # rule 1
                plan[i] = np.asarray(value.dims, np.int64)
        elif is_operator(node, "Gather") and node.input[0] in known:
            sizes = _gathered(node, known[node.input[0]], constants)
            if sizes is not None:
                plan[i] = sizes
    return plan


def _gathered(node: NodeProto, dims: Dims, constants: Constants) -> Sizes | None:  # rule 2
    """What a Gather takes of a shape, if all of it is known."""
    found = constants.find(node.input[1])
    axis = attributes(node).get("axis")
    if found is None or (axis is not None and axis.i not in (0, -1)):
        return None
    try:
        indices = found.read()
    except ConstantError:
        return None
    if not all(-len(dims) <= index < len(dims) for index in indices.reshape(-1)):
        return None
    sizes = [dims[index] for index in indices.reshape(-1)]
    if None in sizes:
        return None
    return np.asarray(sizes, np.int64).reshape(indices.shape)
