"""Commands that train; torch is only imported where one runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

import onnxlr
from onnxlr.cli.app import (
    check_reports,
    check_target,
    cli,
    finish,
    progress_bars,
    refuse,
    show,
    tell_epoch,
    tell_written,
)
from onnxlr.cli.arguments import with_method, with_training
from onnxlr.cli.data_options import IMAGES, LIMITS, RUN
from onnxlr.cli.options import EXTERNAL_DATA, FILE, JSON, JSON_REPORTS, MEMORY, OUTPUT, REPORTS, SELECTION
from onnxlr.cli.training_options import DISTILLATION, METHOD, TRAINING, UNFOLDED
from onnxlr.report import to_json, write_text
from onnxlr.report.table import render_checks

__all__ = ["finetune", "train"]


@cli.command()
@click.argument("model", type=FILE)
@OUTPUT
@TRAINING
@DISTILLATION
@LIMITS
@IMAGES
@UNFOLDED
@RUN
@MEMORY
@EXTERNAL_DATA
@JSON_REPORTS
@JSON
def finetune(
    model: Path,
    output: Path,
    external_data: str,
    reports: Sequence[Path],
    as_json: bool,
    force: bool,
    **options: Any,
) -> None:
    """Train MODEL, which `optimize` made, towards what its original gives (--teacher), labels, or both.

    It needs torch: pip install 'onnxlr[train]'. Only weights change, and the output is an ONNX file again. A
    training that was interrupted goes on where it was when the same command is run again.
    """
    check_target(output)
    check_reports(reports, [model, output], (".json",))
    arguments = _with_checkpoint(with_training(options), output)
    from onnxlr import training  # noqa: PLC0415 - an extra, which needs torch

    with progress_bars() as progress:
        tuned = training.finetune(model, progress=progress, on_epoch=tell_epoch, **arguments)
    checked = tuned.checked
    violations = checked.validation.violations if checked is not None and checked.validation else ()
    written = tuned.save(output, external_data) if force or not violations else []
    for report in reports:
        write_text(to_json(tuned.to_dict()) + "\n", report)
    if as_json:
        click.echo(to_json(tuned.to_dict()))
    else:
        if checked is not None:
            show(lambda _: render_checks(checked.validation, checked.latencies, checked.notes))
        tell_written(*written, *reports)
    if violations:
        refuse(violations, output, force)
    arguments["checkpoint"].unlink(missing_ok=True)


@cli.command()
@click.argument("model", type=FILE)
@OUTPUT
@METHOD
@TRAINING
@SELECTION
@DISTILLATION
@LIMITS
@IMAGES
@RUN
@EXTERNAL_DATA
@REPORTS
@JSON
def train(
    model: Path,
    output: Path,
    external_data: str,
    reports: Sequence[Path],
    as_json: bool,
    force: bool,
    **options: Any,
) -> None:
    """Train MODEL so that it has low rank, towards labels, another network (--teacher), or both.

    \b
    tai            k×1/1×k pairs (Tai et al., arXiv 1511.06067)
    adaptive-rank  full rank, under a penalty until a cut costs nothing (after Yu et al. 2021)
    elrt           Tucker-2 with orthogonal factors (after ELRT, arXiv 2401.10341)
    full           as it is, to compare with

    It needs torch: pip install 'onnxlr[train]'. The output is a factorized ONNX file, with the report of
    `optimize`. A training that was interrupted goes on where it was when the same command is run again.
    """
    check_target(output)
    check_reports(reports, [model, output])
    given, plan, asked = with_method(options)
    arguments = _with_checkpoint(given, output)
    from onnxlr import training  # noqa: PLC0415 - an extra, which needs torch

    with progress_bars() as progress:
        if plan is None and asked["schemes"]:
            plan = onnxlr.plan(model, progress=progress, **asked)
        result = training.train(model, plan=plan, progress=progress, on_epoch=tell_epoch, **arguments)
    finish(result, output, external_data, reports, as_json, force)
    arguments["checkpoint"].unlink(missing_ok=True)


def _with_checkpoint(arguments: Mapping[str, Any], output: Path) -> dict[str, Any]:
    """Arguments with the checkpoint, beside the output if it was not said where; deleted at the end."""
    return {**arguments, "checkpoint": arguments["checkpoint"] or Path(f"{output}.checkpoint")}
