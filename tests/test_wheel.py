"""What is installed, and which names are public."""

from __future__ import annotations

import hashlib
import importlib
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

import onnxlr

ROOT = Path(__file__).parent.parent

PUBLIC = {
    "Calibration",
    "Checks",
    "CompareOptions",
    "Comparison",
    "CostModel",
    "DataError",
    "ImageOptions",
    "Limits",
    "Machine",
    "ModelError",
    "OnnxlrError",
    "Plan",
    "PlanError",
    "ProviderError",
    "Report",
    "Result",
    "Sweep",
    "UsageError",
    "ValidationError",
    "apply",
    "calibrate_device",
    "compare",
    "inspect",
    "memory_limit",
    "optimize",
    "plan",
    "read_cost_model",
    "read_plan",
    "sweep",
    "validate",
    "write_comparison",
    "write_cost_model",
    "write_plan",
    "write_report",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (path,) = folder.glob("onnxlr-*-py3-none-any.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_has_the_two_packages_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    sources = {str(p.relative_to(ROOT)) for name in ("onnxlr", "passes") for p in (ROOT / name).rglob("*.py")}
    typed = {"onnxlr/py.typed", "passes/py.typed"}
    defaults = {f"onnxlr/cost_models/{name}.json" for name in ("cpu", "cpu-avx512", "cuda")}
    contents = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert contents == sources | typed | defaults


def test_the_build_can_be_repeated(tmp_path: Path) -> None:
    """Byte for byte, wheel and source, when the clock has gone on."""
    digests = []
    for i in range(2):
        folder = tmp_path / str(i)
        command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
        subprocess.run(command, check=True, capture_output=True)
        built = sorted(folder.iterdir())
        assert len(built) == 2
        digests.append({path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in built})
        time.sleep(2 if i == 0 else 0)  # archives have times of two seconds
    assert digests[0] == digests[1]


def test_the_wheel_installs_the_command(wheel: zipfile.ZipFile) -> None:
    (name,) = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    assert "onnxlr = onnxlr.cli:main" in wheel.read(name).decode()


def test_public_names() -> None:
    assert set(onnxlr.__all__) == PUBLIC
    assert {name for name in dir(onnxlr) if name in PUBLIC} == PUBLIC


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_public_names_are_documented(name: str) -> None:
    assert getattr(onnxlr, name).__doc__


MODULES = [
    path
    for name in ("onnxlr", "passes")
    for path in (ROOT / name).rglob("*.py")
    if "training" not in path.parts  # needs torch, and is looked at in tests/training
]


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.name)
def test_all_names_what_is_there(path: Path) -> None:
    if path.name == "__main__.py":
        return
    module = importlib.import_module(
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    )
    assert [name for name in module.__all__ if not hasattr(module, name)] == []
