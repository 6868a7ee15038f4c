"""What a model is refused for when it is loaded, as nothing else would do so in one line.

Protobuf gives names that are not UTF-8 as bytes. The passes go round and round in a cycle. onnx's shape
inference takes all memory where a tensor is said to be larger than any could be. ONNX Runtime before 1.31
divides by the zeros of a Conv, and the process ends without a word.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from math import prod
from pathlib import Path

from onnx import ModelProto, NodeProto, TensorProto

from onnxlr.errors import ModelError
from onnxlr.external_data import ExternalData, is_external
from passes.graph import Scope, all_tensors, attributes, is_operator, scopes

__all__ = ["check_model"]

_CONVS = ("Conv", "ConvInteger", "ConvTranspose", "DeformConv", "QLinearConv")
_POOLS = ("AveragePool", "LpPool", "MaxPool")
_LEAST = {"kernel_shape": 1, "strides": 1, "dilations": 1, "pads": 0}
_MOST_NUMBERS = 8
"""In a byte of a file; the smallest types have 2 bits."""


def check_model(model: ModelProto, folder: Path, name: str, size: int) -> None:
    """Look at names, tensors, and the attributes of Convs and pools.

    Args:
        model: without its external data; may be damaged.
        folder: what locations of external data are relative to.
        name: of the model, for messages.
        size: bytes of the model at most.

    Raises:
        ModelError: a name is not UTF-8; a value is computed twice, or from itself; external data are missing,
            too short, or outside the folder; a tensor is larger than the whole model; a size, stride or
            dilation is below 1, or a pad negative.
    """
    for problem in _problems(model, folder, size):
        raise ModelError(f"{name}: {problem}")


def _problems(model: ModelProto, folder: Path, size: int) -> Iterator[str]:
    for scope in scopes(model):
        yield from _names(scope)
        yield from _order(scope)
        yield from _windows(scope)
    yield from _tensors(model, folder, size)


def _names(scope: Scope) -> Iterator[str]:
    for node in scope.holder.node:
        for name in (node.name, node.op_type, node.domain, *node.input, *node.output):
            if not isinstance(name, str):
                yield f"the name {name!r} is not UTF-8"


def _order(scope: Scope) -> Iterator[str]:
    made_by = dict.fromkeys(scope.input_names, -1)
    for i, node in enumerate(scope.holder.node):
        for name in filter(None, node.output):
            if name in made_by:
                yield f"value '{name}' is computed twice"
            made_by[name] = i
    before = {i: {made_by.get(name, -1) for name in node.input} for i, node in enumerate(scope.holder.node)}
    if any(max(others, default=-1) >= i for i, others in before.items()):  # unsorted, or a cycle
        try:
            TopologicalSorter(before).prepare()
        except CycleError as error:
            node = scope.holder.node[error.args[1][0]]
            yield f"{node.op_type} '{node.name}' reads what is computed from its own output"


def _tensors(model: ModelProto, folder: Path, size: int) -> Iterator[str]:
    for tensor in all_tensors(model):
        if is_external(tensor):
            if problem := _external(tensor, folder):
                yield f"external data of tensor '{tensor.name}' {problem}"
        elif prod(tensor.dims) > _MOST_NUMBERS * size:
            shape = list(tensor.dims)
            yield f"tensor '{tensor.name}' of shape {shape} cannot be in a model of {size:,} bytes"


def _external(tensor: TensorProto, folder: Path) -> str | None:
    try:
        return ExternalData(tensor).check(folder)
    except (ValueError, KeyError, OSError, RuntimeError) as error:  # RuntimeError: a loop of links
        return f"has unreadable attributes ({error})"


def _windows(scope: Scope) -> Iterator[str]:
    shapes = {tensor.name: tensor.dims for tensor in scope.initializers}
    for node in scope.holder.node:
        for what, values in _impossible(node, shapes):
            yield f"{node.op_type} '{node.name}' has {what} {list(values)}, which nothing can compute"


def _impossible(node: NodeProto, shapes: Mapping[str, Sequence[int]]) -> Iterator[tuple[str, Sequence[int]]]:
    if is_operator(node, *_CONVS):
        weights = (shapes[name] for name in node.input if name in shapes)
        yield from (("a weight of shape", shape) for shape in weights if 0 in shape)
    if is_operator(node, *_CONVS, *_POOLS):
        given = attributes(node)
        found = ((name, given[name].ints) for name in _LEAST if name in given)
        yield from ((name, values) for name, values in found if min(values, default=1) < _LEAST[name])
