"""Commands that select and rewrite: inspect, plan, apply, optimize, sweep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
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
    show,
    tell_epoch,
    tell_written,
)
from onnxlr.cli.arguments import with_data, with_finetuning, with_selector, with_shapes
from onnxlr.cli.data_options import CALIBRATION, CHECKS, COST_MODEL, FORCE, IMAGES, RUN, SLOWER, SWEEP_CHECKS
from onnxlr.cli.options import (
    ALIGN,
    CURVE,
    EXTERNAL_DATA,
    FILE,
    FOLDER,
    JSON,
    MEMORY,
    OUTPUT,
    REPORTS,
    SCHEMES,
    SELECTION,
    SWEEP,
    WORKERS,
)
from onnxlr.cli.training_options import CHAINED
from onnxlr.model_file import load, model_hash
from onnxlr.report import read_curve, staged_reports, to_json
from onnxlr.report.curve import check_folder
from onnxlr.report.table import render_inspection, render_plan, render_report, render_sweep
from onnxlr.report.tradeoff import TradeOff

__all__ = ["apply", "inspect", "optimize", "plan", "sweep"]


@cli.command()
@click.argument("model", type=FILE)
@SCHEMES
@ALIGN
@JSON
def inspect(model: Path, as_json: bool, **options: Any) -> None:
    """Show every Conv, Gemm and MatMul: shape, cost, ranks by energy, or why it is left alone."""
    with progress_bars() as progress:
        inspection = onnxlr.inspect(model, progress=progress, **with_shapes(options))
    if as_json:
        click.echo(to_json(inspection.to_dict()))
    else:
        show(lambda width: render_inspection(inspection, width))


@cli.command()
@click.argument("model", type=FILE)
@OUTPUT
@SELECTION
@CALIBRATION
@IMAGES
@CHECKS
@RUN
@COST_MODEL
@FORCE
@SLOWER
@CHAINED
@EXTERNAL_DATA
@REPORTS
@CURVE
@JSON
def optimize(model: Path, output: Path, external_data: str, curve: Path | None, **options: Any) -> None:
    """Plan, rewrite, validate, report; write the optimized MODEL to the output.

    With a limit (--max-rel-l2, --min-agreement, --max-drop) and no rank rule (--energy, --target-macs,
    --target-params, --target-latency, --evbmf) the cheapest plan that keeps all limits is searched; with a
    rule, limits only check its result.

    A result that is not measured to be faster is taken back, replacement by replacement; where none pays, the
    original is written. Not with --target-params, --gate none, or --latency-seconds 0.
    """
    force, reports, as_json = (options.pop(name) for name in ("force", "reports", "as_json"))
    seconds, data = options.pop("finetune"), options.pop("finetune_data")
    check_target(output)
    check_reports(reports, [model, output])
    drawn = _read_curve(curve, model)
    options = with_data(with_shapes(options))
    options, chained = with_finetuning(with_selector(options), seconds, data)
    with progress_bars() as progress:
        result = onnxlr.optimize(model, progress=progress, **options)
        if chained is not None:
            result = chained(result, model, progress=progress, on_epoch=tell_epoch)
    finish(_with_curve(result, drawn), output, external_data, reports, as_json, force)


@cli.command()
@click.argument("model", type=FILE)
@FOLDER
@SWEEP
@CALIBRATION
@IMAGES
@SWEEP_CHECKS
@RUN
@COST_MODEL
@JSON
def sweep(model: Path, output: Path, as_json: bool, **options: Any) -> None:
    """Plan, rewrite and validate at many budgets; write the curve and its plans to a folder.

    Points that break a limit are marked; no model is written: `apply` a point's plan.
    """
    check_folder(output)
    with progress_bars() as progress:
        curve = onnxlr.sweep(model, progress=progress, **with_data(with_shapes(options)))
    written = curve.save(output)
    if as_json:
        click.echo(to_json(curve.to_dict()))
    else:
        show(lambda _: render_sweep(curve))
        tell_written(*written)


@cli.command()
@click.argument("model", type=FILE)
@OUTPUT
@SELECTION
@CALIBRATION
@IMAGES
@RUN
@COST_MODEL
def plan(model: Path, output: Path, **options: Any) -> None:
    """Choose schemes and ranks, and write them to a JSON file that `apply` takes."""
    check_target(output, [model])
    with progress_bars() as progress:
        made = onnxlr.plan(model, progress=progress, **with_selector(with_data(with_shapes(options))))
    onnxlr.write_plan(made, output)
    show(lambda width: render_plan(made.layers, made.skipped, width))
    tell_written(output)


@cli.command()
@click.argument("model", type=FILE)
@click.argument("plan", type=FILE)
@OUTPUT
@CALIBRATION
@IMAGES
@RUN
@EXTERNAL_DATA
@REPORTS
@CURVE
@WORKERS
@MEMORY
def apply(
    model: Path,
    plan: Path,
    output: Path,
    external_data: str,
    reports: Sequence[Path],
    curve: Path | None,
    **options: Any,
) -> None:
    """Rewrite MODEL as PLAN says; the result is not run (see `validate`)."""
    check_target(output, [plan])
    check_reports(reports, [model, plan, output])
    drawn = _read_curve(curve, model)
    with progress_bars() as progress:
        result = onnxlr.apply(model, onnxlr.read_plan(plan), progress=progress, **with_data(options))
    result = _with_curve(result, drawn)
    with staged_reports(result.report, reports):
        written = result.save(output, external_data)
    show(lambda width: render_report(result.report, width))
    tell_written(*written, *reports)


def _read_curve(folder: Path | None, model: Path) -> TradeOff | None:
    """The curve of a sweep of the model, before any work is done."""
    if folder is None:
        return None
    loaded = load(model)
    return read_curve(folder, {"name": loaded.name, "hash": model_hash(loaded)})


def _with_curve(result: onnxlr.Result, curve: TradeOff | None) -> onnxlr.Result:
    return replace(result, report=replace(result.report, curve=curve))
