"""Training: what fine-tuning and low-rank training bring, on the CPU in minutes, and on a GPU from scratch.

Needs torch, and a folder of networks and images (`--data`; see `benchmarks.training_data`). Each run is a
case with a name, and one row; `benchmarks.training_cpu` and `benchmarks.training_gpu` have them. Written to
`results/training_cpu.json` or `results/training_gpu.json` after every case. With `--only` the rows of other
cases that are there already stay, so that cases can be run one at a time, or anew. Without a GPU that torch
finds `--gpu` exits with 4 and writes nothing.

`python -m benchmarks.training --cpu|--gpu [--data ../shared/data] [--only NAME ...] [--scale F]`
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from benchmarks.results import FOLDER, print_rows, write_results
from benchmarks.training_data import Bench, Case, Row
from onnxlr.errors import OnnxlrError, ProviderError
from onnxlr.hardware import processor_name

__all__ = ["Suite", "main", "measure"]

UNPRINTED = ("table", "network", "method", "paper", "device")
"""Columns of the results file that are told otherwise."""


@dataclass(frozen=True, slots=True)
class Suite:
    """Cases that go to one results file.

    Attributes:
        results: name of the file.
        device: of the training, `cpu` or `cuda`.
        where: name of the machine's processor or GPU, for the rows.
        cases: in the order of the rows.
        finish: adds to rows what others are needed for.
        lines: what to print below the tables.
    """

    results: str
    device: str
    where: str
    cases: Sequence[Case]
    finish: Callable[[Sequence[Row]], list[Row]] = list
    lines: Callable[[Sequence[Row]], Iterable[str]] = lambda _: ()


@click.command()
@click.option("--cpu", is_flag=True, help="Pretrained networks, and NIN from scratch; an hour and more.")
@click.option("--gpu", is_flag=True, help="Networks from scratch, against full rank.")
@click.option("--data", default="../shared/data", show_default=True, type=click.Path(path_type=Path))
@click.option("--only", multiple=True, help="Cases whose name has this in it.  [default: all]")
@click.option(
    "--scale", default=1.0, show_default=True, help="Of all time budgets and epochs, to try it out."
)
def main(cpu: bool, gpu: bool, data: Path, only: tuple[str, ...], scale: float) -> None:
    """Train, print the tables, write the results file."""
    if cpu == gpu:
        raise click.UsageError("give one of --cpu and --gpu")
    if not scale > 0:
        raise click.UsageError(f"--scale must be above 0, got {scale}")
    if not (data / "models.json").is_file():
        _tell(f"{data}: no networks and images there (no models.json); say where they are with --data")
        sys.exit(2)
    try:
        suite = _find_suite(gpu)
    except OnnxlrError as error:
        _tell(f"no results: {error}")
        sys.exit(error.exit_code)
    with tempfile.TemporaryDirectory() as scratch:
        rows = measure(suite, Bench(data, Path(scratch), scale, suite.device), only)
    _print(suite, rows)


def measure(suite: Suite, bench: Bench, only: Sequence[str] = ()) -> list[Row]:
    """Run cases; the results file is written after each.

    Args:
        suite: has the cases.
        bench: where and how they run.
        only: parts of the names of the cases to run; none: all.

    Returns:
        All rows of the file.
    """
    chosen = [case for case in suite.cases if not only or any(part in case.name for part in only)]
    if not chosen:
        known = ", ".join(case.name for case in suite.cases)
        raise click.UsageError(f"no case has {' or '.join(only)} in its name; there are {known}")
    rows: list[Row] = []
    for case in chosen:
        _tell(f"{case.name}: training")
        about = {"table": case.table, "case": case.name}
        row = {**about, **case.run(bench), "scale": bench.scale, "device": suite.where}
        _tell(f"  {row}")
        done = _read(suite.results) if only else rows
        rows = suite.finish(_merged(suite, done, row))
        write_results(suite.results, rows)
    return rows


def _find_suite(gpu: bool) -> Suite:
    """The cases of a device; they need torch.

    Raises:
        ProviderError: torch finds no GPU.
        UsageError: torch is not installed.
    """
    from benchmarks import training_cpu, training_gpu  # noqa: PLC0415 - need torch, an extra

    if not gpu:
        return Suite("training_cpu", "cpu", processor_name(), training_cpu.CASES)
    import torch  # noqa: PLC0415 - as above

    if not torch.cuda.is_available():
        raise ProviderError("torch finds no GPU")
    return Suite(
        "training_gpu",
        "cuda",
        torch.cuda.get_device_name(),
        training_gpu.CASES,
        training_gpu.compare_with_full,
        training_gpu.paper_lines,
    )


def _read(results: str) -> list[Row]:
    """Rows of a results file; none if there is no such file."""
    path = FOLDER / f"{results}.json"
    if not path.exists():
        return []
    found: list[Row] = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return found


def _merged(suite: Suite, rows: Sequence[Row], new: Row) -> list[Row]:
    """Rows with a new one in the place of that of the same case, in the order of the cases."""
    by_case = {row["case"]: row for row in (*rows, new)}
    return [by_case[case.name] for case in suite.cases if case.name in by_case]


def _print(suite: Suite, rows: Sequence[Row]) -> None:
    for table in dict.fromkeys(row["table"] for row in rows):
        print(f"\n### {table}\n")
        print_rows([_printed(row) for row in rows if row["table"] == table])
    print(f"\nDevice: {', '.join(dict.fromkeys(row['device'] for row in rows))}")
    for line in suite.lines(rows):
        print(line)


def _printed(row: Row) -> Row:
    return {key: value for key, value in row.items() if key not in UNPRINTED}


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
