"""Convs and pools that nothing can compute.

ONNX Runtime before 1.31 divides by their zeros, and the process ends without a word.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from onnx import ModelProto, NodeProto

from onnxlr.errors import ModelError
from passes.graph import attributes, is_operator, scopes

__all__ = ["check_convs"]

_CONVS = ("Conv", "ConvInteger", "ConvTranspose", "DeformConv", "QLinearConv")
_POOLS = ("AveragePool", "LpPool", "MaxPool")
_LEAST = {"kernel_shape": 1, "strides": 1, "dilations": 1, "pads": 0}


def check_convs(model: ModelProto, name: str) -> None:
    """Look at the attributes of Convs and pools, and at stored weights.

    Args:
        model: may be damaged.
        name: of the model, for messages.

    Raises:
        ModelError: a size, stride or dilation is below 1, or a pad negative.
    """
    for scope in scopes(model):
        shapes = {tensor.name: tensor.dims for tensor in scope.initializers}
        for node in scope.holder.node:
            for what, values in _impossible(node, shapes):
                where = f"{name}: {node.op_type} '{node.name}'"
                raise ModelError(f"{where} has {what} {list(values)}, which nothing can compute")


def _impossible(node: NodeProto, shapes: Mapping[str, Sequence[int]]) -> Iterator[tuple[str, Sequence[int]]]:
    if is_operator(node, *_CONVS):
        weights = (shapes[name] for name in node.input if name in shapes)
        yield from (("a weight of shape", shape) for shape in weights if 0 in shape)
    if is_operator(node, *_CONVS, *_POOLS):
        given = attributes(node)
        found = ((name, given[name].ints) for name in _LEAST if name in given)
        yield from ((name, values) for name, values in found if min(values, default=1) < _LEAST[name])
