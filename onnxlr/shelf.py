"""`Shelf`: arrays in memory as long as there is room, and then in unnamed temporary files."""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxlr.errors import UsageError

__all__ = ["Shelf"]

_ROOM = 2**30
"""Bytes in memory."""


class Shelf:
    """Keeps arrays of which one at a time is needed.

    Args:
        room: bytes to keep in memory.
    """

    def __init__(self, room: int = _ROOM) -> None:
        self._room = room

    def put(self, array: NDArray[Any]) -> NDArray[Any]:
        """The array itself if there is room or it is in a file already, else its equal in a file.

        Raises:
            UsageError: the disk is full.
        """
        if isinstance(array, np.memmap):
            return array
        if array.nbytes <= self._room:
            self._room -= array.nbytes
            return array
        try:
            with tempfile.TemporaryFile() as file:
                file.truncate(array.nbytes)
                mapped = np.memmap(file, array.dtype, "r+", shape=array.shape)
            mapped[...] = array
            mapped.flush()
        except OSError as error:
            reason = error.strerror or error
            raise UsageError(
                f"{tempfile.gettempdir()}: cannot write there ({reason}); set TMPDIR to a larger one"
            ) from error
        return mapped
