"""Factors of a layer -> the chain of ONNX nodes that takes its place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from numpy.typing import NDArray
from onnx import AttributeProto, NodeProto, TensorProto, helper

from onnxlr.conv import ConvSpec
from onnxlr.layer import Layer
from onnxlr.layout import Layout
from passes import Chain, ChainNode
from passes.graph import attributes

__all__ = ["Site"]

Attributes = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Site:
    """A layer, the Convs that replace it, and the attributes of its node."""

    layer: Layer
    links: tuple[ConvSpec, ...]
    given: Mapping[str, AttributeProto]

    @classmethod
    def of(cls, layer: Layer, links: tuple[ConvSpec, ...], node: NodeProto) -> Site:
        """The site of a node."""
        return cls(layer, links, attributes(node))

    def stored(self, factors: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Factors in the layout of their nodes."""
        given = zip(self.layouts, factors, self.links, strict=True)
        return [layout.store(factor, spec) for layout, factor, spec in given]

    def build(self, factors: Sequence[TensorProto], bias: TensorProto | None = None) -> Chain:
        """The chain for these factors, as stored; a bias takes the place of the layer's."""
        position = self.layer.layout.position
        links = zip(self._ops, factors, self._attributes(), strict=True)
        nodes = [ChainNode(op, f"lr{i}", w, position, given) for i, (op, w, given) in enumerate(links)]
        nodes[-1] = replace(nodes[-1], bias=bias)
        if self.turns_input:
            nodes.insert(0, ChainNode("Transpose", "transpose", attributes={"perm": [1, 0]}))
        return Chain(nodes, self.layer.weight.home.path, 1 - position)

    @cached_property
    def _ops(self) -> list[str]:
        """Of a Gemm only the last node is one: before opset 11 a Gemm cannot do without a bias."""
        op = self.layer.op_type
        if op == "Gemm":
            return ["MatMul"] * (len(self.links) - 1) + ["Gemm"]
        if op == "MatMul":
            return [op] * len(self.links)
        return ["ConvTranspose" if link.transposed else "Conv" for link in self.links]

    @cached_property
    def layouts(self) -> list[Layout]:
        """How the weight of each node is stored."""
        own = self.layer.layout

        def swapped(op: str) -> bool:
            return bool(own.position) if op == "MatMul" else op == "ConvTranspose"

        return [own if op == "Gemm" else replace(own, swapped=swapped(op)) for op in self._ops]

    @property
    def turns_input(self) -> bool:
        """Whether a Gemm reads its other operand transposed; the MatMul that comes first cannot."""
        return self._input_flag in self.given and self.given[self._input_flag].i != 0

    @property
    def _input_flag(self) -> str:
        return "transA" if self.layer.layout.position else "transB"

    def _attributes(self) -> list[Attributes]:
        if self.layer.conv.kernel_shape:
            return [_conv_node(spec) for spec in self.links]
        # alpha, beta and broadcast (opset < 7) belong to the node with the bias
        last = {name: helper.get_attribute_value(value) for name, value in self.given.items()}
        last.pop(self._input_flag, None)
        return [{} for _ in self.links[1:]] + [last]


def _conv_node(spec: ConvSpec) -> Attributes:
    attributes: Attributes = {
        "kernel_shape": list(spec.kernel_shape),
        "strides": list(spec.strides),
        "dilations": list(spec.dilations),
        "group": spec.group,
    }
    if spec.auto_pad == "NOTSET":
        attributes["pads"] = list(spec.pads)
    else:
        attributes["auto_pad"] = spec.auto_pad
    if any(spec.output_padding):
        attributes["output_padding"] = list(spec.output_padding)
    if spec.output_shape:
        attributes["output_shape"] = list(spec.output_shape)
    return attributes
