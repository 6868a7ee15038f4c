"""Tensors that a graph stores: initializers, and Constant nodes with a tensor."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import GraphProto, TensorProto, numpy_helper

from onnxlr.errors import ModelError
from onnxlr.external_data import is_external
from onnxlr.model_file import Model, read_tensor
from onnxlr.training.elements import Array
from passes.graph import attributes, is_operator

__all__ = ["put", "stored_tensors"]

_HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
_NUMBERS: Mapping[int, str] = {TensorProto.FLOAT: "float_data", TensorProto.DOUBLE: "double_data"}
"""Where a tensor has its numbers if not as bytes; those of half precision are in int32_data."""


def stored_tensors(graph: GraphProto) -> dict[str, TensorProto]:
    """The tensors of a graph by the name of their value: for a Constant node that of its output."""
    found = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if is_operator(node, "Constant"):
            value = attributes(node).get("value")
            if value is not None and value.HasField("t"):
                found[node.output[0]] = value.t
    return found


def put(array: Array, tensor: TensorProto, model: Model) -> None:
    """Write new numbers into a tensor of a model, in its type and the field where it has them.

    A tensor that has these numbers already is not touched. External data go to the model's spill.

    Args:
        array: of the tensor's shape.
        tensor: changed in place.
        model: the tensor's model.

    Raises:
        ModelError: the numbers are too large for its type.
    """
    old = read_tensor(model, tensor)
    with np.errstate(over="ignore"):
        new = np.asarray(array, old.dtype).reshape(old.shape)
    if np.isfinite(array).all() and not np.isfinite(new.astype(np.float64)).all():
        raise ModelError(
            f"{model.name}: trained numbers of '{tensor.name}' are too large for {old.dtype.name}; "
            "train with a smaller learning rate, or convert the model to float32 first"
        )
    if new.tobytes() == old.tobytes():
        return
    if is_external(tensor):
        _put_stored(model.store(new), tensor)
    elif tensor.HasField("raw_data"):
        tensor.raw_data = numpy_helper.from_array(new).raw_data  # little-endian
    elif tensor.data_type in _HALVES:
        tensor.int32_data[:] = new.view(np.uint16).ravel().tolist()
    else:
        getattr(tensor, _NUMBERS[tensor.data_type])[:] = new.ravel().tolist()


def _put_stored(stored: TensorProto, tensor: TensorProto) -> None:
    """Take over where the bytes are, or the bytes."""
    del tensor.external_data[:]
    tensor.ClearField("data_location")
    if is_external(stored):
        tensor.data_location = stored.data_location
        tensor.external_data.extend(stored.external_data)
    else:
        tensor.raw_data = stored.raw_data
