"""Data to train on: samples in memory, split, in a seeded order, with augmented images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxlr.errors import DataError
from onnxlr.feeds import Feed, batch_size

__all__ = ["Augmentation", "Batch", "Dataset"]

Array = NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Some samples.

    Attributes:
        feed: arrays by input.
        labels: class numbers `(samples,)`; None where there are none.
    """

    feed: Feed
    labels: NDArray[np.int64] | None


@dataclass(frozen=True, slots=True)
class Augmentation:
    """What is done to images in training.

    Attributes:
        flip: whether every second one is mirrored.
        crop: pixels that an image is shifted by at most, along height and width.
        axes: of height and width, by the name of the input; inputs that are no images are not in it.
    """

    flip: bool
    crop: int
    axes: Mapping[str, tuple[int, int]]

    def apply(self, feed: Feed, rng: np.random.Generator) -> Feed:
        """Augment every image input of a batch; all of one sample alike."""
        count = batch_size(feed)
        mirrored = rng.random(count) < 0.5 if self.flip else np.zeros(count, bool)
        shifts = rng.integers(-self.crop, self.crop + 1, (count, 2))
        return {
            name: self._images(array, self.axes[name], mirrored, shifts) if name in self.axes else array
            for name, array in feed.items()
        }

    def _images(
        self, images: Array, axes: tuple[int, int], mirrored: NDArray[np.bool_], shifts: NDArray[np.int64]
    ) -> Array:
        result = images.copy()
        height, width = axes
        result[mirrored] = np.flip(result[mirrored], width)
        if not self.crop:
            return result
        margin = [(self.crop, self.crop) if axis in axes else (0, 0) for axis in range(images.ndim)]
        padded = np.pad(result, margin)
        for i, (down, right) in enumerate(shifts + self.crop):
            window: list[slice | int] = [slice(None)] * images.ndim
            window[0] = i
            window[height] = slice(down, down + images.shape[height])
            window[width] = slice(right, right + images.shape[width])
            result[i] = padded[tuple(window)]
        return result


class Dataset:
    """Samples in memory.

    Args:
        feeds: batches that are put together; all inputs have an axis of samples.
        labels: class numbers, one a sample.

    Raises:
        DataError: there are no samples, an input has no axis of them, or there are not as many labels.
    """

    def __init__(self, feeds: Sequence[Feed], labels: NDArray[np.int64] | None = None) -> None:
        sizes = {len(array) if array.ndim else -1 for feed in feeds[:1] for array in feed.values()}
        if len(sizes) != 1 or min(sizes) < 1:
            raise DataError("training needs samples: inputs whose first axis has as many entries each")
        self._arrays = {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}
        self._labels = labels
        if labels is not None and len(labels) != len(self):
            raise DataError(f"{len(labels)} labels for {len(self)} samples")

    def __len__(self) -> int:
        return len(next(iter(self._arrays.values())))

    def take(self, rows: NDArray[np.intp]) -> Batch:
        """Some samples."""
        feed = {name: array[rows] for name, array in self._arrays.items()}
        return Batch(feed, None if self._labels is None else self._labels[rows])

    def split(self, held_out: float, seed: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Numbers of the samples to train on, and of those to hold out.

        Raises:
            DataError: nothing is left to train on.
        """
        order = np.random.default_rng([seed, 0]).permutation(len(self))
        count = round(held_out * len(self))
        if held_out and not count:
            count = 1
        if count >= len(self):
            raise DataError(f"{len(self)} samples are too few to hold out {held_out:.0%} of them")
        return np.sort(order[count:]), np.sort(order[:count])

    def batches(self, rows: NDArray[np.intp], size: int) -> Iterator[Batch]:
        """Samples in the order of `rows`, in batches."""
        for start in range(0, len(rows), size):
            yield self.take(rows[start : start + size])
