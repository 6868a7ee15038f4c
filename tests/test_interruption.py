"""Killed at any moment, a command leaves the old output or the whole new one."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import helper

import onnxlr
from onnxlr.model_file import load
from tests.blocks import ROOT
from tests.builders import make_model, weight

KILLS = 51


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with external data, and an older output of it, which has them as well."""
    folder = tmp_path_factory.mktemp("kills")
    nodes = [
        helper.make_node("Conv", [f"x{i}", f"w{i}"], [f"x{i + 1}"], f"conv{i}", pads=[1] * 4)
        for i in range(6)
    ]
    weights = {f"w{i}": weight(96, 96, 3, 3, seed=i) for i in range(6)}
    model = make_model(nodes, {"x0": ["N", 96, 8, 8]}, ["x6"], weights)
    onnx.save(model, folder / "model.onnx", save_as_external_data=True, location="model.data")
    (folder / "old").mkdir()
    (folder / "out").mkdir()
    onnxlr.optimize(folder / "model.onnx", energy=0.9, gate="none", checks=None).save(folder / "old/m.onnx")
    (folder / "old/r.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def ends(folder: Path) -> list[dict[str, Any]]:
    if not hasattr(os, "fork"):
        pytest.skip("needs fork")
    done = subprocess.run(
        [sys.executable, "-m", "tests.interruptions", str(folder), str(KILLS), "0"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def content(path: Path) -> bytes:
    """The model with its weights, wherever they were."""
    return hashlib.sha256(onnx.load(path).SerializeToString(deterministic=True)).digest()


def test_moments_are_all_over_the_work(ends: list[dict[str, Any]]) -> None:
    assert len(ends) == KILLS
    statuses = [end["status"] for end in ends]
    assert 0 in statuses  # killed too late
    assert {-9, 130, 143} <= set(statuses)


def test_the_output_is_old_or_new(folder: Path, ends: list[dict[str, Any]]) -> None:
    """With its external data, and as it was before or will be."""
    old = content(folder / "old/m.onnx")
    new = onnxlr.optimize(
        folder / "model.onnx", energy=0.5, gate="none", align=4, checks=onnxlr.Checks(latency_seconds=0)
    )
    new.save(folder / "new.onnx")
    expected = {old, content(folder / "new.onnx")}
    seen = set()
    for i, end in enumerate(ends):
        path = folder / f"after-{i}" / "m.onnx"
        load(path)  # refuses data that are missing or cut off
        found = content(path)
        assert found in expected, end
        seen.add(found)
        onnx.checker.check_model(path)
        json.loads((path.parent / "r.json").read_text())
    assert seen == expected


def test_no_litter(ends: list[dict[str, Any]]) -> None:
    """But for what nothing can clean up after SIGKILL: a folder that is recognized by its name."""
    for end in ends:
        hidden = [name for name in end["files"] if name.startswith(".")]
        assert all(name.startswith(".onnxlr-") for name in hidden)
        assert not hidden or end["signal"] == "SIGKILL", end
