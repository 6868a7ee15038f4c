"""Residual networks (He et al., arXiv:1512.03385).

ResNet-18 and -50 for ImageNet are torchvision's: projection shortcuts, and the stride of a bottleneck is on
its 3x3 Conv. ResNet-20, -56 and -110 for CIFAR-10 have the paper's parameter-free shortcuts (option A: a
strided Slice and a Pad).
"""

import onnx

from models.graph import Net, Value

__all__ = ["resnet18", "resnet20", "resnet50", "resnet56", "resnet110"]

LAST_GAMMA = (
    0.5  # the scale of a block's last BatchNormalization: trained blocks add little to their shortcut
)


def resnet18(seed: int) -> onnx.ModelProto:
    """11,689,512 parameters, input 224 x 224, 1,000 classes."""
    net = Net("resnet18", (3, 224, 224), seed=seed, probes=8)
    x = _stem(net)
    for stage in range(4):
        for i in range(2):
            x = _basic(net, x, f"layer{stage + 1}.{i}", 64 << stage, 2 if stage and not i else 1)
    return _head(net, x, 1000)


def resnet50(seed: int) -> onnx.ModelProto:
    """25,557,032 parameters, input 224 x 224, 1,000 classes."""
    net = Net("resnet50", (3, 224, 224), seed=seed, probes=8)
    x = _stem(net)
    for stage, blocks in enumerate((3, 4, 6, 3)):
        for i in range(blocks):
            x = _bottleneck(net, x, f"layer{stage + 1}.{i}", 64 << stage, 2 if stage and not i else 1)
    return _head(net, x, 1000)


def resnet20(seed: int) -> onnx.ModelProto:
    """269,722 parameters, input 32 x 32, 10 classes."""
    return _cifar("resnet20", 3, seed)


def resnet56(seed: int) -> onnx.ModelProto:
    """853,018 parameters, input 32 x 32, 10 classes."""
    return _cifar("resnet56", 9, seed)


def resnet110(seed: int) -> onnx.ModelProto:
    """1,727,962 parameters, input 32 x 32, 10 classes."""
    return _cifar("resnet110", 18, seed)


def _cifar(name: str, blocks: int, seed: int) -> onnx.ModelProto:
    net = Net(name, (3, 32, 32), seed=seed, probes=16)
    x = net.relu(net.bn(net.conv(net.input, "conv1", 16, 3), "bn1"), "relu1")
    for stage in range(3):
        for i in range(blocks):
            x = _basic(
                net, x, f"layer{stage + 1}.{i}", 16 << stage, 2 if stage and not i else 1, option_a=True
            )
    return _head(net, x, 10)


def _stem(net: Net) -> Value:
    x = net.relu(net.bn(net.conv(net.input, "conv1", 64, 7, stride=2), "bn1"), "relu1")
    return net.max_pool(x, "maxpool", 3, 2, pad=1)


def _head(net: Net, x: Value, classes: int) -> onnx.ModelProto:
    x = net.flatten(net.mean(x, "avgpool"), "flatten")
    return net.model(net.gemm(x, "fc", classes, last=True))


def _basic(net: Net, x: Value, name: str, channels: int, stride: int, *, option_a: bool = False) -> Value:
    """Two 3x3 Convs, the first with the stride, and the shortcut."""
    y = net.conv(x, f"{name}.conv1", channels, 3, stride=stride)
    y = net.relu(net.bn(y, f"{name}.bn1"), f"{name}.relu1")
    y = net.bn(net.conv(y, f"{name}.conv2", channels, 3), f"{name}.bn2", gamma=LAST_GAMMA)
    if option_a and stride > 1:
        shortcut = net.subsample_and_pad(x, f"{name}.shortcut", channels)
    else:
        shortcut = _projection(net, x, f"{name}.downsample", channels, stride)
    return net.relu(net.add(y, shortcut, f"{name}.add"), f"{name}.relu2")


def _bottleneck(net: Net, x: Value, name: str, channels: int, stride: int) -> Value:
    """1x1 to `channels`, 3x3 with the stride, 1x1 to 4 times `channels`, and the shortcut."""
    y = net.relu(net.bn(net.conv(x, f"{name}.conv1", channels, 1), f"{name}.bn1"), f"{name}.relu1")
    y = net.conv(y, f"{name}.conv2", channels, 3, stride=stride)
    y = net.relu(net.bn(y, f"{name}.bn2"), f"{name}.relu2")
    y = net.bn(net.conv(y, f"{name}.conv3", 4 * channels, 1), f"{name}.bn3", gamma=LAST_GAMMA)
    shortcut = _projection(net, x, f"{name}.downsample", 4 * channels, stride)
    return net.relu(net.add(y, shortcut, f"{name}.add"), f"{name}.relu3")


def _projection(net: Net, x: Value, name: str, channels: int, stride: int) -> Value:
    """The identity where the shape allows it, else a 1x1 Conv with BatchNormalization."""
    if stride == 1 and x.channels == channels:
        return x
    return net.bn(net.conv(x, f"{name}.0", channels, 1, stride=stride), f"{name}.1")
