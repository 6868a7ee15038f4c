"""`Layout`: how a node stores the weight that schemes see as `(M, C / group, *kernel_shape)`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from onnxlr.conv import ConvSpec

__all__ = ["Layout"]


@dataclass(frozen=True, slots=True)
class Layout:
    """How the constant operand of a node is stored.

    Attributes:
        position: which input of the node it is, 0 or 1.
        swapped: whether input channels come first, as in ConvTranspose `(C, M / group, *kernel_shape)` or in
            MatMul `(C, M)`.
        batch: leading axes of a MatMul's operand: a matrix for each group.
    """

    position: int = 1
    swapped: bool = False
    batch: tuple[int, ...] = ()

    def load(self, stored: NDArray[Any], conv: ConvSpec) -> NDArray[Any]:
        """A stored operand as the weight of `conv`."""
        axes = len(conv.kernel_shape)
        blocks = stored.reshape(conv.group, -1, *stored.shape[stored.ndim - 1 - axes :])
        blocks = blocks.swapaxes(1, 2) if self.swapped else blocks
        return blocks.reshape(conv.weight_shape)

    def store(self, weight: NDArray[Any], conv: ConvSpec) -> NDArray[Any]:
        """The weight of `conv` as a node stores it; the inverse of `load`."""
        blocks = weight.reshape(conv.group, -1, *weight.shape[1:])
        blocks = blocks.swapaxes(1, 2) if self.swapped else blocks
        if conv.kernel_shape:
            return blocks.reshape(-1, *blocks.shape[2:])
        return blocks.reshape(*self.batch, *blocks.shape[1:])
