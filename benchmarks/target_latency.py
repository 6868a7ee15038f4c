"""Half the predicted latency: the measured speed-up, and the output error next to half the MACs.

For each network and number of threads, in one run: the cost model is fitted anew; `--target-latency 0.5`;
`--target-macs 0.5` with all defaults; and `--target-latency` at 0.92 of the latency measured for the latter,
whose output error is to be no higher. The last column times these two, paired. Factors are fitted on seeded
random images, and output errors are those on others.
`python -m benchmarks.target_latency [--images 8] [--seconds 10] [--threads 1] [MODEL ...]`
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np

import models
import onnxlr
from benchmarks.results import print_rows, write_results

_MODELS = ("resnet18", "resnet50", "vgg16")
_TARGET, _FASTER = 0.5, 0.92
_SHAPE = (3, 224, 224)


@click.command()
@click.option("--images", default=8, show_default=True, help="To fit on; half as many more to compare on.")
@click.option("--seconds", default=10.0, show_default=True, help="Timing for each result.")
@click.option("--threads", type=int, multiple=True, default=(1, 2), show_default=True)
@click.argument("names", nargs=-1, type=click.Choice(models.NAMES))
def main(images: int, seconds: float, threads: tuple[int, ...], names: tuple[str, ...]) -> None:
    """Measure, print a table, write the results file."""
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        rng = np.random.default_rng(0)
        for part, count in (("fit", images), ("test", images // 2)):
            np.save(folder / f"{part}.npy", rng.standard_normal((count, *_SHAPE)).astype(np.float32))
        for count in threads:
            cost_model = folder / f"{count}.json"
            onnxlr.write_cost_model(onnxlr.calibrate_device("cpu", count), cost_model)
            for name in names or _MODELS:
                rows.append(_row(name, count, seconds, folder, str(cost_model)))
                print_rows(rows[-1:])
                write_results("target_latency", rows)
    print_rows(rows)


def _row(name: str, threads: int, seconds: float, folder: Path, cost_model: str) -> dict[str, Any]:
    model = models.build(name)
    checks = onnxlr.Checks(
        inputs=str(folder / "test.npy"), device="cpu", threads=threads, latency_seconds=seconds
    )
    common: dict[str, Any] = {
        "calibration": onnxlr.Calibration(str(folder / "fit.npy"), device="cpu"),
        "checks": checks,
        "keep_slower": True,
    }
    machine = onnxlr.Machine(cost_model, "cpu", threads)
    half = onnxlr.optimize(model, target_latency=_TARGET, machine=machine, **common)
    by_macs = onnxlr.optimize(model, target_macs=_TARGET, **common)
    target = _FASTER / _speedup(by_macs)
    faster = onnxlr.optimize(model, target_latency=target, machine=machine, **common)
    paired = onnxlr.validate(by_macs.model, faster.model, checks).latency
    if paired is None:
        raise RuntimeError(f"{name}: nothing was timed")
    return {
        "model": name,
        "threads": threads,
        "speed-up at half the latency": round(_speedup(half), 3),
        "MACs kept": f"{_kept(half):.1%}",
        "rel. L2": _error(half),
        "speed-up at half the MACs": round(_speedup(by_macs), 3),
        "its rel. L2": _error(by_macs),
        "rel. L2 at 0.92 of its latency": _error(faster),
        "times as fast, paired": round(paired.speedup, 3),
        "95 % interval": f"{paired.interval[0]:.3f} to {paired.interval[1]:.3f}",
    }


def _speedup(result: onnxlr.Result) -> float:
    if result.report.latency is None:
        raise RuntimeError("nothing was timed")
    return result.report.latency.speedup


def _error(result: onnxlr.Result) -> float:
    if result.report.validation is None:
        raise RuntimeError("outputs were not compared")
    return round(max(output.rel_l2 for output in result.report.validation.outputs), 4)


def _kept(result: onnxlr.Result) -> float:
    macs = result.report.totals.macs
    return (macs.after or 0) / (macs.before or 1)


if __name__ == "__main__":
    main()
