"""No result is slower than its original: every builder of `models/`, the shipped model, and files.

Each goes through `onnxlr optimize` at three energies with all defaults; what comes out is timed once more, in
a run of its own. Exit code 1 if one is slower beyond the noise floor.
`python -m benchmarks.never_slower [--threads 1] [--seconds 3] [FILE ...]`
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

import onnxlr
from benchmarks.every_model import every_model
from benchmarks.results import print_rows, write_results

_ENERGIES = (0.8, 0.9, 0.95)


@click.command()
@click.option("--threads", type=int, multiple=True, default=(1, 2), show_default=True)
@click.option("--seconds", default=3.0, show_default=True, help="Timing for each result, twice.")
@click.argument("files", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path))
def main(threads: tuple[int, ...], seconds: float, files: tuple[Path, ...]) -> None:
    """Measure, print a table, write the results file."""
    rows = []
    for path in every_model(files):
        for energy in _ENERGIES:
            for count in threads:
                rows.append(_row(path, energy, count, seconds))
                print_rows(rows[-1:])
                write_results("never_slower", rows)
    print_rows(rows)
    sys.exit(any(row["verdict"] == "slower" for row in rows))


def _row(path: Path, energy: float, threads: int, seconds: float) -> dict[str, Any]:
    checks = onnxlr.Checks(device="cpu", threads=threads, latency_seconds=seconds)
    result = onnxlr.optimize(path, energy=energy, checks=checks)
    latency = onnxlr.validate(path, result.model, checks).latency
    if latency is None:
        raise RuntimeError(f"{path}: nothing was timed")
    reverted = sum(item.reason.startswith("reverted") for item in result.report.skipped)
    return {
        "model": path.stem,
        "energy": energy,
        "threads": threads,
        "replaced": len(result.report.layers),
        "reverted": reverted,
        "speed-up": round(latency.speedup, 3),
        "95 % interval": f"{latency.interval[0]:.3f} to {latency.interval[1]:.3f}",
        "noise floor": round(latency.noise_floor, 4),
        "verdict": latency.verdict,
    }


if __name__ == "__main__":
    main()
