"""Fold BatchNormalization into the Conv or Gemm before it.

    BN(W * x + b) = diag(f) W * x + f (b - mean) + B,   f = scale / sqrt(var + epsilon)

A BatchNormalization is folded where
1. it is in inference mode and its four parameters are constant (`passes.constants`);
2. its input is the output of a Conv or Gemm, and nothing else reads that output: no other node, no body of an
   If or Loop, not the graph's outputs;
3. the weight is constant and read by this node only, also under the names that Identity nodes give it and
   as what it is computed from (a shared weight would be stored twice); the bias is constant or absent; a
   Gemm's must broadcast over rows;
4. sizes agree, and the results are finite in the weight's type;
5. training_info refers to none of these constants.
Everything else stays as it is, bodies of nodes and local functions too. Arithmetic is float64, the results
have the weight's type.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from passes.constants import FLOATS, Constant, ConstantError, Constants
from passes.graph import (
    add_initializers,
    attributes,
    count_reads,
    drop,
    free_name,
    opset,
    scopes,
    trained_names,
    value_names,
)

__all__ = ["FoldedModel", "fold_batchnorm"]

Array = NDArray[np.float64]
_EPSILON = float(np.float32(1e-5))  # attributes are float32


@dataclass(frozen=True, slots=True)
class FoldedModel:
    """A model without the BatchNormalizations that could be folded.

    Attributes:
        model: the new model; the argument itself where nothing was folded.
        scales: f of shape `(M,)` by the output name of the Conv or Gemm it was folded into.
    """

    model: ModelProto
    scales: Mapping[str, Array]


def fold_batchnorm(model: ModelProto, base_dir: str = "", only: Collection[str] | None = None) -> FoldedModel:
    """Fold every BatchNormalization that the module's rules allow.

    Args:
        model: left alone. Folded weights and biases are added under new names; the old ones stay for
            `remove_unused`.
        base_dir: the folder that locations of external data are relative to.
        only: outputs of the BatchNormalizations to consider; None for all.
    """
    folding = _Folding(model, base_dir)
    pairs = folding.find(only)
    if not pairs:
        return FoldedModel(model, {})
    result = ModelProto()
    result.CopyFrom(model)
    scales = folding.apply(result, pairs)
    return FoldedModel(result if scales else model, scales)


class _Folding:
    def __init__(self, model: ModelProto, base_dir: str) -> None:
        self._graph = model.graph
        self._constants = Constants(next(scopes(model)), base_dir)
        self._trained = trained_names(model)
        self._reads = count_reads(model.graph) + Counter(self._trained)
        self._taken = value_names(model)
        self._opset = opset(model)

    def find(self, only: Collection[str] | None) -> dict[int, int]:
        """Position of each BatchNormalization to fold -> position of its Conv or Gemm."""
        producers = {name: i for i, node in enumerate(self._graph.node) for name in node.output}
        pairs = {}
        for i, node in enumerate(self._graph.node):
            position = producers.get(node.input[0], -1) if node.op_type == "BatchNormalization" else -1
            is_wanted = only is None or node.output[0] in only
            if position < 0 or not is_wanted or self._reads[node.input[0]] != 1:  # rule 2
                continue
            source = self._graph.node[position]
            if self._can_vanish(node) and self._can_absorb(source) and self._agree(node, source):
                pairs[i] = position
        return pairs

    def _can_vanish(self, node: NodeProto) -> bool:  # rule 1
        values = attributes(node)
        training = "training_mode" in values and values["training_mode"].i != 0
        per_channel = "spatial" not in values or values["spatial"].i != 0
        if node.domain or self._opset < 7 or training or not per_channel:
            return False
        return sum(map(bool, node.output)) == 1 and all(
            self._float(name) is not None for name in node.input[1:]
        )

    def _can_absorb(self, node: NodeProto) -> bool:  # rule 3
        if node.domain or node.op_type not in ("Conv", "Gemm"):
            return False
        weight, bias = self._float(node.input[1]), _bias_name(node)
        if weight is None or not weight.has_one_reader(self._reads) or (bias and self._float(bias) is None):
            return False
        if node.op_type == "Conv":
            return True
        rows = self._shape(bias)[:-1] if bias else ()
        return all(size == 1 for size in rows) and (bool(bias) or self._opset >= 11)

    def _agree(self, norm: NodeProto, node: NodeProto) -> bool:  # rule 4
        shape, bias = self._shape(node.input[1]), _bias_name(node)
        channels = shape[_output_axis(node)] if len(shape) >= 2 else -1
        per_channel = all(self._shape(name) == (channels,) for name in norm.input[1:])
        return per_channel and (not bias or prod(self._shape(bias)) in (1, channels))

    def _float(self, name: str) -> Constant | None:
        """The constant, if the value is one of a floating-point type."""
        found = self._constants.find(name)
        if found is None or found.name in self._trained:  # rule 5
            return None
        try:
            return found if found.data_type in FLOATS else None
        except ConstantError:
            return None

    def _shape(self, name: str) -> tuple[int, ...]:
        found = self._float(name)
        return () if found is None else found.shape

    def apply(self, model: ModelProto, pairs: Mapping[int, int]) -> dict[str, Array]:
        """Rewrite `model`, a copy of the one that was searched."""
        scales: dict[str, Array] = {}
        for position, source in pairs.items():
            norm, node = model.graph.node[position], model.graph.node[source]
            with np.errstate(all="ignore"):  # what is not finite is not folded
                scale, shift = self._affine(norm)
                arrays = self._folded(node, scale, shift)
            if all(np.isfinite(array).all() for array in arrays):  # rule 4
                add_initializers(model, self._absorb(node, arrays))
                node.output[0] = norm.output[0]
                scales[node.output[0]] = scale
        gone = {i for i, source in pairs.items() if model.graph.node[source].output[0] in scales}
        drop(model.graph.node, [i in gone for i in range(len(model.graph.node))])
        return scales

    def _affine(self, norm: NodeProto) -> tuple[Array, Array]:
        """f and the shift B - mean f."""
        gamma, beta, mean, var = (self._array(name) for name in norm.input[1:5])
        values = attributes(norm)
        epsilon = values["epsilon"].f if "epsilon" in values else _EPSILON
        scale = gamma / np.sqrt(var + epsilon)
        return scale, beta - mean * scale

    def _folded(self, node: NodeProto, scale: Array, shift: Array) -> tuple[NDArray[Any], NDArray[Any]]:
        """The new weight and bias, in the weight's type."""
        stored, bias_name, values = self._read(node.input[1]), _bias_name(node), attributes(node)
        bias = self._array(bias_name).reshape(-1) if bias_name else np.zeros(1)
        beta = values["beta"].f if "beta" in values else 1.0
        axis = _output_axis(node)
        weight = stored.astype(np.float64) * scale.reshape(
            [-1 if i == axis else 1 for i in range(stored.ndim)]
        )
        return weight.astype(stored.dtype), (beta * bias * scale + shift).astype(stored.dtype)

    def _absorb(self, node: NodeProto, arrays: Iterable[NDArray[Any]]) -> list[TensorProto]:
        """Point `node` to its new weight and bias, and return them."""
        stems = (node.input[1], _bias_name(node) or f"{node.input[1]}_bias")
        names = [free_name(f"{stem}_folded", self._taken) for stem in stems]
        inputs = [node.input[0], *names]
        del node.input[:]
        node.input.extend(inputs)
        values = attributes(node)
        if "beta" in values:
            values["beta"].f = 1.0
        return [numpy_helper.from_array(array, name) for array, name in zip(arrays, names, strict=True)]

    def _array(self, name: str) -> Array:
        return self._read(name).astype(np.float64)

    def _read(self, name: str) -> NDArray[Any]:
        found = self._float(name)
        assert found is not None, "rules 1 and 3"  # noqa: S101
        return found.read()


def _output_axis(node: NodeProto) -> int:
    """The axis of the weight that runs over output channels."""
    values = attributes(node)
    transposed = "transB" in values and values["transB"].i != 0
    return 1 if node.op_type == "Gemm" and not transposed else 0


def _bias_name(node: NodeProto) -> str:
    return node.input[2] if len(node.input) > 2 else ""
