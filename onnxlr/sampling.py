"""Which samples are taken of the data, and how they are cut into the batches that a model wants."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxlr.data_files import Feed, Part
from onnxlr.errors import DataError
from onnxlr.runtime import Value

__all__ = ["Batching", "evenly_spaced", "joined", "pick_evenly", "pick_first"]

_BATCH = 32
"""Samples a batch where neither the model nor the caller sets it."""


@dataclass(frozen=True, slots=True)
class Batching:
    """How a model takes its samples.

    Attributes:
        size: samples a batch.
        fixed: whether the model takes no other size.
        has_axis: whether the inputs can share a first axis; not where the model fixes different sizes of it.
    """

    size: int
    fixed: bool
    has_axis: bool

    @classmethod
    def of(cls, inputs: Sequence[Value], batch: int | None = None) -> Batching:
        """The model's own batch size, else `batch`, else 32."""
        sizes = {value.shape[0] for value in inputs if value.shape and isinstance(value.shape[0], int)}
        if len(sizes) == 1:
            return cls(sizes.pop(), fixed=True, has_axis=True)
        return cls(batch or _BATCH, fixed=False, has_axis=not sizes)

    def length(self, feed: Feed) -> int | None:
        """Samples in a feed; None where its first axes are no batch, so that it has to be run as it is."""
        lengths = {len(array) for array in feed.values() if array.ndim}
        return lengths.pop() if self.has_axis and len(lengths) == 1 else None

    def count(self, feed: Feed) -> int:
        """Samples in a feed; one that has to be run as it is counts as 1."""
        length = self.length(feed)
        return 1 if length is None else length

    def whole(self, count: int) -> int:
        """As many of `count` samples as make up whole batches, and one batch at least."""
        return max(count - count % self.size, self.size) if self.fixed else count

    def choose(self, total: int, samples: int | None) -> NDArray[np.intp]:
        """Numbers of `samples` out of `total`, evenly spaced: ⌊i · total / samples⌋; of all for None."""
        count = total if samples is None else min(self.whole(min(samples, total)), total)
        return evenly_spaced(total, count)

    def check(self, count: int | None, name: str) -> None:
        """See that samples make up whole batches; None: they are run as they are.

        Raises:
            DataError: they do not, and the model takes no other size.
        """
        if self.fixed and count is not None and count % self.size:
            raise DataError(f"{name}: {count} samples do not divide into the model's batches of {self.size}")

    def split(self, feed: Feed) -> Iterator[Feed]:
        """Batches along the first axis; what is left over for a fixed size is dropped."""
        count = self.length(feed)
        if count is None:
            yield feed
            return
        for start in range(0, count - count % self.size if self.fixed else count, self.size):
            yield _indexed(feed, slice(start, start + self.size))


def evenly_spaced(total: int, count: int) -> NDArray[np.intp]:
    """Numbers of `count` out of `total`: ⌊i · total / count⌋."""
    return np.arange(count) * total // max(count, 1)


def pick_evenly(parts: Sequence[Part], samples: int, batching: Batching) -> Iterator[Part]:
    """Evenly spaced samples over all parts."""
    counts = [batching.count(part.feed) for part in parts]
    cut = all(batching.length(part.feed) is not None for part in parts)
    chosen, end = replace(batching, fixed=batching.fixed and cut).choose(sum(counts), samples), 0
    for part, count in zip(parts, counts, strict=True):
        start, end = end, end + count
        rows = chosen[(chosen >= start) & (chosen < end)] - start
        if len(rows):
            yield _picked(part, rows, batching)


def pick_first(parts: Iterable[Part], samples: int, batching: Batching) -> Iterator[Part]:
    """Samples from the start; no part is asked for beyond the last of them."""
    taken = 0
    for part in parts:
        count = batching.count(part.feed)
        wanted = samples if batching.length(part.feed) is None else batching.whole(samples)
        yield _picked(part, np.arange(min(count, wanted - taken)), batching)
        taken += count
        if taken >= wanted:
            return


def joined(parts: Iterable[Part], name: str, batching: Batching) -> Iterator[Part]:
    """Parts in a row whose samples fit one array, as one part of the given name."""
    for key, group in groupby(parts, lambda part: _kind(part.feed, batching)):
        feeds = [part.feed for part in group]
        if key is None:
            yield from (Part(name, feed) for feed in feeds)
            continue
        arrays = {input_name: [feed[input_name] for feed in feeds] for input_name in feeds[0]}
        yield Part(
            name, {n: np.concatenate(found) if found[0].ndim else found[0] for n, found in arrays.items()}
        )


def _kind(feed: Feed, batching: Batching) -> tuple[Any, ...] | None:
    """What feeds must have in common to be joined; None: this one stands alone."""
    if batching.length(feed) is None:
        return None
    return tuple(array.shape[1:] if array.ndim else array.item() for array in feed.values())


def _picked(part: Part, rows: NDArray[np.intp], batching: Batching) -> Part:
    if batching.length(part.feed) is None:
        return part
    return Part(part.name, _indexed(part.feed, rows), rows)


def _indexed(feed: Feed, rows: NDArray[np.intp] | slice) -> Feed:
    return {name: array[rows] if array.ndim else array for name, array in feed.items()}
