"""AlexNet in torchvision's variant without groups (Krizhevsky, arXiv:1404.5997): 5 Convs and 3 Gemms."""

from typing import NamedTuple

import onnx

from models.graph import Net
from models.weights import PLAIN

__all__ = ["alexnet"]


class _Layer(NamedTuple):
    channels: int
    kernel: int
    stride: int
    pad: int
    pool: bool


LAYERS = (
    _Layer(64, 11, 4, 2, True),
    _Layer(192, 5, 1, 2, True),
    _Layer(384, 3, 1, 1, False),
    _Layer(256, 3, 1, 1, False),
    _Layer(256, 3, 1, 1, True),
)


def alexnet(seed: int) -> onnx.ModelProto:
    """61,100,840 parameters, input 224 x 224, 1,000 classes; its 6 x 6 adaptive pool is the identity here."""
    net = Net("alexnet", (3, 224, 224), seed=seed, probes=4, decay=PLAIN)
    x = net.input
    for i, layer in enumerate(LAYERS, start=1):
        x = net.conv(
            x, f"conv{i}", layer.channels, layer.kernel, stride=layer.stride, pad=layer.pad, bias=True
        )
        x = net.relu(x, f"relu{i}")
        x = net.max_pool(x, f"pool{i}", 3, 2) if layer.pool else x
    x = net.flatten(x, "flatten")
    for i in (6, 7):
        x = net.relu(net.gemm(x, f"fc{i}", 4096), f"relu{i}")
    return net.model(net.gemm(x, "fc8", 1000, last=True))
