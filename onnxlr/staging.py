"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from onnxlr.errors import UsageError

__all__ = ["check_replaceable", "flush", "flush_folder", "staged_file", "staging_folder"]


@contextmanager
def staged_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file that replaces `path` when the block ends, and leaves no trace if it raises.

    Raises:
        UsageError: the folder does not exist or cannot be written to.
    """
    target = Path(path)
    with staging_folder(target) as stage:
        with (stage / target.name).open("wb") as file:
            yield file
            flush(file)
        os.replace(stage / target.name, target)


@contextmanager
def staging_folder(target: Path) -> Iterator[Path]:
    """A temporary folder on the target's file system.

    Raises:
        UsageError: the target cannot be written there; also for any OSError within the block.
    """
    check_replaceable(target)
    try:
        stage = Path(tempfile.mkdtemp(prefix=".onnxlr-", dir=target.parent))
        try:
            yield stage
        finally:
            shutil.rmtree(stage, ignore_errors=True)
    except OSError as error:
        raise UsageError(f"{target}: cannot write there ({error.strerror or error})") from error


def check_replaceable(target: Path) -> None:
    """Raise UsageError for what a file must not take the place of: a folder, a device, a pipe."""
    if os.path.isdir(target) or not target.name:  # unlike Path.is_dir, False for names that no file can have
        raise UsageError(f"{target}: is a folder; name a file")
    is_system = f"{os.path.realpath(target.parent)}/".startswith("/proc/") or str(target.parent) == "/dev"
    if os.path.exists(target) and (is_system or not os.path.isfile(target)):
        raise UsageError(f"{target}: is not a regular file; name one")


def flush(file: BinaryIO) -> None:
    """Bring a file's contents to the disk."""
    file.flush()
    os.fsync(file.fileno())


def flush_folder(folder: Path) -> None:
    """Bring the names of a folder's files to the disk, where the system can (Windows cannot)."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
