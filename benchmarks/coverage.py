"""`onnxlr optimize --energy 0.9` over every builder in `models/`, the shipped model, and files.

For each: the layers factorized and left alone, which have to be all the linear nodes there are (counted here
by operator, in every body and function, after the passes: these put grouped Convs in parts together); kept
params and MACs; the outputs' difference on random inputs, which must be finite (it says little of accuracy).
Exit code 1 if a model fails or a layer is not accounted for.
`python -m benchmarks.coverage [--energy 0.9] [FILE ...]`
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import click
import onnx
from onnx import ModelProto

import onnxlr
from benchmarks.every_model import every_model
from benchmarks.results import print_rows, write_results
from onnxlr.plan import BeforeAfter
from passes import prepare
from passes.graph import scopes

OPERATORS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "QLinearConv", "QLinearMatMul", "Einsum", "FusedConv")


@click.command()
@click.option("--energy", default=0.9, show_default=True, help="Fraction of every weight's energy to keep.")
@click.argument("files", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path))
def main(energy: float, files: tuple[Path, ...]) -> None:
    """Optimize all, print a table, write the results file."""
    rows = [_row(path, energy) for path in every_model(files)]
    print_rows(rows)
    write_results("coverage", rows)
    sys.exit(any(row["failure"] for row in rows))


def _row(path: Path, energy: float) -> dict[str, Any]:
    start, failure, result = time.perf_counter(), "", None
    try:
        checks = onnxlr.Checks(device="cpu", latency_seconds=0)
        result = onnxlr.optimize(path, energy=energy, checks=checks)
        failure = _problem(result, onnx.load(path))
    except Exception as error:
        failure = f"{type(error).__name__}: {error}"
    report = result.report if result else None
    outputs = report.validation.outputs if report and report.validation else ()
    return {
        "model": path.stem,
        "factorized": len(report.layers) if report else "",
        "left alone": len(report.skipped) if report else "",
        "params": _kept(report.totals.params) if report else "",
        "MACs": _kept(report.totals.macs) if report else "",
        "rel. L2": max((round(output.rel_l2, 3) for output in outputs), default=""),
        "seconds": round(time.perf_counter() - start, 1),
        "failure": failure,
    }


def _problem(result: onnxlr.Result, original: ModelProto) -> str:
    """What is wrong with a result, or nothing."""
    accounted = [layer.name for layer in result.report.layers]
    accounted += [item.name for item in result.report.skipped]
    nodes = [node for scope in scopes(prepare(original)) for node in scope.holder.node]
    linear = sum(node.op_type in OPERATORS for node in nodes)
    if len(set(accounted)) != len(accounted) or len(accounted) != linear:
        return f"{len(accounted)} layers in the report, {linear} in the model"
    validation = result.report.validation
    if validation is None or not validation.outputs or not validation.passed:
        return "outputs were not compared, or are not finite"
    return ""


def _kept(value: BeforeAfter) -> str:
    return f"{value.after / value.before:.1%}" if value.before and value.after is not None else "?"


if __name__ == "__main__":
    main()
