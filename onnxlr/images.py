"""A folder of images -> batches for a model with one image input, decoded as they are asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from onnxlr.data_files import Feed
from onnxlr.errors import DataError, UsageError
from onnxlr.memory import room
from onnxlr.runtime import Value

__all__ = ["LAYOUTS", "ImageBatches", "ImageInput", "ImageOptions", "find_images", "fit_images"]

Layout = Literal["auto", "NCHW", "NHWC"]

LAYOUTS = ("auto", "NCHW", "NHWC")

_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm")
_AXES = {"NCHW": (1, 2, 3), "NHWC": (3, 1, 2)}
"""Axes of channels, height and width."""

_CACHE_BYTES = 512 * 2**20
"""Decoded pixels are kept where those of all images take no more."""


@dataclass(frozen=True, slots=True)
class ImageOptions:
    """How images become arrays: x = (v − mean) / std, where v are the RGB values from 0 to 255, not 0 to 1.

    Attributes:
        size: height and width in pixels; None: the model's own.
        mean: in units of v; one number, or one a channel.
        std: in units of v; one number, or one a channel.
        layout: of the model's input; auto: where its axis of 3 or 1 channels is.

    Raises:
        UsageError: sizes or standard deviations are not positive, numbers not finite, the layout is unknown.

    >>> import onnxlr
    >>> images = onnxlr.ImageOptions((224, 224), mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
    >>> onnxlr.Calibration("photos/", images=images).images.size
    (224, 224)
    """

    size: tuple[int, int] | None = None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: Layout = "auto"

    def __post_init__(self) -> None:
        if self.size is not None and (len(self.size) != 2 or min(self.size) < 1):
            raise UsageError(f"image size must be a height and a width of at least 1, got {self.size}")
        if not all(map(math.isfinite, self.mean)):
            raise UsageError(f"mean must be finite, got {self.mean}")
        if not all(0 < number < math.inf for number in self.std):
            raise UsageError(f"std must be positive and finite, got {self.std}")
        if self.layout not in LAYOUTS:
            raise UsageError(f"layout must be one of {', '.join(LAYOUTS)}; got '{self.layout}'")


@dataclass(frozen=True, slots=True)
class ImageInput:
    """What a model wants images to be.

    Attributes:
        name: of the input.
        dtype: of the input: uint8 takes pixels as they are.
        size: height and width in pixels.
        channels: 3 for RGB, 1 for grey.
        layout: NCHW or NHWC.
        mean: see `ImageOptions`.
        std: see `ImageOptions`.
    """

    name: str
    dtype: np.dtype[Any]
    size: tuple[int, int]
    channels: int
    layout: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def array(self, pixels: NDArray[np.uint8]) -> NDArray[Any]:
        """Pixels `(N, H, W, C)` as the input wants them, `(N, C, H, W)` or `(N, H, W, C)`."""
        array: NDArray[Any] = pixels
        if self.dtype != np.uint8:
            array = ((pixels - np.array(self.mean)) / np.array(self.std)).astype(self.dtype)
        return np.ascontiguousarray(array.transpose(0, 3, 1, 2)) if self.layout == "NCHW" else array


class ImageBatches(Sequence[Feed]):
    """Batches of images, each decoded when it is asked for; the pixels are kept where they fit 512 MiB.

    Args:
        paths: of the images.
        target: what the model wants.
        batch: images a batch.

    Raises:
        DataError: Pillow is not installed; on access, an image cannot be read.
    """

    def __init__(self, paths: Sequence[Path], target: ImageInput, batch: int) -> None:
        self._read = _decoder()
        self._paths = paths
        self._target = target
        self._starts = range(0, len(paths), batch)
        self._kept: dict[int, NDArray[np.uint8]] = {}
        self._keeps = len(paths) * math.prod(target.size) * target.channels <= room(_CACHE_BYTES)

    @property
    def samples(self) -> int:
        """Number of images; none is decoded for it."""
        return len(self._paths)

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> Feed: ...
    @overload
    def __getitem__(self, index: slice) -> list[Feed]: ...
    def __getitem__(self, index: int | slice) -> Feed | list[Feed]:
        if isinstance(index, slice):
            return [self._batch(start) for start in self._starts[index]]
        return self._batch(self._starts[index])

    def _batch(self, start: int) -> Feed:
        pixels = self._kept.get(start)
        if pixels is None:
            paths = self._paths[start : start + self._starts.step]
            wanted = self._target.size, self._target.channels
            pixels = np.stack([self._read(path, *wanted) for path in paths])
            if self._keeps:
                self._kept[start] = pixels
        return {self._target.name: self._target.array(pixels)}


def find_images(folder: Path) -> list[Path]:
    """Images in a folder and its subfolders, sorted by path; hidden ones are left out."""
    found = {path.relative_to(folder).parts: path for path in folder.rglob("*")}
    return [
        path
        for parts, path in sorted(found.items())
        if path.suffix.lower() in _SUFFIXES
        and not any(part.startswith(".") for part in parts)
        and path.is_file()
    ]


def fit_images(inputs: Sequence[Value], options: ImageOptions, source: str) -> ImageInput:
    """What images have to become for a model.

    Args:
        inputs: of the model.
        options: how to get there.
        source: the folder, for messages.

    Raises:
        DataError: the model has no image input, or nothing says how large it is.
        UsageError: options contradict the input.
    """
    if len(inputs) != 1 or len(inputs[0].shape) != 4:
        shapes = ", ".join(f"'{value.name}' {list(value.shape)}" for value in inputs)
        raise DataError(
            f"{source}: images fit models with one input of 4 axes, this one has {shapes}; use .npz"
        )
    (value,) = inputs
    if value.dtype != np.uint8 and value.dtype.kind != "f":
        raise DataError(f"{source}: images fit uint8 and float inputs, '{value.name}' is {value.dtype}")
    layout = _find_layout(value, options.layout, source)
    channel_axis, *spatial = _AXES[layout]
    channels = value.shape[channel_axis]
    target = ImageInput(
        value.name,
        value.dtype,
        _find_size(value, spatial, options.size, source),
        channels if isinstance(channels, int) else 3,
        layout,
        options.mean,
        options.std,
    )
    _check_normalization(target)
    return target


def _find_layout(value: Value, wanted: Layout, source: str) -> str:
    """The first layout wanted whose channels are 3 or 1, else the first whose channels are open."""
    layouts = list(_AXES) if wanted == "auto" else [wanted]
    channels = {layout: value.shape[_AXES[layout][0]] for layout in layouts}
    known = [layout for layout in layouts if channels[layout] in (3, 1)]
    open_ = [layout for layout in layouts if not isinstance(channels[layout], int)]
    if not known + open_:
        raise DataError(
            f"{source}: images have 3 channels or 1, input '{value.name}' has the shape {list(value.shape)}"
        )
    return (known + open_)[0]


def _find_size(
    value: Value, axes: Sequence[int], wanted: tuple[int, int] | None, source: str
) -> tuple[int, int]:
    own = [value.shape[axis] for axis in axes]
    sizes = [
        size if isinstance(size, int) else given
        for size, given in zip(own, wanted or (None, None), strict=True)
    ]
    height, width = sizes
    if height is None or width is None:
        raise DataError(
            f"{source}: input '{value.name}' has the shape {list(value.shape)};"
            " give --image-size HEIGHT,WIDTH"
        )
    if wanted is not None and wanted != (height, width):
        raise UsageError(
            f"image size {wanted[0]}×{wanted[1]} was given, input '{value.name}' has {list(value.shape)}"
        )
    return height, width


def _check_normalization(target: ImageInput) -> None:
    for name, numbers in (("mean", target.mean), ("std", target.std)):
        if len(numbers) not in (1, target.channels):
            raise UsageError(
                f"{name} has {len(numbers)} numbers, input '{target.name}' {target.channels} channels;"
                " give one a channel, or one for all"
            )
    if target.dtype == np.uint8 and (set(target.mean), set(target.std)) != ({0}, {1}):
        raise UsageError(
            f"input '{target.name}' is uint8 and takes pixels as they are; leave out mean and std"
        )


def _decoder() -> Callable[[Path, tuple[int, int], int], NDArray[np.uint8]]:
    try:
        from onnxlr.decoding import read_pixels  # noqa: PLC0415 - imports Pillow, an extra
    except ImportError as error:
        raise DataError("reading images needs Pillow: pip install 'onnxlr[images]'") from error
    return read_pixels
