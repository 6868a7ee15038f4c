"""`Spill`: new tensors of a model that is larger than memory go to a temporary file until it is saved."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import threading
import weakref
from pathlib import Path
from typing import Any, BinaryIO

from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from onnxlr.errors import UsageError
from onnxlr.external_data import THRESHOLD, append, refer

__all__ = ["Spill"]


class Spill:
    """A temporary folder with a file that tensors can be stored in; any number of threads may do so.

    The folder is removed with this object, at the latest when Python exits.

    Attributes:
        folder: for other files that shall live as long.

    Raises:
        UsageError: there is no temporary folder, or no room in it.
    """

    def __init__(self) -> None:
        try:
            self.folder = Path(tempfile.mkdtemp(prefix="onnxlr-"))
        except OSError as error:
            raise _no_room(tempfile.gettempdir(), error) from error
        self._path = self.folder / "spill"
        self._file = self._path.open("wb")
        self._lock = threading.Lock()
        weakref.finalize(self, _discard, self._file, self.folder)

    def store(self, array: NDArray[Any]) -> TensorProto:
        """A nameless tensor that refers to the array's bytes in the file; a small one holds them itself.

        The counterpart in memory is `onnx.numpy_helper.from_array`.

        Raises:
            UsageError: the disk is full.
        """
        tensor = numpy_helper.from_array(array)
        data = tensor.raw_data
        if len(data) <= THRESHOLD:
            return tensor
        try:
            with self._lock:
                offset, length = append(self._file, [data])
                self._file.flush()
        except OSError as error:
            raise _no_room(self.folder, error) from error
        # Another message, as protobuf frees the memory of a field no sooner than that of the message.
        reference = TensorProto(data_type=tensor.data_type, dims=tensor.dims)
        refer(reference, self._path, offset, length)
        return reference


def _no_room(folder: str | Path, error: OSError) -> UsageError:
    reason = error.strerror or error
    return UsageError(f"{folder}: cannot write there ({reason}); set TMPDIR to a folder with more room")


def _discard(file: BinaryIO, folder: Path) -> None:
    with contextlib.suppress(OSError):  # of a full disk, once more
        file.close()
    shutil.rmtree(folder, ignore_errors=True)
