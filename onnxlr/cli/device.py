"""Commands about the machine: calibrate-device, doctor."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

import onnxlr
from onnxlr.cli.app import check_target, cli, progress_bars, tell, tell_written
from onnxlr.cli.data_options import DEVICE_CALIBRATION
from onnxlr.cli.options import JSON
from onnxlr.device_calibration import count_benchmarks
from onnxlr.doctor import diagnose
from onnxlr.errors import ValidationError
from onnxlr.report import to_json

__all__ = ["calibrate_device", "doctor"]

_BUSY = 0.15
"""Held-out error of a cost model that idle machines stay well below."""


@cli.command("calibrate-device")
@DEVICE_CALIBRATION
@JSON
def calibrate_device(output: Path | None, as_json: bool, **options: Any) -> None:
    """Measure how long Convs of many shapes take here, and keep a model of it that predicts others.

    It takes about half a minute, in which nothing else should run.
    """
    if output is not None:
        check_target(output)
    start = time.perf_counter()
    with progress_bars() as progress:
        model = onnxlr.calibrate_device(progress=progress, **options)
    seconds, count = time.perf_counter() - start, count_benchmarks(options["batches"])
    path = onnxlr.write_cost_model(model, output)
    if as_json:
        found = {"path": str(path), "benchmarks": count, "seconds": seconds, "cost_model": model.to_dict()}
        click.echo(to_json(found))
        return
    held = ", ".join(f"{name} {value}" for name, value in model.key.items() if value)
    tell(f"timed {count} benchmarks in {seconds:.1f} s; holds for {held}")
    tell(f"block: {model.block} channels, {model.filter_set} at a time")
    error = model.error or 0.0
    tell(f"median error of benchmarks that were held out: {error:.1%}")
    if error > _BUSY:
        tell("note: the machine was busy, or its clock changed: run it again when nothing else runs")
    tell_written(path)


@cli.command()
@JSON
def doctor(as_json: bool) -> None:
    """Tell which devices can really be used, and what is wrong with the installation; then exit with 1."""
    diagnosis = diagnose()
    if as_json:
        click.echo(to_json(diagnosis.to_dict()))
    else:
        tell("\n".join(diagnosis.lines()))
    if diagnosis.problems:
        raise ValidationError("; ".join(problem.what for problem in diagnosis.problems))
