"""Fold BatchNormalization into the Conv or Gemm before it.

    BN(W * x + b) = diag(f) W * x + f (b - mean) + B,   f = scale / sqrt(var + epsilon)

A BatchNormalization is folded where
1. it is in inference mode and its four parameters are constants of the graph;
2. its input is the output of a Conv or Gemm, and nothing else reads that output: no other node, no body of an
   If or Loop, not the graph's outputs;
3. the weight is constant and read by this node only (a shared weight would be stored twice); the bias is
   constant or absent; a Gemm's bias must broadcast over rows.
Everything else stays as it is. Arithmetic is float64, the results have the weight's type.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from passes.graph import attributes, constant_tensors, count_reads, free_name, value_names

__all__ = ["FoldedModel", "fold_batchnorm"]

Array = NDArray[np.float64]
_FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}


@dataclass(frozen=True, slots=True)
class FoldedModel:
    """A model without the BatchNormalizations that could be folded.

    Attributes:
        model: the new model; the argument itself where nothing was folded.
        scales: f of shape `(M,)` by the output name of the Conv or Gemm it was folded into.
    """

    model: ModelProto
    scales: Mapping[str, Array]


def fold_batchnorm(model: ModelProto, base_dir: str = "") -> FoldedModel:
    """Fold every BatchNormalization that the module's rules allow.

    Args:
        model: left alone. Folded weights and biases are added under new names; the old ones stay for
            `remove_unused`.
        base_dir: the folder that locations of external data are relative to.
    """
    folding = _Folding(model, base_dir)
    pairs = folding.find()
    if not pairs:
        return FoldedModel(model, {})
    result = ModelProto()
    result.CopyFrom(model)
    scales = folding.apply(result, pairs)
    return FoldedModel(result, scales)


class _Folding:
    def __init__(self, model: ModelProto, base_dir: str) -> None:
        self._graph = model.graph
        self._base_dir = base_dir
        self._constants = constant_tensors(model.graph)
        self._reads = count_reads(model.graph)
        self._taken = value_names(model.graph)
        self._opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)

    def find(self) -> dict[int, int]:
        """Position of each BatchNormalization to fold -> position of its Conv or Gemm."""
        producers = {name: i for i, node in enumerate(self._graph.node) for name in node.output}
        pairs = {}
        for i, node in enumerate(self._graph.node):
            source = producers.get(node.input[0], -1) if node.op_type == "BatchNormalization" else -1
            if source < 0 or self._reads[node.input[0]] != 1:  # rule 2
                continue
            if self._can_vanish(node) and self._can_absorb(self._graph.node[source]):
                pairs[i] = source
        return pairs

    def _can_vanish(self, node: NodeProto) -> bool:  # rule 1
        values = attributes(node)
        training = "training_mode" in values and values["training_mode"].i != 0
        per_channel = "spatial" not in values or values["spatial"].i != 0
        if node.domain or self._opset < 7 or training or not per_channel:
            return False
        return sum(map(bool, node.output)) == 1 and all(map(self._is_float, node.input[1:]))

    def _can_absorb(self, node: NodeProto) -> bool:  # rule 3
        if node.domain or node.op_type not in ("Conv", "Gemm") or self._reads[node.input[1]] != 1:
            return False
        bias = _bias_name(node)
        if not self._is_float(node.input[1]) or (bias and not self._is_float(bias)):
            return False
        if node.op_type == "Conv":
            return True
        rows = [*self._constants[bias].dims][:-1] if bias else []
        return all(size == 1 for size in rows) and (bool(bias) or self._opset >= 11)

    def _is_float(self, name: str) -> bool:
        return name in self._constants and self._constants[name].data_type in _FLOATS

    def apply(self, model: ModelProto, pairs: Mapping[int, int]) -> dict[str, Array]:
        """Rewrite `model`, a copy of the one that was searched."""
        scales = {}
        for position, source in pairs.items():
            norm, node = model.graph.node[position], model.graph.node[source]
            scale, shift = self._affine(norm)
            model.graph.initializer.extend(self._absorb(node, scale, shift))
            node.output[0] = norm.output[0]
            scales[node.output[0]] = scale
        kept = [node for i, node in enumerate(model.graph.node) if i not in pairs]
        nodes = [NodeProto.FromString(node.SerializeToString()) for node in kept]
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        return scales

    def _affine(self, norm: NodeProto) -> tuple[Array, Array]:
        """f and the shift B - mean f."""
        gamma, beta, mean, var = (self._array(name) for name in norm.input[1:5])
        values = attributes(norm)
        epsilon = values["epsilon"].f if "epsilon" in values else 1e-5
        scale = gamma / np.sqrt(var + epsilon)
        return scale, beta - mean * scale

    def _absorb(self, node: NodeProto, scale: Array, shift: Array) -> list[TensorProto]:
        """Point `node` to a new weight and bias, and return them."""
        weight_name, bias_name = node.input[1], _bias_name(node)
        weight = self._array(weight_name)
        bias = self._array(bias_name).reshape(-1) if bias_name else np.zeros(1)
        values = attributes(node)
        axis = 0
        if node.op_type == "Gemm":
            axis = 0 if "transB" in values and values["transB"].i else 1
            if "beta" in values:
                bias = bias * values["beta"].f
                values["beta"].f = 1.0
        weight = weight * scale.reshape([-1 if i == axis else 1 for i in range(weight.ndim)])
        data_type = self._constants[weight_name].data_type
        folded = [
            self._tensor(weight, f"{weight_name}_folded", data_type),
            self._tensor(bias * scale + shift, f"{bias_name or weight_name + '_bias'}_folded", data_type),
        ]
        inputs = [node.input[0], *(tensor.name for tensor in folded)]
        del node.input[:]
        node.input.extend(inputs)
        return folded

    def _array(self, name: str) -> Array:
        return numpy_helper.to_array(self._constants[name], self._base_dir).astype(np.float64)

    def _tensor(self, array: Array, name: str, data_type: int) -> TensorProto:
        typed = array.astype(helper.tensor_dtype_to_np_dtype(data_type))
        return numpy_helper.from_array(typed, free_name(name, self._taken))


def _bias_name(node: NodeProto) -> str:
    return node.input[2] if len(node.input) > 2 else ""
