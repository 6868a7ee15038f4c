"""What analysis finds: a `Layer` that can be factorized, or a `Skipped` with its reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxlr.conv import ConvSpec, Spatial, link_macs
from onnxlr.layout import Layout
from passes.constants import Constant
from passes.graph import Key

__all__ = ["Layer", "Skipped"]


@dataclass(frozen=True, slots=True)
class Layer:
    """A linear node that can be considered for factorization.

    Attributes:
        name: the node's name, or its output's where that is empty or not unique.
        op_type: Conv, ConvTranspose, Gemm or MatMul.
        key: scope and output of the node; what passes know it by.
        conv: the layer as a Conv; a Gemm or MatMul has no spatial axes.
        weight: the constant operand.
        layout: how that is stored.
        spatial: sizes of the input's spatial axes, None if unknown.
        repeats: how often the Conv runs for one run of the model: batch size, or rows of a MatMul; None if
            unknown. In the body of a Loop or Scan: for one iteration.
    """

    name: str
    op_type: str
    key: Key
    conv: ConvSpec
    weight: Constant
    layout: Layout
    spatial: Spatial | None
    repeats: int | None

    def read_weight(self) -> NDArray[Any]:
        """The weight `(M, C / group, *kernel_shape)`, in a type that numpy computes with."""
        stored = self.weight.read()
        numeric = (
            stored if stored.dtype.kind == "f" else stored.astype(np.float32)
        )  # bfloat16 is an extension
        return self.layout.load(numeric, self.conv)

    @property
    def macs(self) -> int | None:
        """Multiply-accumulates of one run of the model, None if the sizes are unknown."""
        return self.chain_macs((self.conv,))

    def chain_macs(self, chain: Sequence[ConvSpec]) -> int | None:
        """Multiply-accumulates of a chain in the layer's place, None if the sizes are unknown."""
        if self.spatial is None or self.repeats is None:
            return None
        return self.repeats * int(sum(link_macs(chain, self.spatial)))


@dataclass(frozen=True, slots=True)
class Skipped:
    """A linear node that is left alone, and why."""

    name: str
    reason: str
