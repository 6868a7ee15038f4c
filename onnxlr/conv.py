"""`ConvSpec`: the shapes of a Conv in ONNX attribute names. A Gemm is the Conv with no spatial axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

__all__ = ["ConvSpec", "Spatial", "chain_macs", "chain_params"]

Spatial = tuple[int, ...]
"""Sizes of the spatial axes, () for a Gemm."""


@dataclass(frozen=True, slots=True)
class ConvSpec:
    """A Conv without its data.

    Attributes:
        weight_shape: `(M, C / group, *kernel_shape)`, the layout of the ONNX input W.
        strides: one entry a spatial axis.
        pads: all begins, then all ends; ignored unless `auto_pad` is NOTSET.
        dilations: one entry a spatial axis.
        group: number of groups.
        auto_pad: NOTSET, VALID, SAME_UPPER or SAME_LOWER.

    Raises:
        ValueError: lengths disagree, or M or C does not divide into the groups.

    >>> ConvSpec.create((64, 32, 3, 3), pads=(1, 1, 1, 1)).macs((56, 56)) == 64 * 32 * 9 * 56 * 56
    True
    """

    weight_shape: tuple[int, ...]
    strides: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    group: int = 1
    auto_pad: str = "NOTSET"

    def __post_init__(self) -> None:
        axes = len(self.weight_shape) - 2
        if (len(self.strides), len(self.pads), len(self.dilations)) != (axes, 2 * axes, axes):
            raise ValueError(f"strides, pads or dilations do not fit the weight shape: {self}")
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
    ) -> ConvSpec:
        """A spec with ONNX's defaults for what is empty (strides 1, pads 0, dilations 1)."""
        axes = len(weight_shape) - 2
        return cls(
            tuple(weight_shape),
            tuple(strides) or (1,) * axes,
            tuple(pads) or (0,) * (2 * axes),
            tuple(dilations) or (1,) * axes,
            group,
            auto_pad or "NOTSET",
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
        """Whether every output position reads one input position: 1×1 Convs and Gemms."""
        return all(k == 1 for k in self.kernel_shape)

    @property
    def params(self) -> int:
        """Number of weights, without the bias."""
        return prod(self.weight_shape)

    def pointwise(self, out_channels: int, in_channels: int) -> ConvSpec:
        """The 1×1 Conv (or Gemm) of stride 1 with as many spatial axes as this one."""
        return ConvSpec.create((out_channels, in_channels, *(1,) * len(self.kernel_shape)))

    def with_channels(self, out_channels: int, in_channels: int) -> ConvSpec:
        """The same window with other channel counts, ungrouped."""
        shape = (out_channels, in_channels, *self.kernel_shape)
        return ConvSpec(shape, self.strides, self.pads, self.dilations, 1, self.auto_pad)

    def only_axis(self, axis: int, out_channels: int, in_channels: int) -> ConvSpec:
        """The part of the window along one spatial axis; every other axis has kernel 1, stride 1."""
        axes = range(len(self.kernel_shape))

        def keep(values: Sequence[int], neutral: int) -> tuple[int, ...]:
            return tuple(values[i] if i == axis else neutral for i in axes)

        pads = keep(self.pads[: len(axes)], 0) + keep(self.pads[len(axes) :], 0)
        shape = (out_channels, in_channels, *keep(self.kernel_shape, 1))
        return ConvSpec(shape, keep(self.strides, 1), pads, keep(self.dilations, 1), 1, self.auto_pad)

    def output_spatial(self, spatial: Spatial) -> Spatial:
        """Sizes of the output's spatial axes for an input of the sizes `spatial` (ONNX's Conv formula)."""
        axes = len(self.kernel_shape)
        sizes = []
        for i, size in enumerate(spatial):
            window = (self.kernel_shape[i] - 1) * self.dilations[i] + 1
            if self.auto_pad.startswith("SAME"):
                sizes.append(-(-size // self.strides[i]))
                continue
            pad = self.pads[i] + self.pads[axes + i] if self.auto_pad == "NOTSET" else 0
            sizes.append((size + pad - window) // self.strides[i] + 1)
        return tuple(sizes)

    def macs(self, spatial: Spatial) -> int:
        """Multiply-accumulates of one sample whose input has the spatial sizes `spatial`."""
        return self.params * prod(self.output_spatial(spatial))


def chain_params(chain: Sequence[ConvSpec]) -> int:
    """Number of weights of a chain of Convs, without the bias."""
    return sum(link.params for link in chain)


def chain_macs(chain: Sequence[ConvSpec], spatial: Spatial | None) -> float:
    """Multiply-accumulates of a chain of Convs for one sample.

    With unknown sizes (None), those per position of a large input: borders are neglected, only strides
    count. Ratios of such numbers compare chains of one layer; they are not MACs of the layer.
    """
    total = 0.0
    if spatial is None:
        density = 1.0
        for link in chain:
            density /= prod(link.strides)
            total += link.params * density
        return total
    for link in chain:
        spatial = link.output_spatial(spatial)
        total += link.params * prod(spatial)
    return total
