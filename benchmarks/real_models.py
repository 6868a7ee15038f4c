"""Six pretrained networks before and after: the cheapest result that loses at most a point of accuracy.

`onnxlr optimize --max-drop 0.01 --calibration …` searches it on images of its own; what the table tells of
accuracy is measured on others. All images are those of the data folder (see `benchmarks.accuracy_data`), none
in two parts. CIFAR-10: 1,024 training images to calibrate on, 2,000 to search on, the 1,000 test images to
report on. ImageNet: 256, 372 and 372 of one sample. Training images are remembered by their network: what is
kept on them is not proof of what is kept on others.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np

import onnxlr
from benchmarks.accuracy_data import Images, Network, load_network, read_arrays
from benchmarks.results import print_rows, write_results
from onnxlr.plan import BeforeAfter

NETWORKS = (
    *("cifar10_resnet20", "cifar10_resnet32", "cifar10_resnet56", "cifar10_cnn6"),
    *("imagenet_mobilenet_v2", "imagenet_squeezenet10_dc"),
)

_DROP = 0.01


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(NETWORKS))
@click.option(
    "--data", default="../shared/data", type=click.Path(path_type=Path), help="Folder of models and images."
)
@click.option("--seconds", default=5.0, help="Time to spend on timing each result, in seconds.")
def main(names: tuple[str, ...], data: Path, seconds: float) -> None:
    """Optimize pretrained networks, NAMES or all of them, and print sizes, latency and accuracy."""
    rows = []
    for name in names or NETWORKS:
        with tempfile.TemporaryDirectory() as scratch:
            rows.append(_row(name, data, Path(scratch), seconds))
        print_rows(rows[-1:])
        write_results("real_models", rows)
    print_rows(rows)


def _row(name: str, data: Path, scratch: Path, seconds: float) -> dict[str, Any]:
    network = load_network(name, data)
    searched, reported = _parts(network, data)
    for part, images in (
        ("calibration", network.calibration),
        ("searched", searched),
        ("reported", reported),
    ):
        replace(network, calibration=images).write_calibration(scratch / f"{part}.npz")
        np.save(scratch / f"{part}_labels.npy", images.labels)
    start, cpu = time.perf_counter(), time.process_time()
    result = onnxlr.optimize(
        network.path,
        calibration=str(scratch / "calibration.npz"),
        checks=_checks(scratch, "searched", seconds, onnxlr.Limits(max_drop=_DROP)),
    )
    spent = round(time.perf_counter() - start, 1), round(time.process_time() - cpu, 1)
    checked = onnxlr.validate(network.path, result.model, _checks(scratch, "reported", seconds))
    assert checked.validation is not None and checked.latency is not None  # noqa: S101, PT018 - both were asked for
    (output,) = checked.validation.outputs
    totals, latency = result.report.totals, checked.latency
    return {
        "model": name,
        "layers": f"{len(result.plan.layers)} of {len(result.plan.layers) + len(result.plan.skipped)}",
        "params": _change(totals.params),
        "MACs": _change(totals.macs),
        "bytes": _change(totals.bytes),
        "ms": f"{latency.before:.3g} → {latency.after:.3g}",
        "speed-up": round(latency.speedup, 2),
        "95 % interval": f"{latency.interval[0]:.2f} to {latency.interval[1]:.2f}",
        "verdict": latency.verdict,
        "top-1": f"{output.top1_before:.2%} → {output.top1_after:.2%}",
        "agreement": f"{output.top1_agreement:.1%}",
        "rel. L2": f"{output.rel_l2:.3g}",
        "seconds": spent[0],
        "CPU s": spent[1],
    }


def _parts(network: Network, data: Path) -> tuple[Images, Images]:
    """Images to search on, and to report on."""
    if network.name.startswith("imagenet"):
        return network.test.spread(len(network.test.labels) // 2)
    train = read_arrays(data / "cifar10_train_4k.npz")
    return train.take(np.arange(1024, 3024)), network.test


def _checks(scratch: Path, part: str, seconds: float, limits: onnxlr.Limits | None = None) -> onnxlr.Checks:
    return onnxlr.Checks(
        inputs=str(scratch / f"{part}.npz"),
        labels=str(scratch / f"{part}_labels.npy"),
        limits=limits or onnxlr.Limits(),
        latency_seconds=seconds,
        device="cpu",
    )


def _change(value: BeforeAfter) -> str:
    """Before and after in millions, and what is left."""
    if value.before is None or value.after is None:
        raise ValueError("sizes are unknown")
    return f"{value.before / 1e6:.3g} → {value.after / 1e6:.3g} M ({value.after / value.before:.0%})"


if __name__ == "__main__":
    main()
