"""The exports of one small network that come with the repository, and faults put into them."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, numpy_helper

from passes.graph import all_tensors

FOLDER = Path(__file__).parent.parent.parent / "models" / "exports" / "trap"
NAMES = sorted(path.stem for path in FOLDER.glob("*.onnx"))

LAYERS = [f"conv{i}" for i in range(1, 8)] + ["fc"]
"""Of the network, in its order."""


def export(name: str) -> ModelProto:
    """One of the files."""
    return onnx.load(FOLDER / f"{name}.onnx")


_SWAPPED = [
    ([0, 1, 0, 1], [1, 0, 1, 0]),  # as torch counts
    ([0, 0, 0, 0, 0, 0, 1, 1], [0, 0, 1, 1, 0, 0, 0, 0]),
]
"""Pads as constants, and the other way round."""


def perturb(model: ModelProto, size: int) -> None:
    """Change one entry in a hundred of the only weight of this size."""
    (tensor,) = [t for t in all_tensors(model) if prod(t.dims) == size and t.data_type == TensorProto.FLOAT]
    array = numpy_helper.to_array(tensor).copy()
    array.reshape(-1)[::100] += np.float32(0.1)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def swap_pads(model: ModelProto, index: int) -> None:
    """Pad one of the Convs of stride 2 at the other side."""
    found = [node for node in model.graph.node if node.op_type == "Conv" and _is_strided(node)]
    for attribute in found[index].attribute:
        if attribute.name == "auto_pad" and attribute.s == b"SAME_UPPER":
            attribute.s = b"SAME_LOWER"
            return
        if attribute.name == "pads" and any(attribute.ints):
            attribute.ints[:] = [*attribute.ints[2:], *attribute.ints[:2]]
            return
    pads = [
        t for t in all_tensors(model) if numpy_helper.to_array(t).tolist() in [old for old, _ in _SWAPPED]
    ]
    swapped = next(new for old, new in _SWAPPED if old == numpy_helper.to_array(pads[index]).tolist())
    pads[index].CopyFrom(numpy_helper.from_array(np.array(swapped), pads[index].name))


def drop_batchnorm(model: ModelProto, index: int) -> None:
    """Take out one BatchNormalization, the others stay."""
    norm = [node for node in model.graph.node if node.op_type == "BatchNormalization"][index]
    for node in model.graph.node:
        node.input[:] = [norm.input[0] if name == norm.output[0] else name for name in node.input]
    model.graph.node.remove(norm)


def _is_strided(node: onnx.NodeProto) -> bool:
    return any(a.name == "strides" and list(a.ints) == [2, 2] for a in node.attribute)


Fault = Callable[[ModelProto, int], None]
