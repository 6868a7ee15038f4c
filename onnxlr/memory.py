"""A limit on this process's memory: what is kept for later shrinks to fit, and what goes over it is ended.

The limit is looked after by a thread, not by the system: under RLIMIT_DATA, OpenBLAS waits for ever for
buffers that it is not given.
"""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from onnxlr.errors import UsageError

__all__ = ["in_use", "memory_limit", "room", "workers_that_fit"]

_SECONDS = 0.02
"""Between two looks at the memory in use."""

_SHARE = 8
"""What is kept for later takes up to this part of the limit, each kind of it."""

_STATUS = Path("/proc/self/status")
_ROWS = re.compile(r"^Rss(?:Anon|Shmem):\s*(\d+) kB$", re.MULTILINE)

_limit: int | None = None


class _OverTheLimit(BaseException):
    """Ends the main thread's work; like KeyboardInterrupt it is no Exception, which others might handle."""


@contextmanager
def memory_limit(limit: int | None) -> Iterator[None]:
    """Keep this process within so much memory, or end what runs in the block.

    Memory is what the process cannot give back: not its code, and not the files it has mapped. It is looked
    at 50 times a second, and a single call into a library is not interrupted: until it returns, more may be
    in use for a while.

    Args:
        limit: bytes; None: no limit.

    Raises:
        UsageError: more was in use; the system does not tell (it is not Linux); or this is not the main
            thread, which alone can be interrupted.

    >>> import onnxlr
    >>> with onnxlr.memory_limit(4 * 2**30):
    ...     plan = onnxlr.plan("models/digits/digits.onnx", energy=0.9)
    >>> len(plan.layers)
    6
    """
    global _limit  # noqa: PLW0603 - memory is the process's, and so is the limit
    if limit is None:
        yield
        return
    if threading.current_thread() is not threading.main_thread():
        raise UsageError("a memory limit can only be set in the main thread")
    if in_use() is None:
        raise UsageError("a memory limit needs Linux, which tells how much memory is in use")
    watch, outer, handler = _Watch(limit), _limit, signal.signal(signal.SIGUSR2, _end)
    _limit = limit
    try:
        with watch:
            yield
    except _OverTheLimit:
        pass  # told below
    finally:
        _limit = outer
        signal.signal(signal.SIGUSR2, handler)
    if watch.seen is not None:
        raise UsageError(
            f"{_told(watch.seen)} of memory are in use, over the limit of {_told(limit)}; raise the limit"
            " (--memory-limit), use fewer --workers, or calibrate and validate on fewer samples"
        )


def in_use() -> int | None:
    """Bytes of memory that this process alone takes up and that no file holds; None where unknown."""
    try:
        return 1024 * sum(map(int, _ROWS.findall(_STATUS.read_text(encoding="ascii")))) or None
    except (OSError, ValueError):
        return None


def room(most: int) -> int:
    """Bytes that may be kept for later: `most`, or less by the limit."""
    return most if _limit is None else min(most, _limit // _SHARE)


def workers_that_fit(workers: int, each: int) -> int:
    """How many may work at a time, where each needs so many bytes: together half of the limit."""
    return workers if _limit is None else max(1, min(workers, _limit // 2 // max(1, each)))


class _Watch(threading.Thread):
    """Interrupts the main thread once, as soon as more than the limit is in use.

    Attributes:
        seen: the bytes that were in use then; None if there never were so many.
    """

    def __init__(self, limit: int) -> None:
        super().__init__(daemon=True)
        self.seen: int | None = None
        self._most, self._ended = limit, threading.Event()

    def __enter__(self) -> None:
        self.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()

    def run(self) -> None:
        """Look until the block ends."""
        while self.seen is None:
            used = in_use() or 0
            if used > self._most:
                self.seen = used
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR2)
            elif self._ended.wait(_SECONDS):
                return


def _end(_: int, __: FrameType | None) -> None:
    raise _OverTheLimit


def _told(size: int) -> str:
    unit, name = (2**30, "GiB") if size >= 2**30 else (2**20, "MiB")
    return f"{size / unit:.1f} {name}"
