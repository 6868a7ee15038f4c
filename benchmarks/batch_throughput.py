"""`onnxlr batch` with one process and with two, in turns: jobs a minute.

All jobs are the same model under other names, optimized with one worker and one thread each, without timing.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import click
import onnx

import models
from benchmarks.results import print_rows, write_results

_OPTIONS = [
    "--energy",
    "0.8",
    "--workers",
    "1",
    "--threads",
    "1",
    "--latency-seconds",
    "0",
    "--device",
    "cpu",
]


@click.command()
@click.argument("network", default="resnet18", type=click.Choice(models.NAMES))
@click.option("--jobs", default=8, show_default=True, help="Number of jobs.")
@click.option("--turns", default=3, show_default=True, help="How often each number of processes is tried.")
def main(network: str, jobs: int, turns: int) -> None:
    """Time both, print, write results/batch_throughput.json."""
    seconds: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "models").mkdir()
        for i in range(jobs):
            onnx.save(models.build(network), folder / "models" / f"{i}.onnx")
        for _ in range(turns):
            for processes, found in seconds.items():
                found.append(_run(folder, processes))
    ratios = [one / two for one, two in zip(seconds[1], seconds[2], strict=True)]
    row = {
        "model": network,
        "jobs": jobs,
        "jobs/min, 1 process": round(60 * jobs / median(seconds[1]), 1),
        "jobs/min, 2 processes": round(60 * jobs / median(seconds[2]), 1),
        "times as many": round(median(ratios), 2),
        "in each turn": ", ".join(f"{ratio:.2f}" for ratio in ratios),
    }
    write_results("batch_throughput", [row])
    print_rows([row])


def _run(folder: Path, processes: int) -> float:
    """Seconds for all jobs; none is done before."""
    output = folder / "out"
    shutil.rmtree(output, ignore_errors=True)
    command = [sys.executable, "-m", "onnxlr", "batch", str(folder / "models" / "*.onnx"), "-o", str(output)]
    start = time.perf_counter()
    subprocess.run(  # noqa: S603 - onnxlr itself
        [*command, "--processes", str(processes), "--quiet", "--", *_OPTIONS], check=True
    )
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
