"""Before any training a graph computes in torch what it computes in ONNX Runtime."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs the extra onnxlr[train]")

import models
import onnxlr
from benchmarks.onnx_suites import SUITES
from onnxlr.model_file import Model, load
from onnxlr.training import GraphModule
from tests.training.checks import DEEP, ROOT, SHARED, TOLERANCE, largest_error, random_feed

OWN = sorted([*(ROOT / "models/digits").glob("*.onnx"), *(ROOT / "models/exports/trap").glob("*.onnx")])
FOREIGN = sorted([*(SHARED / "exports").glob("*.onnx"), *(SHARED / "data/models").glob("*.onnx")])
ARCHITECTURES = ("alexnet", "googlenet", "mobilenet_v2", "nin", "resnet20", "resnet50")
QUANTIZED = "torch_ts_qdq"  # scales and integers are not trained


def check(model: Model) -> GraphModule:
    module = GraphModule(model)
    assert largest_error(module, model, random_feed(model)) < TOLERANCE
    return module


def test_own_files_are_there() -> None:
    assert len(OWN) == 10


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.stem)
def test_own_files(path: Path) -> None:
    module = check(load(path))
    assert len(dict(module.named_parameters())) >= 16


@pytest.mark.skipif(not FOREIGN, reason="only where the shared files are")
@pytest.mark.parametrize("path", FOREIGN, ids=lambda path: path.stem)
def test_shared_files(path: Path) -> None:
    module = check(load(path))
    assert len(dict(module.named_parameters())) >= (0 if path.stem == QUANTIZED else 12)


@pytest.mark.skipif(not FOREIGN, reason="only where the shared files are")
def test_edge_detector(tmp_path: Path) -> None:
    path = tmp_path / "hed.onnx"
    subprocess.run([sys.executable, SHARED / "data/unpack.py", path], check=True)
    model = load(path)
    feed = random_feed(model, free=1, size=48)
    module = GraphModule(model)
    assert largest_error(module, model, feed) < TOLERANCE
    assert len(dict(module.named_parameters())) == 38  # also the single numbers of its 1x1 Convs' biases


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architectures(name: str) -> None:
    model = Model(models.build(name, 0))
    feed = random_feed(model, free=1)
    assert largest_error(GraphModule(model), model, feed) < DEEP


def test_architectures_of_the_onnx_package() -> None:
    errors = {}
    for case in SUITES["light"]():
        errors[case.name] = largest_error(GraphModule(case.model), case.model, case.feed)
    assert len(errors) == 9
    assert max(errors.values()) < TOLERANCE, errors


@pytest.mark.parametrize("scheme", ["spatial", "channel-in", "group-2", "tucker2"])
def test_what_optimize_writes(scheme: str) -> None:
    digits = ROOT / "models/digits/digits.onnx"
    smaller = onnxlr.optimize(digits, energy=0.9, schemes=(scheme,), gate="none", checks=None, workers=1)
    assert smaller.plan.layers
    module = check(Model(smaller.model))
    assert len(dict(module.named_parameters())) > 16
