"""Comparison -> files; the kind follows from the file's name."""

from __future__ import annotations

import os
from pathlib import Path

from onnxlr.comparing.schema import Comparison
from onnxlr.comparing.sections import comparison_sections
from onnxlr.report import check_report_name, to_json, write_text
from onnxlr.report.page import to_html

__all__ = ["COMPARISON_FILES", "write_comparison"]

COMPARISON_FILES = (".json", ".html")


def write_comparison(comparison: Comparison, path: str | os.PathLike[str]) -> None:
    """Write a comparison as .json or .html, whole or not at all.

    Args:
        comparison: of `onnxlr.compare`.
        path: of the file; what its name ends in decides what is written.

    Raises:
        UsageError: the kind is not known, or the folder cannot be written to.

    >>> import onnxlr, os, tempfile
    >>> found = onnxlr.compare(["models/digits/digits.onnx"] * 2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     onnxlr.write_comparison(found, os.path.join(folder, "comparison.json"))
    ...     os.listdir(folder)
    ['comparison.json']
    """
    check_report_name(path, COMPARISON_FILES)
    if Path(path).suffix == ".html":
        title = f"onnxlr compare: {comparison.models[0]} and {len(comparison.models) - 1} more"
        text = to_html(title, comparison_sections(comparison))
    else:
        text = to_json(comparison.to_dict()) + "\n"
    write_text(text, path)
