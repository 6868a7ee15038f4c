"""`Shelf`: arrays in memory as long as there is room, and then in unnamed temporary files."""

from __future__ import annotations

import os
import tempfile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxlr.errors import UsageError
from onnxlr.memory import room

__all__ = ["Shelf"]

_ROOM = 2**30
"""Bytes in memory."""

_BLOCK = 2**26
"""Bytes of a file, at least: a process may only have so many open."""

_ALIGN = 64


class Shelf:
    """Keeps arrays of which few at a time are needed.

    Args:
        most: bytes to keep in memory; fewer where a limit leaves less.
    """

    def __init__(self, most: int = _ROOM) -> None:
        self._room = room(most)
        self._block: NDArray[np.uint8] = np.empty(0, np.uint8)
        self._used = 0

    def put(self, array: NDArray[Any]) -> NDArray[Any]:
        """The array itself if there is room or it is in a file already, else its equal in a file.

        A file is gone with the last array in it.

        Raises:
            UsageError: the disk is full.
        """
        if not array.nbytes or array.dtype.hasobject or _is_in_a_file(array):
            return array
        if array.nbytes <= self._room:
            self._room -= array.nbytes
            return array
        if self._used + array.nbytes > len(self._block):
            self._block, self._used = _new_file(max(array.nbytes, _BLOCK)), 0
        place = self._block[self._used : self._used + array.nbytes].view(array.dtype).reshape(array.shape)
        place[...] = array
        self._used += -(-array.nbytes // _ALIGN) * _ALIGN
        return place


def _is_in_a_file(array: NDArray[Any]) -> bool:
    return getattr(array, "_mmap", None) is not None


def _new_file(size: int) -> NDArray[np.uint8]:
    """Zeros, mapped from a file that takes up its whole size: a full disk is told at once."""
    try:
        with tempfile.TemporaryFile() as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.write(bytes(size))
                file.flush()
            return np.memmap(file, np.uint8, "r+", shape=(size,))
    except OSError as error:
        folder, reason = tempfile.gettempdir(), error.strerror or error
        raise UsageError(f"{folder}: cannot write there ({reason}); set TMPDIR to a larger folder") from error
