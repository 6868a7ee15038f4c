"""Seconds to plan and rewrite, without validation: all cores, and one core with one BLAS thread.

Each run is a new process; its time includes loading the model and leaves out importing and saving. Runs of
the two settings alternate. `python -m benchmarks.optimize_time [--energy 0.9] [--runs 3] [MODEL ...]`
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import click
import onnx

import models
from benchmarks.results import print_rows, write_results
from onnxlr.parallel import available_cores

_RUN = """
import json, resource, sys, time
import onnxlr
wall, cpu = time.perf_counter(), time.process_time()
result = onnxlr.optimize(sys.argv[1], energy=float(sys.argv[2]), workers=int(sys.argv[3]), checks=None)
print(json.dumps({
    "wall": time.perf_counter() - wall,
    "cpu": time.process_time() - cpu,
    "layers": len(result.plan.layers),
    "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
}))
"""


@click.command()
@click.option("--energy", default=[0.8, 0.95], multiple=True, show_default=True)
@click.option("--runs", default=3, show_default=True, help="Runs a setting; medians are given.")
@click.argument("names", nargs=-1, type=click.Choice(models.NAMES))
def main(energy: tuple[float, ...], runs: int, names: tuple[str, ...]) -> None:
    """Measure, print a table, write the results file."""
    rows = []
    for name in names or ("resnet18", "resnet50", "vgg16"):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            onnx.save(models.build(name), path)
            rows += [_row(name, path, kept, runs) for kept in energy]
    print_rows(rows)
    write_results("optimize_time", rows)


def _row(name: str, path: Path, energy: float, runs: int) -> dict[str, Any]:
    cores = available_cores()
    pairs = [(_measure(path, energy, cores), _measure(path, energy, 1)) for _ in range(runs)]
    many, one = ([pair[i] for pair in pairs] for i in (0, 1))
    return {
        "model": name,
        "energy": energy,
        "layers": many[0]["layers"],
        "cores": cores,
        "wall s": round(median(run["wall"] for run in many), 2),
        "CPU s": round(median(run["cpu"] for run in many), 2),
        "wall s, 1 core": round(median(run["wall"] for run in one), 2),
        "CPU s, 1 core": round(median(run["cpu"] for run in one), 2),
        "peak MB": max(run["peak_mb"] for run in many),
    }


def _measure(path: Path, energy: float, workers: int) -> dict[str, float]:
    command = [sys.executable, "-c", _RUN, str(path), str(energy), str(workers)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - our own program
    measured: dict[str, float] = json.loads(done.stdout)
    return measured


if __name__ == "__main__":
    main()
