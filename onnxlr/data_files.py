"""Files, folders and scripts -> arrays by input name. Nothing is unpickled."""

from __future__ import annotations

import runpy
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from onnxlr.errors import DataError
from onnxlr.regular_files import check_regular
from onnxlr.runtime import Value

__all__ = ["Feed", "Part", "has_arrays", "is_script", "load_arrays", "read_parts"]

Feed = Mapping[str, NDArray[Any]]

_MOST_UNPACKED = 2**30
_MOST_TIMES = 100
"""Bytes that a compressed file may unpack to, unless they are fewer times its size than this."""


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """What one file holds, or one feed of a script.

    Attributes:
        name: of the file, for messages.
        feed: arrays by the name of the input.
        numbers: of its samples in the file, where only some were taken.
    """

    name: str
    feed: Feed
    numbers: NDArray[np.intp] | None = None


def is_script(source: str) -> bool:
    """Whether it is `script.py:function`."""
    script, colon, _ = source.rpartition(":")
    return bool(colon) and script.endswith(".py")


def has_arrays(folder: Path) -> bool:
    """Whether .npz, .npy or `input_*.pb` files lie in a folder.

    Raises:
        DataError: the folder cannot be read.
    """
    try:
        return bool(_array_files(folder)) or any(folder.glob("input_*.pb"))
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror})") from error


def read_parts(source: str, inputs: Sequence[Value]) -> Iterable[Part]:
    """What a source holds, by file in the order of their names; a script runs as far as parts are asked for.

    Raises:
        DataError: files are missing or damaged, or a script fails.
    """
    if is_script(source):
        return _run_script(*source.rsplit(":", 1))
    path = Path(source)
    if not path.exists():
        raise DataError(f"{source}: no such file or folder")
    return _read_folder(path, inputs) if path.is_dir() else [_read_file(path, inputs)]


def load_arrays(path: Path) -> NDArray[Any] | dict[str, NDArray[Any]]:
    """The array of a .npy file, or all arrays of a .npz file by name.

    Raises:
        DataError: the file is missing or damaged, or holds Python objects.
    """
    try:
        check_regular(path)
        _refuse_bomb(path)
        with path.open(
            "rb"
        ) as file:  # numpy leaves one that it opens itself open where an archive is damaged
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return loaded
            with loaded:
                return {name: np.asarray(loaded[name]) for name in loaded.files}
    except Exception as error:  # zipfile, numpy and the OS raise several kinds
        raise DataError(f"{path}: cannot be read as .npz or .npy ({error})") from error


def _refuse_bomb(path: Path) -> None:
    """Raise ValueError for an archive that says that it unpacks to far more than it is."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > _MOST_UNPACKED and unpacked > _MOST_TIMES * path.stat().st_size:
        raise ValueError(
            f"it unpacks to {unpacked / 2**30:.1f} GiB, over {_MOST_TIMES} times its size; do not compress it"
        )


def _array_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix in (".npz", ".npy"))


def _run_script(script: str, function: str) -> Iterator[Part]:
    try:
        names = runpy.run_path(script)
        if function not in names:
            raise DataError(f"{script}: has no function '{function}'")
        for i, feed in enumerate(names[function]()):
            yield Part(
                f"{script}:{function}, feed {i}", {name: np.asarray(array) for name, array in feed.items()}
            )
    except DataError:
        raise
    except (Exception, SystemExit) as error:  # whatever a user's script raises
        raise DataError(f"{script}:{function} failed: {type(error).__name__}: {error}") from error


def _read_folder(folder: Path, inputs: Sequence[Value]) -> Iterator[Part]:
    if any(folder.glob("input_*.pb")):
        numbered = [(value.name, folder / f"input_{i}.pb") for i, value in enumerate(inputs)]
        yield Part(str(folder), {name: _load_protobuf(path) for name, path in numbered if path.exists()})
        return
    for path in _array_files(folder):
        yield _read_file(path, inputs)


def _load_protobuf(path: Path) -> NDArray[Any]:
    try:
        check_regular(path)
        tensor = onnx.load_tensor(path)
        return numpy_helper.to_array(tensor)
    except Exception as error:  # protobuf and onnx raise several kinds
        raise DataError(f"{path}: cannot be read as a tensor ({error})") from error


def _read_file(path: Path, inputs: Sequence[Value]) -> Part:
    loaded = load_arrays(path)
    if not isinstance(loaded, np.ndarray):
        return Part(str(path), loaded)
    if len(inputs) != 1:
        raise DataError(
            f"{path}: a .npy file fits models with one input, this one has {len(inputs)}; use .npz"
        )
    return Part(str(path), {inputs[0].name: loaded})
