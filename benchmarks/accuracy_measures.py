"""What a model computes and what it costs, measured without the parts of onnxlr that made it."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto

from benchmarks.accuracy_data import Network
from onnxlr.model_file import load
from onnxlr.runtime import Session, find_device

__all__ = ["compare", "conv_macs", "run"]

Array = NDArray[Any]


def run(source: Path | ModelProto, network: Network) -> Array:
    """Outputs for a network's images to test on, `(images, ...)`, of its file or of a smaller model."""
    session = Session(load(source), find_device("cpu"))
    return np.concatenate([session.run(feed)[0] for feed in network.batches()])


def compare(actual: Array, expected: Array, labels: Array | None) -> dict[str, float]:
    """Relative L2 of the outputs, and with labels accuracies and the agreement of the classes, in percent."""
    difference, norm = (np.linalg.norm(x.astype(np.float64)) for x in (actual - expected, expected))
    found = {"rel. L2": round(float(difference / norm), 4)}
    if labels is None:
        return found
    for k in (1, 5):
        before, after = (_accuracy(x, labels, k) for x in (expected, actual))
        found |= {f"top-{k}": round(after, 2), f"top-{k} lost": round(before - after, 2)}
    agreed = (actual.argmax(axis=1) == expected.argmax(axis=1)).mean()
    return {**found, "agreement": round(100 * float(agreed), 2)}


def _accuracy(logits: Array, labels: Array, k: int) -> float:
    """Percentage of the images whose class is among the k likeliest."""
    found = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    return 100 * float((found == labels[:, None]).any(axis=1).mean())


def conv_macs(model: ModelProto, input_shape: tuple[int, ...]) -> int:
    """Multiply-accumulates of all Convs for one image, from the shapes that ONNX infers."""
    fixed = ModelProto()
    fixed.CopyFrom(model)
    for dim, size in zip(fixed.graph.input[0].type.tensor_type.shape.dim, input_shape, strict=True):
        dim.dim_value = size
    del fixed.graph.value_info[:]
    graph = onnx.shape_inference.infer_shapes(fixed, strict_mode=True).graph
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in graph.value_info}
    shapes |= {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    return sum(_macs(node, shapes) for node in graph.node if node.op_type == "Conv")


def _macs(conv: NodeProto, shapes: dict[str, list[int]]) -> int:
    return prod(shapes[conv.output[0]]) * prod(shapes[conv.input[1]][1:])
