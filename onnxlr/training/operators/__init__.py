"""ONNX operators as torch functions: a table for each group of them, and all in one."""

from onnxlr.training.operators import (
    activations,
    arithmetic,
    convolution,
    linear,
    normalization,
    pooling,
    quantization,
    reductions,
    resizing,
    shapes,
    slicing,
    sources,
)
from onnxlr.training.operators.base import Node, Operator, Table

__all__ = ["OPERATORS", "Node", "Operator"]

_GROUPS = (
    *(activations, arithmetic, convolution, linear, normalization, pooling),
    *(quantization, reductions, resizing, shapes, slicing, sources),
)

OPERATORS: Table = {name: operator for group in _GROUPS for name, operator in group.OPERATORS.items()}
"""Operators of ONNX's default domain by `op_type`."""
