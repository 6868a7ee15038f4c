"""`ConvSpec`: shapes of a Conv or ConvTranspose in ONNX attribute names; a Gemm has no spatial axes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from math import prod

__all__ = ["ConvSpec", "Spatial", "chain_macs", "chain_params", "link_macs"]

Spatial = tuple[int, ...]
"""Sizes of the spatial axes, () for a Gemm."""


@dataclass(frozen=True, slots=True)
class ConvSpec:
    """A Conv or ConvTranspose without its data.

    Attributes:
        weight_shape: `(M, C / group, *kernel_shape)`: the layout of W of an ONNX Conv, also for ConvTranspose
            (whose W is stored `(C, M / group, *kernel_shape)`).
        strides: one entry a spatial axis.
        pads: all begins, then all ends; ignored unless `auto_pad` is NOTSET.
        dilations: one entry a spatial axis.
        group: number of groups.
        auto_pad: NOTSET, VALID, SAME_UPPER or SAME_LOWER.
        transposed: whether it is a ConvTranspose.
        output_padding: of a ConvTranspose, one entry a spatial axis.
        output_shape: spatial sizes of the output that a ConvTranspose asks for, () where it does not.

    Raises:
        ValueError: lengths disagree, or M does not divide into the groups.

    >>> ConvSpec.create((64, 32, 3, 3), pads=(1, 1, 1, 1)).macs((56, 56)) == 64 * 32 * 9 * 56 * 56
    True
    """

    weight_shape: tuple[int, ...]
    strides: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    group: int = 1
    auto_pad: str = "NOTSET"
    transposed: bool = False
    output_padding: tuple[int, ...] = ()
    output_shape: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        axes = len(self.weight_shape) - 2
        lengths = (len(self.strides), len(self.pads), len(self.dilations), len(self.output_padding))
        if lengths != (axes, 2 * axes, axes, axes) or len(self.output_shape) not in (0, axes):
            raise ValueError(f"an attribute does not have one entry for each of {axes} spatial axes: {self}")
        if min((*self.strides, *self.dilations), default=1) < 1:
            raise ValueError(f"strides and dilations must be at least 1: {self}")
        if self.group < 1 or self.weight_shape[0] % self.group:
            raise ValueError(f"{self.weight_shape[0]} output channels do not divide into groups: {self}")

    @classmethod
    def create(
        cls,
        weight_shape: Sequence[int],
        strides: Sequence[int] = (),
        pads: Sequence[int] = (),
        dilations: Sequence[int] = (),
        group: int = 1,
        auto_pad: str = "NOTSET",
        transposed: bool = False,
        output_padding: Sequence[int] = (),
        output_shape: Sequence[int] = (),
    ) -> ConvSpec:
        """A spec with ONNX's defaults for what is empty: strides and dilations 1, pads 0."""
        axes = len(weight_shape) - 2
        return cls(
            tuple(weight_shape),
            tuple(strides) or (1,) * axes,
            tuple(pads) or (0,) * (2 * axes),
            tuple(dilations) or (1,) * axes,
            group,
            auto_pad or "NOTSET",
            transposed,
            tuple(output_padding) or (0,) * axes,
            tuple(output_shape),
        )

    @property
    def out_channels(self) -> int:
        """M."""
        return self.weight_shape[0]

    @property
    def in_channels(self) -> int:
        """C, over all groups."""
        return self.weight_shape[1] * self.group

    @property
    def kernel_shape(self) -> tuple[int, ...]:
        """Sizes of the kernel's spatial axes, () for a Gemm."""
        return self.weight_shape[2:]

    @property
    def is_pointwise(self) -> bool:
        """Whether no two positions are mixed: 1×1 Convs and Gemms."""
        return all(k == 1 for k in self.kernel_shape)

    @property
    def is_depthwise(self) -> bool:
        """Whether no two channels are mixed: a window of its own for each."""
        return self.group > 1 and self.weight_shape[:2] == (self.group, 1)

    @property
    def params(self) -> int:
        """Number of weights, without the bias."""
        return prod(self.weight_shape)

    def one_group(self) -> ConvSpec:
        """What each of the groups computes on its channels."""
        shape = (self.out_channels // self.group, *self.weight_shape[1:])
        return replace(self, weight_shape=shape, group=1)

    def times(self, groups: int) -> ConvSpec:
        """As many of this ungrouped Conv side by side, on channels of their own."""
        return self.with_channels(self.out_channels * groups, self.in_channels * groups, groups)

    def pointwise(self, out_channels: int, in_channels: int, group: int = 1) -> ConvSpec:
        """The 1×1 Conv (or Gemm) of stride 1 with as many spatial axes as this one."""
        return ConvSpec.create(
            (out_channels, in_channels // group, *(1,) * len(self.kernel_shape)), group=group
        )

    def with_channels(self, out_channels: int, in_channels: int, group: int = 1) -> ConvSpec:
        """The same window with other channel counts."""
        shape = (out_channels, in_channels // group, *self.kernel_shape)
        return replace(self, weight_shape=shape, group=group)

    def along(self, axes: Collection[int], out_channels: int, in_channels: int) -> ConvSpec:
        """The part of the window along some spatial axes, ungrouped; the others get kernel 1 and stride 1."""

        def keep(values: Sequence[int], neutral: int) -> tuple[int, ...]:
            return tuple(value if i in axes else neutral for i, value in enumerate(values))

        count = len(self.kernel_shape)
        return replace(
            self,
            weight_shape=(out_channels, in_channels, *keep(self.kernel_shape, 1)),
            strides=keep(self.strides, 1),
            pads=keep(self.pads[:count], 0) + keep(self.pads[count:], 0),
            dilations=keep(self.dilations, 1),
            output_padding=keep(self.output_padding, 0),
            group=1,
        )

    def output_spatial(self, spatial: Spatial) -> Spatial:
        """Sizes of the output's spatial axes for an input of the sizes `spatial` (ONNX's formulas)."""
        if self.output_shape:
            return self.output_shape
        return tuple(self._output_size(axis, size) for axis, size in enumerate(spatial))

    def _output_size(self, axis: int, size: int) -> int:
        stride = self.strides[axis]
        window = (self.kernel_shape[axis] - 1) * self.dilations[axis] + 1
        if self.auto_pad.startswith("SAME"):
            return size * stride if self.transposed else -(-size // stride)
        axes = len(self.kernel_shape)
        pad = self.pads[axis] + self.pads[axes + axis] if self.auto_pad == "NOTSET" else 0
        if self.transposed:
            return stride * (size - 1) + self.output_padding[axis] + window - pad
        return (size + pad - window) // stride + 1

    def macs(self, spatial: Spatial) -> int:
        """Multiply-accumulates of one sample whose input has the spatial sizes `spatial`."""
        return self.params * prod(spatial if self.transposed else self.output_spatial(spatial))


def chain_params(chain: Sequence[ConvSpec]) -> int:
    """Number of weights of a chain of Convs, without the bias.

    Args:
        chain: the Convs, first to last.

    >>> chain_params([ConvSpec.create((4, 8, 3, 1)), ConvSpec.create((16, 4, 1, 3))])
    288
    """
    return sum(link.params for link in chain)


def chain_macs(chain: Sequence[ConvSpec], spatial: Spatial | None) -> float:
    """Multiply-accumulates of a chain of Convs for one sample.

    Args:
        chain: the Convs, first to last.
        spatial: sizes of the spatial axes of its input, as in `link_macs`.

    >>> chain_macs([ConvSpec.create((4, 8, 3, 1)), ConvSpec.create((16, 4, 1, 3))], (10, 10))
    19968
    """
    return sum(link_macs(chain, spatial))


def link_macs(chain: Sequence[ConvSpec], spatial: Spatial | None) -> list[float]:
    """Multiply-accumulates of each Conv of a chain for one sample.

    With unknown sizes (None), those per position of a large input: borders are neglected, only strides
    count. Ratios of such numbers compare chains of one layer; they are not MACs of the layer.

    Args:
        chain: the Convs, first to last.
        spatial: sizes of the spatial axes of the chain's input, () for a Gemm, None if unknown.

    >>> link_macs([ConvSpec.create((4, 8, 3, 1)), ConvSpec.create((16, 4, 1, 3))], (10, 10))
    [7680, 12288]
    """
    macs: list[float] = []
    density = 1.0
    for link in chain:
        if spatial is not None:
            macs.append(link.macs(spatial))
            spatial = link.output_spatial(spatial)
        elif link.transposed:
            macs.append(link.params * density)
            density *= prod(link.strides)
        else:
            density /= prod(link.strides)
            macs.append(link.params * density)
    return macs
