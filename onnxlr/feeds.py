"""Input data: files, folders and scripts -> batches of named arrays that fit a model. Nothing is unpickled.

Formats: `.npz` (arrays by input name, first axis = samples), `.npy` (a model with one input), a folder of
either, an ONNX `test_data_set_*` folder, a folder of images (a model with one image input; subfolders count),
`script.py:function` yielding feeds; or seeded random numbers.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxlr.data_files import Feed, Part, has_arrays, is_script, load_arrays, read_parts
from onnxlr.errors import DataError, UsageError
from onnxlr.images import ImageBatches, ImageOptions, find_images, fit_images
from onnxlr.runtime import Value
from onnxlr.sampling import Batching, joined, pick_evenly, pick_first

__all__ = ["MOST_NUMBERS", "Feed", "Feeds", "batch_size", "load_feeds", "load_labels", "random_feeds"]

MOST_NUMBERS = 2**30
"""Numbers of an input that are drawn or repeated at most: 8 GiB while they are drawn."""

_ASSUMED_SIZE = 224
"""Pixels along a symbolic spatial axis of an image input, where nothing else is known."""


@dataclass(frozen=True, slots=True, eq=False)
class Feeds:
    """Batches to run a model on; can be iterated again.

    Attributes:
        batches: feeds for one run each.
        source: what they are, for the report.
    """

    batches: Sequence[Feed]
    source: str

    @property
    def samples(self) -> int:
        """Number of samples in all batches."""
        if isinstance(self.batches, ImageBatches):
            return self.batches.samples
        return sum(map(batch_size, self.batches))


def batch_size(feed: Feed) -> int:
    """Samples in one batch: the first axis of the first input that has axes; 1 where none has."""
    return next((len(array) for array in feed.values() if array.ndim), 1)


def load_feeds(
    source: str | os.PathLike[str],
    inputs: Sequence[Value],
    *,
    samples: int | None = None,
    batch: int | None = None,
    images: ImageOptions = ImageOptions(),
    finite: bool = False,
) -> Feeds:
    """Read data for a model's inputs.

    Args:
        source: one of the formats in the module's docstring.
        inputs: of the model.
        samples: take that many at most: evenly spaced over all files, but of a script, whose length nobody
            knows, the first. Where the model's batch size is fixed, as many as make up whole batches, and
            one batch at least.
        batch: samples a batch where the model leaves it open; None: 32.
        images: how a folder of images is read.
        finite: refuse NaN and infinities in the samples that are taken.

    Raises:
        DataError: files are missing or damaged, or names, types, shapes or values do not fit the model.
        UsageError: options are out of range, or contradict the model.
    """
    for name, number in (("samples", samples), ("batch", batch)):
        if number is not None and number < 1:
            raise UsageError(f"{name} must be at least 1, got {number}")
    source, batching = os.fspath(source), Batching.of(inputs, batch)
    if Path(source).is_dir() and not has_arrays(Path(source)):
        return _load_images(source, inputs, images, samples, batching)
    return _load_arrays(source, inputs, samples, batching, finite)


def load_labels(path: str | os.PathLike[str]) -> NDArray[np.int64]:
    """Class numbers `(samples,)` from a .npy file.

    Raises:
        DataError: the file is missing, damaged, or no vector of whole numbers.
    """
    labels = load_arrays(Path(path))
    if not isinstance(labels, np.ndarray) or labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(f"{path}: labels must be a .npy vector of whole numbers")
    return labels.astype(np.int64)


def random_feeds(
    inputs: Sequence[Value],
    shapes: Mapping[str, Sequence[int]] | None = None,
    samples: int = 8,
    seed: int = 0,
) -> Feeds:
    """Seeded inputs where no data are given: standard normal numbers; 0 and 1 for integers and booleans.

    Args:
        inputs: of the model.
        shapes: for symbolic dimensions. Without it a symbolic first axis gets `samples`, symbolic axes of an
            image (from the third on) 224.
        samples: number of samples where the batch is symbolic.
        seed: of the random numbers.

    Raises:
        UsageError: another symbolic dimension has no size, or the sizes are absurd.
    """
    rng = np.random.default_rng(seed)
    feed: dict[str, NDArray[Any]] = {}
    assumed = []
    for value in inputs:
        shape = _concrete_shape(value, (shapes or {}).get(value.name), samples)
        if any(not isinstance(size, int) for size in value.shape[2:]) and value.name not in (shapes or {}):
            assumed.append(f"{value.name} as {'×'.join(map(str, shape))}")
        if prod(shape) > MOST_NUMBERS:
            text = ",".join(map(str, shape))
            raise UsageError(
                f"input '{value.name}' of shape [{text}] is too large for random data; give --inputs, or"
                f" --input-shape {value.name}:SIZES"
            )
        if value.dtype.kind == "f":
            feed[value.name] = rng.standard_normal(shape).astype(value.dtype)
        else:
            feed[value.name] = rng.integers(0, 2, shape).astype(value.dtype)
    note = f", size assumed: {', '.join(assumed)}" if assumed else ""
    return Feeds([feed], f"seeded random numbers (seed {seed}), not real data{note}")


def _concrete_shape(value: Value, given: Sequence[int] | None, samples: int) -> tuple[int, ...]:
    if given is not None:
        return tuple(given)
    shape = []
    for axis, size in enumerate(value.shape):
        if isinstance(size, int):
            shape.append(size)
        elif axis == 0:
            shape.append(samples)
        elif axis >= 2 and len(value.shape) >= 4:
            shape.append(_ASSUMED_SIZE)
        else:
            text = ",".join(str(s) for s in value.shape)
            raise UsageError(
                f"input '{value.name}' has the shape [{text}]; give --input-shape {value.name}:SIZES"
            )
    return tuple(shape)


def _load_arrays(
    source: str, inputs: Sequence[Value], samples: int | None, batching: Batching, finite: bool
) -> Feeds:
    picked, total = _pick(source, inputs, samples, batching)
    parts = [_cast(part, inputs) for part in picked]
    if finite:
        for part in parts:
            _check_finite(part)
    if not any(batch_size(part.feed) for part in parts):
        raise DataError(f"{source}: no samples")
    if samples is not None:
        parts = list(joined(parts, source, batching))
    batches = [batch for part in parts for batch in batching.split(part.feed)]
    if samples is None or not batches:
        for part in parts:
            batching.check(batching.length(part.feed), part.name)
    taken = sum(map(batching.count, batches))
    return Feeds(batches, _describe(source, taken, total))


def _pick(
    source: str, inputs: Sequence[Value], samples: int | None, batching: Batching
) -> tuple[list[Part], int | None]:
    """What to take of the data, and how many samples there are; None where nobody knows."""
    parts = (_checked(part, inputs) for part in read_parts(source, inputs))
    if samples is not None and is_script(source):
        return list(pick_first(parts, samples, batching)), None
    found = list(parts)
    total = sum(batching.count(part.feed) for part in found)
    return found if samples is None else list(pick_evenly(found, samples, batching)), total


def _load_images(
    folder: str, inputs: Sequence[Value], options: ImageOptions, samples: int | None, batching: Batching
) -> Feeds:
    paths = find_images(Path(folder))
    if not paths:
        raise DataError(f"{folder}: no .npz, .npy, input_*.pb or image files in it")
    target = fit_images(inputs, options, folder)
    rows = batching.choose(len(paths), samples)
    batching.check(len(rows), folder)
    batches = ImageBatches([paths[i] for i in rows], target, batching.size)
    return Feeds(batches, _describe(folder, len(rows), len(paths)))


def _describe(source: str, taken: int, total: int | None) -> str:
    if total is None:
        return f"{source} (first {taken:,} samples)"
    return source if taken == total else f"{source} ({taken:,} of {total:,} samples)"


def _checked(part: Part, inputs: Sequence[Value]) -> Part:
    """The arrays that the model wants; names, types and shapes must fit."""
    missing = [value.name for value in inputs if value.name not in part.feed]
    if missing:
        raise DataError(f"{part.name}: no array for input {missing}; it has {sorted(part.feed)}")
    for value in inputs:
        _check_fit(part.feed[value.name], value, part.name)
    return Part(part.name, {value.name: part.feed[value.name] for value in inputs})


def _check_fit(array: NDArray[Any], value: Value, name: str) -> None:
    sizes = zip(array.shape[1:], value.shape[1:], strict=False)
    if array.ndim != len(value.shape) or any(isinstance(w, int) and g != w for g, w in sizes):
        raise DataError(
            f"{name}: input '{value.name}' has the shape {list(value.shape)}, the array {list(array.shape)}"
        )
    if not np.can_cast(array.dtype, value.dtype, "same_kind"):
        raise DataError(f"{name}: input '{value.name}' is {value.dtype}, the array {array.dtype}")


def _cast(part: Part, inputs: Sequence[Value]) -> Part:
    feed = {value.name: part.feed[value.name].astype(value.dtype, copy=False) for value in inputs}
    return Part(part.name, feed, part.numbers)


def _check_finite(part: Part) -> None:
    for name, array in part.feed.items():
        if array.dtype.kind != "f" or np.isfinite(array).all():
            continue
        where = ""
        if array.ndim:
            row = int(np.isfinite(array).reshape(len(array), -1).all(axis=1).argmin())
            where = f" in sample {row if part.numbers is None else part.numbers[row]}"
        raise DataError(f"{part.name}: input '{name}' has NaN or infinite values{where}; remove it")
