"""Half the predicted latency: the measured speed-up, and the output error next to half the MACs.

For each network and number of threads, in one run: the cost model is fitted anew; `--target-latency 0.5`;
and with images to fit on, `--target-macs 0.5` with all defaults and `--target-latency` at 0.92 of the latency
measured for that, to see which has the lower output error. The last columns time these two, paired. Images
are seeded random numbers; output errors are those on others.
`python -m benchmarks.target_latency [--images 0] [--seconds 10] [--threads 1] [MODEL ...]`
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
@click.option("--images", default=0, show_default=True, help="To fit on; half as many more to compare on.")
@click.option("--seconds", default=10.0, show_default=True, help="Timing for each result.")
@click.option("--threads", type=int, multiple=True, default=(1, 2), show_default=True)
@click.argument("names", nargs=-1, type=click.Choice(models.NAMES))
def main(images: int, seconds: float, threads: tuple[int, ...], names: tuple[str, ...]) -> None:
    """Measure, print a table, write the results file."""
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        rng = np.random.default_rng(0)
        for part, count in (("fit", images), ("test", max(1, images // 2))):
            np.save(folder / f"{part}.npy", rng.standard_normal((count, *_SHAPE)).astype(np.float32))
        for count in threads:
            cost_model = folder / f"{count}.json"
            onnxlr.write_cost_model(onnxlr.calibrate_device("cpu", count), cost_model)
            for name in names or _MODELS:
                bench = _Bench(name, count, seconds, folder, str(cost_model))
                rows.append(_compare(bench) if images else _halve(bench))
                print_rows(rows[-1:])
                write_results("target_latency_and_macs" if images else "target_latency", rows)
    print_rows(rows)


class _Bench:
    """One network, timed with some threads."""

    def __init__(self, name: str, threads: int, seconds: float, folder: Path, cost_model: str) -> None:
        self.name, self.threads = name, threads
        self.checks = onnxlr.Checks(
            inputs=str(folder / "test.npy"), device="cpu", threads=threads, latency_seconds=seconds
        )
        self.images = onnxlr.Calibration(str(folder / "fit.npy"), device="cpu")
        self._machine = onnxlr.Machine(cost_model, "cpu", threads)
        self._model = models.build(name)

    def optimize(self, **options: Any) -> onnxlr.Result:
        """The model, optimized for this machine, and kept whatever it is like."""
        return onnxlr.optimize(
            self._model, machine=self._machine, checks=self.checks, keep_slower=True, **options
        )


def _halve(bench: _Bench) -> dict[str, Any]:
    half = bench.optimize(target_latency=_TARGET)
    latency = half.report.latency
    if latency is None:
        raise RuntimeError(f"{bench.name}: nothing was timed")
    return {
        "model": bench.name,
        "threads": bench.threads,
        "layers": len(half.plan.layers),
        "MACs kept": f"{_kept(half):.1%}",
        "ms before": round(latency.before, 2),
        "ms after": round(latency.after, 2),
        "speed-up": round(latency.speedup, 3),
        "95 % interval": f"{latency.interval[0]:.3f} to {latency.interval[1]:.3f}",
    }


def _compare(bench: _Bench) -> dict[str, Any]:
    by_macs = bench.optimize(target_macs=_TARGET, calibration=bench.images)
    by_time = bench.optimize(target_latency=_FASTER / _speedup(by_macs), calibration=bench.images)
    paired = onnxlr.validate(by_macs.model, by_time.model, bench.checks).latency
    if paired is None:
        raise RuntimeError(f"{bench.name}: nothing was timed")
    return {
        "model": bench.name,
        "threads": bench.threads,
        "speed-up by MACs": round(_speedup(by_macs), 3),
        "its rel. L2": _error(by_macs),
        "speed-up by latency": round(_speedup(by_time), 3),
        "its MACs kept": f"{_kept(by_time):.1%}",
        "its rel. L2 ": _error(by_time),
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
