"""ONNX shape inference: model + shapes of its inputs -> shapes of all values. Reads no weights."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from math import prod

from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto, helper, numpy_helper, shape_inference

from onnxlr.errors import UsageError
from passes.constants import ConstantError, Constants, all_constants
from passes.graph import Key, scopes

__all__ = ["Shapes", "infer_shapes"]

_log = logging.getLogger(__name__)

Shapes = Mapping[Key, tuple[int | None, ...]]
"""Dimensions of values by the path of their scope and their name; None where unknown."""

_LARGE = 1024  # elements; larger tensors do not steer shape inference


def infer_shapes(
    model: ModelProto, input_shapes: Mapping[str, Sequence[int]] | None = None, folder: str = ""
) -> Shapes:
    """Shapes of all values of the main graph and of bodies, from the inputs alone.

    The file's value_info is not trusted, large tensors are not looked into. Constant expressions are computed
    first: ONNX's inference does not see through all that exporters write.

    Args:
        model: left alone.
        input_shapes: shapes of inputs whose dimensions are symbolic. A symbolic first dimension that is not
            given counts as 1.
        folder: what locations of external data are relative to.

    Raises:
        UsageError: `input_shapes` names no input, or contradicts the model.
    """
    skeleton = _skeleton(model, folder)
    _set_input_shapes(skeleton.graph, input_shapes or {})
    try:
        inferred = shape_inference.infer_shapes(skeleton, data_prop=True)
    except Exception as error:  # InferenceError, and others for what it cannot parse
        _log.warning("shape inference failed, sizes are unknown: %s", error)
        inferred = skeleton
    shapes: dict[Key, tuple[int | None, ...]] = {}
    for scope in scopes(inferred):
        if isinstance(scope.holder, GraphProto):
            values = (*scope.holder.input, *scope.holder.value_info, *scope.holder.output)
            known = (value for value in values if value.type.HasField("tensor_type"))
            shapes |= {(scope.path, value.name): _dims(value) for value in known}
    return shapes


def _skeleton(model: ModelProto, folder: str) -> ModelProto:
    """The model without value_info, and with what is constant stored or, if it is large, declared."""
    skeleton = ModelProto(ir_version=max(model.ir_version, 4))
    skeleton.opset_import.extend(model.opset_import)
    skeleton.functions.extend(model.functions)
    graph = skeleton.graph
    graph.name = model.graph.name or "graph"
    stored = {tensor.name for tensor in model.graph.initializer}
    graph.input.extend(value for value in model.graph.input if value.name not in stored)
    for tensor in model.graph.initializer:
        if prod(tensor.dims) > _LARGE:
            value = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            graph.input.append(value)
        else:
            graph.initializer.append(tensor)
    constants = next(all_constants(model, folder))
    for node in model.graph.node:
        if not _declare(node, constants, graph):
            graph.node.append(node)
    for value in model.graph.output:  # of outputs only the type is needed
        graph.output.append(ValueInfoProto(name=value.name))
    for scope in scopes(skeleton):
        del scope.holder.value_info[:]
    return skeleton


def _declare(node: NodeProto, constants: Constants, graph: GraphProto) -> bool:
    """Whether the node computes a constant, whose value or shape `graph` then has instead."""
    found = constants.find(node.output[0]) if node.output else None
    if found is None or found.tensor is not None:
        return False
    try:
        if prod(found.shape) > _LARGE:
            graph.input.append(helper.make_tensor_value_info(node.output[0], found.data_type, found.shape))
        else:
            graph.initializer.append(numpy_helper.from_array(found.read(), node.output[0]))
    except ConstantError:
        return False
    return True


def _set_input_shapes(graph: GraphProto, input_shapes: Mapping[str, Sequence[int]]) -> None:
    known = {value.name: value for value in graph.input}
    for name in input_shapes:
        if name not in known:
            raise UsageError(f"input shape given for '{name}', but the inputs are: {', '.join(known)}")
    for value in graph.input:
        given = input_shapes.get(value.name)
        dims = value.type.tensor_type.shape.dim
        if given is not None and len(given) != len(dims):
            raise UsageError(f"input '{value.name}' has {len(dims)} dimensions, {len(given)} were given")
        for axis, dim in enumerate(dims):
            if given is not None:
                if dim.HasField("dim_value") and dim.dim_value != given[axis]:
                    raise UsageError(
                        f"input '{value.name}' has size {dim.dim_value} along axis {axis}, "
                        f"{given[axis]} was given; only symbolic dimensions can be set"
                    )
                dim.dim_value = given[axis]
            elif axis == 0 and not dim.HasField("dim_value"):
                dim.dim_value = 1


def _dims(value: ValueInfoProto) -> tuple[int | None, ...]:
    dims = value.type.tensor_type.shape.dim
    return tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in dims)
