"""ModelProto -> one `Layer` or `Skipped` for every linear node. Reads shapes; weights only if computed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

from onnxlr.conv import ConvSpec, Spatial
from onnxlr.layer import Layer, Skipped
from onnxlr.layout import Layout
from onnxlr.shapes import Shapes, infer_shapes
from passes.constants import FLOATS, Constant, ConstantError, Constants, all_constants
from passes.graph import Scope, attributes, free_name, scopes, trained_names

__all__ = ["analyse"]

_LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")

_VIEWS = ("Cast", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
"""Operators through which a weight is still the one that was stored."""

_QUANTIZED = "quantized; factorize before quantizing"
_FUSED = "fused by ONNX Runtime; optimize the model before fusion"
_RECURRENT = "recurrent; its matrices lie inside one node"

_UNSUPPORTED = {
    "Attention": "its matrices lie inside one node",
    "ConvInteger": _QUANTIZED,
    "DeformConv": "its window moves with the input; no chain of Convs computes it",
    "DynamicQuantizeMatMul": _QUANTIZED,
    "Einsum": "Einsum; write it as MatMul to have it factorized",
    "FusedConv": _FUSED,
    "FusedGemm": _FUSED,
    "FusedMatMul": _FUSED,
    "GRU": _RECURRENT,
    "LSTM": _RECURRENT,
    "MatMulInteger": _QUANTIZED,
    "MatMulIntegerToFloat": _QUANTIZED,
    "MatMulNBits": _QUANTIZED,
    "NhwcConv": _FUSED,
    "NhwcFusedConv": _FUSED,
    "QGemm": _QUANTIZED,
    "QLinearConv": _QUANTIZED,
    "QLinearMatMul": _QUANTIZED,
    "RNN": _RECURRENT,
}


def analyse(
    model: ModelProto, input_shapes: Mapping[str, Sequence[int]] | None = None, folder: str = ""
) -> list[Layer | Skipped]:
    """Every Conv, ConvTranspose, Gemm, MatMul and relative of them, in all scopes.

    Args:
        model: left alone.
        input_shapes: see `onnxlr.shapes.infer_shapes`.
        folder: what locations of external data are relative to.

    Raises:
        UsageError: `input_shapes` names no input, or contradicts the model.
    """
    shapes = infer_shapes(model, input_shapes, folder)
    trained = trained_names(model)
    names = Counter(node.name for scope in scopes(model) for node in scope.holder.node)
    given: set[str] = set()
    found: list[Layer | Skipped] = []
    for constants in all_constants(model, folder):
        for node in constants.scope.holder.node:
            if node.op_type in _LINEAR or (node.op_type in _UNSUPPORTED and not _is_bare_attention(node)):
                stem = node.name if names[node.name] == 1 else ""
                name = free_name(stem or next(filter(None, node.output), node.op_type), given)
                found.append(_Site(name, node, constants, shapes).judge(trained))
    return found


def _is_bare_attention(node: NodeProto) -> bool:
    """ONNX's own Attention, unlike ONNX Runtime's, has no matrices of its own."""
    return node.op_type == "Attention" and node.domain in ("", "ai.onnx")


@dataclass(frozen=True, slots=True)
class _Site:
    """A node that may be a layer, and what is known where it stands."""

    name: str
    node: NodeProto
    constants: Constants
    shapes: Shapes

    def judge(self, trained: set[str]) -> Layer | Skipped:
        """The layer, or why it is none."""
        try:
            found = self._find(trained)
        except ConstantError as error:
            found = f"weight not constant: {error}"
        except ValueError as error:
            found = f"invalid attributes: {error}"
        return Skipped(self.name, found) if isinstance(found, str) else found

    def _find(self, trained: set[str]) -> Layer | str:
        reason = self._refusal()
        if reason is not None:
            return reason
        is_conv = self.node.op_type.startswith("Conv")
        found = [(i, self.constants.find(self.node.input[i])) for i in ((1,) if is_conv else (1, 0))]
        position, weight = next((pair for pair in found if pair[1] is not None), (1, None))
        if weight is None:
            return self._not_constant()
        if weight.name in trained:
            return "its weight is part of training_info"
        if weight.data_type not in FLOATS:
            return f"weight of type {TensorProto.DataType.Name(weight.data_type)}"
        if not self._has_rank(weight.shape) or min(weight.shape) < 1:
            return f"weight of shape {weight.shape}"
        return self._conv(weight) if is_conv else self._dense(weight, position)

    def _refusal(self) -> str | None:
        """The reason that the node alone gives."""
        if self.node.domain == "com.microsoft.nchwc":
            return _FUSED
        if self.node.op_type in _UNSUPPORTED:
            return _UNSUPPORTED[self.node.op_type]
        if self.node.domain not in ("", "ai.onnx"):
            return f"operator of domain {self.node.domain}"
        if any(attribute.ref_attr_name for attribute in self.node.attribute):
            return "attributes given by the caller of the function"
        return None

    def _has_rank(self, shape: tuple[int, ...]) -> bool:
        match self.node.op_type:
            case "Gemm":
                return len(shape) == 2
            case "MatMul":
                return len(shape) >= 2
            case _:
                return len(shape) >= 3

    def _not_constant(self) -> str:
        """Where the weight comes from instead, and whether it was quantized on the way."""
        names = [self.node.input[1]]
        source = ancestor = self.constants.producer(names[0])
        if source is None:
            return f"weight not constant ({_origin(names[0], self.constants.scope)})"
        while ancestor is not None and ancestor.op_type in _VIEWS and ancestor.input[0] not in names:
            names.append(ancestor.input[0])
            ancestor = self.constants.producer(names[-1])
        if ancestor is not None and ancestor.op_type == "DequantizeLinear":
            return _QUANTIZED
        if self.node.op_type in ("Gemm", "MatMul"):
            return "both operands are computed"
        return f"weight not constant (computed by {source.op_type})"

    def _conv(self, weight: Constant) -> Layer | str:
        given = {key: helper.get_attribute_value(value) for key, value in attributes(self.node).items()}
        if tuple(given.pop("kernel_shape", weight.shape[2:])) != weight.shape[2:]:
            return f"kernel_shape contradicts the weight's shape {weight.shape}"
        transposed, group = self.node.op_type == "ConvTranspose", given.get("group", 1)
        shape = weight.shape
        if transposed:
            if group < 1 or shape[0] % group:
                return f"invalid attributes: {shape[0]} input channels do not divide into {group} groups"
            shape = (shape[1] * group, shape[0] // group, *shape[2:])
        given["auto_pad"] = given.get("auto_pad", b"NOTSET").decode()
        conv = ConvSpec.create(shape, transposed=transposed, **given)
        batch, spatial = self._conv_sizes(len(shape))
        return self._layer(conv, weight, Layout(swapped=transposed), spatial, batch)

    def _conv_sizes(self, rank: int) -> tuple[int | None, Spatial | None]:
        dims = self._dims(self.node.input[0])
        if len(dims) != rank:
            return None, None
        spatial = tuple(size for size in dims[2:] if size is not None)
        return dims[0], spatial if len(spatial) == rank - 2 else None

    def _dense(self, weight: Constant, position: int) -> Layer | str:
        if len(weight.shape) > 2 and len(self._dims(self.node.input[1 - position])) < 2:
            return "several matrices, and the other operand may be a vector"  # which a chain would misread
        given = attributes(self.node)
        flag = given.get("transB" if position else "transA")
        is_turned = flag is not None and flag.i != 0  # MatMul has neither
        layout = Layout(position, swapped=is_turned != bool(position), batch=weight.shape[:-2])
        rows, columns = weight.shape[-2:][:: -1 if layout.swapped else 1]
        group = prod(layout.batch)
        conv = ConvSpec.create((rows * group, columns), group=group)
        sizes = [size for size in self._dims(self.node.output[0]) if size is not None]
        is_known = sizes and len(sizes) == len(self._dims(self.node.output[0]))
        repeats = prod(sizes) // conv.out_channels if is_known else None
        return self._layer(conv, weight, layout, (), repeats)

    def _layer(
        self, conv: ConvSpec, weight: Constant, layout: Layout, spatial: Spatial | None, repeats: int | None
    ) -> Layer:
        key = self.constants.scope.path, self.node.output[0]
        return Layer(self.name, self.node.op_type, key, conv, weight, layout, spatial, repeats)

    def _dims(self, value: str) -> tuple[int | None, ...]:
        keys = ((scope.path, value) for scope in _around(self.constants.scope))
        return next((self.shapes[key] for key in keys if key in self.shapes), ())


def _around(scope: Scope) -> Iterator[Scope]:
    """The scope and those whose values it sees, innermost first."""
    inner: Scope | None = scope
    while inner is not None:
        yield inner
        inner = inner.outer


def _origin(name: str, scope: Scope) -> str:
    """Where a value comes from that no node computes."""
    for around in _around(scope):
        if name in around.input_names:
            return f"an input of the {around.place}"
        holder = around.holder
        if isinstance(holder, GraphProto) and any(name == t.values.name for t in holder.sparse_initializer):
            return "stored sparse"
    return "not in the model"
