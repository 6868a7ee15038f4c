"""Report -> files; the kind follows from the file's name."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from onnxlr.errors import UsageError
from onnxlr.report.overview import report_page
from onnxlr.report.schema import Report
from onnxlr.staging import staged_file

__all__ = ["REPORT_FILES", "check_report_name", "to_json", "write_report", "write_text"]

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
    is_page = Path(path).suffix == ".html"
    write_text(report_page(report) if is_page else to_json(report.to_dict()) + "\n", path)


def write_text(text: str, path: str | os.PathLike[str]) -> None:
    """Write a file, whole or not at all.

    Raises:
        UsageError: the folder cannot be written to.
    """
    with staged_file(path) as file:
        file.write(text.encode())


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
