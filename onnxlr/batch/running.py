"""Jobs -> outcomes: in processes on this machine, or on the workers of a Dask cluster."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from socket import gethostname
from typing import Any

from onnxlr.batch.jobs import BatchJob
from onnxlr.errors import UsageError

__all__ = ["Outcome", "run_here", "run_on_cluster"]

_ATTEMPTS = 3
"""How often a job is begun whose process dies."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a job.

    Attributes:
        job: the job.
        exit_code: of its command; negative: the signal that its process died of.
        error: what it told on stderr.
        seconds: that it took.
        attempts: how often it was begun.
        worker: where it ran.
    """

    job: BatchJob
    exit_code: int
    error: str
    seconds: float
    attempts: int
    worker: str

    def to_dict(self, folder: Path) -> dict[str, Any]:
        """For the manifest, with what its report tells."""
        report = folder / f"{self.job.name}.json"
        status = {0: "done", 1: "refused"}.get(self.exit_code, "failed")
        return {
            "name": self.job.name,
            "model": self.job.model,
            "plan": self.job.plan,
            "options": list(self.job.options),
            "status": status,
            "exit_code": self.exit_code,
            "error": self.error,
            "seconds": round(self.seconds, 3),
            "attempts": self.attempts,
            "worker": self.worker,
            "report": _summary(report) if status != "failed" else None,
        }


def run_here(jobs: Sequence[BatchJob], folder: Path, processes: int) -> Iterator[Outcome]:
    """Run jobs on this machine, so many at a time; outcomes come as they are ready.

    Where the caller is interrupted, so are the jobs.
    """
    runner = _Runner()
    with ThreadPoolExecutor(processes) as pool:
        started = [pool.submit(runner.run, job, str(folder)) for job in jobs]
        try:
            for future in as_completed(started):
                yield future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            runner.stop()


def run_on_cluster(jobs: Sequence[BatchJob], folder: Path, scheduler: str) -> Iterator[Outcome]:
    """Run jobs on the workers of a cluster, which see the same files and have onnxlr installed.

    Args:
        jobs: with absolute paths.
        folder: of the outputs, absolute.
        scheduler: its address, such as `tcp://host:8786`.

    Raises:
        UsageError: dask.distributed is not installed, or there is no such scheduler.
    """
    try:
        from distributed import Client  # noqa: PLC0415 - an extra
        from distributed import as_completed as ready  # noqa: PLC0415
    except ImportError as error:
        raise UsageError("--scheduler needs dask.distributed: pip install 'onnxlr[cluster]'") from error
    try:
        client = Client(scheduler, timeout=10)
    except (OSError, ValueError) as error:
        raise UsageError(f"{scheduler}: no Dask scheduler there ({error})") from error
    with client:
        started = {
            client.submit(_run, job, str(folder), pure=False, retries=_ATTEMPTS - 1): job for job in jobs
        }
        for future in ready(started):
            job = started[future]
            problem = future.exception()
            yield future.result() if problem is None else Outcome(job, -1, str(problem), 0.0, _ATTEMPTS, "")


def _run(job: BatchJob, folder: str) -> Outcome:
    """Run one job on a worker of a cluster."""
    return _Runner().run(job, folder)


class _Runner:
    """Runs jobs in processes of their own, until it is stopped."""

    def __init__(self) -> None:
        self._processes: set[subprocess.Popen[str]] = set()
        self._stopped = threading.Event()

    def run(self, job: BatchJob, folder: str) -> Outcome:
        """Run one job, again if its process dies."""
        start, attempts = time.perf_counter(), 0
        command = [sys.executable, "-m", "onnxlr", *job.command(Path(folder))]
        code, told = -1, ""
        while code < 0 and attempts < _ATTEMPTS and not self._stopped.is_set():
            code, told = self._wait(command)
            attempts += 1
        worker = f"{gethostname()}:{os.getpid()}"
        return Outcome(job, code, told, time.perf_counter() - start, attempts, worker)

    def stop(self) -> None:
        """Let no process go on."""
        self._stopped.set()
        for process in list(self._processes):
            process.terminate()

    def _wait(self, command: Sequence[str]) -> tuple[int, str]:
        """The exit code of a command, and what it told on stderr."""
        with subprocess.Popen(  # noqa: S603 - onnxlr itself
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as process:
            self._processes.add(process)
            if self._stopped.is_set():
                process.terminate()
            _, told = process.communicate()
            self._processes.discard(process)
        return process.returncode, told.strip()


def _summary(path: Path) -> dict[str, Any] | None:
    """The numbers of a report that one looks for in a table of many."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return {key: report[key] for key in ("totals", "predicted_rel_l2", "validation")} | {
        "speedup": (report["latency"] or {}).get("speedup")
    }
