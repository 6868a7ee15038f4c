"""ONNX shape inference: model + shapes of its inputs -> shapes of all values. Reads no weights."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from onnx import ModelProto, ValueInfoProto

from onnxlr.errors import UsageError
from passes.graph import Key
from passes.inference import infer_values

__all__ = ["Shapes", "infer_shapes"]

_MOST = 2**62
"""The largest size that is a size; protobuf holds 63 bits."""

_log = logging.getLogger(__name__)

Shapes = Mapping[Key, tuple[int | None, ...]]
"""Dimensions of values by the path of their scope and their name; None where unknown."""


def infer_shapes(
    model: ModelProto, input_shapes: Mapping[str, Sequence[int]] | None = None, folder: str = ""
) -> Shapes:
    """Shapes of all values of the main graph and of bodies, from the inputs alone: `passes.inference`.

    Args:
        model: left alone.
        input_shapes: shapes of inputs whose dimensions are symbolic. A symbolic first dimension that is not
            given counts as 1.
        folder: what locations of external data are relative to.

    Raises:
        UsageError: `input_shapes` names no input, or contradicts the model.
    """
    given = input_shapes or {}
    stored = {tensor.name for tensor in model.graph.initializer}
    inputs = {value.name: value for value in model.graph.input if value.name not in stored}
    for name in given:
        if name not in inputs:
            raise UsageError(f"input shape given for '{name}', but the inputs are: {', '.join(inputs)}")
    dims = {name: _input_dims(value, given.get(name)) for name, value in inputs.items()}
    values = infer_values(model, folder, dims, _warn)
    return {key: value.dims or () for key, value in values.items()}


def _warn(error: Exception) -> None:
    _log.warning("shape inference failed, sizes are unknown: %s", error)


def _input_dims(value: ValueInfoProto, given: Sequence[int] | None) -> list[int | None]:
    """The dimensions of an input, None where they are symbolic and not given."""
    dims = value.type.tensor_type.shape.dim
    if given is not None and len(given) != len(dims):
        raise UsageError(f"input '{value.name}' has {len(dims)} dimensions, {len(given)} were given")
    for number in given or ():
        if not 0 < number <= _MOST:
            raise UsageError(f"input '{value.name}' cannot have a size of {number} along an axis")
    sizes: list[int | None] = []
    for axis, dim in enumerate(dims):
        known = dim.dim_value if dim.HasField("dim_value") else None
        size = known if given is None else given[axis]
        if known is not None and size != known:
            raise UsageError(
                f"input '{value.name}' has size {known} along axis {axis}, "
                f"{size} was given; only symbolic dimensions can be set"
            )
        sizes.append(1 if size is None and axis == 0 else size)
    return sizes
