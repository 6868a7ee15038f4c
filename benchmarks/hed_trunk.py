"""HED's VGG-16 trunk (real weights): original, Tai's ranks, and ours by latency, timed in one run.

Tai et al. (arXiv 1511.06067) give ranks for VGG-16 by hand; every Conv becomes a pair of spatial factors by
its weight alone. Ours: `--target-latency`, fitted on 32 images; output errors are those on 16 others.
`python -m benchmarks.hed_trunk DATA [--target 0.3] [--threads 1] [--seconds 20]`, where DATA is a folder as
described in `benchmarks.accuracy_data`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

import onnxlr
from benchmarks.accuracy_data import INPUT, load_trunk
from benchmarks.results import print_rows, write_results
from onnxlr.selectors import Choice, Judges, LayerOptions, ModelSize, Refusal

_RANKS = (5, 24, 48, 48, 64, 128, 160, 192, 192, 256, 320, 320, 320)
_SIZE, _IMAGES = 224, 32


class TaiRanks:
    """Gives the layers the paper's ranks, in graph order."""

    name, help, value, takes_value = "tai-ranks", "Ranks of the paper.", 1.0, False
    judges: Judges = "weights"

    def __init__(self, value: float = 1.0) -> None:
        self.value = value

    def __call__(self, options: Sequence[LayerOptions], model: ModelSize) -> Mapping[str, Choice | Refusal]:  # noqa: ARG002 - no budget
        """See `onnxlr.selectors.RankSelector`."""
        return {
            layer.layer: Choice(layer.layer, "spatial", (rank,))
            for layer, rank in zip(options, _RANKS, strict=True)
        }


@click.command()
@click.option("--target", default=0.3, show_default=True, help="Of the latency to keep.")
@click.option("--threads", type=int, multiple=True, default=(1, 2), show_default=True)
@click.option("--seconds", default=20.0, show_default=True, help="Timing for each pair.")
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(data: Path, target: float, threads: tuple[int, ...], seconds: float) -> None:
    """Measure, print a table, write the results file."""
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        network = load_trunk(data, folder, _SIZE, _IMAGES)
        network.write_calibration(folder / "fit.npz")
        test = np.concatenate([batch[INPUT] for batch in network.batches()])
        np.save(folder / "test.npy", test)
        shapes = {INPUT: network.input_shape}
        tai = onnxlr.optimize(
            network.path,
            selector=TaiRanks(),
            schemes=["spatial"],
            align=1,
            gate="none",
            input_shapes=shapes,
            checks=None,
        )
        for count in threads:
            checks = onnxlr.Checks(
                inputs=str(folder / "test.npy"), device="cpu", threads=count, latency_seconds=seconds
            )
            cost_model = folder / f"{count}.json"
            onnxlr.write_cost_model(onnxlr.calibrate_device("cpu", count), cost_model)
            ours = onnxlr.optimize(
                network.path,
                target_latency=target,
                machine=onnxlr.Machine(str(cost_model), "cpu", count),
                calibration=onnxlr.Calibration(str(folder / "fit.npz"), device="cpu"),
                checks=None,
            )
            pairs: dict[str, tuple[onnxlr.api.Source, onnxlr.api.Source]] = {
                "Tai's ranks": (network.path, tai.model),
                "ours": (network.path, ours.model),
                "ours by Tai's ranks": (tai.model, ours.model),
            }
            for name, (before, after) in pairs.items():
                rows.append(_row(name, count, onnxlr.validate(before, after, checks)))
                print_rows(rows[-1:])
    print_rows(rows)
    write_results("hed_trunk", rows)


def _row(name: str, threads: int, checked: onnxlr.checking.CheckResult) -> dict[str, Any]:
    latency, validation = checked.latency, checked.validation
    if latency is None or validation is None:
        raise RuntimeError(f"{name}: nothing was compared")
    return {
        "pair": name,
        "threads": threads,
        "rel. L2": round(validation.outputs[0].rel_l2, 4),
        "ms before": round(latency.before, 2),
        "ms after": round(latency.after, 2),
        "speed-up": round(latency.speedup, 3),
        "95 % interval": f"{latency.interval[0]:.3f} to {latency.interval[1]:.3f}",
    }


if __name__ == "__main__":
    main()
