"""What all commands share: the group, errors, progress, printing. The only place that prints."""

from __future__ import annotations

import atexit
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import click
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from onnxlr.cli.options import MEMORY_LIMIT
from onnxlr.errors import OnnxlrError, UsageError, ValidationError
from onnxlr.memory import memory_limit
from onnxlr.parallel import Progress, no_progress
from onnxlr.report import REPORT_FILES, check_report_name, staged_reports, to_json
from onnxlr.report.table import render_report
from onnxlr.result import Result
from onnxlr.staging import check_replaceable

__all__ = [
    "check_reports",
    "check_target",
    "cli",
    "finish",
    "main",
    "progress_bars",
    "refuse",
    "show",
    "tell",
    "tell_epoch",
    "tell_written",
]


_QUIET = "onnxlr.quiet"


def _be_quiet(context: click.Context, _: click.Parameter, value: bool) -> None:
    context.meta[_QUIET] = value


def _is_quiet() -> bool:
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.meta.get(_QUIET))


@contextmanager
def _warnings_last() -> Iterator[None]:
    """Warnings of a command on stderr when it is done; where it fails, the error alone is told."""
    kept = _Kept()
    logger = logging.getLogger()
    logger.addHandler(kept)
    logging.captureWarnings(capture=True)
    try:
        yield
    finally:
        logging.captureWarnings(capture=False)
        logger.removeHandler(kept)
    for line in dict.fromkeys(kept.lines):
        tell(line, err=True)


class _Kept(logging.Handler):
    """Keeps what is logged from warnings on."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(" ".join(record.getMessage().split()))


class _Command(click.Command):
    """Keeps to its limit of memory."""

    def invoke(self, ctx: click.Context) -> Any:
        with memory_limit(ctx.meta.get(MEMORY_LIMIT)):
            return super().invoke(ctx)


class _Group(click.Group):
    """Turns onnxlr's errors into one line on stderr and their exit code, and completes its commands."""

    command_class = _Command

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """Add --quiet, and `[default: none]` to the help of options that may be left out."""
        text = "Print errors alone, and what --json prints."
        cmd.params.append(
            click.Option(["-q", "--quiet"], is_flag=True, expose_value=False, callback=_be_quiet, help=text)
        )
        for option in cmd.params:
            if isinstance(option, click.Option) and _is_silent_about_its_default(option):
                option.help = f"{option.help}  [default: none]"
        super().add_command(cmd, name)

    def invoke(self, ctx: click.Context) -> Any:
        signal.signal(signal.SIGTERM, _terminate)
        try:
            with _warnings_last():
                return super().invoke(ctx)
        except OnnxlrError as error:
            raise _Failure(error) from error
        except MemoryError as error:
            raise _Failure(UsageError(f"out of memory: {error or 'the system gives no more'}")) from error
        except KeyboardInterrupt:
            click.echo("Error: interrupted", err=True)
            sys.exit(128 + signal.SIGINT)


def _terminate(number: int, _: FrameType | None) -> None:
    """End as at an error, so that temporary files are deleted."""
    sys.exit(128 + number)


def _is_silent_about_its_default(option: click.Option) -> bool:
    told = option.required or option.is_flag or option.multiple or "[default: " in (option.help or "")
    return not told and option.to_info_dict()["default"] is None


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


def main() -> None:
    """Run a command and leave as soon as it has ended: what threads compute for nobody is not waited for.

    A decomposition takes up to half a minute, and no signal ends it.
    """
    code = 0
    try:
        cli(prog_name="onnxlr")
    except SystemExit as end:
        code = int(end.code or 0)
    if all(thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
        sys.exit(code)
    atexit._run_exitfuncs()  # temporary folders
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(code)


def check_reports(paths: Sequence[Path], others: Sequence[Path], kinds: Sequence[str] = REPORT_FILES) -> None:
    """Refuse reports of an unknown kind, one file for two, and what `check_target` refuses."""
    for i, path in enumerate(paths):
        check_report_name(path, kinds)
        check_target(path, [*others, *paths[:i]])


def check_target(path: Path, others: Sequence[Path] = ()) -> None:
    """Refuse a target that cannot be written, or is one of other files, before any work is done."""
    if not path.parent.is_dir():
        raise UsageError(f"{path}: the folder {path.parent} does not exist")
    check_replaceable(path)
    if os.path.realpath(path) in map(os.path.realpath, others):
        raise UsageError(f"{path}: is another file of this command, which would be lost; name a new one")


def tell(text: str, err: bool = False) -> None:
    """Print what is not asked for with --quiet."""
    if not _is_quiet():
        click.echo(text, err=err)


def tell_written(*paths: Path) -> None:
    """One line a file."""
    for path in paths:
        tell(f"wrote {path}")


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """Bars with the time left on stderr, gone when the work is done; nothing where stderr is no terminal."""
    if _is_quiet() or not sys.stderr.isatty():  # colours may be forced where there is no terminal
        yield no_progress
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage)
            bars.update(tasks[stage], completed=done, total=total)

        yield report


def show(render: Callable[[int], Iterable[RenderableType]]) -> None:
    """Print what `render` makes for the width of the terminal (80 where there is none)."""
    if _is_quiet():
        return
    console = Console()
    for part in render(console.width):
        console.print(part)


def finish(
    result: Result, output: Path, external_data: str, reports: Sequence[Path], as_json: bool, force: bool
) -> None:
    """Write and show a result; where a check failed, it is only written with `force`.

    Raises:
        ValidationError: a check failed.
    """
    validation = result.report.validation
    passed = validation is None or validation.passed
    with staged_reports(result.report, reports):
        written = result.save(output, external_data) if passed or force else []
    if as_json:
        click.echo(to_json(result.report.to_dict()))
    else:
        show(lambda width: render_report(result.report, width))
        tell_written(*written, *reports)
    if validation is not None and not passed:
        refuse(validation.violations, output, force)


def refuse(violations: Sequence[str], output: Path, force: bool) -> None:
    """Tell of failed checks.

    Raises:
        ValidationError: always.
    """
    verdict = "written because of --force" if force else "not written"
    raise ValidationError(f"{'; '.join(violations)}; {output} was {verdict}")


def tell_epoch(epoch: Any) -> None:
    """One line on stderr."""
    known = {
        "loss": (epoch.loss, ".4g"),
        "held out": (epoch.held_out_loss, ".4g"),
        "rel. L2": (epoch.rel_l2, ".3g"),
        "agreement": (epoch.agreement, ".2%"),
        "accuracy": (epoch.accuracy, ".2%"),
        "violation": (epoch.violation, ".2g"),
    }
    parts = [f"{name} {format(value, form)}" for name, (value, form) in known.items() if value is not None]
    tell(f"epoch {epoch.number}, {epoch.seconds:.0f} s: {', '.join(parts)}", err=True)
