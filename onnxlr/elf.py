"""What a shared library of Linux needs: its DT_NEEDED entries, from the 64-bit ELF file."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path

__all__ = ["needed_libraries"]

_MAGIC = b"\x7fELF\x02\x01"  # 64 bits, little endian
_LOAD, _DYNAMIC = 1, 2  # types of segments
_END, _NEEDED, _STRINGS = 0, 1, 5  # tags of dynamic entries


def needed_libraries(path: Path) -> list[str]:
    """File names of the libraries that the loader has to find first, in their order.

    Raises:
        ValueError: the file is no 64-bit little-endian ELF file, or is cut off.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[:6] != _MAGIC:
            raise ValueError(f"{path}: no 64-bit little-endian ELF file")
        try:
            segments = list(_segments(data))
            entries = [
                entry for kind, start, _, size in segments for entry in _entries(data, kind, start, size)
            ]
            strings = next((value for tag, value in entries if tag == _STRINGS), 0)
            start = _offset(segments, strings)
            return [_string(data, start + value) for tag, value in entries if tag == _NEEDED]
        except struct.error as error:
            raise ValueError(f"{path}: cut off ({error})") from error


def _segments(data: mmap.mmap) -> Iterator[tuple[int, int, int, int]]:
    """Type, position in the file, address and size of every segment."""
    (table,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    for i in range(count):
        kind, _, offset, address, _, length = struct.unpack_from("<IIQQQQ", data, table + i * size)
        yield kind, offset, address, length


def _entries(data: mmap.mmap, kind: int, start: int, size: int) -> Iterator[tuple[int, int]]:
    """Tags and values of the dynamic segment."""
    for position in range(start, start + size, 16) if kind == _DYNAMIC else ():
        tag, value = struct.unpack_from("<QQ", data, position)
        if tag == _END:
            return
        yield tag, value


def _offset(segments: list[tuple[int, int, int, int]], address: int) -> int:
    """Where in the file an address is loaded from."""
    for kind, offset, base, size in segments:
        if kind == _LOAD and base <= address < base + size:
            return offset + address - base
    return address


def _string(data: mmap.mmap, start: int) -> str:
    return data[start : data.find(b"\0", start)].decode()
