"""Where results of benchmarks go, and the machine they were measured on."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from onnxlr.report import installed_versions

__all__ = ["print_rows", "write_results"]

FOLDER = Path(__file__).parent / "results"


def write_results(name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write `results/<name>.json` with versions, machine and the command that repeats it."""
    FOLDER.mkdir(exist_ok=True)
    data = {
        "command": shlex.join(["python", "-m", f"benchmarks.{Path(sys.argv[0]).stem}", *sys.argv[1:]]),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {**installed_versions(), "cores": os.cpu_count()},
        "rows": list(rows),
    }
    (FOLDER / f"{name}.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def print_rows(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows of equal keys as a Markdown table."""
    keys = list(rows[0])
    print("| " + " | ".join(keys) + " |")
    print("|" + "---|" * len(keys))
    for row in rows:
        print("| " + " | ".join(str(row[key]) for key in keys) + " |")
