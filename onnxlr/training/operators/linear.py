"""Matrix products."""

from __future__ import annotations

import torch
from torch import Tensor

from onnxlr.training.operators.base import Node, Operator, Table

__all__ = ["OPERATORS"]


def gemm(node: Node, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    """`alpha · A' · B' + beta · C`; C broadcasts to `(M, N)`."""
    left = a.T if node.flag("transA") else a
    right = b.T if node.flag("transB") else b
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    y = left @ right
    y = y if alpha == 1.0 else alpha * y
    if c is None:
        return y
    return y + (c if beta == 1.0 else beta * c)


def einsum(node: Node, *operands: Tensor) -> Tensor:
    """By ONNX's `equation`, which torch reads as it is but for spaces."""
    return torch.einsum(node.get("equation", "").replace(" ", ""), *operands)


OPERATORS: Table = {
    "Gemm": Operator(gemm, layer_weights=(0, 1, 2)),
    "MatMul": Operator(torch.matmul, layer_weights=(0, 1), takes_node=False),
    "Einsum": Operator(einsum, layer_weights=(0, 1)),
}
