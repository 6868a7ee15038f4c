"""The exported networks, each written once over a few operations that every framework implements.

`Operations` is the protocol: a script implements it with the layers of its framework, takes their weights
from a `checkpoint.Checkpoint` by name, and calls `run_network`. Nothing but the standard library is imported
here, so that the file loads in the environment of every framework.

Parameters are named as torch names them: NAME.weight, NAME.bias, and for batch normalisation also
NAME.running_mean and NAME.running_var. The weight of a Conv is (M, C / groups, kH, kW), that of a dense layer
(features, C).
"""

from collections.abc import Callable
from typing import Any, Literal, Protocol, TypeVar

__all__ = ["EPSILON", "IMAGE", "NETWORKS", "Operations", "Padding", "pads", "run_network"]

T = TypeVar("T")

Padding = int | Literal["same"]
"""So many zeros on every side, or SAME as TensorFlow means it (see `pads`)."""

IMAGE = (3, 32, 32)
CLASSES = 10
EPSILON = 1e-5


class Operations(Protocol[T]):
    """The layers of one framework; `T` is its tensor: (N, C, H, W), or (N, H, W, C) where it prefers that.

    A layer gets its weights when it is first called and is kept under its name.
    """

    def conv(
        self,
        x: T,
        name: str,
        channels: int,
        kernel: int,
        *,
        stride: int = 1,
        padding: Padding = "same",
        groups: int = 1,
        bias: bool = False,
    ) -> T:
        """Convolution to `channels`, with a square kernel."""

    def batch_norm(self, x: T, name: str) -> T:
        """Batch normalisation with its running statistics and `EPSILON`."""

    def relu(self, x: T) -> T:
        """max(x, 0)."""

    def add(self, a: T, b: T) -> T:
        """Sum of two values of one shape."""

    def subsample_and_pad(self, x: T, extra: int) -> T:
        """Every second pixel, and `extra` zero channels on both sides."""

    def global_average_pool(self, x: T) -> T:
        """Mean over height and width: (N, C)."""

    def dense(self, x: T, name: str, features: int) -> T:
        """Fully connected, with a bias: (N, C) -> (N, features)."""


def pads(kernel: int, stride: int, padding: Padding) -> tuple[int, int]:
    """Zeros before and after an axis whose size the stride divides, as it does in these networks.

    SAME then keeps 1 / stride of the pixels; the odd zero is at the end.

    >>> pads(3, 2, "same"), pads(3, 2, 1)
    ((0, 1), (1, 1))
    """
    if padding != "same":
        return padding, padding
    total = max(kernel - stride, 0)
    return total // 2, total - total // 2


def run_network(network: str, ops: Operations[T], x: T) -> T:
    """Logits (N, classes) of one of `NETWORKS` for images `x`.

    Raises:
        KeyError: there is no such network.
    """
    logits: T = _FUNCTIONS[network](ops, x)
    return logits


def _trap(ops: Operations[T], x: T) -> T:
    """A small network of what exporters write differently.

    Stride 2 with SAME padding; a grouped, a depthwise and two 1x1 Convs; batch normalisation after Convs with
    and without a bias; a residual addition of an activated value and one that is not.
    """
    x = _conv_bn_relu(ops, x, 1, 16, 3)
    x = _conv_bn_relu(ops, x, 2, 32, 3, stride=2, bias=True)
    x = _conv_bn_relu(ops, x, 3, 32, 3, groups=2)
    shortcut = _conv_bn_relu(ops, x, 4, 64, 1, bias=True)
    x = _conv_bn_relu(ops, shortcut, 5, 64, 3, groups=64)
    x = ops.batch_norm(ops.conv(x, "conv6", 64, 1), "bn6")
    x = ops.relu(ops.add(x, shortcut))
    x = _conv_bn_relu(ops, x, 7, 64, 3, stride=2)
    return ops.dense(ops.global_average_pool(x), "fc", CLASSES)


def _conv_bn_relu(ops: Operations[T], x: T, number: int, channels: int, kernel: int, **options: Any) -> T:
    x = ops.conv(x, f"conv{number}", channels, kernel, **options)
    return ops.relu(ops.batch_norm(x, f"bn{number}"))


def _resnet20(ops: Operations[T], x: T) -> T:
    """ResNet-20 of `models.resnet`, with its names: shortcuts without parameters, one zero on every side."""
    x = ops.relu(ops.batch_norm(ops.conv(x, "conv1", 16, 3, padding=1), "bn1"))
    for stage in range(3):
        for i in range(3):
            x = _basic_block(ops, x, f"layer{stage + 1}.{i}", 16 << stage, 2 if stage and not i else 1)
    return ops.dense(ops.global_average_pool(x), "fc", CLASSES)


def _basic_block(ops: Operations[T], x: T, name: str, channels: int, stride: int) -> T:
    y = ops.conv(x, f"{name}.conv1", channels, 3, stride=stride, padding=1)
    y = ops.relu(ops.batch_norm(y, f"{name}.bn1"))
    y = ops.batch_norm(ops.conv(y, f"{name}.conv2", channels, 3, padding=1), f"{name}.bn2")
    shortcut = ops.subsample_and_pad(x, channels // 4) if stride == 2 else x
    return ops.relu(ops.add(y, shortcut))


_FUNCTIONS: dict[str, Callable[[Operations[Any], Any], Any]] = {"trap": _trap, "resnet20": _resnet20}

NETWORKS = tuple(_FUNCTIONS)
