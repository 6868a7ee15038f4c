"""`Sweep`: one model at many budgets, as data and as files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from onnxlr.errors import UsageError
from onnxlr.plan import plan_bytes
from onnxlr.report.files import to_json
from onnxlr.report.plot import draw, plot_problem
from onnxlr.report.points import UNITS, SweepPoint, Unreachable, to_csv
from onnxlr.report.tradeoff import TradeOff, panels
from onnxlr.staging import flush, staging_folder

__all__ = ["Sweep", "check_folder"]

_PLOT = "sweep.svg"

SCHEMA_VERSION = 1
"""Fields are only ever added within a version."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """The trade-off between size and error of one model.

    Attributes:
        model: `name` and `hash` of the original.
        settings: the options it ran with.
        unit: what budgets are fractions of: macs, params or latency.
        points: from the largest budget to the smallest.
        unreachable: budgets below what can be reached.
        notes: what the user should know, one line each.
        versions: of onnxlr and what it stands on, and the machine.
    """

    model: Mapping[str, str]
    settings: Mapping[str, Any]
    unit: str
    points: tuple[SweepPoint, ...]
    unreachable: tuple[Unreachable, ...]
    notes: tuple[str, ...]
    versions: Mapping[str, str]

    @property
    def curve(self) -> TradeOff:
        """The points in few numbers."""
        first = self.points[0]
        before = None if first.labelled is None else first.labelled.top1_before
        inputs = None if first.validation is None else first.validation.inputs
        return TradeOff(self.unit, inputs, before, tuple(point.on_curve(self.unit) for point in self.points))

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON; docs/sweep.md has the schema."""
        first = self.points[0].validation
        return {
            "schema_version": SCHEMA_VERSION,
            "model": dict(self.model),
            "settings": dict(self.settings),
            "unit": self.unit,
            "inputs": None if first is None else first.inputs,
            "samples": None if first is None else first.samples,
            "curve": asdict(self.curve),
            "points": [point.to_dict() for point in self.points],
            "unreachable": [asdict(item) for item in self.unreachable],
            "notes": list(self.notes),
            "versions": dict(self.versions),
        }

    def save(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Write `sweep.json`, `sweep.csv`, `sweep.svg`, and a plan for each point: each whole or not at all.

        Where one cannot be written, none is. `sweep.json` comes last.

        Without matplotlib, and where there is nothing to draw, there is no `sweep.svg` afterwards.

        Args:
            folder: made if it is missing, in a folder that exists.

        Returns:
            The files written; `sweep.json` comes last.

        Raises:
            UsageError: they cannot be written there.
        """
        target = Path(folder)
        check_folder(target)
        files = {point.plan_file: plan_bytes(point.plan) for point in self.points}
        files["sweep.csv"] = to_csv(self.points).encode()
        drawn = panels(self.curve)
        if drawn and plot_problem() is None:
            files[_PLOT] = draw(self.model["name"], f"{UNITS[self.unit]} kept", drawn)
        files["sweep.json"] = to_json(self.to_dict()).encode() + b"\n"
        with staging_folder(target / "sweep.json" if target.is_dir() else target) as stage:
            for name, content in files.items():
                with (stage / name).open("wb") as file:
                    file.write(content)
                    flush(file)
            target.mkdir(exist_ok=True)
            for name in files:
                os.replace(stage / name, target / name)
            if _PLOT not in files:
                (target / _PLOT).unlink(missing_ok=True)  # that of another sweep is not to stay
        return [target / name for name in files]


def check_folder(folder: Path) -> None:
    """Raise UsageError for a folder that can be neither used nor made, before any work is done."""
    if not os.path.isdir(folder.parent):  # unlike Path.is_dir, False for names that no file can have
        raise UsageError(f"{folder}: the folder {folder.parent} does not exist")
    if os.path.lexists(folder) and not os.path.isdir(folder):
        raise UsageError(f"{folder}: is a file; name a folder")
