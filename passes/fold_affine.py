"""Fold what scales and shifts the output channels of a layer into its weight and bias.

    f (W * x + b) + t = (f W) * x + (f b + t)        BN: f = scale / sqrt(var + epsilon), t = B - mean f

Training frameworks normalize with BatchNormalization; exporters write it as such or as arithmetic, and add a
bias by a node of its own. A run of such nodes, its links, is folded into the layer before it where
1. the layer is a Conv, ConvTranspose, Gemm or MatMul of the main graph, and its second input, the weight, is
   constant (`passes.constants`); a MatMul's has two axes;
2. each link reads the output of the one before, the first that of the layer, and nothing else reads these
   outputs: no other node, no body of an If or Loop, not the graph's outputs;
3. each link is one of
   a. Mul or Add with a constant, Div by a constant, Sub of a constant or from one. The constant has the
      weight's type and one number, or one per output channel along their axis: (M, 1, 1) or (1, M, 1, 1)
      after a 2-D Conv, (M,) or (1, M) after a Gemm, (M,) after a MatMul, whose output may have any rank;
   b. a BatchNormalization in inference mode with four constant parameters, not after a MatMul: its channels
      are the second axis, those of the MatMul the last one;
   and is finite as f and t in float64 (no division by zero, no negative variance);
4. where a link scales, only the layer reads the weight, also under the names that Identity nodes give it and
   as what it is computed from: a shared weight would be stored twice. If all links only add, the weight stays
   as it is and may be shared;
5. the bias is constant and of the right size, a Gemm's C a number or a row; or it is absent and may be. A
   MatMul can have none, so nothing that adds is folded into it: ONNX Runtime fuses MatMul and Add itself;
6. the results are finite in the weight's type; otherwise nothing of the run is folded;
7. training_info refers to none of these values.
The first node that breaks a rule ends the run. All of it is computed in float64 and rounded once, to the
weight's type. Models before opset 7, whose arithmetic broadcasts otherwise, stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from passes.affine_runs import Array, Layer, Run, as_float64, bias_name, find_runs
from passes.graph import attributes, drop, opset
from passes.weights import Weights

__all__ = ["fold_affine"]


def fold_affine(model: ModelProto, base_dir: str = "") -> ModelProto:
    """Fold every BatchNormalization, scale and bias that the module's rules allow.

    Args:
        model: left alone; returned itself where nothing was folded. New weights and biases get new names. Old
            initializers that nothing else reads are not copied; what else became unused is left to
            `remove_unused`.
        base_dir: the folder that locations of external data are relative to.
    """
    if opset(model) < 7:
        return model
    weights = Weights(model, base_dir)
    found = [_fold(run, weights) for run in find_runs(model, weights)]
    folded = [item for item in found if item is not None]
    return _apply(model, folded, weights) if folded else model


@dataclass(frozen=True, slots=True, eq=False)
class _Folded:
    """What becomes of a run: the layer's new weight and bias, None for what stays as it is."""

    run: Run
    weight: TensorProto | None
    bias: TensorProto | None


def _fold(run: Run, weights: Weights) -> _Folded | None:
    """Compute the new tensors of a run; None if they are not finite."""
    node = run.layer.node
    scale, shift = run.total()
    with np.errstate(all="ignore"):
        weight = _new_weight(run.layer, scale) if run.scales else None
        bias = _new_bias(run.layer, scale, shift) if run.shifts or run.layer.bias else None
    if not all(np.isfinite(array).all() for array in (weight, bias) if array is not None):  # rule 6
        return None
    stem = bias_name(node) or f"{node.input[1]}_bias"
    return _Folded(run, _named(weight, node.input[1], weights), _named(bias, stem, weights))


def _new_weight(layer: Layer, scale: Array) -> NDArray[Any]:
    stored = layer.weight.read()
    return (stored.astype(np.float64) * _along(layer.node, stored.shape, scale)).astype(stored.dtype)


def _along(node: NodeProto, shape: tuple[int, ...], scale: Array) -> Array:
    """`scale` in a shape that broadcasts against a weight of this shape, along its output channels."""
    given = attributes(node)
    if node.op_type == "Conv" or ("transB" in given and given["transB"].i != 0):
        return scale.reshape(-1, *(1 for _ in shape[1:]))
    groups = given["group"].i if "group" in given else 1  # of a ConvTranspose: (C, M / groups, …)
    rows = np.repeat(scale.reshape(groups, -1), shape[0] // groups, axis=0)
    return rows.reshape(*shape[:2], *(1 for _ in shape[2:]))


def _new_bias(layer: Layer, scale: Array, shift: Array) -> NDArray[Any]:
    given = attributes(layer.node)
    beta = given["beta"].f if "beta" in given else 1.0
    old = np.zeros(1) if layer.bias is None else beta * as_float64(layer.bias).reshape(-1)
    return (old * scale + shift).astype(helper.tensor_dtype_to_np_dtype(layer.weight.data_type))


def _named(array: NDArray[Any] | None, stem: str, weights: Weights) -> TensorProto | None:
    return None if array is None else numpy_helper.from_array(array, weights.new_name(f"{stem}_folded"))


def _apply(model: ModelProto, folded: Sequence[_Folded], weights: Weights) -> ModelProto:
    """A copy of the model with the new tensors in it and without the links."""
    old, new = [], []
    for item in folded:
        node = item.run.layer.node
        if item.weight is not None:
            old.append(node.input[1])
            new.append(item.weight)
        if item.bias is not None:
            old.append(bias_name(node))
            new.append(item.bias)
    result = weights.exchanged(old, new)
    gone = {link.position for item in folded for link in item.run.links}
    for item in folded:
        last = model.graph.node[item.run.links[-1].position]
        _rewrite(result.graph.node[item.run.layer.position], item, last.output[0])
    drop(result.graph.node, [i in gone for i in range(len(result.graph.node))])
    return result


def _rewrite(node: NodeProto, item: _Folded, output: str) -> None:
    """Make a layer, in a copy of the model, compute what its run did."""
    if item.weight is not None:
        node.input[1] = item.weight.name
    if item.bias is not None:
        node.input[:] = [*node.input[:2], item.bias.name]
        given = attributes(node)
        if "beta" in given:
            given["beta"].f = 1.0
    node.output[0] = output
