"""Element types and dimensions of the values of a model, by ONNX's shape inference.

1. The file's value_info and the declared shapes of its outputs are not trusted: exporters leave stale ones.
2. Constant expressions are computed first (`passes.constants`): ONNX's inference does not see through all
   that exporters write.
3. Large tensors are declared, not looked into: a model of any size is inferred, and no weight is read.
4. A failing inference is no error: what the inputs and stored tensors tell is known even then.
5. Values of bodies of nodes are known as well, those of local functions are not: their callers decide.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto, helper, numpy_helper, shape_inference

from passes.constants import ConstantError, Constants, all_constants
from passes.graph import Key, scopes

__all__ = ["Dims", "ValueType", "infer_values"]

Dims = tuple[int | None, ...]
"""Dimensions of a tensor; None where unknown or symbolic."""

_LARGE = 1024  # elements; larger tensors do not steer shape inference


@dataclass(frozen=True, slots=True)
class ValueType:
    """What is known of a tensor before the run.

    Attributes:
        elem_type: its `TensorProto.DataType`; UNDEFINED if unknown.
        dims: its dimensions; None if not even their number is known.
    """

    elem_type: int
    dims: Dims | None


def infer_values(
    model: ModelProto,
    folder: str = "",
    input_dims: Mapping[str, Sequence[int | None]] | None = None,
    on_failure: Callable[[Exception], None] | None = None,
) -> Mapping[Key, ValueType]:
    """Types of the values of the main graph and of bodies, by the path of their scope and their name.

    Args:
        model: left alone.
        folder: what locations of external data are relative to.
        input_dims: dimensions that inputs have beyond what the model says, None for those it leaves open. As
            many as the input has; names of other values are passed over.
        on_failure: told why the inference failed.
    """
    skeleton = _skeleton(model, folder)
    _set_dims(skeleton.graph, input_dims or {})
    try:
        inferred = shape_inference.infer_shapes(skeleton, data_prop=True)
    except Exception as error:  # rule 4: InferenceError, and others for what it cannot parse
        if on_failure is not None:
            on_failure(error)
        inferred = skeleton
    values: dict[Key, ValueType] = {}
    for scope in scopes(inferred):
        if isinstance(scope.holder, GraphProto):
            for tensor in scope.initializers:
                values[scope.path, tensor.name] = ValueType(tensor.data_type, tuple(tensor.dims))
            for value in (*scope.holder.input, *scope.holder.value_info, *scope.holder.output):
                if value.type.HasField("tensor_type"):
                    values[scope.path, value.name] = _value_type(value)
    return values


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
        if prod(tensor.dims) > _LARGE:  # rule 3
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
        else:
            graph.initializer.append(tensor)
    constants = next(all_constants(model, folder))
    for node in model.graph.node:
        if not _declare(node, constants, graph):
            graph.node.append(node)
    for value in model.graph.output:  # rule 1; of outputs only the type is needed
        graph.output.append(ValueInfoProto(name=value.name))
    for scope in scopes(skeleton):
        del scope.holder.value_info[:]
    return skeleton


def _declare(node: NodeProto, constants: Constants, graph: GraphProto) -> bool:
    """Whether the node computes a constant, whose value or shape `graph` then has instead: rule 2."""
    found = constants.find(node.output[0]) if node.output else None
    if found is None:
        return False
    try:
        is_large = prod(found.shape) > _LARGE
        if found.tensor is not None and not (is_large and node.op_type == "Constant"):
            return False
        if is_large:
            graph.input.append(helper.make_tensor_value_info(node.output[0], found.data_type, found.shape))
        else:
            graph.initializer.append(numpy_helper.from_array(found.read(), node.output[0]))
    except ConstantError:
        return False
    return True


def _set_dims(graph: GraphProto, input_dims: Mapping[str, Sequence[int | None]]) -> None:
    """Set the dimensions of inputs that are given and not None."""
    for value in graph.input:
        given = input_dims.get(value.name, ())
        dims = value.type.tensor_type.shape.dim
        for dim, size in zip(dims, given, strict=bool(given)):
            if size is not None:
                dim.dim_value = size


def _value_type(value: ValueInfoProto) -> ValueType:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return ValueType(tensor.elem_type, None)
    sizes = (dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim)
    return ValueType(tensor.elem_type, tuple(sizes))
