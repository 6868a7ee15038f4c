"""A short run of the fuzzer on everything that reads files; a longer one is `benchmarks.reliability`'s."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.blocks import ROOT

pytestmark = pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="needs atheris")

SECONDS = 5


@pytest.mark.parametrize("target", ["model", "plan"])
def test_nothing_but_errors_of_ours(target: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.hostile.fuzz", target, str(SECONDS), str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (runs,) = re.findall(r"^Done (\d+) runs in", done.stderr, re.M)
    assert int(runs) > 100
    assert not list(tmp_path.glob("crash-*"))
