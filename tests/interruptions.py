"""Begins the same command again and again and kills it at random moments; prints what is there afterwards.

    python -m tests.interruptions FOLDER COUNT SEED

FOLDER has `model.onnx` with external data. Each child is forked from a process that has everything imported,
so that the moments are those of the work and of the writing, not of starting Python.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

from onnxlr import cli

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)


def main(folder: Path, count: int, seed: int) -> None:
    """Print a line of JSON for each child: the signal, the moment, how it ended, and what files there are."""
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # it may have been ignored, as in a background job
    rng = random.Random(seed)  # noqa: S311 - no secret
    whole = _run(folder, None, 0.0)[1]
    for i in range(count):
        number = SIGNALS[i % len(SIGNALS)]
        delay = rng.uniform(0, 1.05 * whole)
        _restore(folder)
        status, _ = _run(folder, number, delay)
        files = sorted(path.name for path in (folder / "out").iterdir())
        told = {"signal": number.name, "delay": delay, "status": status, "files": files}
        sys.stdout.write(json.dumps(told) + "\n")
        shutil.copytree(folder / "out", folder / f"after-{i}")


def _restore(folder: Path) -> None:
    """Put the older output in place, that of another command."""
    shutil.rmtree(folder / "out", ignore_errors=True)
    shutil.copytree(folder / "old", folder / "out")


def _run(folder: Path, number: signal.Signals | None, delay: float) -> tuple[int, float]:
    """How a child ended, and the seconds it took."""
    start = time.perf_counter()
    pid = os.fork()
    if pid == 0:
        os.chdir(folder)
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
        arguments = [
            "optimize",
            "model.onnx",
            "-o",
            "out/m.onnx",
            "--energy",
            "0.5",
            "--gate",
            "none",
            "--align",
            "4",
        ]
        sys.argv = ["onnxlr", *arguments, "--latency-seconds", "0", "--report", "out/r.json"]
        code = 70
        try:
            cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            atexit._run_exitfuncs()  # a fork cannot end as Python does: it lacks BLAS's threads
            os._exit(code)
    if number is not None:
        time.sleep(delay)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), time.perf_counter() - start


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
