"""Random networks: whatever attributes, sharing, scopes and types they have, full rank is the same function.

`ONNXLR_EXAMPLES=1000 python -m pytest tests/test_networks.py` tries more of them than the default.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto, helper, numpy_helper

import onnxlr
from onnxlr.schemes import all_schemes
from tests.builders import Array, constants, relative_error, run

EXAMPLES = int(os.environ.get("ONNXLR_EXAMPLES", "60"))
TOLERANCE = {np.float32: 1e-5, np.float16: 1e-2}  # float16: several layers, each within 2e-3


@dataclass
class Network:
    """A network that grows layer by layer.

    Attributes:
        draw: of hypothesis.
        dtype: of all its floats.
        value: the last value.
        shape: of it, `(C, *spatial)`, without the batch.
    """

    draw: Any
    dtype: Any
    value: str
    shape: list[int]
    nodes: list[NodeProto] = field(default_factory=list)
    stored: dict[str, Array] = field(default_factory=dict)
    shared: dict[tuple[int, ...], str] = field(default_factory=dict)

    def name(self, stem: str) -> str:
        return f"{stem}{len(self.nodes) + len(self.stored)}"

    def integer(self, low: int, high: int) -> int:
        return int(self.draw(st.integers(low, high)))

    def flag(self) -> bool:
        return bool(self.draw(st.booleans()))

    def weight(self, *shape: int) -> str:
        """The name of a weight, at times of one that another layer has, or of a computed one."""
        if shape in self.shared and self.flag():
            return self.shared[shape]
        name = self.name("w")
        array = np.random.default_rng(len(self.stored)).standard_normal(shape)
        scaled = (array / np.sqrt(max(np.prod(shape[1:]), 1))).astype(self.dtype)
        form = self.draw(st.sampled_from(["stored", "stored", "node", "turned", "reshaped", "cast"]))
        self.shared[shape] = name
        self._store(name, scaled, form)
        return name

    def _store(self, name: str, array: Array, form: str) -> None:
        match form:
            case "stored":
                self.stored[name] = array
            case "node":
                self._constant(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array)))
            case "turned":
                self.stored[f"{name}_t"] = np.ascontiguousarray(array.T)
                axes = list(range(array.ndim))[::-1]
                self._constant(helper.make_node("Transpose", [f"{name}_t"], [name], perm=axes))
            case "reshaped":
                self.stored |= {f"{name}_flat": array.reshape(-1), f"{name}_shape": np.array(array.shape)}
                self._constant(helper.make_node("Reshape", [f"{name}_flat", f"{name}_shape"], [name]))
            case "cast":
                self.stored[f"{name}_wide"] = array.astype(np.float64)
                to = helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype))
                self._constant(helper.make_node("Cast", [f"{name}_wide"], [name], to=to))

    def _constant(self, node: NodeProto) -> None:
        self.nodes.append(node)

    def bias(self, size: int) -> list[str]:
        if not self.flag():
            return []
        name = self.name("b")
        self.stored[name] = np.random.default_rng(size).standard_normal(size).astype(self.dtype)
        return [name]

    def node(self, op: str, inputs: list[str], **attributes: Any) -> None:
        y = self.name("v")
        label = self.draw(st.sampled_from(["", "same", f"{op}{len(self.nodes)}"]))
        node = helper.make_node(op, inputs, [y], label, **attributes)
        self.nodes.append(self._in_body(node, y) if op.startswith("Conv") and self.flag() else node)
        self.value = y

    def _in_body(self, node: NodeProto, y: str) -> NodeProto:
        """The node in both branches of an If, under another name in the second one."""
        bodies = []
        for suffix in ("_then", "_else"):
            inner = NodeProto()
            inner.CopyFrom(node)
            inner.output[0] = y + suffix
            declared = helper.make_tensor_value_info(y + suffix, self._type(), None)
            bodies.append(helper.make_graph([inner], "body", [], [declared]))
        self.stored["flag"] = np.array(True)
        return helper.make_node("If", ["flag"], [y], then_branch=bodies[0], else_branch=bodies[1])

    def _type(self) -> int:
        return int(helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype)))

    def conv(self) -> None:
        channels, *sizes = self.shape
        group = self.draw(st.sampled_from([g for g in (1, 1, 2, 3, channels) if channels % g == 0]))
        outputs = group * self.integer(1, 9)
        kernel = [self.integer(1, min(4, size)) for size in sizes]
        attributes: dict[str, Any] = {"group": group, "strides": [self.integer(1, 2) for _ in sizes]}
        if self.flag():
            attributes["auto_pad"] = self.draw(st.sampled_from(["SAME_UPPER", "SAME_LOWER", "VALID"]))
        else:
            attributes["pads"] = [self.integer(0, k - 1) for k in kernel * 2]
            attributes["dilations"] = [
                self.integer(1, 2) if 2 * k - 1 <= s else 1 for k, s in zip(kernel, sizes, strict=True)
            ]
            if self.flag():
                self._pad()
        inputs = [self.value, self.weight(outputs, channels // group, *kernel), *self.bias(outputs)]
        self.node("Conv", inputs, **attributes)
        self._after(outputs)

    def _pad(self) -> None:
        axes = len(self.shape) - 1
        pads = self.name("pads")
        self.stored[pads] = np.array(([0, 0] + [1] * axes) * 2)
        padded = self.name("p")
        self.nodes.append(helper.make_node("Pad", [self.value, pads], [padded]))
        self.value = padded

    def conv_transpose(self) -> None:
        channels, *sizes = self.shape
        group = self.draw(st.sampled_from([g for g in (1, 1, 2, 3, channels) if channels % g == 0]))
        outputs = self.integer(1, 6)
        kernel = [self.integer(1, 3) for _ in sizes]
        strides = [self.integer(1, 2) for _ in sizes]
        attributes: dict[str, Any] = {"group": group, "strides": strides}
        if self.flag():
            attributes["output_padding"] = [self.integer(0, s - 1) for s in strides]
        inputs = [self.value, self.weight(channels, outputs, *kernel), *self.bias(outputs * group)]
        self.node("ConvTranspose", inputs, **attributes)
        self._after(outputs * group)

    def _after(self, channels: int) -> None:
        """Sizes by ONNX shape inference; at times a BatchNormalization or a Relu follows."""
        self.shape = [channels, *self.shape[1:]]
        self.shape = list(self._inferred())[1:]
        match self.draw(st.sampled_from(["", "bn", "relu"])):
            case "bn":
                parameters = constants(self.name("bn"), channels, dtype=self.dtype)
                self.stored |= parameters
                self.node("BatchNormalization", [self.value, *parameters])
            case "relu":
                self.node("Relu", [self.value])

    def head(self) -> None:
        """Flatten, then a dense layer of any kind."""
        self.node("Flatten", [self.value])
        features, outputs = int(np.prod(self.shape)), self.integer(1, 9)
        if self.flag():
            self.node("MatMul", [self.value, self.weight(features, outputs)])
            return
        turned = self.flag()
        w = self.weight(*((outputs, features) if turned else (features, outputs)))
        alpha = self.draw(st.sampled_from([1.0, 0.5]))
        self.node("Gemm", [self.value, w, *self.bias(outputs)], transB=int(turned), alpha=alpha)

    def _inferred(self) -> tuple[int, ...]:
        graph = onnx.shape_inference.infer_shapes(self.model(), strict_mode=True).graph
        return tuple(dim.dim_value for dim in graph.output[0].type.tensor_type.shape.dim)

    def model(self) -> ModelProto:
        shape = [2, *self.input_shape]
        graph = helper.make_graph(
            self.nodes,
            "network",
            [helper.make_tensor_value_info("x", self._type(), shape)],
            [onnx.ValueInfoProto(name=self.value)],
            [numpy_helper.from_array(array, name) for name, array in self.stored.items()],
        )
        return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])

    def __post_init__(self) -> None:
        self.input_shape = tuple(self.shape)


@st.composite
def networks(draw: Any) -> ModelProto:
    """One to four Convs or ConvTransposes over 1 to 3 axes, with what stands between them, and a head."""
    axes = draw(st.integers(1, 3))
    shape = [draw(st.integers(1, 8)), *(draw(st.integers(4, 7)) for _ in range(axes))]
    network = Network(draw, draw(st.sampled_from([np.float32, np.float32, np.float16])), "x", shape)
    for _ in range(draw(st.integers(1, 4))):
        draw(st.sampled_from([network.conv, network.conv, network.conv_transpose]))()
    if draw(st.booleans()):
        network.head()
    model = network.model()
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph.output[0]
    model.graph.output[0].CopyFrom(inferred)
    return model


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(model=networks(), schemes=st.lists(st.sampled_from(list(all_schemes())), max_size=3, unique=True))
def test_full_rank_is_the_same_network(model: ModelProto, schemes: list[str]) -> None:
    before = model.SerializeToString()
    result = onnxlr.optimize(model, energy=1.0, gate="none", schemes=schemes, checks=None, workers=1)
    assert model.SerializeToString() == before
    onnx.checker.check_model(result.model, full_check=True)
    inputs = model.graph.input[0].type.tensor_type
    shape = [dim.dim_value for dim in inputs.shape.dim]
    dtype = helper.tensor_dtype_to_np_dtype(inputs.elem_type)
    x = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    (expected,), (actual,) = run(_named(model), x=x), run(_named(result.model), x=x)
    assert expected.shape == actual.shape
    if np.isfinite(expected.astype(np.float64)).all() and expected.size and expected.any():
        assert relative_error(expected, actual) < TOLERANCE[dtype.type]
    accounted = {layer.name for layer in result.plan.layers} | {item.name for item in result.plan.skipped}
    assert len(accounted) == _count_linear(model)


def _named(model: ModelProto) -> ModelProto:
    """Without node names: ONNX Runtime refuses some that are not unique."""
    unnamed = ModelProto()
    unnamed.CopyFrom(model)
    for node in unnamed.graph.node:
        node.name = ""
    return unnamed


def _count_linear(model: ModelProto) -> int:
    bodies = [a.g for node in model.graph.node for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
    nodes = [node for graph in (model.graph, *bodies) for node in graph.node]
    return sum(node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul") for node in nodes)
