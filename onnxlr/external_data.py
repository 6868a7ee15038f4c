"""Tensors whose bytes lie in another file: where, whether they may be read, and how to put them there."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from math import prod
from pathlib import Path
from typing import BinaryIO

from onnx import TensorProto, external_data_helper, helper

from onnxlr.errors import ModelError

__all__ = [
    "THRESHOLD",
    "TYPED_FIELDS",
    "ExternalData",
    "append",
    "is_external",
    "is_spilled",
    "refer",
    "stored_bytes",
    "take_in",
]

THRESHOLD = 1024
"""Bytes; smaller tensors stay in the model file, as onnx.save does it."""

TYPED_FIELDS = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data")
"""Fields of a TensorProto that hold numbers; raw_data can always take their place."""

_ALIGNMENT = 4096  # bytes; lets ONNX Runtime map external weights

_PACKED = {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2, "FLOAT6E2M3": 6, "FLOAT6E3M2": 6}
"""Bits of the types of which several share a byte."""


def is_external(tensor: TensorProto) -> bool:
    """Whether a tensor's bytes lie in another file."""
    return external_data_helper.uses_external_data(tensor)


def is_spilled(tensor: TensorProto) -> bool:
    """Whether a tensor's bytes lie in an `onnxlr.spill.Spill`: models on disk have no absolute locations."""
    return is_external(tensor) and os.path.isabs(ExternalData(tensor).location)


def refer(tensor: TensorProto, location: str | os.PathLike[str], offset: int, length: int) -> None:
    """Make a tensor a reference to bytes in a file."""
    for name in ("raw_data", *TYPED_FIELDS):
        tensor.ClearField(name)
    del tensor.external_data[:]
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": os.fspath(location), "offset": offset, "length": length}.items():
        tensor.external_data.add(key=key, value=str(value))


def take_in(tensor: TensorProto, folder: Path) -> None:
    """Put the bytes of an external tensor into the tensor."""
    tensor.raw_data = b"".join(ExternalData(tensor).blocks(folder))
    tensor.ClearField("data_location")
    del tensor.external_data[:]


def append(file: BinaryIO, blocks: Iterable[bytes]) -> tuple[int, int]:
    """Write blocks at the end of a file, aligned; returns the offset of the first byte and their number."""
    offset = -(-file.seek(0, os.SEEK_END) // _ALIGNMENT) * _ALIGNMENT
    file.truncate(offset)  # fills up to it, so that the offset is within the file if nothing follows
    file.seek(offset)
    return offset, sum(map(file.write, blocks))


class ExternalData:
    """Where the bytes of an external tensor lie.

    Attributes:
        name: of the tensor.
        location: of the file, relative to the model's folder (absolute in a spill).
        offset: of the first byte.
        length: number of bytes.

    Raises:
        ValueError: offset or length is no number.
        KeyError: the tensor's type is not known.
    """

    def __init__(self, tensor: TensorProto) -> None:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        self.name = tensor.name
        self.location = entries.get("location", "")
        self.offset = int(entries.get("offset") or 0)
        self._needed = stored_bytes(tensor)
        self._is_open = not entries.get("length")  # up to the end of the file
        self.length = self._needed if self._is_open else int(entries["length"])

    def blocks(self, folder: Path) -> Iterator[bytes]:
        """The bytes, at most 16 MiB at a time.

        Raises:
            ModelError: the file is gone or has become shorter.
        """
        try:
            with (folder / self.location).open("rb") as file:
                file.seek(self.offset)
                remaining = self.length
                while remaining and (block := file.read(min(remaining, 2**24))):
                    remaining -= len(block)
                    yield block
        except OSError as error:
            raise ModelError(
                f"external data of tensor '{self.name}' cannot be read from '{folder / self.location}' "
                f"({error.strerror})"
            ) from error
        if remaining:
            raise ModelError(f"external data of tensor '{self.name}': '{self.location}' was cut off")

    def check(self, folder: Path) -> str | None:
        """What is wrong, or None: onnx refuses links and absolute locations, so they are refused here."""
        path, root = (folder / self.location).resolve(), folder.resolve()
        if not self.location or Path(self.location).is_absolute() or root not in path.parents:
            return f"lies outside the model's folder, at '{self.location}'"
        if not os.path.isfile(path):
            return f"is missing: no file '{self.location}' beside the model"
        if str(path) != os.path.abspath(root / self.location):
            return f"lies behind a symbolic link, '{self.location}'; put the file itself beside the model"
        if path.stat().st_nlink > 1:
            return f"lies in a file with several hard links, '{self.location}'; put a copy beside the model"
        try:
            with path.open("rb"):
                return self._check_size(path.stat().st_size)
        except OSError as error:
            return f"cannot be read from '{self.location}' ({error.strerror})"

    def _check_size(self, available: int) -> str | None:
        end = self.offset + self.length
        if self.offset < 0 or self.length < 0 or end > available:
            return f"is cut off: '{self.location}' has fewer than {end} bytes"
        if self.length != self._needed:
            return f"has {self.length} bytes, but its type and shape take {self._needed}"
        if self._is_open and end < available:
            return f"has no length, and '{self.location}' goes on after its {self.length} bytes"
        return None


def stored_bytes(tensor: TensorProto) -> int:
    """Bytes that a tensor's type and shape take."""
    itemsize = helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    bits = _PACKED.get(TensorProto.DataType.Name(tensor.data_type), 8 * itemsize)
    return -(-bits * prod(tensor.dims) // 8)
