"""Saving: a model replaces the one at its place whole or not at all, with its data file.

Two files cannot be replaced at once. So the new data get a name that no file has; then the new model, which
refers to them, replaces the old one; then the old data are removed. Wherever this stops, the model at its
place has its data beside it.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Collection, Iterable
from pathlib import Path

from onnx import ModelProto, TensorProto

from onnxlr.errors import UsageError
from onnxlr.external_data import ExternalData, is_external, refer
from onnxlr.model_file import PROTOBUF_LIMIT, Model
from onnxlr.model_writing import write_model
from onnxlr.staging import flush_folder, staging_folder
from passes.graph import all_tensors

__all__ = ["EXTERNAL_DATA", "save"]

EXTERNAL_DATA = ("auto", "always", "never")
"""Where weights go: as the model has them, or one file can hold; to a data file; into the model's file."""

_BLOCK = 2**24  # bytes read at a time


def save(model: Model, path: str | os.PathLike[str], external_data: str = "auto") -> list[Path]:
    """Write a model; it appears whole or not at all, and may replace the file it was loaded from.

    External data are written to `<name>.data` beside it; where there is such a file, to `<name>.2.data` and
    so on, and that of the model that was replaced is removed, if no other model in the folder mentions it.

    Args:
        model: where its own data file is removed, its tensors refer to the new one afterwards.
        path: of the model's file.
        external_data: `always` writes tensors above 1 KiB to a data file, `never` none, `auto` does if the
            model has external data or takes more than the 2 GB that protobuf can hold.

    Returns:
        The files written, the model's first.

    Raises:
        UsageError: it cannot be written there, or not in one file.
    """
    target = Path(path)
    is_split = _is_split(model, external_data)
    _refuse_own_data(model, target)
    with staging_folder(target) as stage:
        data = _free_data_file(target) if is_split else None
        written = write_model(model, stage, target.name, data.name if data else None)
        old = _superseded(target)
        files = _publish(stage, target, data)
        _follow(model, written, old)
        for file in old:
            with contextlib.suppress(OSError):  # Windows keeps files that are in use
                file.unlink()
    return files


def _is_split(model: Model, external_data: str) -> bool:
    """Whether there is to be a data file."""
    if external_data not in EXTERNAL_DATA:
        raise UsageError(f"external_data must be one of {', '.join(EXTERNAL_DATA)}; got '{external_data}'")
    if external_data == "never" and model.nbytes > PROTOBUF_LIMIT:
        raise UsageError(
            f"{model.name}: takes {model.nbytes / 1e9:.1f} GB, and a file of protobuf holds 2 GB: "
            "write external data (auto or always)"
        )
    as_it_is = external_data == "auto" and (model.is_external or model.is_too_large)
    return as_it_is or external_data == "always"


def _refuse_own_data(model: Model, target: Path) -> None:
    tensors = filter(is_external, all_tensors(model.proto))
    if target.resolve() in {_data_file(model, tensor) for tensor in tensors}:
        raise UsageError(f"{target}: the model's external data are in this file; choose another name")


def _data_file(model: Model, tensor: TensorProto) -> Path:
    return (model.folder / ExternalData(tensor).location).resolve()


def _numbered_data_files(target: Path) -> dict[int, Path]:
    """Data files with a name that `save` gives, by number."""
    pattern = re.compile(re.escape(target.name) + r"(?:\.([2-9]|[1-9]\d+))?\.data")
    matches = ((pattern.fullmatch(file.name), file) for file in target.parent.iterdir())
    return {int(match[1] or 1): file for match, file in matches if match}


def _free_data_file(target: Path) -> Path:
    """One number above all there are: no name is used again while a model in memory may refer to it."""
    number = max(_numbered_data_files(target), default=0) + 1
    return target.with_name(f"{target.name}.data" if number == 1 else f"{target.name}.{number}.data")


def _superseded(target: Path) -> list[Path]:
    """Data files that the model at this place mentions, and no other model in the folder."""
    files = _numbered_data_files(target).values()
    models = {file for file in target.parent.glob("*.onnx*") if file.suffix != ".data" and file.is_file()}
    return [file for file in files if _users(models | {target}, file.name) == [target]]


def _users(models: Iterable[Path], name: str) -> list[Path]:
    return [model for model in models if _mentions(model, name)]


def _mentions(path: Path, name: str) -> bool:
    """Whether a name is anywhere in a file; True for files that cannot be read, to be on the safe side."""
    wanted, end = name.encode(), b""
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                if wanted in (seen := end + block):
                    return True
                end = seen[-len(wanted) :]
    except OSError:
        return path.exists()
    return False


def _publish(stage: Path, target: Path, data: Path | None) -> list[Path]:
    """Move the files to their place, the model last; returns them, the model first."""
    if data is None or not (stage / data.name).exists():
        os.replace(stage / target.name, target)
        return [target]
    os.replace(stage / data.name, data)
    try:
        flush_folder(target.parent)
        os.replace(stage / target.name, target)
    except BaseException:
        data.unlink()
        raise
    return [target, data]


def _follow(model: Model, written: ModelProto, old: Collection[Path]) -> None:
    """Make tensors in memory that refer to old files equal to those written."""
    gone = {file.resolve() for file in old}
    for tensor, new in zip(all_tensors(model.proto), all_tensors(written), strict=True):
        if is_external(tensor) and _data_file(model, tensor) in gone:
            location = Path(ExternalData(tensor).location)
            tensor.CopyFrom(new)
            if is_external(new):
                data = ExternalData(new)
                refer(tensor, location.with_name(data.location).as_posix(), data.offset, data.length)
