"""GoogLeNet (Szegedy et al., arXiv:1409.4842) as in torchvision.

So: BatchNormalization, 3x3 Convs where the paper has 5x5, and (as for inference) no auxiliary classifiers.
"""

from typing import NamedTuple

import onnx

from models.graph import Net, Value

__all__ = ["googlenet"]


class _Inception(NamedTuple):
    """Channels: 1x1 | reduction and 3x3 | reduction and "5x5" | projection of the pool."""

    one: int
    reduce3: int
    three: int
    reduce5: int
    five: int
    pool: int


BLOCKS = {
    "3a": _Inception(64, 96, 128, 16, 32, 32),
    "3b": _Inception(128, 128, 192, 32, 96, 64),
    "4a": _Inception(192, 96, 208, 16, 48, 64),
    "4b": _Inception(160, 112, 224, 24, 64, 64),
    "4c": _Inception(128, 128, 256, 24, 64, 64),
    "4d": _Inception(112, 144, 288, 32, 64, 64),
    "4e": _Inception(256, 160, 320, 32, 128, 128),
    "5a": _Inception(256, 160, 320, 32, 128, 128),
    "5b": _Inception(384, 192, 384, 48, 128, 128),
}
POOLS = {"3b": ("pool3", 3), "4e": ("pool4", 2)}  # max pool of stride 2 after these blocks: name, kernel


def googlenet(seed: int) -> onnx.ModelProto:
    """6,624,904 parameters, input 224 x 224, 1,000 classes."""
    net = Net("googlenet", (3, 224, 224), seed=seed, probes=8)
    x = _unit(net, net.input, "conv1", 64, 7, stride=2)
    x = net.max_pool(x, "pool1", 3, 2, ceil=True)
    x = _unit(net, _unit(net, x, "conv2", 64, 1), "conv3", 192, 3)
    x = net.max_pool(x, "pool2", 3, 2, ceil=True)
    for name, block in BLOCKS.items():
        x = _inception(net, x, f"inception{name}", block)
        if name in POOLS:
            x = net.max_pool(x, *POOLS[name], 2, ceil=True)
    x = net.flatten(net.mean(x, "mean"), "flatten")
    return net.model(net.gemm(x, "fc", 1000, last=True))


def _unit(net: Net, x: Value, name: str, channels: int, kernel: int, *, stride: int = 1) -> Value:
    x = net.conv(x, f"{name}.conv", channels, kernel, stride=stride)
    return net.relu(net.bn(x, f"{name}.bn", epsilon=1e-3), f"{name}.relu")


def _inception(net: Net, x: Value, name: str, block: _Inception) -> Value:
    one = _unit(net, x, f"{name}.branch1", block.one, 1)
    three = _unit(net, x, f"{name}.branch2.0", block.reduce3, 1)
    three = _unit(net, three, f"{name}.branch2.1", block.three, 3)
    five = _unit(net, x, f"{name}.branch3.0", block.reduce5, 1)
    five = _unit(net, five, f"{name}.branch3.1", block.five, 3)
    pool = net.max_pool(x, f"{name}.branch4.0", 3, 1, pad=1)
    pool = _unit(net, pool, f"{name}.branch4.1", block.pool, 1)
    return net.concat([one, three, five, pool], f"{name}.concat")
