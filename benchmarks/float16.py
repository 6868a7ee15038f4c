"""float32 models of `models/` -> float16."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, numpy_helper

__all__ = ["to_float16"]


def to_float16(model: ModelProto) -> ModelProto:
    """A copy in which all weights, inputs and outputs are float16.

    Nodes that state a type themselves (Cast, Constant and the like) are not looked at: the models of
    `models/`, and what onnxlr makes of them, have none.

    Raises:
        ValueError: a node states a type.
    """
    half = ModelProto()
    half.CopyFrom(model)
    typed = {node.op_type for node in half.graph.node} & {"Cast", "Constant", "ConstantOfShape", "EyeLike"}
    if typed:
        raise ValueError(f"cannot convert nodes of type {', '.join(sorted(typed))}")
    del half.graph.value_info[:]
    for value in (*half.graph.input, *half.graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.FLOAT16
    for tensor in half.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            array = numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    onnx.checker.check_model(half)
    return half
