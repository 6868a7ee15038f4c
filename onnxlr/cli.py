"""The command line: parse, call the API, print, map errors to exit codes. The only place that prints."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

import onnxlr
from onnxlr.arguments import (
    with_comparison,
    with_data,
    with_finetuning,
    with_selector,
    with_shapes,
    with_training,
)
from onnxlr.comparing import COMPARISON_FILES, comparison_sections
from onnxlr.data_options import (
    CALIBRATION,
    CHECKS,
    COMPARED,
    COST_MODEL,
    DEVICE_CALIBRATION,
    IMAGES,
    PIXELS,
    RUN,
    SLOWER,
    SWEEP_CHECKS,
)
from onnxlr.device_calibration import count_benchmarks
from onnxlr.doctor import diagnose
from onnxlr.errors import OnnxlrError, UsageError, ValidationError
from onnxlr.options import (
    ALIGN,
    COMPARISONS,
    EXTERNAL_DATA,
    FILE,
    FOLDER,
    INPUT_SHAPES,
    JSON,
    MAPPING,
    OUTPUT,
    PORT_LAYOUTS,
    REPORTS,
    SCHEMES,
    SELECTION,
    SWEEP,
    WORKERS,
)
from onnxlr.parallel import Progress
from onnxlr.report import REPORT_FILES, check_report_name, to_json
from onnxlr.report.curve import check_folder
from onnxlr.report.table import (
    render_checks,
    render_inspection,
    render_plan,
    render_report,
    render_sections,
    render_sweep,
)
from onnxlr.staging import staged_file
from onnxlr.training_options import CHAINED, DISTILLATION, TRAINING

__all__ = ["cli"]

_BUSY = 0.15
"""Held-out error of a cost model that idle machines stay well below."""


class _Group(click.Group):
    """Turns onnxlr's errors into one line on stderr and their exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except OnnxlrError as error:
            raise _Failure(error) from error


class _Failure(click.ClickException):
    """One line on stderr."""

    def __init__(self, error: OnnxlrError) -> None:
        super().__init__(" ".join(str(error).split()))
        self.exit_code = error.exit_code  # type: ignore[misc]  # click's own subclasses set it on the class


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(package_name="onnxlr")
def cli() -> None:
    """Exact low-rank optimization of ONNX models.

    Exit codes: 0 done, 1 a check failed (nothing is written), 2 wrong usage, 3 bad model, data or plan, 4 the
    device asked for is not there.
    """


@cli.command()
@click.argument("model", type=FILE)
@SCHEMES
@ALIGN
@JSON
def inspect(model: Path, as_json: bool, **options: Any) -> None:
    """Show every Conv, Gemm and MatMul: shape, cost, ranks by energy, or why it is left alone."""
    with _progress() as progress:
        inspection = onnxlr.inspect(model, progress=progress, **with_shapes(options))
    if as_json:
        click.echo(to_json(inspection.to_dict()))
    else:
        _print(lambda width: render_inspection(inspection, width))


@cli.command()
@click.argument("model", type=FILE)
@OUTPUT
@SELECTION
@CALIBRATION
@IMAGES
@CHECKS
@RUN
@COST_MODEL
@click.option("--force", is_flag=True, help="Write the model even if a check fails.")
@SLOWER
@CHAINED
@EXTERNAL_DATA
@REPORTS
@JSON
def optimize(model: Path, output: Path, external_data: str, **options: Any) -> None:
    """Plan, rewrite, validate, report; write the optimized MODEL to the output.

    With a limit (--max-rel-l2, --min-agreement, --max-drop) and no rank rule (--energy, --target-macs,
    --target-params, --target-latency, --evbmf) the cheapest plan that keeps all limits is searched; with a
    rule, limits only check its result.

    A result that is not measured to be faster is taken back, replacement by replacement; where none pays, the
    original is written. Not with --target-params, --gate none, or --latency-seconds 0.
    """
    force, reports, as_json = (options.pop(name) for name in ("force", "reports", "as_json"))
    seconds, data = options.pop("finetune"), options.pop("finetune_data")
    _check_reports(reports)
    _check_target(output)
    options = with_data(with_shapes(options))
    options, chained = with_finetuning(with_selector(options), seconds, data)
    with _progress() as progress:
        result = onnxlr.optimize(model, progress=progress, **options)
        if chained is not None:
            result = chained(result, model, progress=progress, on_epoch=_tell_epoch)
    validation = result.report.validation
    passed = validation is None or validation.passed
    written = result.save(output, external_data) if passed or force else []
    for report in reports:
        onnxlr.write_report(result.report, report)
    if as_json:
        click.echo(to_json(result.report.to_dict()))
    else:
        _print(lambda width: render_report(result.report, width))
        _tell_written(*written, *reports)
    if validation is not None and not passed:
        verdict = "written because of --force" if force else "not written"
        raise ValidationError(f"{'; '.join(validation.violations)}; {output} was {verdict}")


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
    with _progress() as progress:
        curve = onnxlr.sweep(model, progress=progress, **with_data(with_shapes(options)))
    written = curve.save(output)
    if as_json:
        click.echo(to_json(curve.to_dict()))
    else:
        _print(lambda _: render_sweep(curve))
        _tell_written(*written)


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
    _check_target(output)
    with _progress() as progress:
        made = onnxlr.plan(model, progress=progress, **with_selector(with_data(with_shapes(options))))
    onnxlr.write_plan(made, output)
    _print(lambda width: render_plan(made.layers, made.skipped, width))
    _tell_written(output)


@cli.command()
@click.argument("model", type=FILE)
@click.argument("plan", type=FILE)
@OUTPUT
@CALIBRATION
@IMAGES
@RUN
@EXTERNAL_DATA
@REPORTS
@WORKERS
def apply(
    model: Path, plan: Path, output: Path, external_data: str, reports: Sequence[Path], **options: Any
) -> None:
    """Rewrite MODEL as PLAN says; the result is not run (see `validate`)."""
    _check_reports(reports)
    _check_target(output)
    with _progress() as progress:
        result = onnxlr.apply(model, onnxlr.read_plan(plan), progress=progress, **with_data(options))
    written = result.save(output, external_data)
    for report in reports:
        onnxlr.write_report(result.report, report)
    _print(lambda width: render_report(result.report, width))
    _tell_written(*written, *reports)


@cli.command()
@click.argument("reference", type=FILE)
@click.argument("candidate", type=FILE)
@CHECKS
@IMAGES
@RUN
@INPUT_SHAPES
@JSON
def validate(reference: Path, candidate: Path, as_json: bool, **options: Any) -> None:
    """Compare outputs and latency of two models; exit with 1 past the given limits."""
    checks = with_data(with_shapes(options))["checks"]
    with _progress() as progress:
        checked = onnxlr.validate(reference, candidate, checks, progress=progress)
    if as_json:
        click.echo(to_json(checked.to_dict()))
    else:
        _print(lambda _: render_checks(checked.validation, checked.latencies, checked.notes))
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
@COMPARISONS
@JSON
def compare(models: Sequence[Path], reports: Sequence[Path], as_json: bool, **options: Any) -> None:
    """Hold exports of one network against the first of MODELS; exit with 1 if they are not the same function.

    Inputs and outputs are matched by name, shape and type, through layouts. Where outputs differ, the first
    layer behind which values differ is named, and what is different about it.
    """
    _check_reports(reports, COMPARISON_FILES)
    compared, optimized = with_comparison(options)
    with _progress() as progress:
        found = onnxlr.compare(models, compared, optimized=optimized, progress=progress)
    for report in reports:
        onnxlr.write_comparison(found, report)
    if as_json:
        click.echo(to_json(found.to_dict()))
    else:
        _print(lambda width: render_sections(comparison_sections(found, complete=False), width))
        _tell_written(*reports)
    if not found.same:
        groups = " differs from ".join(" = ".join(group) for group in found.groups)
        raise ValidationError(f"not the same function within tolerance: {groups}")


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
    _check_reports(reports)
    _check_target(output)
    arguments = with_training(options)
    from onnxlr import training  # noqa: PLC0415 - an extra, which needs torch

    arguments["checkpoint"] = arguments["checkpoint"] or output.with_name(f"{output.name}.checkpoint")
    with _progress() as progress:
        tuned = training.finetune(model, progress=progress, on_epoch=_tell_epoch, **arguments)
    written = tuned.save(output, external_data)
    for report in reports:
        with staged_file(report) as file:
            file.write(to_json(tuned.to_dict()).encode() + b"\n")
    if as_json:
        click.echo(to_json(tuned.to_dict()))
        return
    checked = tuned.checked
    if checked is not None:
        _print(lambda _: render_checks(checked.validation, checked.latencies, checked.notes))
    _tell_written(*written, *reports)


def _tell_epoch(epoch: Any) -> None:
    """One line on stderr."""
    known = {
        "loss": (epoch.loss, ".4g"),
        "held out": (epoch.held_out_loss, ".4g"),
        "rel. L2": (epoch.rel_l2, ".3g"),
        "agreement": (epoch.agreement, ".2%"),
        "accuracy": (epoch.accuracy, ".2%"),
    }
    parts = [f"{name} {format(value, form)}" for name, (value, form) in known.items() if value is not None]
    click.echo(f"epoch {epoch.number}, {epoch.seconds:.0f} s: {', '.join(parts)}", err=True)


@cli.command("calibrate-device")
@DEVICE_CALIBRATION
@JSON
def calibrate_device(output: Path | None, as_json: bool, **options: Any) -> None:
    """Measure how long Convs of many shapes take here, and keep a model of it that predicts others.

    It takes about half a minute, in which nothing else should run.
    """
    if output is not None:
        _check_target(output)
    start = time.perf_counter()
    with _progress() as progress:
        model = onnxlr.calibrate_device(progress=progress, **options)
    seconds, count = time.perf_counter() - start, count_benchmarks(options["batches"])
    path = onnxlr.write_cost_model(model, output)
    if as_json:
        found = {"path": str(path), "benchmarks": count, "seconds": seconds, "cost_model": model.to_dict()}
        click.echo(to_json(found))
        return
    held = ", ".join(f"{name} {value}" for name, value in model.key.items() if value)
    click.echo(f"timed {count} benchmarks in {seconds:.1f} s; holds for {held}")
    click.echo(f"block: {model.block} channels, {model.filter_set} at a time")
    error = model.error or 0.0
    click.echo(f"median error of benchmarks that were held out: {error:.1%}")
    if error > _BUSY:
        click.echo("note: the machine was busy, or its clock changed: run it again when nothing else runs")
    _tell_written(path)


@cli.command()
@JSON
def doctor(as_json: bool) -> None:
    """Tell which devices can really be used, and what is wrong with the installation; then exit with 1."""
    diagnosis = diagnose()
    if as_json:
        click.echo(to_json(diagnosis.to_dict()))
    else:
        click.echo("\n".join(diagnosis.lines()))
    if diagnosis.problems:
        raise ValidationError("; ".join(problem.what for problem in diagnosis.problems))


def _check_reports(paths: Sequence[Path], kinds: Sequence[str] = REPORT_FILES) -> None:
    """Refuse reports of an unknown kind, and what `_check_target` refuses."""
    for path in paths:
        check_report_name(path, kinds)
        _check_target(path)


def _check_target(path: Path) -> None:
    """Refuse a target that cannot be written, before any work is done."""
    if not path.parent.is_dir():
        raise UsageError(f"{path}: the folder {path.parent} does not exist")
    if os.path.isdir(path):  # unlike Path.is_dir, False for names that no file can have
        raise UsageError(f"{path}: is a folder; name a file")


def _tell_written(*paths: Path) -> None:
    for path in paths:
        click.echo(f"wrote {path}")


@contextmanager
def _progress() -> Iterator[Progress]:
    """Bars on stderr, gone when the work is done; nothing where stderr is no terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Bars(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        tasks: dict[str, TaskID] = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage)
            bars.update(tasks[stage], completed=done, total=total)

        yield report


def _print(render: Callable[[int], Iterable[RenderableType]]) -> None:
    """Print what `render` makes for the width of the terminal (80 where there is none)."""
    console = Console()
    for part in render(console.width):
        console.print(part)
