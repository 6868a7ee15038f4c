"""Commands that hold models against each other: validate, compare."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

import onnxlr
from onnxlr.cli.app import check_reports, cli, progress_bars, show, tell_written
from onnxlr.cli.arguments import with_comparison, with_data, with_shapes
from onnxlr.cli.data_options import CALIBRATION, CHECKS, COMPARED, COST_MODEL, IMAGES, PIXELS, RUN
from onnxlr.cli.options import FILE, INPUT_SHAPES, JSON, MAPPING, MEMORY, PORT_LAYOUTS, REPORTS, SELECTION
from onnxlr.comparing import COMPARISON_FILES, comparison_sections
from onnxlr.errors import ValidationError
from onnxlr.report import to_json
from onnxlr.report.table import render_checks, render_sections

__all__ = ["compare", "validate"]


@cli.command()
@click.argument("reference", type=FILE)
@click.argument("candidate", type=FILE)
@CHECKS
@IMAGES
@RUN
@INPUT_SHAPES
@MEMORY
@JSON
def validate(reference: Path, candidate: Path, as_json: bool, **options: Any) -> None:
    """Compare outputs and latency of two models; exit with 1 past the given limits."""
    checks = with_data(with_shapes(options))["checks"]
    with progress_bars() as progress:
        checked = onnxlr.validate(reference, candidate, checks, progress=progress)
    if as_json:
        click.echo(to_json(checked.to_dict()))
    else:
        show(lambda _: render_checks(checked.validation, checked.latencies, checked.notes))
    if checked.validation is not None and not checked.validation.passed:
        raise ValidationError("; ".join(checked.validation.violations))


@cli.command()
@click.argument("models", type=FILE, nargs=-1, required=True)
@COMPARED
@MAPPING
@PORT_LAYOUTS
@click.option("--optimize", is_flag=True, help="Optimize each by the options below, and compare the results.")
@SELECTION
@CALIBRATION
@PIXELS
@RUN
@COST_MODEL
@REPORTS
@JSON
def compare(models: Sequence[Path], reports: Sequence[Path], as_json: bool, **options: Any) -> None:
    """Hold exports of one network against the first of MODELS; exit with 1 if they are not the same function.

    Inputs and outputs are matched by name, shape and type, through layouts. Where outputs differ, the first
    layer behind which values differ is named, and what is different about it.
    """
    check_reports(reports, models, COMPARISON_FILES)
    compared, optimized = with_comparison(options)
    with progress_bars() as progress:
        found = onnxlr.compare(models, compared, optimized=optimized, progress=progress)
    for report in reports:
        onnxlr.write_comparison(found, report)
    if as_json:
        click.echo(to_json(found.to_dict()))
    else:
        show(lambda width: render_sections(comparison_sections(found, complete=False), width))
        tell_written(*reports)
    if not found.same:
        groups = " differs from ".join(" = ".join(group) for group in found.groups)
        raise ValidationError(f"not the same function within tolerance: {groups}")
