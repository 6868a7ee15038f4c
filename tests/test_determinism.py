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


OTHERS = ("Haswell", "Prescott")
"""Processors whose kernels of OpenBLAS run on any x86-64 of today."""

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


def run_on(processor: str | None, folder: Path) -> str:
    """Optimize with the kernels that BLAS has for a processor, which are returned; None: for this one."""
    folder.mkdir()
    np.savez(folder / "x.npz", image=IMAGES)
    environment = {} if processor is None else {"OPENBLAS_CORETYPE": processor}
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
def others(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    """What this processor makes, and what others make."""
    folder = tmp_path_factory.mktemp("processors")
    here = run_on(None, folder / "here")
    for processor in OTHERS:
        kernels = run_on(processor, folder / processor)
        assert kernels != here or here.startswith(processor), "BLAS is not OpenBLAS"
    return folder / "here", [folder / processor for processor in OTHERS]


@pytest.mark.skipif(platform.machine() != "x86_64", reason="needs kernels of several processors")
@pytest.mark.parametrize(("name", "most"), [("weights", 1e-6), ("calibrated", 1e-5)])
def test_another_processor_chooses_the_same(name: str, most: float, others: tuple[Path, list[Path]]) -> None:
    """The same layers, schemes and ranks; outputs differ by rounding, and so do the factors."""
    here, folders = others
    expected, output = factors(here / f"{name}.onnx"), outputs(here / f"{name}.onnx")
    for folder in folders:
        model = folder / f"{name}.onnx"
        assert chosen(folder / f"{name}.json") == chosen(here / f"{name}.json")
        assert rel_l2(output, outputs(model)) <= most
        found = factors(model)
        assert found.keys() == expected.keys()
        assert max(rel_l2(expected[name], found[name]) for name in expected) <= 100 * most


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
