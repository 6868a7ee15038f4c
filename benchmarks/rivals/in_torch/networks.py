"""The networks as torch modules with the weights of an ONNX file, so that all tools get the same function."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["load_network"]

VGG_BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class PaddedShortcut(nn.Module):
    """Every second pixel, and channels of zeros before and behind (option A of arXiv:1512.03385).

    Args:
        padding: channels of zeros, on either side.
    """

    def __init__(self, padding: int) -> None:
        super().__init__()
        self.padding = padding

    def forward(self, x: Tensor) -> Tensor:
        """`(N, C, H, W)` to `(N, 2 C, H / 2, W / 2)`."""
        return functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.padding, self.padding))


class Block(nn.Module):
    """Two 3x3 Convs and a shortcut.

    Args:
        before: input channels.
        channels: output channels.
        stride: of the first Conv.
        has_projection: whether a shortcut that changes the shape is a 1x1 Conv, or padded.
    """

    def __init__(self, before: int, channels: int, stride: int, has_projection: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample: nn.Module = nn.Identity()
        if before != channels:
            self.downsample = PaddedShortcut((channels - before) // 2)
            if has_projection:
                projection = nn.Conv2d(before, channels, 1, stride, bias=False)
                self.downsample = nn.Sequential(projection, nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """`(N, before, H, W)` to `(N, channels, H / stride, W / stride)`."""
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        return functional.relu(y + self.downsample(x))


class ResNet(nn.Module):
    """Residual network of basic blocks.

    Args:
        widths: channels of the stages.
        blocks: of each stage.
        classes: outputs.
        is_large: whether it has the stem and the projections for ImageNet, or is one for CIFAR.
        head: name of the last layer.
    """

    def __init__(self, widths: tuple[int, ...], blocks: int, classes: int, is_large: bool, head: str) -> None:
        super().__init__()
        size, stride = (7, 2) if is_large else (3, 1)
        self.conv1 = nn.Conv2d(3, widths[0], size, stride, size // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.pool: nn.Module = nn.MaxPool2d(3, 2, 1) if is_large else nn.Identity()
        self.stages = [f"layer{i}" for i in range(1, len(widths) + 1)]
        before = widths[0]
        for name, width in zip(self.stages, widths, strict=True):
            strides = [1 if width == before else 2] + [1] * (blocks - 1)
            inputs = [before] + [width] * (blocks - 1)
            parts = (Block(i, width, s, is_large) for i, s in zip(inputs, strides, strict=True))
            self.add_module(name, nn.Sequential(*parts))
            before = width
        self.head = head
        self.add_module(head, nn.Linear(before, classes))

    def forward(self, x: Tensor) -> Tensor:
        """`(N, 3, H, W)` to `(N, classes)`."""
        x = self.pool(functional.relu(self.bn1(self.conv1(x))))
        for name in self.stages:
            x = self.get_submodule(name)(x)
        return self.get_submodule(self.head)(functional.adaptive_avg_pool2d(x, 1).flatten(1))


def _vgg16() -> nn.Module:
    """Configuration D, without dropout, which does nothing here."""
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    before = 3
    for i, block in enumerate(VGG_BLOCKS, start=1):
        for j, channels in enumerate(block, start=1):
            parts[f"conv{i}_{j}"] = nn.Conv2d(before, channels, 3, 1, 1)
            parts[f"relu{i}_{j}"] = nn.ReLU()
            before = channels
        parts[f"pool{i}"] = nn.MaxPool2d(2)
    parts["flatten"] = nn.Flatten()
    parts |= {"fc6": nn.Linear(25088, 4096), "relu6": nn.ReLU(), "fc7": nn.Linear(4096, 4096)}
    parts |= {"relu7": nn.ReLU(), "fc8": nn.Linear(4096, 1000)}
    return nn.Sequential(parts)


def _build(name: str) -> nn.Module:
    if name == "vgg16":
        return _vgg16()
    if name == "resnet18":
        return ResNet((64, 128, 256, 512), 2, 1000, is_large=True, head="fc")
    return ResNet((16, 32, 64), {"resnet20": 3, "resnet56": 9}[name], 10, is_large=False, head="linear")


def load_network(name: str, model: str, probe: str) -> tuple[nn.Module, Tensor]:
    """The network, and one batch of inputs.

    Args:
        name: of the network.
        model: ONNX file; its initializers are named like the module's parameters.
        probe: `.npz` file with `input` and, from ONNX Runtime, `expected`.

    Raises:
        ValueError: the module computes something else than the file.
    """
    network = _build(name).eval()
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(model).graph.initializer}
    wanted = network.state_dict()
    state = {key: torch.from_numpy(np.array(tensors[key])) for key in wanted if key in tensors}
    missing = [key for key in wanted if key not in state and not key.endswith("num_batches_tracked")]
    if missing:
        raise ValueError(f"{model} lacks {', '.join(missing)}")
    network.load_state_dict(state, strict=False)
    arrays = np.load(probe)
    inputs, expected = torch.from_numpy(arrays["input"]), torch.from_numpy(arrays["expected"])
    with torch.no_grad():
        difference = float((network(inputs) - expected).norm() / expected.norm())
    if difference > 1e-4:
        raise ValueError(f"the torch module's outputs differ from those of {model} by {difference:.2g}")
    return network, inputs
