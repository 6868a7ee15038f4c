"""The whole GPU results file: models × schemes × float32 and float16 × batch sizes, original against result.

Every layer gets the largest aligned rank with at most half its MACs, as in `benchmarks.speedup`; inputs and
outputs stay on the GPU; each row is timed without and with a CUDA graph. Nothing is written where there is no
GPU: exit status 4, or with `--device cpu` a trial of the same program that prints its rows.
`python -m benchmarks.gpu [--batch 1,8,32] [--seconds 5] [--device cuda|tensorrt|cpu] [MODEL ...]`
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import click

import models
import onnxlr
from benchmarks.float16 import to_float16
from benchmarks.results import print_rows, write_results
from benchmarks.speedup import optimize_uniformly
from onnxlr.checking import CheckResult
from onnxlr.errors import ProviderError
from onnxlr.latency import Latency
from onnxlr.runtime import find_device
from onnxlr.schemes import all_schemes

MODELS = ("vgg16", "resnet18", "resnet50", "mobilenet_v2")
PRECISIONS = {"float32": lambda model: model, "float16": to_float16}


@click.command()
@click.option("--ratio", default=0.5, show_default=True, help="MACs to keep of every layer.")
@click.option("--seconds", default=5.0, show_default=True, help="Timing per row.")
@click.option("--align", default=8, show_default=True, help="Ranks are multiples of it.")
@click.option("--batch", default="1,8,32", show_default=True, help="Batch sizes.")
@click.option("--scheme", "schemes", multiple=True, type=click.Choice(list(all_schemes())), help="[all]")
@click.option("--prefer-nhwc", is_flag=True, help="Let CUDA compute Convs with channels last.")
@click.option("--device", default="cuda", type=click.Choice(["cuda", "tensorrt", "cpu"]))
@click.argument("names", nargs=-1, type=click.Choice(models.NAMES))
def main(
    ratio: float,
    seconds: float,
    align: int,
    batch: str,
    schemes: tuple[str, ...],
    prefer_nhwc: bool,
    device: str,
    names: tuple[str, ...],
) -> None:
    """Measure, print a table, write the results file of a GPU."""
    try:
        find_device(device)
    except ProviderError as error:
        print(f"no GPU results: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    checks = onnxlr.Checks(
        device=device,
        latency_seconds=seconds,
        batches=tuple(map(int, batch.split(","))),
        prefer_nhwc=prefer_nhwc,
    )
    rows: list[dict[str, Any]] = []
    for name in names or MODELS:
        for scheme in schemes or all_schemes():
            for found in _measure(name, scheme, ratio, align, checks):
                rows.append(found)
                print_rows([found])
    print_rows(rows)
    if device == "cpu":
        print("a trial on the CPU: no results file was written")
    else:
        write_results("gpu" if device == "cuda" else f"gpu_{device}", rows)


def _measure(
    name: str, scheme: str, ratio: float, align: int, checks: onnxlr.Checks
) -> Iterator[dict[str, Any]]:
    """Rows of one model and scheme: the same factors in both precisions."""
    original = models.build(name)
    result = optimize_uniformly(original, ratio, scheme, align, checks=None)
    macs = result.report.totals.macs
    if macs.before is None or macs.after is None:
        raise RuntimeError(f"{name}: sizes are unknown")
    about = {"model": name, "scheme": scheme, "fewer MACs": round(macs.before / macs.after, 3)}
    for precision, convert in PRECISIONS.items():
        checked = onnxlr.validate(convert(original), convert(result.model), checks)
        for note in checked.notes:
            print(f"{name}, {scheme}, {precision}: {note}", file=sys.stderr)
        error = _largest_error(checked)
        for latency in checked.latencies:
            yield {**about, "precision": precision, **_row(latency), "rel. L2": error}


def _row(latency: Latency) -> dict[str, Any]:
    return {
        "batch": latency.batch,
        "device": latency.device,
        "TF32": latency.tf32,
        "CUDA graph": latency.cuda_graph,
        "NHWC": latency.prefer_nhwc,
        "ms before": round(latency.before, 4),
        "ms after": round(latency.after, 4),
        "p99 before": _rounded(latency.before_p99, 4),
        "p99 after": _rounded(latency.after_p99, 4),
        "samples/s before": _rounded(latency.before_throughput, 1),
        "samples/s after": _rounded(latency.after_throughput, 1),
        "speed-up": round(latency.speedup, 3),
        "95 % interval": f"{latency.interval[0]:.3f} to {latency.interval[1]:.3f}",
        "noise floor": round(latency.noise_floor, 4),
        "verdict": latency.verdict,
        "CPU ms before": _rounded(latency.before_cpu, 4),
        "CPU ms after": _rounded(latency.after_cpu, 4),
        "memory before": latency.before_memory,
        "memory after": latency.after_memory,
        "GPU": latency.gpu_name,
        "MHz": latency.gpu_clock,
        "throttling": ", ".join(latency.gpu_throttling),
    }


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def _largest_error(checked: CheckResult) -> float:
    outputs = checked.validation.outputs if checked.validation else ()
    return max(round(output.rel_l2, 4) for output in outputs)


if __name__ == "__main__":
    main()
