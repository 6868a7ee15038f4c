"""MobileNetV2 of width 1.0 (Sandler et al., arXiv:1801.04381), torchvision's layout."""

from typing import NamedTuple

import onnx

from models.graph import Net, Value

__all__ = ["mobilenet_v2"]


class _Stage(NamedTuple):
    """Table 2 of the paper: expansion t, channels c, repeats n, stride s of the first block."""

    expansion: int
    channels: int
    repeats: int
    stride: int


STAGES = (
    _Stage(1, 16, 1, 1),
    _Stage(6, 24, 2, 2),
    _Stage(6, 32, 3, 2),
    _Stage(6, 64, 4, 2),
    _Stage(6, 96, 3, 1),
    _Stage(6, 160, 3, 2),
    _Stage(6, 320, 1, 1),
)


def mobilenet_v2(seed: int) -> onnx.ModelProto:
    """3,504,872 parameters, input 224 x 224, 1,000 classes."""
    net = Net("mobilenet_v2", (3, 224, 224), seed=seed, probes=8)
    x = _unit(net, net.input, "features.0", 32, 3, stride=2)
    number = 1
    for stage in STAGES:
        for i in range(stage.repeats):
            x = _block(net, x, f"features.{number}", stage, stage.stride if i == 0 else 1)
            number += 1
    x = _unit(net, x, f"features.{number}", 1280, 1)
    x = net.flatten(net.mean(x, "mean"), "flatten")
    return net.model(net.gemm(x, "classifier", 1000, last=True))


def _unit(
    net: Net, x: Value, name: str, channels: int, kernel: int, *, stride: int = 1, group: int = 1
) -> Value:
    """Conv, BatchNormalization, Clip."""
    x = net.conv(x, f"{name}.conv", channels, kernel, stride=stride, group=group)
    return net.relu6(net.bn(x, f"{name}.bn"), f"{name}.relu6")


def _block(net: Net, x: Value, name: str, stage: _Stage, stride: int) -> Value:
    """Inverted residual: 1x1 expansion (unless t is 1), 3x3 depthwise, linear 1x1 projection."""
    hidden = stage.expansion * x.channels
    y = _unit(net, x, f"{name}.expand", hidden, 1) if stage.expansion > 1 else x
    y = _unit(net, y, f"{name}.depthwise", hidden, 3, stride=stride, group=hidden)
    y = net.bn(net.conv(y, f"{name}.project.conv", stage.channels, 1), f"{name}.project.bn")
    return net.add(x, y, f"{name}.add") if stride == 1 and x.channels == stage.channels else y
