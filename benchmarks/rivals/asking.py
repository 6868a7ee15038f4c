"""Our end of the protocol: a tool runs as a process of its own, ours as well, and answers from there."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.rivals.environments import python_of
from benchmarks.rivals.protocol import Answer, Outcome, Request

__all__ = ["BALF", "METHODS", "OURS", "Asker", "Method"]

ROOT = Path(__file__).parents[2]

OURS, BALF = "onnxlr", "BALF (our build)"

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True, slots=True)
class Method:
    """One way of one tool.

    Attributes:
        tool: its name in tables.
        name: of the method, as its script knows it.
        label: of the method in tables.
        module: of its script.
        environment: name of its virtual environment; empty for ours.
    """

    tool: str
    name: str
    label: str
    module: str
    environment: str = ""


def _rival(tool: str, environment: str, name: str, label: str) -> Method:
    return Method(tool, name, label, f"benchmarks.rivals.in_torch.with_{environment}", environment)


METHODS = (
    Method(OURS, "calibrated", "with calibration", "benchmarks.rivals.ours"),
    Method(OURS, "calibrated-any-rank", "with calibration, any rank", "benchmarks.rivals.ours"),
    Method(OURS, "weights", "weights only", "benchmarks.rivals.ours"),
    Method(OURS, "given", "given ranks, weights only", "benchmarks.rivals.ours"),
    Method(BALF, "pca", "output PCA, one multiplier", "benchmarks.rivals.ours"),
    _rival("aimet-torch", "aimet", "manual", "spatial SVD, one ratio"),
    _rival("aimet-torch", "aimet", "greedy", "spatial SVD, greedy (labels)"),
    _rival("tensorly-torch", "tensorly", "tucker", "Tucker"),
    _rival("tensorly-torch", "tensorly", "cp", "CP"),
    _rival("fasterai", "fasterai", "svd", "SVD"),
    _rival("fasterai", "fasterai", "tucker", "Tucker"),
    _rival("fasterai", "fasterai", "spatial", "spatial"),
    _rival("fasterai", "fasterai", "cp", "CP"),
)
"""All that can be asked for."""


@dataclass(frozen=True, slots=True)
class Asker:
    """Asks tools.

    Attributes:
        environments: folder of the virtual environments.
        limit: seconds after which a process is ended.
    """

    environments: Path
    limit: float = 3600.0

    def ask(self, method: Method, request: Request) -> Answer:
        """What the tool answers; where its process fails or is too slow, that is its answer."""
        folder = Path(request.folder)
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "request.json"
        answer = file.with_suffix(".answer.json")
        answer.unlink(missing_ok=True)
        request.write(file)
        python = python_of(method.environment, self.environments) if method.environment else sys.executable
        start, cpu = time.perf_counter(), _cpu_of_children()
        failure = self._run([str(python), "-m", method.module, str(file)], folder, request.threads)
        spent = time.perf_counter() - start, _cpu_of_children() - cpu
        if failure or not answer.is_file():
            outcomes = tuple(Outcome(t, failure=failure or "no answer") for t in request.targets)
            return Answer(method.tool, outcomes, *spent)
        return replace(Answer.read(answer), process_seconds=spent[0], process_cpu=spent[1])

    def _run(self, command: list[str], folder: Path, threads: int) -> str:
        """Run a tool; what went wrong, or nothing."""
        environment = {key: value for key, value in os.environ.items() if key not in _THREADS}
        environment |= {"PYTHONPATH": str(ROOT), **dict.fromkeys(_THREADS if threads else (), str(threads))}
        try:
            with (folder / "log.txt").open("w", encoding="utf-8") as log:
                subprocess.run(  # noqa: S603 - our own programs
                    command,
                    cwd=folder,
                    env=environment,
                    check=True,
                    timeout=self.limit,
                    stdout=log,
                    stderr=log,
                )
        except subprocess.TimeoutExpired:
            return f"not done after {self.limit:g} s"
        except subprocess.CalledProcessError as error:
            lines = (folder / "log.txt").read_text(encoding="utf-8").strip().splitlines()
            return lines[-1] if lines else f"exit status {error.returncode}"
        return ""


def _cpu_of_children() -> float:
    """User and system time of all processes that were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
