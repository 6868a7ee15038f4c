"""Models on disk and in memory: load, save whole or not at all, external data, hash.

Weights in external files are never loaded with the graph: tensors stay references until one is read.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, numpy_helper

from onnxlr.errors import ModelError, UsageError
from onnxlr.external_data import ExternalData, is_external
from passes.graph import all_tensors

__all__ = ["Model", "check", "load", "model_hash", "read_tensor", "save", "staged_file"]

_PROTOBUF_LIMIT = 2**31 - 2**20  # bytes; protobuf cannot serialize 2 GiB
_EXTERNAL_THRESHOLD = 1024  # bytes; smaller tensors stay in the model file, as onnx.save does it
_ALIGNMENT = 4096  # bytes; lets ONNX Runtime map external weights


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A ModelProto and where it came from.

    Attributes:
        proto: the master copy; tensors in external files are references.
        folder: what locations of external data are relative to.
        name: for messages and reports.
        file: the file that `proto` was read from, if it was.
    """

    proto: ModelProto
    folder: Path = Path()
    name: str = "model in memory"
    file: Path | None = None

    def with_proto(self, proto: ModelProto) -> Model:
        """Another version of this model."""
        return Model(proto, self.folder, self.name)

    @property
    def is_external(self) -> bool:
        """Whether any tensor lies in another file."""
        return any(map(is_external, all_tensors(self.proto)))

    @property
    def nbytes(self) -> int:
        """Size in bytes of the model with its external data."""
        external = (ExternalData(tensor) for tensor in all_tensors(self.proto) if is_external(tensor))
        in_file: int = self.proto.ByteSize() if self.file is None else self.file.stat().st_size
        return in_file + sum(data.length for data in external)


def load(source: str | os.PathLike[str] | ModelProto | Model) -> Model:
    """Load a model without its external data, or wrap one that is in memory.

    Raises:
        ModelError: there is no such file, it is no ONNX model, or its external data are missing, too short,
            or outside its folder.
    """
    if isinstance(source, Model):
        return source
    model = Model(source) if isinstance(source, ModelProto) else _read(Path(source))
    _check_external_data(model)
    return model


def _read(path: Path) -> Model:
    if not os.path.isfile(path):  # unlike Path.is_file, False for names that no file can have
        raise ModelError(f"{path}: {'not a regular file' if os.path.exists(path) else 'no such file'}")
    try:
        proto = onnx.load(path, load_external_data=False, format="protobuf")
    except (DecodeError, OSError) as error:
        raise ModelError(f"{path}: cannot be read as an ONNX model ({error})") from error
    if not proto.graph.node:
        raise ModelError(f"{path}: not an ONNX model, or one without nodes")
    return Model(proto, path.parent, path.name, path)


def read_tensor(model: Model, tensor: TensorProto) -> NDArray[np.generic]:
    """A stored tensor as an array; of external data only this tensor's bytes are read."""
    return numpy_helper.to_array(tensor, str(model.folder))


def model_hash(model: Model) -> str:
    """`sha256:<hex>` over the model's file (in memory: what would be its file) and its external data."""
    if model.file is None:
        digest = hashlib.sha256(model.proto.SerializeToString(deterministic=True))
    else:
        with model.file.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
    for tensor in filter(is_external, all_tensors(model.proto)):
        for block in ExternalData(tensor).blocks(model.folder):
            digest.update(block)
    return f"sha256:{digest.hexdigest()}"


def save(model: Model, path: str | os.PathLike[str]) -> None:
    """Write a model; it appears whole or not at all, and may replace the file it was loaded from.

    Weights go to `<name>.data` beside it where the model had external data or is too large for one file.

    Raises:
        UsageError: the folder does not exist or cannot be written to.
    """
    target = Path(path)
    with _staging_folder(target) as stage:
        names = _write(model, stage, target.name)
        for name in reversed(names):  # data first: a model never refers to data that are not there yet
            os.replace(stage / name, target.parent / name)


@contextmanager
def staged_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file that replaces `path` when the block ends, and leaves no trace if it raises.

    Raises:
        UsageError: the folder does not exist or cannot be written to.
    """
    target = Path(path)
    with _staging_folder(target) as stage:
        with (stage / target.name).open("wb") as file:
            yield file
            _flush(file)
        os.replace(stage / target.name, target)


def check(model: Model) -> None:
    """Run onnx.checker with shape inference over a model.

    Raises:
        ModelError: what the checker found.
    """
    try:
        if _needs_data_file(model):
            with tempfile.TemporaryDirectory(prefix="onnxlr-") as folder:
                names = _write(model, Path(folder), "model.onnx")
                onnx.checker.check_model(Path(folder) / names[0], full_check=True)
        else:
            onnx.checker.check_model(model.proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"{model.name}: onnx.checker rejects it: {reason}") from error


def _check_external_data(model: Model) -> None:
    for tensor in filter(is_external, all_tensors(model.proto)):
        try:
            problem = ExternalData(tensor).check(model.folder)
        except (ValueError, KeyError, OSError, RuntimeError) as error:  # RuntimeError: a loop of links
            problem = f"has unreadable attributes ({error})"
        if problem:
            raise ModelError(f"{model.name}: external data of tensor '{tensor.name}' {problem}")


@contextmanager
def _staging_folder(target: Path) -> Iterator[Path]:
    """A temporary folder on the target's file system."""
    if target.is_dir() or not target.name:
        raise UsageError(f"{target}: is a folder; name a file")
    try:
        stage = Path(tempfile.mkdtemp(prefix=".onnxlr-", dir=target.parent))
    except OSError as error:
        raise UsageError(f"{target}: cannot write there ({error.strerror})") from error
    try:
        yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _write(model: Model, folder: Path, name: str) -> list[str]:
    """Write the model and, where needed, its data; returns the file names, the model's first."""
    if not _needs_data_file(model):
        with (folder / name).open("wb") as file:
            file.write(model.proto.SerializeToString())
            _flush(file)
        return [name]
    proto, data_name = ModelProto(), f"{name}.data"
    proto.CopyFrom(model.proto)
    with (folder / data_name).open("wb") as data:
        for tensor in all_tensors(proto):
            _move_out(tensor, model.folder, data, data_name)
        _flush(data)
    with (folder / name).open("wb") as file:
        file.write(proto.SerializeToString())
        _flush(file)
    return [name, data_name]


def _needs_data_file(model: Model) -> bool:
    """Whether weights go to a file of their own: they came from one, or protobuf cannot hold them."""
    return model.is_external or model.proto.ByteSize() > _PROTOBUF_LIMIT


def _move_out(tensor: TensorProto, folder: Path, data: BinaryIO, data_name: str) -> None:
    """Append a tensor's bytes to `data` and make the tensor a reference to them."""
    if is_external(tensor):
        blocks = ExternalData(tensor).blocks(folder)
    elif tensor.HasField("raw_data") and len(tensor.raw_data) > _EXTERNAL_THRESHOLD:
        blocks = iter([tensor.raw_data])
    else:
        return
    offset = -(-data.tell() // _ALIGNMENT) * _ALIGNMENT
    data.truncate(offset)  # fills up to it, so that the offset is within the file if nothing follows
    data.seek(offset)
    length = sum(data.write(block) for block in blocks)
    tensor.ClearField("raw_data")
    del tensor.external_data[:]
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": data_name, "offset": offset, "length": length}.items():
        tensor.external_data.add(key=key, value=str(value))


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
