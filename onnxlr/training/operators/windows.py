"""Windows of Convs and poolings: pads from `pads` and `auto_pad`, and tensors padded by them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch.nn.functional as F  # noqa: N812  (torch's own examples call it so)
from torch import Tensor

from onnxlr.training.operators.base import Node

__all__ = ["Window", "pad", "padded", "read_window"]


@dataclass(frozen=True, slots=True)
class Window:
    """A window that slides over the spatial axes; every list has an entry for each of them."""

    kernel: list[int]
    strides: list[int]
    dilations: list[int]
    begins: list[int]
    ends: list[int]

    @property
    def extents(self) -> list[int]:
        """From the first to the last element that the window reads."""
        return [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True)]

    @property
    def is_symmetric(self) -> bool:
        """Whether both sides of each axis are padded alike, and not cropped."""
        return self.begins == self.ends and min(self.begins, default=0) >= 0

    def lengthened(self, extra: Sequence[int]) -> Window:
        """With further padding at the ends."""
        return replace(self, ends=[end + more for end, more in zip(self.ends, extra, strict=True)])


def read_window(node: Node, kernel: Sequence[int], sizes: Sequence[int]) -> Window:
    """The window of a node on an input.

    Args:
        node: a Conv or pooling.
        kernel: the kernel's spatial sizes.
        sizes: the input's spatial sizes; `auto_pad` depends on them.

    Raises:
        ValueError: `auto_pad` is none of ONNX's.
    """
    ones, zeros = [1] * len(kernel), [0] * len(kernel)
    strides, dilations = node.ints("strides", ones), node.ints("dilations", ones)
    window = Window(list(kernel), strides, dilations, zeros, zeros)
    mode = node.get("auto_pad", "NOTSET")
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        return _same(window, sizes, mode)
    if mode == "VALID":
        return window
    if mode not in ("NOTSET", ""):
        raise ValueError(f"auto_pad {mode} is not known")
    pads = node.ints("pads", zeros * 2)
    return replace(window, begins=pads[: len(kernel)], ends=pads[len(kernel) :])


def _same(window: Window, sizes: Sequence[int], mode: str) -> Window:
    """Padded so that there are ceil(size / stride) windows; SAME_UPPER puts the odd one at the end."""
    steps = zip(sizes, window.strides, window.extents, strict=True)
    totals = [max((-(-size // s) - 1) * s + extent - size, 0) for size, s, extent in steps]
    smaller = [total // 2 for total in totals]
    larger = [total - half for total, half in zip(totals, smaller, strict=True)]
    if mode == "SAME_UPPER":
        return replace(window, begins=smaller, ends=larger)
    return replace(window, begins=larger, ends=smaller)


def padded(x: Tensor, window: Window, value: float = 0.0) -> tuple[Tensor, list[int]]:
    """The input, and the padding that is left to torch, which pads both sides alike and only with zeros."""
    if window.is_symmetric and value == 0.0:
        return x, window.begins
    return pad(x, window.begins, window.ends, value), [0] * len(window.kernel)


def pad(x: Tensor, begins: Sequence[int], ends: Sequence[int], value: float = 0.0) -> Tensor:
    """Pad the last axes with a constant; negative numbers crop."""
    if not any((*begins, *ends)):
        return x
    pairs = list(zip(begins, ends, strict=True))
    return F.pad(x, [size for pair in reversed(pairs) for size in pair], value=value)
