"""Files that appear whole or not at all."""

from __future__ import annotations

import atexit
import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from onnxlr.errors import UsageError

__all__ = ["check_replaceable", "flush", "flush_folder", "staged_file", "staging_folder"]

_stages: dict[Path, int] = {}
"""Temporary folders that there are, and the process that has made each."""


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
    stage = target.parent / f".onnxlr-{secrets.token_hex(8)}"
    _stages[stage] = os.getpid()
    try:
        try:
            stage.mkdir(mode=0o700)
            yield stage
        finally:
            shutil.rmtree(stage, ignore_errors=True)
            del _stages[stage]
    except OSError as error:
        raise UsageError(f"{target}: cannot write there ({error.strerror or error})") from error


@atexit.register
def _remove_stages() -> None:
    """Where an interruption came while a folder was being made or removed."""
    for stage, process in _stages.items():
        if process == os.getpid():
            shutil.rmtree(stage, ignore_errors=True)


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
