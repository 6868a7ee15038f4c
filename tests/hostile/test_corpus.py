"""Hostile files and arguments: each gets its exit code and one line, and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.hostile.cases import Case
from tests.hostile.corpus import CASES
from tests.hostile.trying import problems


def test_there_are_enough() -> None:
    assert len(CASES) > 430
    assert len({case.name for case in CASES}) == len(CASES)
    assert all(case.says for case in CASES if case.code)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_is_told_and_leaves_nothing(case: Case) -> None:
    assert problems(case) == []


@pytest.mark.parametrize(
    ("code", "says", "expected"),
    [(1, "no such file", "wrong exit code"), (3, "all is well", "another message"), (0, "", "not one line")],
)
def test_a_wrong_answer_is_seen(code: int, says: str, expected: str) -> None:
    case = Case("", lambda _: None, ("inspect", "n.onnx"), code, says)
    assert expected in {kind for kind, _ in problems(case)}


def test_what_is_left_behind_is_seen() -> None:
    case = Case("", lambda _: None, ("plan", "m.onnx", "-o", "p.json", "--energy", "0.5"), 0, "")
    assert problems(case) == [("partial output", "p.json")]


def test_data_are_never_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The objects of the corpus would leave a file behind, which is seen as such."""
    monkeypatch.chdir(tmp_path)
    (case,) = (case for case in CASES if case.name == "inputs-objects")
    case.make(tmp_path)
    with np.load("d.npz", allow_pickle=True) as data:
        assert data["x"].shape == (4,)
    assert (tmp_path / "unpickled").exists()
