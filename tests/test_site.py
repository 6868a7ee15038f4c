"""The documentation as a site: it builds, and every link, formula and docstring in it is sound."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.blocks import ROOT, run

pytest.importorskip("sphinx", reason="needs the extra onnxlr[docs]")


def test_the_site_builds_without_warnings(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-W",
        "--keep-going",
        "-q",
        "-b",
        "html",
        "docs",
        str(tmp_path),
    ]
    run([*command, "-d", str(tmp_path / "doctrees")], ROOT)
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")}
    assert pages <= {path.stem for path in tmp_path.glob("*.html")}
    commands = (tmp_path / "cli.html").read_text()
    assert all(f'id="{name}"' in commands for name in ("optimize", "calibrate-device", "doctor"))
    assert re.search(r'id="onnxlr\.training\.finetune"', (tmp_path / "api-training.html").read_text())
