"""The command line: parse, call the API, print, map errors to exit codes. The only place that prints."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

import onnxlr
from onnxlr.errors import OnnxlrError, UsageError, ValidationError
from onnxlr.parallel import Progress
from onnxlr.planning import GATES
from onnxlr.report import check_report_name, to_json
from onnxlr.report.table import render_checks, render_inspection, render_plan, render_report
from onnxlr.runtime import DEVICES
from onnxlr.schemes import all_schemes
from onnxlr.selectors import RankSelector, all_selectors

__all__ = ["cli"]

Command = TypeVar("Command", bound=Callable[..., Any])

_MODEL = click.Path(path_type=Path)


def _input_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """Parse `name:1,3,224,224`."""
    match = re.fullmatch(r"(.+):([1-9]\d*(?:,[1-9]\d*)*)", text)
    if match is None:
        raise click.BadParameter(f"'{text}' is not like input:1,3,224,224")
    return match[1], tuple(map(int, match[2].split(",")))


def _options(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options as one decorator, shown in this order."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


_SCHEME_OPTIONS = _options(
    click.option(
        "--scheme",
        "schemes",
        multiple=True,
        type=click.Choice(list(all_schemes())),
        help="Schemes that compete; repeatable.  [default: all]",
    ),
    click.option(
        "--align",
        default=8,
        show_default=True,
        type=click.IntRange(1),
        help="Ranks are multiples of it, or full: the channel block of ONNX Runtime (16 with AVX-512).",
    ),
    click.option(
        "--input-shape",
        "input_shapes",
        multiple=True,
        type=_input_shape,
        metavar="NAME:SIZES",
        help="Sizes of an input with symbolic dimensions; repeatable.",
    ),
    click.option(
        "--workers",
        type=click.IntRange(1),
        help="Cores to factorize with.  [default: all available]",
    ),
)

_SELECTION_OPTIONS = _options(
    *(
        click.option(f"--{name}", type=float, help=selector.help)
        for name, selector in all_selectors().items()
    ),
    _SCHEME_OPTIONS,
    click.option("--include", metavar="REGEX", help="Only layers whose name it finds."),
    click.option("--exclude", metavar="REGEX", help="Leave alone layers whose name it finds."),
    click.option(
        "--gate",
        default="macs",
        show_default=True,
        type=click.Choice(list(GATES)),
        help="macs: leave a layer alone whose chain would not be cheaper; none: replace all.",
    ),
)

_CHECK_OPTIONS = _options(
    click.option(
        "--inputs",
        metavar="DATA",
        help=".npz, .npy, folder of these, test_data_set folder, or script.py:function."
        "  [default: seeded random numbers]",
    ),
    click.option("--labels", metavar="FILE", help=".npy file with the class of every sample of --inputs."),
    click.option("--max-rel-l2", type=click.FloatRange(0), help="Fail past this relative L2 error."),
    click.option("--min-agreement", type=click.FloatRange(0, 1), help="Fail below this top-1 agreement."),
    click.option(
        "--device",
        default="auto",
        show_default=True,
        type=click.Choice(DEVICES),
        help="auto: CUDA where it is really there, else the CPU.",
    ),
    click.option(
        "--threads",
        default=0,
        show_default=True,
        type=click.IntRange(0),
        help="Threads of ONNX Runtime; 0: one a physical core.",
    ),
    click.option(
        "--latency-seconds",
        default=5.0,
        show_default=True,
        type=click.FloatRange(0),
        help="Time to spend on paired timing, in seconds; 0: none.",
    ),
    click.option(
        "--seed",
        default=0,
        show_default=True,
        type=click.IntRange(0),
        help="Seed of random inputs and timing order.",
    ),
)

_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout, and nothing else there.")
_OUT = click.option("-o", "--output", required=True, type=_MODEL, help="File to write.")
_REPORTS = click.option(
    "--report", "reports", multiple=True, type=_MODEL, metavar="FILE", help="Write the report to FILE.json."
)


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


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="onnxlr")
def cli() -> None:
    """Exact low-rank optimization of ONNX models.

    Exit codes: 0 done, 1 a check failed (nothing is written), 2 wrong usage, 3 bad model, data or plan, 4 the
    device asked for is not there.
    """


@cli.command()
@click.argument("model", type=_MODEL)
@_SCHEME_OPTIONS
@_JSON
def inspect(model: Path, as_json: bool, **options: Any) -> None:
    """Show every Conv, Gemm and MatMul: shape, cost, ranks by energy, or why it is left alone."""
    with _progress() as progress:
        inspection = onnxlr.inspect(model, progress=progress, **_with_shapes(options))
    if as_json:
        click.echo(to_json(inspection.to_dict()))
    else:
        _print(lambda width: render_inspection(inspection, width))


@cli.command()
@click.argument("model", type=_MODEL)
@_OUT
@_SELECTION_OPTIONS
@_CHECK_OPTIONS
@click.option("--force", is_flag=True, help="Write the model even if a check fails.")
@_REPORTS
@_JSON
def optimize(model: Path, output: Path, **options: Any) -> None:
    """Plan, rewrite, validate, report; write the optimized MODEL to the output."""
    force, reports, as_json = (options.pop(name) for name in ("force", "reports", "as_json"))
    _check_targets(output, *reports)
    for report in reports:
        check_report_name(report)
    options = _with_shapes(options)
    checks = _pop_checks(options)
    with _progress() as progress:
        result = onnxlr.optimize(model, checks=checks, progress=progress, **_with_selector(options))
    validation = result.report.validation
    passed = validation is None or validation.passed
    if passed or force:
        result.save(output)
    for report in reports:
        onnxlr.write_report(result.report, report)
    if as_json:
        click.echo(to_json(result.report.to_dict()))
    else:
        _print(lambda width: render_report(result.report, width))
        if passed or force:
            click.echo(f"wrote {output}")
    if validation is not None and not passed:
        written = "written because of --force" if force else "not written"
        raise ValidationError(f"{'; '.join(validation.violations)}; {output} was {written}")


@cli.command()
@click.argument("model", type=_MODEL)
@_OUT
@_SELECTION_OPTIONS
def plan(model: Path, output: Path, **options: Any) -> None:
    """Choose schemes and ranks, and write them to a JSON file that `apply` takes."""
    _check_targets(output)
    with _progress() as progress:
        made = onnxlr.plan(model, progress=progress, **_with_selector(_with_shapes(options)))
    onnxlr.write_plan(made, output)
    _print(lambda width: render_plan(made.layers, made.skipped, width))
    click.echo(f"wrote {output}")


@cli.command()
@click.argument("model", type=_MODEL)
@click.argument("plan", type=_MODEL)
@_OUT
@_REPORTS
@click.option("--workers", type=click.IntRange(1), help="Cores to factorize with.  [default: all available]")
def apply(model: Path, plan: Path, output: Path, reports: Sequence[Path], workers: int | None) -> None:
    """Rewrite MODEL as PLAN says; nothing is run (see `validate`)."""
    _check_targets(output, *reports)
    with _progress() as progress:
        result = onnxlr.apply(model, onnxlr.read_plan(plan), workers=workers, progress=progress)
    result.save(output)
    for report in reports:
        onnxlr.write_report(result.report, report)
    _print(lambda width: render_report(result.report, width))
    click.echo(f"wrote {output}")


@cli.command()
@click.argument("reference", type=_MODEL)
@click.argument("candidate", type=_MODEL)
@_CHECK_OPTIONS
@click.option(
    "--input-shape",
    "input_shapes",
    multiple=True,
    type=_input_shape,
    metavar="NAME:SIZES",
    help="Sizes of random inputs; repeatable.",
)
@_JSON
def validate(reference: Path, candidate: Path, as_json: bool, **options: Any) -> None:
    """Compare outputs and latency of two models; exit with 1 past the given limits."""
    checks = _pop_checks(_with_shapes(options))
    with _progress() as progress:
        checked = onnxlr.validate(reference, candidate, checks, progress=progress)
    if as_json:
        click.echo(to_json(checked.to_dict()))
    else:
        _print(lambda _: render_checks(checked.validation, checked.latency, checked.notes))
    if not checked.validation.passed:
        raise ValidationError("; ".join(checked.validation.violations))


def _with_shapes(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options with the input shapes as a mapping."""
    return {**options, "input_shapes": dict(options["input_shapes"])}


def _with_selector(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options with a selector object in place of the option of each selector."""
    rest = dict(options)
    given = {
        name: value for name in all_selectors() if (value := rest.pop(name.replace("-", "_"))) is not None
    }
    if len(given) > 1:
        raise UsageError(f"give one of {', '.join(f'--{name}' for name in given)}")
    selectors = [_make_selector(name, value) for name, value in given.items()]
    return {**rest, "selector": selectors[0] if selectors else None}


def _make_selector(name: str, value: float) -> RankSelector:
    try:
        return all_selectors()[name](value)
    except ValueError as error:
        raise UsageError(f"--{name}: {error}") from error


def _pop_checks(options: dict[str, Any]) -> onnxlr.Checks:
    """Take the options of the checks out; the input shapes stay, both sides need them."""
    limits = onnxlr.Limits(options.pop("max_rel_l2"), options.pop("min_agreement"))
    names = ("inputs", "labels", "device", "threads", "latency_seconds", "seed")
    taken = {name: options.pop(name) for name in names}
    return onnxlr.Checks(limits=limits, input_shapes=options["input_shapes"], **taken)


def _check_targets(*paths: Path) -> None:
    """Refuse targets that cannot be written before any work is done."""
    for path in paths:
        if not path.parent.is_dir():
            raise UsageError(f"{path}: the folder {path.parent} does not exist")
        if path.is_dir():
            raise UsageError(f"{path}: is a folder; name a file")


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
