"""The same input, options and versions give the same bytes, whatever the number of workers."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

import onnxlr
from tests.blocks import ROOT
from tests.classifier import Data, classifier, write_data

MODEL = classifier()
IMAGES = np.random.default_rng(0).random((32, 1, 32, 32), np.float32)
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


OTHER = "Sandybridge"
"""A processor whose kernels of OpenBLAS run on any x86-64 of today, and that hardly any is."""

FILES = ("weights.json", "weights.onnx", "calibrated.json", "calibrated.onnx")

SCRIPT = """
import sys
import onnxlr
from threadpoolctl import threadpool_info

print(*{pool["architecture"] for pool in threadpool_info() if pool["user_api"] == "blas"})
for name, calibration in (("weights", None), ("calibrated", "x.npz")):
    result = onnxlr.optimize(sys.argv[1], target_macs=0.5, calibration=calibration, checks=None)
    onnxlr.write_plan(result.plan, f"{name}.json")
    result.save(f"{name}.onnx")
"""


def run_in(folder: Path, **environment: str) -> str:
    """Optimize in another process; returns the processor whose kernels BLAS had."""
    folder.mkdir()
    np.savez(folder / "x.npz", image=IMAGES)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(ROOT / "models/digits/digits.onnx")],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Files of this processor, and its name."""
    folder = tmp_path_factory.mktemp("processors") / "here"
    return folder, run_in(folder, PYTHONHASHSEED="1")


def test_another_process_makes_the_same_files(here: tuple[Path, str], tmp_path: Path) -> None:
    """With another seed of hashes, which would show where the order of a set gets into a result."""
    run_in(tmp_path / "again", PYTHONHASHSEED="2")
    for name in FILES:
        assert (tmp_path / "again" / name).read_bytes() == (here[0] / name).read_bytes()


@pytest.mark.skipif(platform.machine() != "x86_64", reason="needs kernels of several processors")
def test_another_processor_chooses_the_same(here: tuple[Path, str], tmp_path: Path) -> None:
    """The same layers, schemes and ranks; outputs differ by rounding, and so do the factors."""
    folder, processor = here
    other = tmp_path / "other"
    assert run_in(other, OPENBLAS_CORETYPE=OTHER) != processor or processor == OTHER, "BLAS is not OpenBLAS"
    for name, most in (("weights", 1e-6), ("calibrated", 1e-5)):
        model, again = folder / f"{name}.onnx", other / f"{name}.onnx"
        assert chosen(other / f"{name}.json") == chosen(folder / f"{name}.json")
        assert rel_l2(outputs(model), outputs(again)) <= most
        expected, found = factors(model), factors(again)
        assert found.keys() == expected.keys()
        assert max(rel_l2(expected[key], found[key]) for key in expected) <= 100 * most


def chosen(plan: Path) -> list[tuple[str, str, tuple[int, ...]]]:
    return [(layer.name, layer.scheme, layer.rank) for layer in onnxlr.read_plan(plan).layers]


def factors(model: Path) -> dict[str, NDArray[np.float32]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(model).graph.initializer}


def outputs(model: Path) -> NDArray[np.float32]:
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {"image": IMAGES})
    return output


def rel_l2(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    return float(np.linalg.norm(first - second) / np.linalg.norm(first))


def test_seeds_are_in_the_report(data: Data) -> None:
    calibration = onnxlr.Calibration(data.calibration, seed=5)
    result = onnxlr.optimize(
        MODEL, target_macs=0.5, align=2, calibration=calibration, checks=dataclasses.replace(QUICK, seed=7)
    )
    settings = result.report.to_dict()["settings"]
    assert (settings["calibration"]["seed"], settings["checks"]["seed"]) == (5, 7)
