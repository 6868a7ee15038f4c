"""Input data: files, folders and scripts -> batches of named arrays that fit a model. Nothing is unpickled.

Formats: `.npz` (arrays by input name, first axis = samples), `.npy` (a model with one input), a folder of
either, an ONNX `test_data_set_*` folder, `script.py:function` yielding feeds; or seeded random numbers.
"""

from __future__ import annotations

import runpy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from onnxlr.errors import DataError, UsageError
from onnxlr.runtime import Value

__all__ = ["Feed", "Feeds", "batch_size", "load_feeds", "load_labels", "random_feeds"]

Feed = Mapping[str, NDArray[Any]]

_BATCH = 32
"""Samples a batch where the model leaves the batch size open."""

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
        return sum(map(batch_size, self.batches))


def batch_size(feed: Feed) -> int:
    """Samples in one batch: the first axis of the first input that has axes; 1 where none has."""
    return next((len(array) for array in feed.values() if array.ndim), 1)


def load_feeds(source: str, inputs: Sequence[Value]) -> Feeds:
    """Read data for a model's inputs.

    Args:
        source: one of the formats in the module's docstring.
        inputs: of the model.

    Raises:
        DataError: files are missing or damaged, or names, types or shapes do not fit the model.
    """
    feeds = [_checked(feed, inputs, source) for feed in _read(source, inputs)]
    if not any(map(batch_size, feeds)):
        raise DataError(f"{source}: no samples")
    batches = [batch for feed in feeds for batch in _split(feed, inputs, source)]
    return Feeds(batches, source)


def load_labels(path: str) -> NDArray[np.int64]:
    """Class numbers `(samples,)` from a .npy file.

    Raises:
        DataError: the file is missing, damaged, or no vector of whole numbers.
    """
    labels = _load(Path(path))
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
        UsageError: another symbolic dimension has no size.
    """
    rng = np.random.default_rng(seed)
    feed: dict[str, NDArray[Any]] = {}
    assumed = []
    for value in inputs:
        shape = _concrete_shape(value, (shapes or {}).get(value.name), samples)
        if any(not isinstance(size, int) for size in value.shape[2:]) and value.name not in (shapes or {}):
            assumed.append(f"{value.name} as {'×'.join(map(str, shape))}")
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


def _read(source: str, inputs: Sequence[Value]) -> Iterable[Feed]:
    script, colon, function = source.rpartition(":")
    if colon and script.endswith(".py"):
        return _run_script(script, function)
    path = Path(source)
    if not path.exists():
        raise DataError(f"{source}: no such file or folder")
    return _read_folder(path, inputs) if path.is_dir() else [_read_file(path, inputs)]


def _run_script(script: str, function: str) -> Iterator[Feed]:
    try:
        names = runpy.run_path(script)
        if function not in names:
            raise DataError(f"{script}: has no function '{function}'")
        for feed in names[function]():
            yield {name: np.asarray(array) for name, array in feed.items()}
    except DataError:
        raise
    except (Exception, SystemExit) as error:  # whatever a user's script raises
        raise DataError(f"{script}:{function} failed: {type(error).__name__}: {error}") from error


def _read_folder(folder: Path, inputs: Sequence[Value]) -> Iterator[Feed]:
    if any(folder.glob("input_*.pb")):
        numbered = [(value.name, folder / f"input_{i}.pb") for i, value in enumerate(inputs)]
        yield {name: _load_protobuf(path) for name, path in numbered if path.exists()}
        return
    paths = sorted(path for path in folder.iterdir() if path.suffix in (".npz", ".npy"))
    if not paths:
        raise DataError(f"{folder}: no .npz, .npy or input_*.pb files in it")
    for path in paths:
        yield _read_file(path, inputs)


def _load_protobuf(path: Path) -> NDArray[Any]:
    try:
        tensor = onnx.load_tensor(path)
        return numpy_helper.to_array(tensor)
    except Exception as error:  # protobuf and onnx raise several kinds
        raise DataError(f"{path}: cannot be read as a tensor ({error})") from error


def _read_file(path: Path, inputs: Sequence[Value]) -> Feed:
    loaded = _load(path)
    if not isinstance(loaded, np.ndarray):
        return loaded
    if len(inputs) != 1:
        raise DataError(
            f"{path}: a .npy file fits models with one input, this one has {len(inputs)}; use .npz"
        )
    return {inputs[0].name: loaded}


def _load(path: Path) -> NDArray[Any] | dict[str, NDArray[Any]]:
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            return {name: np.asarray(loaded[name]) for name in loaded.files}
    except Exception as error:  # zipfile, numpy and the OS raise several kinds
        raise DataError(f"{path}: cannot be read as .npz or .npy ({error})") from error


def _checked(feed: Feed, inputs: Sequence[Value], source: str) -> Feed:
    """The feed in the model's types; names and shapes must fit."""
    missing = [value.name for value in inputs if value.name not in feed]
    if missing:
        raise DataError(f"{source}: no array for input {missing}; it has {sorted(feed)}")
    return {value.name: _fitting(feed[value.name], value, source) for value in inputs}


def _fitting(array: NDArray[Any], value: Value, source: str) -> NDArray[Any]:
    sizes = zip(array.shape[1:], value.shape[1:], strict=False)
    if array.ndim != len(value.shape) or any(isinstance(w, int) and g != w for g, w in sizes):
        raise DataError(
            f"{source}: input '{value.name}' has the shape {list(value.shape)}, the array {list(array.shape)}"
        )
    if not np.can_cast(array.dtype, value.dtype, "same_kind"):
        raise DataError(f"{source}: input '{value.name}' is {value.dtype}, the array {array.dtype}")
    return array.astype(value.dtype, copy=False)


def _split(feed: Feed, inputs: Sequence[Value], source: str) -> Iterator[Feed]:
    """Batches along the first axis, of the size that the model wants."""
    fixed = {value.shape[0] for value in inputs if value.shape and isinstance(value.shape[0], int)}
    samples = {len(array) for array in feed.values() if array.ndim}
    if len(samples) != 1 or len(fixed) > 1:  # axes that are no batch: run it as it is
        yield feed
        return
    (count,), size = samples, next(iter(fixed), _BATCH)
    if fixed and count % size:
        raise DataError(f"{source}: {count} samples do not divide into the model's batches of {size}")
    for start in range(0, count, size):
        yield {name: array[start : start + size] if array.ndim else array for name, array in feed.items()}
