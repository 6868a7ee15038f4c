"""Pictures of README and docs, of the model that ships: what the terminal shows, and the page in a browser.

`python -m benchmarks.pictures` writes docs/images/terminal.svg and docs/images/report.png; the second needs
Chromium. Times on them are those of the machine where it runs.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs" / "images"
MODEL = ROOT / "models" / "digits" / "digits.onnx"

DATA = ["--calibration", "calibration.npz", "--inputs", "test.npz", "--labels", "test_labels.npy"]
SWEEP = ["sweep", "model.onnx", "-o", "curve", "--points", "8", "--lowest", "0.1", *DATA]
OPTIMIZE = ["optimize", "model.onnx", "-o", "smaller.onnx", "--target-macs", "0.15", *DATA]
REPORT = ["--curve", "curve", "--report", "report.html"]

_PIXELS = "900,1960"
_COLORS = 64
_FONT = re.compile(r"@font-face \{[^}]*\}\s*")


def main() -> None:
    """Write both pictures."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        sys.exit("the page is photographed with Chromium or Chrome; install one")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _run([sys.executable, "-m", "models.digits.data", "-o", str(folder)], ROOT)
        shutil.copy(MODEL, folder / "model.onnx")
        _onnxlr(SWEEP, folder)
        shown = _onnxlr([*OPTIMIZE, *REPORT], folder)
        (FOLDER / "terminal.svg").write_text(_terminal(_prompt([*OPTIMIZE, *REPORT]) + shown), "utf-8")
        _photograph(browser, folder / "report.html", FOLDER / "report.png")


def _onnxlr(arguments: list[str], folder: Path) -> str:
    """What a command shows in a terminal of 80 columns."""
    return _run([sys.executable, "-m", "onnxlr", *arguments], folder)


def _run(command: list[str], folder: Path) -> str:
    colored = {**os.environ, "FORCE_COLOR": "1", "COLUMNS": "80", "TERM": "xterm-256color"}
    return subprocess.run(  # noqa: S603 - our own programs, and the browser that was found
        command, cwd=folder, env=colored, capture_output=True, text=True, check=True
    ).stdout


def _prompt(arguments: list[str]) -> str:
    """The command as it was typed, on lines that a shell takes as one."""
    return (
        "$ "
        + " \\\n    ".join(textwrap.wrap(f"onnxlr {' '.join(arguments)}", 72, break_on_hyphens=False))
        + "\n\n"
    )


def _terminal(text: str) -> str:
    """A terminal with a text, as SVG that loads nothing."""
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        console = Console(record=True, width=80, file=nowhere)
        console.print(Text.from_ansi(text))
    return _FONT.sub("", console.export_svg(title="onnxlr"))


def _photograph(browser: str, page: Path, target: Path) -> None:
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--window-size={_PIXELS}"]
    _run([browser, *options, f"--screenshot={target}", page.as_uri()], page.parent)
    with Image.open(target) as image:
        image.convert("RGB").quantize(_COLORS).save(target, optimize=True)


if __name__ == "__main__":
    main()
