"""Report -> files; the kind follows from the file's name."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from onnxlr.errors import UsageError
from onnxlr.report.overview import report_page
from onnxlr.report.schema import Report
from onnxlr.staging import staged_file

__all__ = ["REPORT_FILES", "check_report_name", "staged_reports", "to_json", "write_report", "write_text"]

REPORT_FILES = (".json", ".html")


def to_json(data: dict[str, Any]) -> str:
    """Strict JSON: numbers that JSON does not have (NaN, infinities) become null."""
    return json.dumps(_finite(data), indent=2, allow_nan=False)


def check_report_name(path: str | os.PathLike[str], kinds: Sequence[str] = REPORT_FILES) -> None:
    """Raise UsageError for a file whose kind is not known, before any work is done."""
    if Path(path).suffix not in kinds:
        raise UsageError(f"{path}: reports are written as {' or '.join(kinds)}")


def write_report(report: Report, path: str | os.PathLike[str]) -> None:
    """Write a report as .json or .html, whole or not at all.

    Raises:
        UsageError: the kind is not known, or the folder cannot be written to.
    """
    check_report_name(path)
    write_text(_text(report, Path(path)), path)


@contextmanager
def staged_reports(report: Report, paths: Iterable[Path]) -> Iterator[None]:
    """Reports that appear when the block ends, which writes what they are about; none of them if it raises.

    Raises:
        UsageError: the kind of one is not known, or a folder cannot be written to.
    """
    with ExitStack() as stack:
        for path in paths:
            check_report_name(path)
            stack.enter_context(_staged_text(_text(report, path), path))
        yield


def write_text(text: str, path: str | os.PathLike[str]) -> None:
    """Write a file, whole or not at all.

    Raises:
        UsageError: the folder cannot be written to.
    """
    with _staged_text(text, path):
        pass


@contextmanager
def _staged_text(text: str, path: str | os.PathLike[str]) -> Iterator[None]:
    with staged_file(path) as file:
        file.write(text.encode())
        file.flush()  # a full disk is told here, before the block
        yield


def _text(report: Report, path: Path) -> str:
    return report_page(report) if path.suffix == ".html" else to_json(report.to_dict()) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
