"""Other tools and onnxlr on the same networks: what they lose at equal Conv MACs, and how long they take.

aimet-torch (spatial SVD), tensorly-torch (Tucker, CP) and fasterai (SVD, Tucker, and two that are no
approximations), each in its own virtual environment with pinned versions; and BALF's method, which needs
CUDA, as our own build. Every tool gets the same weights and images and gives an ONNX file; all files are
measured by the same code. A failure is a result.

* accuracy: see `benchmarks.rivals.accuracy`; writes `results/rivals_accuracy.json` row by row;
* speed: see `benchmarks.rivals.speed`; writes `results/rivals_speed.json`;
* `--picture` draws `docs/images/tradeoff.svg` of the former, and measures nothing.

`python -m benchmarks.rivals [--part accuracy|speed] [--only TOOL] [--data DIR] [--environments DIR]`
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from benchmarks.results import FOLDER, print_rows, write_results
from benchmarks.rivals.accuracy import accuracy_rows
from benchmarks.rivals.asking import METHODS, Asker
from benchmarks.rivals.environments import DEFAULT_FOLDER
from benchmarks.rivals.measuring import Row
from benchmarks.rivals.picture import draw_picture
from benchmarks.rivals.speed import speed_rows

PARTS = ("accuracy", "speed")

TOOLS = tuple(dict.fromkeys(method.tool for method in METHODS))

TABLES = ("accuracy", "beside AIMET", "seconds", "latency")


@click.command()
@click.option("--part", multiple=True, type=click.Choice(PARTS), help="What to measure.  [default: all]")
@click.option(
    "--only",
    multiple=True,
    type=click.Choice(TOOLS),
    help="Tools to ask; rows of others stay.  [default: all]",
)
@click.option("--data", default="../shared/data", show_default=True, type=click.Path(path_type=Path))
@click.option("--environments", default=DEFAULT_FOLDER, show_default=True, type=click.Path(path_type=Path))
@click.option("--repetitions", default=5, show_default=True, help="Of timing the compression of ResNet-18.")
@click.option("--picture", is_flag=True, help="Only draw the picture, from the results file.")
def main(
    part: tuple[str, ...],
    only: tuple[str, ...],
    data: Path,
    environments: Path,
    repetitions: int,
    picture: bool,
) -> None:
    """Measure, print the tables, write the results files."""
    if picture:
        draw_picture()
        return
    if not (data / "models.json").is_file():
        print(f"{data}: no models.json there; say with --data where the networks are", file=sys.stderr)
        sys.exit(2)
    asker, tools = Asker(environments), only or TOOLS
    with tempfile.TemporaryDirectory() as scratch:
        if "accuracy" in (part or PARTS):
            _write("accuracy", accuracy_rows(asker, data, Path(scratch), tools), tools)
        if "speed" in (part or PARTS):
            _write("speed", speed_rows(asker, Path(scratch), tools, repetitions), tools)


def _write(part: str, rows: Iterator[Row], tools: Sequence[str]) -> None:
    """Write rows as they come, beside those that the file has of tools that are not asked; print all."""
    file = FOLDER / f"rivals_{part}.json"
    before = json.loads(file.read_text(encoding="utf-8"))["rows"] if file.exists() else []
    kept = [row for row in before if row["tool"] in TOOLS and row["tool"] not in tools]
    sys.argv = [str(Path(__file__).parent), "--part", part]  # the command that repeats the file
    done: list[Row] = []
    for row in rows:
        done.append(row)
        write_results(file.stem, sorted([*kept, *done], key=_place))
    for table in TABLES:
        shown = [row for row in sorted([*kept, *done], key=_place) if row["table"] == table]
        if shown:
            print(f"\n### {table}\n")
            print_rows(shown)


def _place(row: Mapping[str, Any]) -> tuple[int, str, int]:
    """Tables and networks in turn, each with the original first and then tools as they are asked."""
    tool = row["tool"]
    return TABLES.index(row["table"]), row["model"], TOOLS.index(tool) if tool in TOOLS else -1


if __name__ == "__main__":
    main()
