"""The digits network as ONNX: the graph from the table, the trained parameters copied in by name."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from models.digits.architecture import CLASSES, LAYERS, SIZE
from models.graph import Net

__all__ = ["export"]


def export(parameters: Mapping[str, npt.NDArray[np.float32]]) -> onnx.ModelProto:
    """Input `image` [batch, 1, 32, 32], output `logits` [batch, 10]; BatchNormalization stays a node.

    Raises:
        ValueError: `parameters` and the network disagree on a name or a shape.
    """
    model = _untrained()
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    if tensors.keys() != parameters.keys():
        raise ValueError(
            f"parameters differ from the network's: {sorted(tensors.keys() ^ parameters.keys())}"
        )
    for name, value in parameters.items():
        if value.shape != tuple(tensors[name].dims):
            raise ValueError(f"{name}: expected shape {tuple(tensors[name].dims)}, got {value.shape}")
        tensors[name].CopyFrom(numpy_helper.from_array(value, name))
    return model


def _untrained() -> onnx.ModelProto:
    net = Net("digits", (1, SIZE, SIZE), seed=0, probes=2, input_name="image")
    x = net.input
    for i, layer in enumerate(LAYERS, start=1):
        x = net.conv(x, f"conv{i}", layer.channels, layer.kernel, stride=layer.stride)
        x = net.relu(net.bn(x, f"bn{i}"), f"relu{i}")
        x = net.max_pool(x, f"pool{i}", 2, 2) if layer.pool else x
    x = net.flatten(net.mean(x, "mean"), "flatten")
    return net.model(net.gemm(x, "fc", CLASSES, last=True))
