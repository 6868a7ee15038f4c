"""Element types, and values on their way between numpy and torch.

Half precision is for storing, not for training: float16 and bfloat16 of a file become float32 here. Where
arithmetic in half precision pays, on a GPU, autocast does it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import TensorProto
from torch import Tensor

from passes.constants import FLOATS

__all__ = ["Array", "Value", "as_array", "as_tensor", "is_float", "torch_type", "widened"]

Array: TypeAlias = NDArray[Any]
Value: TypeAlias = Tensor | Array
"""What a name of a graph stands for. A numpy array is known without the data, and stays on the host: a
constant, a size, an axis, and what is computed from these."""

_TYPES: Mapping[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.FLOAT16: torch.float32,
    TensorProto.BFLOAT16: torch.float32,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.INT8: torch.int8,
    TensorProto.INT16: torch.int16,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.UINT8: torch.uint8,
    TensorProto.UINT16: torch.int32,  # torch computes with few unsigned types
    TensorProto.UINT32: torch.int64,
    TensorProto.UINT64: torch.int64,
    TensorProto.BOOL: torch.bool,
}

_UNSIGNED = {np.dtype(np.uint16): np.int32, np.dtype(np.uint32): np.int64, np.dtype(np.uint64): np.int64}


def torch_type(data_type: int) -> torch.dtype:
    """The type that stands for a `TensorProto.DataType`.

    Raises:
        ValueError: torch has none: strings, complex numbers, and types of less than 8 bits.
    """
    if data_type not in _TYPES:
        raise ValueError(f"elements of type {TensorProto.DataType.Name(data_type)} are not supported")
    return _TYPES[data_type]


def is_float(data_type: int) -> bool:
    """Whether a `TensorProto.DataType` is one that is trained."""
    return data_type in FLOATS


def widened(array: Array) -> Array:
    """The array in the type that it is computed in: float32 for half precision, signed for unsigned."""
    if array.dtype == np.float16 or array.dtype.name == "bfloat16":
        return array.astype(np.float32)
    return array.astype(_UNSIGNED[array.dtype]) if array.dtype in _UNSIGNED else array


def as_tensor(value: Value, device: torch.device) -> Tensor:
    """A value on a device; an array is copied."""
    if isinstance(value, Tensor):
        return value.to(device)
    return torch.tensor(widened(value)).to(device)


def as_array(value: Value) -> Array:
    """A value on the host; a tensor on a GPU has to be waited for."""
    if isinstance(value, Tensor):
        return np.asarray(value.detach().cpu().numpy())
    return value
