"""Hostile input, kills, leaks and fuzzing, counted: `python -m benchmarks.reliability [--seconds N]`.

* cases of `tests/hostile`: bad models, plans, data, paths and options, each with its exit code and message;
* kills of a command at random moments: is the output the old one or the whole new one?
* optimizations in one process: do they leave memory, files, threads or descriptors behind?
* executions of the fuzzer, for so many seconds each of models and plans (needs atheris).

Exits with 1 if anything is wrong.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import click

from benchmarks.results import print_rows, write_results
from tests.hostile.corpus import CASES
from tests.hostile.trying import KINDS, problems
from tests.test_interruption import KILLS
from tests.test_leaks import OPTIMIZATIONS

_SHOWN = 3000
"""Characters of what went wrong."""

ROOT = Path(__file__).parent.parent


@click.command()
@click.option("--seconds", default=120, help="Time to fuzz each target, in seconds.", show_default=True)
def main(seconds: int) -> None:
    """Count, print, write results/reliability.json."""
    rows = [
        _corpus(),
        _tests("kills at random moments", "test_interruption.py", KILLS, "partial outputs, litter"),
        _tests("optimizations in one process", "test_leaks.py", OPTIMIZATIONS, "leaks"),
    ]
    rows += [_fuzzed(target, seconds) for target in ("model", "plan")]
    write_results("reliability", rows)
    print_rows(rows)
    sys.exit(any(row["wrong"] for row in rows))


def _corpus() -> dict[str, Any]:
    found: Counter[str] = Counter()
    for case in CASES:
        wrong = problems(case)
        found.update(kind for kind, _ in wrong)
        for kind, what in wrong:
            print(f"{case.name}: {kind}: {what}", file=sys.stderr)
    told = ", ".join(f"{kind}: {found[kind]}" for kind in KINDS)
    return {"what": "hostile cases", "tried": len(CASES), "wrong": found.total(), "of these": told}


def _tests(what: str, file: str, count: int, looked_for: str) -> dict[str, Any]:
    """What a test of its own tries; anything that fails in it is wrong."""
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", f"tests/{file}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603 - ours
    failed = re.search(r"(\d+) (?:failed|error)", done.stdout)
    wrong = int(failed[1]) if failed else int(done.returncode != 0)
    if wrong:
        print(done.stdout[-_SHOWN:], file=sys.stderr)
    return {"what": what, "tried": count, "wrong": wrong, "of these": f"{looked_for}: {wrong}"}


def _fuzzed(target: str, seconds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tests.hostile.fuzz", target, str(seconds), folder]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603 - ours
        crashes = len([path for path in Path(folder).iterdir() if path.is_file()])
    runs = re.search(r"^Done (\d+) runs in", done.stderr, re.M)
    wrong = max(crashes, int(done.returncode != 0))
    if wrong:
        print(done.stderr[-_SHOWN:], file=sys.stderr)
    return {
        "what": f"fuzzed {target}s",
        "tried": int(runs[1]) if runs else 0,
        "wrong": wrong,
        "of these": f"crashes: {crashes}",
    }


if __name__ == "__main__":
    main()
