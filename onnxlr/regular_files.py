"""Reading files that may be none: a pipe would be waited for, a device has no end."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["check_regular", "read_text"]


def check_regular(path: str | os.PathLike[str]) -> None:
    """Raise OSError, `no such file` or `not a regular file`, for what cannot be read to its end."""
    if not os.path.isfile(path):  # unlike Path.is_file, False for names that no file can have
        raise OSError("not a regular file" if os.path.exists(path) else "no such file")


def read_text(path: str | os.PathLike[str]) -> str:
    """All of a file, in UTF-8, with or without a byte order mark.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not UTF-8.
    """
    check_regular(path)
    return Path(path).read_text(encoding="utf-8-sig")
