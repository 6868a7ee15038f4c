"""`docs/images/tradeoff.svg`: top-1 against the Conv MACs that are kept, from the results file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks.results import FOLDER
from benchmarks.rivals.asking import BALF, OURS
from onnxlr.report.plot import Line, Panel, draw

__all__ = ["draw_picture"]

FILE = Path(__file__).parents[2] / "docs" / "images" / "tradeoff.svg"

SHOWN = {
    (OURS, "with calibration"): "onnxlr",
    (BALF, "output PCA, one multiplier"): "BALF",
    ("aimet-torch", "spatial SVD, one ratio"): "AIMET",
    ("aimet-torch", "spatial SVD, greedy (labels)"): "AIMET, with labels",
    ("tensorly-torch", "CP"): "tensorly, CP",
}
"""Labels of the methods that are drawn; fasterai and Tucker are far below all of these at half the MACs."""

Row = Mapping[str, Any]


def draw_picture() -> None:
    """Draw it, one panel a network."""
    found = json.loads((FOLDER / "rivals_accuracy.json").read_text(encoding="utf-8"))["rows"]
    rows = [row for row in found if row["table"] == "accuracy"]
    panels = [_panel(name, list(group)) for name, group in groupby(rows, key=lambda row: row["model"])]
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_bytes(_on_white(draw("", "Conv MACs kept", panels)))


def _panel(name: str, rows: Sequence[Row]) -> Panel:
    (original,) = [row["top-1"] for row in rows if row["tool"] == "original"]
    lines = [
        _line(label, [row for row in rows if (row["tool"], row["method"]) == key], key[0] != OURS)
        for key, label in SHOWN.items()
    ]
    title = f"top-1, {name.replace('resnet', 'ResNet-')}"
    return Panel(title, [line for line in lines if line.x], ("original", original / 100), is_percent=True)


def _line(label: str, rows: Sequence[Row], is_aside: bool) -> Line:
    found = sorted((row["Conv MACs %"] / 100, row["top-1"] / 100) for row in rows if not row["failure"])
    return Line(label, [x for x, _ in found], [y for _, y in found], is_aside=is_aside)


def _on_white(drawn: bytes) -> bytes:
    """Matplotlib's figures are white already; this fails if they ever are not, for dark pages' sake."""
    if b"fill: #ffffff" not in drawn:
        raise ValueError("the picture has no white background")
    return drawn
