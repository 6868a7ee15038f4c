"""Hostile files and arguments: each gets its exit code and one line, and leaves nothing behind."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from onnxlr.cli import cli
from tests.hostile.cases import Case, good_model
from tests.hostile.data import DATA
from tests.hostile.models import MODELS
from tests.hostile.paths import PATHS
from tests.hostile.plans import PLANS

CASES = [*MODELS, *PLANS, *DATA, *PATHS]

QUICK = {
    "optimize": ["--energy", "0.5", "--align", "4", "--gate", "none", "--latency-seconds", "0"],
    "validate": ["--latency-seconds", "0"],
}
OUT = {"optimize": "out.onnx", "apply": "out.onnx"}


@pytest.fixture(scope="module")
def model() -> bytes:
    return good_model().SerializeToString()


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """What is in a folder, by name: kinds and sizes."""
    found = ((path.name, path.lstat()) for path in folder.iterdir())
    return {name: (stat.S_IFMT(status.st_mode), status.st_size) for name, status in found}


def arguments(case: Case) -> list[str]:
    name, *rest = case.command
    out = OUT.get(name)
    written = [] if out is None or "-o" in rest else ["-o", out]
    has_rule = {"--energy", "--max-rel-l2", "--max-drop", "--min-agreement"} & set(rest)
    quick = [] if has_rule else QUICK.get(name, [])
    return [name, *rest, *written, *quick]


def test_there_are_enough() -> None:
    assert len(CASES) >= 200
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_is_told_and_leaves_nothing(
    case: Case, model: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.onnx").write_bytes(model)
    case.make(tmp_path)
    before = listing(tmp_path)
    devices = {name: os.stat(name).st_mode for name in ("/dev/null", "/dev/zero", "/dev/full")}
    result = CliRunner().invoke(cli, arguments(case))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == case.code, result.output
    lines = [line for line in result.stderr.splitlines() if line and not line.startswith(("Usage: ", "Try "))]
    assert len(lines) == (1 if case.code else 0), lines
    assert case.says in "".join(lines)
    assert "Traceback" not in result.output
    assert {name: os.stat(name).st_mode for name in devices} == devices
    new = listing(tmp_path).keys() - before.keys()
    assert new <= ({"out.onnx"} if case.code == 0 else set())
    assert {name: entry for name, entry in listing(tmp_path).items() if name in before} == before


def test_data_are_never_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The objects of the corpus would leave a file behind, which `listing` would see."""
    monkeypatch.chdir(tmp_path)
    (case,) = (case for case in DATA if case.name == "inputs-objects")
    case.make(tmp_path)
    with np.load("d.npz", allow_pickle=True) as data:
        assert data["x"].shape == (4,)
    assert (tmp_path / "unpickled").exists()
