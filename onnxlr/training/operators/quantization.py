"""QuantizeLinear and DequantizeLinear, with a straight-through gradient (arXiv 1308.3432).

Scales and zero points stay as they are. Quantized values are float32 here, whole numbers within the range of
their type, so that what is before them can be trained.
"""

from __future__ import annotations

import numpy as np
import torch
from onnx import TensorProto, helper
from torch import Tensor

from onnxlr.training.elements import Array
from onnxlr.training.operators.base import Node, Operator, Table

__all__ = ["OPERATORS"]


def quantize(node: Node, x: Tensor, scale: Array, zero: Array | None = None) -> Tensor:
    """`round(x / scale) + zero`, limited to the type of the zero point, uint8 where there is none."""
    default = helper.tensor_dtype_to_np_dtype(node.get("output_dtype", 0) or TensorProto.UINT8)
    limits = np.iinfo(default if zero is None else zero.dtype)
    scaled = x / _along_axis(node, x, scale)
    rounded = scaled + (scaled.round() - scaled).detach()
    shifted = rounded if zero is None else rounded + _along_axis(node, x, zero)
    return torch.clamp(shifted, float(limits.min), float(limits.max))


def dequantize(node: Node, x: Tensor, scale: Array, zero: Array | None = None) -> Tensor:
    """`(x − zero) · scale`."""
    values = x.to(torch.float32)
    shifted = values if zero is None else values - _along_axis(node, x, zero)
    return shifted * _along_axis(node, x, scale)


def _along_axis(node: Node, x: Tensor, numbers: Array) -> Tensor:
    """One number for the tensor, or one for each place of an axis, in a shape that broadcasts."""
    tensor = torch.tensor(numbers.astype(np.float32), device=x.device)
    if tensor.numel() == 1:
        return tensor.reshape(())
    if tensor.ndim != 1:
        raise ValueError(f"{node.op_type} in blocks is not supported")
    shape = [1] * x.ndim
    shape[node.get("axis", 1)] = -1
    return tensor.reshape(shape)


OPERATORS: Table = {
    "DequantizeLinear": Operator(dequantize, numbers=(1, 2)),
    "QuantizeLinear": Operator(quantize, numbers=(1, 2)),
}
