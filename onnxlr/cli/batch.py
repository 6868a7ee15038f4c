"""Command that runs many: batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from onnxlr.batch import BatchJob, Manifest, Outcome, job_key, read_jobs, run_here, run_on_cluster
from onnxlr.cli.app import cli, progress_bars, tell, tell_written
from onnxlr.cli.optimizing import apply, optimize
from onnxlr.cli.options import FOLDER
from onnxlr.errors import UsageError, ValidationError
from onnxlr.report.curve import check_folder

__all__ = ["batch"]


@cli.command()
@click.argument("jobs")
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
@FOLDER
@click.option(
    "--processes",
    default=1,
    type=click.IntRange(1),
    help="Jobs at the same time on this machine; number of processes.",
)
@click.option(
    "--scheduler",
    metavar="URL",
    help="Dask scheduler whose workers run the jobs, as tcp://host:8786; they see the same files.  [default:"
    " this machine]",
)
@click.option("--again", is_flag=True, help="Run jobs that are done, too.")
def batch(
    jobs: str, options: Sequence[str], output: Path, processes: int, scheduler: str | None, again: bool
) -> None:
    """Optimize many models: those of JOBS, a TOML file or a pattern such as 'models/*.onnx'.

    OPTIONS, after --, are those of `optimize` for all of them. Each job writes NAME.onnx and NAME.json to the
    folder, and a line to its manifest.jsonl when it ends; a job that is done there is not run again. Exits
    with 1 if any job is not done.
    """
    check_folder(output)
    found = read_jobs(jobs, options)
    for job in found:
        _check(job, output)
    manifest, folder = Manifest(output), output.resolve()
    keys = {job.name: job_key(job) for job in found}
    open_jobs = [job for job in found if again or not manifest.has(keys[job.name])]
    tell(f"{len(open_jobs)} jobs to run, {len(found) - len(open_jobs)} done before")
    running = (
        run_here(open_jobs, folder, processes)
        if scheduler is None
        else run_on_cluster(open_jobs, folder, scheduler)
    )
    bad = []
    with progress_bars() as progress:
        progress("Jobs", 0, len(open_jobs))
        for done, outcome in enumerate(running, 1):
            manifest.add({"key": keys[outcome.job.name], **outcome.to_dict(folder)})
            progress("Jobs", done, len(open_jobs))
            tell(_line(outcome))
            bad += [outcome.job.name] if outcome.exit_code else []
    tell_written(manifest.path)
    if bad:
        raise ValidationError(f"not done: {', '.join(sorted(bad))}; {manifest.path} tells why")


def _check(job: BatchJob, folder: Path) -> None:
    """Refuse options that the command does not have, before any job is run.

    Raises:
        UsageError: it does not have them.
    """
    command = optimize if job.plan is None else apply
    _, *arguments = job.command(folder)
    try:
        command.make_context(command.name, arguments)
    except click.UsageError as error:
        raise UsageError(f"job '{job.name}': {error.format_message()}") from error


def _line(outcome: Outcome) -> str:
    text = f"{outcome.job.name}: {'done' if outcome.exit_code == 0 else outcome.error or 'its process died'}"
    return f"{text} ({outcome.seconds:.1f} s)"
