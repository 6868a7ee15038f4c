"""The same input, options and versions give the same bytes, whatever the number of workers."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import onnxlr
from tests.classifier import Data, classifier, write_data

MODEL = classifier()
QUICK = onnxlr.Checks(latency_seconds=0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return write_data(tmp_path_factory.mktemp("data"), MODEL)


def optimized(data: Data, how: str, workers: int | None = None) -> tuple[bytes, str]:
    """The model's bytes, and its plan."""
    options = {
        "energy": {"energy": 0.8},
        "weights": {"target_macs": 0.5},
        "calibrated": {"target_macs": 0.5, "calibration": data.calibration},
        "params": {"target_params": 0.5, "schemes": ["tucker2", "group-2", "channel-in"]},
        "limits": {"calibration": data.calibration},
    }[how]
    limits = onnxlr.Limits(max_rel_l2=0.2) if how == "limits" else onnxlr.Limits()
    checks = dataclasses.replace(data.checks, latency_seconds=0, limits=limits)
    result = onnxlr.optimize(MODEL, align=2, workers=workers, checks=checks, **options)
    assert result.plan.layers
    return result.model.SerializeToString(), json.dumps(result.plan.to_dict())


@pytest.mark.parametrize("how", ["energy", "weights", "calibrated", "params", "limits"])
def test_workers_change_no_byte(data: Data, how: str) -> None:
    first = optimized(data, how, workers=1)
    assert optimized(data, how, workers=2) == first
    assert optimized(data, how, workers=3) == first
    assert optimized(data, how) == first


def test_another_process_makes_the_same_files(tmp_path: Path) -> None:
    """With another seed of hashes, which would show where the order of a set gets into a result."""
    files = []
    for seed in ("1", "2"):
        out, plan = tmp_path / f"{seed}.onnx", tmp_path / f"{seed}.json"
        for command in (["optimize", "-o", out, "--latency-seconds", "0"], ["plan", "-o", plan]):
            name, *rest = map(str, command)
            options = ["--target-macs", "0.2", "--calibration", str(tmp_path / "x.npz")]
            np.savez(tmp_path / "x.npz", image=np.random.default_rng(0).random((16, 1, 32, 32), np.float32))
            subprocess.run(
                [sys.executable, "-m", "onnxlr", name, "models/digits/digits.onnx", *rest, *options],
                env={"PYTHONHASHSEED": seed, "PATH": ""},
                capture_output=True,
                check=True,
            )
        files.append((out.read_bytes(), plan.read_bytes()))
    assert files[0] == files[1]


def test_seeds_are_in_the_report(data: Data) -> None:
    calibration = onnxlr.Calibration(data.calibration, seed=5)
    result = onnxlr.optimize(
        MODEL, target_macs=0.5, align=2, calibration=calibration, checks=dataclasses.replace(QUICK, seed=7)
    )
    settings = result.report.to_dict()["settings"]
    assert (settings["calibration"]["seed"], settings["checks"]["seed"]) == (5, 7)
