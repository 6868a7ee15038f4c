"""Commands that train; torch is only imported where one runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from onnxlr.cli.app import check_reports, check_target, cli, progress_bars, show, tell_epoch, tell_written
from onnxlr.cli.arguments import with_training
from onnxlr.cli.data_options import IMAGES, RUN
from onnxlr.cli.options import EXTERNAL_DATA, FILE, JSON, OUTPUT, REPORTS
from onnxlr.cli.training_options import DISTILLATION, TRAINING
from onnxlr.report import to_json, write_text
from onnxlr.report.table import render_checks

__all__ = ["finetune"]


@cli.command()
@click.argument("model", type=FILE)
@OUTPUT
@TRAINING
@DISTILLATION
@IMAGES
@RUN
@EXTERNAL_DATA
@REPORTS
@JSON
def finetune(
    model: Path, output: Path, external_data: str, reports: Sequence[Path], as_json: bool, **options: Any
) -> None:
    """Train MODEL, which `optimize` made, towards what its original gives (--teacher), labels, or both.

    It needs torch: pip install 'onnxlr[train]'. Only weights change, and the output is an ONNX file again. A
    training that was interrupted goes on where it was when the same command is run again.
    """
    check_reports(reports)
    check_target(output)
    arguments = with_training(options)
    from onnxlr import training  # noqa: PLC0415 - an extra, which needs torch

    arguments["checkpoint"] = arguments["checkpoint"] or output.with_name(f"{output.name}.checkpoint")
    with progress_bars() as progress:
        tuned = training.finetune(model, progress=progress, on_epoch=tell_epoch, **arguments)
    written = tuned.save(output, external_data)
    for report in reports:
        write_text(to_json(tuned.to_dict()) + "\n", report)
    if as_json:
        click.echo(to_json(tuned.to_dict()))
        return
    checked = tuned.checked
    if checked is not None:
        show(lambda _: render_checks(checked.validation, checked.latencies, checked.notes))
    tell_written(*written, *reports)
