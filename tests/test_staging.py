"""Files appear whole or not at all."""

import os
from pathlib import Path

import pytest

from onnxlr.errors import UsageError
from onnxlr.staging import staged_file
from tests.builders import one_line


def test_staged_file(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), staged_file(path) as file:
        file.write(bytes([1 // (file.write(b"half") - 4)]))
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"f": b"old"}
    with staged_file(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"f": b"new"}


def write(path: Path) -> None:
    with staged_file(path) as file:
        file.write(b"new")


@pytest.mark.parametrize("target", ["missing/f", "file/f", "folder", "", "folder/..", "a" * 300])
def test_targets_refused(tmp_path: Path, target: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError) as error:
        write(tmp_path / target)
    one_line(error, str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def fail(*_: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("step", ["replace", "fsync"])
def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    (tmp_path / "f").write_bytes(b"old")
    monkeypatch.setattr(os, step, fail)
    with pytest.raises(UsageError) as error:
        write(tmp_path / "f")
    one_line(error, str(tmp_path / "f"), "No space left on device")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"f": b"old"}
