"""How large a model is: parameters, and multiply-accumulates of its linear layers."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

from onnxlr.layer import Layer, Skipped
from onnxlr.model_file import Model
from passes.constants import FLOATS
from passes.graph import all_tensors

__all__ = ["count_macs", "count_params"]


def count_params(model: Model) -> int:
    """Elements of all floating-point tensors."""
    return sum(prod(tensor.dims) for tensor in all_tensors(model.proto) if tensor.data_type in FLOATS)


def count_macs(found: Iterable[Layer | Skipped]) -> int | None:
    """Multiply-accumulates of the layers for one run of the model; None where sizes are unknown."""
    macs = [item.macs for item in found if isinstance(item, Layer)]
    known = [count for count in macs if count is not None]
    return sum(known) if len(known) == len(macs) else None
