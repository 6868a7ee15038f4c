"""A case -> what went wrong with it: nothing, if it is told as it should be, and leaves nothing behind."""

from __future__ import annotations

import os
import resource
import stat
import tempfile
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path

from click.testing import CliRunner, Result

from onnxlr.cli import cli
from tests.hostile.cases import Case, good_model

__all__ = ["KINDS", "arguments", "problems"]

KINDS = ("wrong exit code", "traceback", "not one line", "another message", "partial output", "changed file")
"""What may be wrong."""

QUICK = {
    "optimize": ["--energy", "0.5", "--align", "4", "--gate", "none", "--latency-seconds", "0"],
    "validate": ["--latency-seconds", "0"],
}
OUT = {"optimize": "out.onnx", "apply": "out.onnx"}
NOBODY = 65534
DEVICES = ("/dev/null", "/dev/zero", "/dev/full")


def problems(case: Case) -> list[tuple[str, str]]:
    """Kinds of `KINDS` with what was seen; none where all is well."""
    with tempfile.TemporaryDirectory() as name, chdir(name):
        folder = Path(name)
        Path("m.onnx").write_bytes(good_model().SerializeToString())
        folder.chmod(0o755)
        case.make(folder)
        before = _listing(folder)
        with _unprivileged(case.unprivileged), _disk(case.disk):
            result = CliRunner().invoke(cli, arguments(case))
        after = _listing(folder)
    return [*_wrong_words(case, result), *_wrong_files(case, before, after)]


@contextmanager
def _unprivileged(wanted: bool) -> Iterator[None]:
    """As nobody, where this is root."""
    user = os.geteuid()
    if not wanted or user != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(user)


@contextmanager
def _disk(most: int | None) -> Iterator[None]:
    """Where files may grow to so many bytes."""
    if most is None:
        yield
        return
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def arguments(case: Case) -> list[str]:
    """What the command is given: that of the case, with an output and what makes it quick."""
    name, *rest = case.command
    out = OUT.get(name)
    written = [] if out is None or "-o" in rest else ["-o", out]
    has_rule = {"--energy", "--max-rel-l2", "--max-drop", "--min-agreement"} & set(rest)
    return [name, *rest, *written, *([] if has_rule else QUICK.get(name, []))]


def _wrong_words(case: Case, result: Result) -> Iterator[tuple[str, str]]:
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        yield "traceback", repr(result.exception)
    if result.exit_code != case.code:
        yield "wrong exit code", f"{result.exit_code}: {result.output}"
    lines = [line for line in result.stderr.splitlines() if line and not line.startswith(("Usage: ", "Try "))]
    if len(lines) != (1 if case.code else 0):
        yield "not one line", result.stderr
    if case.says not in "".join(lines):
        yield "another message", result.stderr


Listing = dict[str, tuple[int, int]]


def _wrong_files(case: Case, before: Listing, after: Listing) -> Iterator[tuple[str, str]]:
    new = after.keys() - before.keys() - ({"out.onnx"} if case.code == 0 else set())
    if new:
        yield "partial output", ", ".join(sorted(new))
    changed = [name for name, entry in before.items() if after.get(name) != entry]
    if changed:
        yield "changed file", ", ".join(changed)


def _listing(folder: Path) -> Listing:
    """Kinds and sizes of what is in a folder, and of devices that a command might have replaced."""
    found = {path.name: path.lstat() for path in folder.iterdir()}
    found |= {name: os.stat(name) for name in DEVICES}
    return {name: (stat.S_IFMT(status.st_mode), status.st_size) for name, status in found.items()}
