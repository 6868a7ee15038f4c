"""ModelProto -> one `Layer` or `Skipped` for every linear node. Reads shapes, no weights."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, shape_inference

from onnxlr.conv import ConvSpec, Spatial, chain_macs
from onnxlr.errors import UsageError
from passes.graph import attributes, constant_tensors, free_name, opset, subgraphs

__all__ = ["Layer", "Shapes", "Skipped", "analyse", "infer_shapes"]

_log = logging.getLogger(__name__)

Shapes = Mapping[str, tuple[int | None, ...]]
"""Dimensions of values by name; None where unknown."""

_FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}

_QUANTIZED = "quantized: factorize before quantizing"
_FUSED = "fused by ONNX Runtime: optimize the model before fusion"

_UNSUPPORTED = {
    "ConvTranspose": "ConvTranspose is not factorized",
    "ConvInteger": _QUANTIZED,
    "MatMulInteger": _QUANTIZED,
    "QLinearConv": _QUANTIZED,
    "QLinearMatMul": _QUANTIZED,
    "DeformConv": "DeformConv is not factorized",
    "Einsum": "Einsum is not factorized",
    "FusedConv": _FUSED,
    "FusedGemm": _FUSED,
    "FusedMatMul": _FUSED,
}
_LARGE = 1024  # elements; larger tensors do not steer shape inference


@dataclass(frozen=True, slots=True)
class Layer:
    """A linear node that can be considered for factorization.

    Attributes:
        name: the node's name, or its output's where that is empty or not unique.
        op_type: Conv, Gemm or MatMul.
        output: name of the node's output; the key for passes.
        conv: the layer as a Conv; a Gemm or MatMul has no spatial axes.
        weight: name of the constant that holds the weight.
        transposed: whether the constant is stored `(C, M)`.
        spatial: sizes of the input's spatial axes, None if unknown.
        repeats: how often the Conv runs for one run of the model: batch size, or rows of a MatMul; None if
            unknown.
    """

    name: str
    op_type: str
    output: str
    conv: ConvSpec
    weight: str
    transposed: bool
    spatial: Spatial | None
    repeats: int | None

    @property
    def macs(self) -> int | None:
        """Multiply-accumulates of one run of the model, None if the sizes are unknown."""
        return self.chain_macs((self.conv,))

    def chain_macs(self, chain: Sequence[ConvSpec]) -> int | None:
        """Multiply-accumulates of a chain in the layer's place, None if the sizes are unknown."""
        if self.spatial is None or self.repeats is None:
            return None
        return self.repeats * int(chain_macs(chain, self.spatial))

    def relative_macs(self, chain: Sequence[ConvSpec]) -> float:
        """MACs of a chain by those of the layer; per input position where the sizes are unknown."""
        return chain_macs(chain, self.spatial) / max(chain_macs((self.conv,), self.spatial), 1.0)


@dataclass(frozen=True, slots=True)
class Skipped:
    """A linear node that is left alone, and why."""

    name: str
    reason: str


def analyse(
    model: ModelProto, input_shapes: Mapping[str, Sequence[int]] | None = None
) -> list[Layer | Skipped]:
    """Every Conv, Gemm, MatMul and relative of them, in graph order, those in bodies of nodes included.

    Args:
        model: left alone.
        input_shapes: shapes of inputs whose dimensions are symbolic. A symbolic first dimension that is not
            given counts as 1.

    Raises:
        UsageError: `input_shapes` names no input, or contradicts the model.
    """
    return list(_Analysis(model, infer_shapes(model, input_shapes)).nodes())


def infer_shapes(model: ModelProto, input_shapes: Mapping[str, Sequence[int]] | None = None) -> Shapes:
    """Shapes of all values of the main graph by ONNX shape inference, from the inputs alone.

    The file's value_info is not trusted, large tensors are not looked into. Arguments as in `analyse`.
    """
    skeleton = _skeleton(model)
    _set_input_shapes(skeleton.graph, input_shapes or {})
    try:
        graph = shape_inference.infer_shapes(skeleton, data_prop=True).graph
    except shape_inference.InferenceError as error:
        _log.warning("shape inference failed, sizes are unknown: %s", error)
        graph = skeleton.graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    values = [*graph.input, *graph.value_info, *graph.output]
    return shapes | {value.name: _dims(value) for value in values if value.type.HasField("tensor_type")}


def _skeleton(model: ModelProto) -> ModelProto:
    """The model with declarations in place of large tensors, and without value_info."""
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
    graph.node.extend(model.graph.node)
    for value in model.graph.output:  # of outputs only the type is needed
        graph.output.append(ValueInfoProto(name=value.name))
    return skeleton


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


class _Analysis:
    def __init__(self, model: ModelProto, shapes: Shapes) -> None:
        self._graph = model.graph
        self._shapes = shapes
        self._constants = constant_tensors(model.graph)
        self._names = Counter(node.name for node in model.graph.node)
        self._given: set[str] = set()
        self._opset = opset(model)

    def nodes(self) -> Iterator[Layer | Skipped]:
        for node in self._graph.node:
            found = self._node(node)
            if found is not None:
                yield found
            for body in subgraphs(node):
                yield from _in_body(body, node)

    def _node(self, node: NodeProto) -> Layer | Skipped | None:
        is_linear = node.domain in ("", "ai.onnx") and node.op_type in ("Conv", "Gemm", "MatMul")
        if not is_linear and node.op_type not in _UNSUPPORTED:
            return None
        is_unique = node.name and self._names[node.name] == 1
        name = free_name(node.name if is_unique else next(iter(node.output), ""), self._given)
        if not is_linear:
            return Skipped(name, _UNSUPPORTED.get(node.op_type, f"operator of domain {node.domain}"))
        reason = self._refusal(node)
        if reason is not None:
            return Skipped(name, reason)
        return self._conv(node, name) if node.op_type == "Conv" else self._dense(node, name)

    def _refusal(self, node: NodeProto) -> str | None:
        tensor = self._constants.get(node.input[1])
        if tensor is None:
            return self._not_constant(node)
        if tensor.data_type not in _FLOATS:
            return f"weight of type {TensorProto.DataType.Name(tensor.data_type)}"
        if self._opset < 11 and "transA" in attributes(node) and attributes(node)["transA"].i:
            return "Gemm with transA before opset 11, where none can do without a bias"
        shape = tuple(tensor.dims)
        fits = len(shape) >= 3 if node.op_type == "Conv" else len(shape) == 2
        if not fits or 0 in shape:
            return f"weight of shape {shape}"
        return None

    def _not_constant(self, node: NodeProto) -> str:
        if node.op_type == "MatMul" and node.input[0] in self._constants:
            return "the constant is the left operand of MatMul"
        source = next((other for other in self._graph.node if node.input[1] in other.output), None)
        if source is not None and source.op_type == "DequantizeLinear":
            return _QUANTIZED
        return "weight not constant" + (f" (computed by {source.op_type})" if source is not None else "")

    def _conv(self, node: NodeProto, name: str) -> Layer | Skipped:
        given = attributes(node)
        shape = tuple(self._constants[node.input[1]].dims)
        ints = {key: list(given[key].ints) for key in ("strides", "pads", "dilations") if key in given}
        group = given["group"].i if "group" in given else 1
        auto_pad = given["auto_pad"].s.decode() if "auto_pad" in given else "NOTSET"
        if "kernel_shape" in given and tuple(given["kernel_shape"].ints) != shape[2:]:
            return Skipped(name, f"kernel_shape contradicts the weight's shape {shape}")
        try:
            conv = ConvSpec.create(shape, group=group, auto_pad=auto_pad, **ints)
        except ValueError as error:
            return Skipped(name, f"invalid attributes: {error}")
        batch, spatial = self._conv_sizes(node.input[0], len(shape))
        return Layer(name, "Conv", node.output[0], conv, node.input[1], False, spatial, batch)

    def _conv_sizes(self, value: str, rank: int) -> tuple[int | None, Spatial | None]:
        dims = self._shapes.get(value, ())
        if len(dims) != rank:
            return None, None
        spatial = tuple(size for size in dims[2:] if size is not None)
        return dims[0], spatial if len(spatial) == rank - 2 else None

    def _dense(self, node: NodeProto, name: str) -> Layer:
        given = attributes(node)
        stored = tuple(self._constants[node.input[1]].dims)
        transposed = not ("transB" in given and given["transB"].i)  # MatMul has no transB
        shape = stored[::-1] if transposed else stored
        rows = self._shapes.get(node.output[0], (None,) * 2)[:-1]
        sizes = [size for size in rows if size is not None]
        repeats = prod(sizes) if len(sizes) == len(rows) else None
        conv = ConvSpec.create(shape)
        return Layer(name, node.op_type, node.output[0], conv, node.input[1], transposed, (), repeats)


def _in_body(body: GraphProto, parent: NodeProto) -> Iterator[Skipped]:
    """Linear nodes of a body: they are counted, and left alone."""
    for node in body.node:
        if node.op_type in ("Conv", "Gemm", "MatMul", *_UNSUPPORTED):
            name = node.name or next(iter(node.output), "")
            yield Skipped(name, f"inside the body of {parent.op_type} '{parent.name or parent.output[0]}'")
        for inner in subgraphs(node):
            yield from _in_body(inner, node)
