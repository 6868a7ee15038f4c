"""Polygraphy reads models and data, and compares outputs; what it saves is data for onnxlr."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx import numpy_helper

from tests.interoperability.page import Ran

SECTION = "Polygraphy"
COMPARE = ["--onnxrt", "--load-inputs", "inputs.json", "--load-outputs", "original.json"]
SNR = ["--compare", "snr", "--snr-threshold", "20"]


def start(*command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    program = str(Path(sys.executable).parent / command[0])
    return subprocess.run([program, *command[1:]], cwd=folder, capture_output=True, text=True, check=False)


def relative_l2(folder: Path, script: str) -> float:
    """What onnxlr measures with the data of a script."""
    command = ["onnxlr", "validate", "model.onnx", "smaller.onnx", "--inputs", script, "--json"]
    done = start(*command, "--latency-seconds", "0", folder=folder)
    assert done.returncode == 0, done.stderr
    (output,) = json.loads(done.stdout)["validation"]["outputs"]
    return float(output["rel_l2"])


@pytest.fixture(scope="module")
def error(ran: Ran) -> float:
    return relative_l2(ran.folder, "samples.py:feeds")


def test_inspect_shows_the_chains(ran: Ran) -> None:
    assert "conv2_lr0_weight" in ran.printed[0]
    assert "shape=('batch', 1, 32, 32)" in ran.printed[0]


def test_both_measure_the_same(ran: Ran, error: float) -> None:
    found = json.loads((ran.folder / "accuracy.json").read_text())
    decibels = [value for key, value in _entries(found) if key == "snr"]
    assert len(decibels) == 4  # batches
    power = sum(10 ** (-snr / 10) for snr in decibels) / 4
    assert math.sqrt(power) == pytest.approx(error, rel=0.02)


def _entries(found: object) -> list[tuple[str, float]]:
    """All numbers in JSON, by their names."""
    if isinstance(found, list):
        return [entry for item in found for entry in _entries(item)]
    if not isinstance(found, dict):
        return []
    own = [(key, float(value)) for key, value in found.items() if isinstance(value, int | float)]
    return own + [entry for item in found.values() for entry in _entries(item)]


def test_what_it_saves_is_the_same_data(ran: Ran, error: float) -> None:
    assert relative_l2(ran.folder, "saved.py:feeds") == error


def test_its_default_asks_for_equal_numbers(ran: Ran) -> None:
    assert start("polygraphy", "run", "smaller.onnx", *COMPARE, folder=ran.folder).returncode == 1
    assert start("polygraphy", "run", "model.onnx", *COMPARE, folder=ran.folder).returncode == 0


def test_a_wrong_factor_is_found(ran: Ran, tmp_path: Path) -> None:
    folder = shutil.copytree(ran.folder, tmp_path / "here")
    model = onnx.load(folder / "smaller.onnx")
    (factor,) = [t for t in model.graph.initializer if t.name == "conv2_lr0_weight"]
    factor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(factor)[::-1], factor.name))
    onnx.save(model, folder / "wrong.onnx")
    assert start("polygraphy", "run", "smaller.onnx", *COMPARE, *SNR, folder=folder).returncode == 0
    assert start("polygraphy", "run", "wrong.onnx", *COMPARE, *SNR, folder=folder).returncode == 1
