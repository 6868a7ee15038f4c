"""What pretrained networks lose: onnxlr with calibration, and two other methods, at equal MACs or parameters.

Needs a folder of networks and images (`--data`). `benchmarks.accuracy_data` says what each network is
calibrated and tested on, `benchmarks.accuracy_rivals` what the other methods are. Labels only serve to
measure. Four tables, written to `results/accuracy.json` row by row:

* cifar10: kept MACs 0.7, 0.5 and 0.35 by every method;
* calibration: fewer images to calibrate on, at kept MACs 0.5;
* trunk: HED's VGG-16 trunk at 224 pixels, kept MACs 0.5 and 0.3; at 320 pixels with 16 images for the time;
* imagenet: kept parameters 0.85 and 0.7.

MACs are those of all Convs and Gemms, which targets are for, as onnxlr counts them in the new graph; Conv
MACs are those of its Convs alone, counted here. Ranks are multiples of what a row gives as align; the other
methods have any ranks, which suits them best. Seconds are those of the whole `onnxlr.optimize` from the file
on, with its comparison of outputs, without timing; CPU seconds are summed over the cores. Where a target
cannot be reached, the lowest that can be is taken.

`python -m benchmarks.accuracy [--data ../shared/data] [--only NAME] [--kept F] [--images N]`
"""

from __future__ import annotations

import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import click
import onnx

import onnxlr
from benchmarks.accuracy_data import CIFAR10, IMAGENET, INPUT, TRUNK, Network, load_network, load_trunk
from benchmarks.accuracy_measures import compare, conv_macs, run
from benchmarks.accuracy_rivals import output_pca, weight_svd
from benchmarks.results import print_rows, write_results
from onnxlr.plan import BeforeAfter

OURS, BY_WEIGHTS, BY_PCA = "onnxlr", "weight SVD (Tai)", "output PCA (BALF)"

COLUMNS = {
    "cifar10": "model,method,align,target,MACs %,Conv MACs %,params %,top-1,top-1 lost,agreement,rel. L2,"
    "predicted,seconds,CPU s,images",
    "calibration": "model,method,align,target,MACs %,images,top-1,top-1 lost,agreement,rel. L2,"
    "predicted,seconds,CPU s",
    "trunk": "model,pixels,method,align,target,MACs %,params %,rel. L2,predicted,seconds,CPU s,images",
    "imagenet": "model,method,align,target,params %,MACs %,top-1,top-1 lost,top-5,top-5 lost,agreement,"
    "rel. L2,predicted,seconds,CPU s,images",
}

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Setting:
    """One way to optimize a network.

    Attributes:
        kept: fraction of what is budgeted to keep.
        unit: what is budgeted, `macs` or `params`.
        method: one of the three above.
        align: ranks are multiples of it.
        images: to calibrate on.
    """

    kept: float
    unit: str = "macs"
    method: str = OURS
    align: int = 4
    images: int = 1024


class Bench:
    """Optimizes and measures; what was measured once is not measured again.

    Args:
        data: the data folder.
        scratch: a temporary folder.
        only: names of the networks to look at.
        kept: targets to look at; none for all.
        most: images to calibrate on, at most.
    """

    def __init__(
        self, data: Path, scratch: Path, only: tuple[str, ...], kept: tuple[float, ...], most: int
    ) -> None:
        self.data, self.scratch, self.only = data, scratch, only
        self._kept, self._most = kept, most
        self._measured = cache(self._measure)
        self.network = cache(load_network)
        self._expected = cache(lambda network: run(network.path, network))

    def targets(self, *kept: float) -> list[float]:
        """Those of some targets that shall be looked at."""
        return [target for target in kept if not self._kept or target in self._kept]

    def original(self, network: Network) -> Row:
        """The row of a network as it is."""
        expected = self._expected(network)
        found = compare(expected, expected, network.test.labels if network.has_classes else None)
        whole = dict.fromkeys(("MACs %", "Conv MACs %", "params %"), 100.0)
        return {**_no_values(), "model": network.name, "method": "original", **whole, **found}

    def row(self, network: Network, setting: Setting) -> Row:
        """The row of a network, optimized."""
        return self._measured(network, replace(setting, images=min(setting.images, self._most)))

    def _measure(self, network: Network, setting: Setting) -> Row:
        _tell(
            f"{network.name}: {setting.method}, kept {setting.unit} {setting.kept:g}, align {setting.align}"
        )
        calibration, shape = str(self._calibration_file(network)), network.input_shape
        result, seconds, cpu = _optimized(network, setting, calibration)
        found = compare(
            run(result.model, network),
            self._expected(network),
            network.test.labels if network.has_classes else None,
        )
        convs = BeforeAfter(*(conv_macs(m, shape) for m in (onnx.load(network.path), result.model)))
        predicted = result.report.predicted_rel_l2
        _tell(f"  {seconds:.0f} s, {found}")
        return {
            "model": network.name,
            "pixels": shape[-1],
            "method": setting.method,
            "align": setting.align,
            "target": setting.kept,
            "MACs %": _percent(result.report.totals.macs),
            "Conv MACs %": _percent(convs),
            "params %": _percent(result.report.totals.params),
            **found,
            "predicted": "" if predicted is None else round(predicted, 4),
            "seconds": round(seconds, 1),
            "CPU s": round(cpu, 1),
            "images": "" if setting.method == BY_WEIGHTS else setting.images,
        }

    def _calibration_file(self, network: Network) -> Path:
        count, size = len(network.calibration.labels), network.input_shape[-1]
        path = self.scratch / f"{network.name}_{count}_{size}.npz"
        if not path.exists():
            network.write_calibration(path)
        return path


def cifar10_rows(bench: Bench) -> Iterator[Row]:
    """Every method at every target."""
    methods = ((OURS, 4), (OURS, 8), (BY_WEIGHTS, 1), (BY_PCA, 1))
    for name in CIFAR10:
        if name in bench.only:
            network = bench.network(name, bench.data)
            yield bench.original(network)
            for kept in bench.targets(0.7, 0.5, 0.35):
                for method, align in methods:
                    yield bench.row(network, Setting(kept, method=method, align=align))


def calibration_rows(bench: Bench) -> Iterator[Row]:
    """Few images, and many."""
    for name in ("cifar10_resnet20", "cifar10_resnet56"):
        if name in bench.only:
            for images in (64, 256, 1024):
                for kept in bench.targets(0.5):
                    yield bench.row(bench.network(name, bench.data), Setting(kept, images=images))


def trunk_rows(bench: Bench) -> Iterator[Row]:
    """A network of convolutions alone."""
    if TRUNK in bench.only:
        network = load_trunk(bench.data, bench.scratch, 224, 32)
        for kept in bench.targets(0.5, 0.3):
            for method, align in ((OURS, 4), (BY_WEIGHTS, 1)):
                yield bench.row(network, Setting(kept, method=method, align=align, images=32))
        network = load_trunk(bench.data, bench.scratch, 320, 16)
        for kept in bench.targets(0.5):
            yield bench.row(network, Setting(kept, images=16))


def imagenet_rows(bench: Bench) -> Iterator[Row]:
    """Networks that were made small by hand."""
    for name in IMAGENET:
        if name in bench.only:
            network = bench.network(name, bench.data)
            yield bench.original(network)
            for kept in bench.targets(0.85, 0.7):
                yield bench.row(network, Setting(kept, unit="params", images=256))


TABLES: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "cifar10": cifar10_rows,
    "calibration": calibration_rows,
    "trunk": trunk_rows,
    "imagenet": imagenet_rows,
}

NAMES = (*CIFAR10, TRUNK, *IMAGENET)


@click.command()
@click.option("--data", default="../shared/data", show_default=True, type=click.Path(path_type=Path))
@click.option("--only", multiple=True, type=click.Choice(NAMES), help="Networks to look at.  [default: all]")
@click.option("--kept", multiple=True, type=float, help="Targets to look at.  [default: all]")
@click.option("--images", default=1024, show_default=True, help="Images to calibrate on, at most.")
def main(data: Path, only: tuple[str, ...], kept: tuple[float, ...], images: int) -> None:
    """Measure, print the tables, write the results file."""
    if not (data / "models.json").is_file():
        _tell(f"{data}: no networks and images there (no models.json); say where they are with --data")
        sys.exit(2)
    done: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(data, Path(scratch), only or NAMES, kept, images)
        for name, table in TABLES.items():
            columns = COLUMNS[name].split(",")
            rows = []
            for row in table(bench):
                rows.append({column: row[column] for column in columns})
                done.append({"table": name, **rows[-1]})
                write_results("accuracy", done)
            if rows:
                print(f"\n### {name}\n")
                print_rows(rows)


def _optimized(network: Network, setting: Setting, calibration: str) -> tuple[onnxlr.Result, float, float]:
    """The result, seconds and CPU seconds; at the lowest target if the setting's cannot be reached."""
    start, cpu = time.perf_counter(), time.process_time()
    try:
        result = onnxlr.optimize(
            network.path,
            **_options(setting, calibration),
            align=setting.align,
            input_shapes={INPUT: network.input_shape},
            checks=onnxlr.Checks(device="cpu", latency_seconds=0),
        )
    except onnxlr.UsageError as error:
        lowest = re.search(r"lowest that can be reached is ([\d.]+)", str(error))
        if lowest is None:
            raise
        _tell(f"  {error}")
        return _optimized(network, replace(setting, kept=float(lowest[1])), calibration)
    return result, time.perf_counter() - start, time.process_time() - cpu


def _options(setting: Setting, calibration: str) -> Row:
    if setting.method == BY_WEIGHTS:
        return weight_svd(setting.kept)
    if setting.method == BY_PCA:
        return output_pca(setting.kept, calibration, setting.images)
    inputs = onnxlr.Calibration(calibration, setting.images, device="cpu")
    return {f"target_{setting.unit}": setting.kept, "calibration": inputs}


def _no_values() -> Row:
    return dict.fromkeys({column for columns in COLUMNS.values() for column in columns.split(",")}, "")


def _percent(value: BeforeAfter) -> float:
    if not value.before or value.after is None:
        raise ValueError("sizes are unknown")
    return round(100 * value.after / value.before, 2)


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
