"""`calibrate-device` and `calibrate_device`, with few benchmarks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import onnxlr
from onnxlr import device_calibration, micro_benchmarks
from onnxlr.cli import cli
from onnxlr.cli import device as command_line
from onnxlr.cost_model_files import find_cost_model, machine_key
from onnxlr.providers import CPU
from tests.builders import one_line

FEW = [item for item in micro_benchmarks.suite() if item.conv.macs(item.spatial) < 3e6][:12]


@pytest.fixture(autouse=True)
def few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Few benchmarks, run briefly; and a cache of the test's own."""
    monkeypatch.setattr(device_calibration, "suite", lambda: FEW)
    run = micro_benchmarks.run_micro_benchmarks
    monkeypatch.setattr(
        device_calibration, "run_micro_benchmarks", lambda *arguments: run(*arguments, seconds=0)
    )
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["calibrate-device", "--device", "cpu", "--threads", "1", *arguments])


def test_from_python() -> None:
    told: list[tuple[str, int, int]] = []
    found = onnxlr.calibrate_device("cpu", 1, progress=lambda *step: told.append(step))
    assert told[-1] == ("Timing Convs", 6 * len(FEW), 6 * len(FEW))  # two batch sizes, three rounds
    assert found.key == machine_key(CPU, 1, "float32")
    assert (found.is_default, found.itemsize) == (False, 4)
    assert found.error is not None
    assert find_cost_model(CPU, 1).is_default  # nothing is written unasked
    onnxlr.write_cost_model(found)
    assert find_cost_model(CPU, 1) == found


def test_float16() -> None:
    found = onnxlr.calibrate_device("cpu", 1, "float16", (1, 2))
    assert (found.key["dtype"], found.itemsize) == ("float16", 2)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "type": ({"dtype": "int8"}, "dtype must be one of float32, float16; got 'int8'"),
    "threads": ({"threads": -1}, "threads must be at least 0, got -1"),
    "no batch": ({"batches": ()}, "batch sizes are different numbers from 1 on, got []"),
    "batch of 0": ({"batches": (0,)}, "got [0]"),
    "batch twice": ({"batches": (1, 1)}, "got [1, 1]"),
}


@pytest.mark.parametrize(("options", "message"), WRONG.values(), ids=WRONG.keys())
def test_wrong_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(onnxlr.UsageError) as error:
        onnxlr.calibrate_device("cpu", **options)
    one_line(error, message)


def test_the_command_caches() -> None:
    done = run()
    assert done.exit_code == 0, done.output
    found = find_cost_model(CPU, 1)
    assert not found.is_default
    assert f"timed {2 * len(FEW)} benchmarks in " in done.stdout
    assert f"block: {found.block} channels, {found.filter_set} at a time" in done.stdout
    assert f"median error of benchmarks that were held out: {found.error:.1%}" in done.stdout
    (path,) = onnxlr.cost_model_files.cached_cost_models()
    assert done.stdout.splitlines()[-1] == f"wrote {path}"


def test_the_command_writes_a_file_to_take_away(few: Path) -> None:
    path = few / "box.json"
    done = run("--batch", "1,2", "--json", "-o", str(path))
    assert done.exit_code == 0, done.output
    data = json.loads(done.stdout)
    assert data.keys() == {"path", "benchmarks", "seconds", "cost_model"}
    assert (data["path"], data["benchmarks"]) == (str(path), 2 * len(FEW))
    assert onnxlr.read_cost_model(path).to_dict() == data["cost_model"]
    assert find_cost_model(CPU, 1).is_default  # the cache is left alone


@pytest.mark.parametrize(("bound", "told"), [(-1.0, True), (1e9, False)])
def test_a_busy_machine_is_told(bound: float, told: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_line, "_BUSY", bound)
    done = run()
    assert done.exit_code == 0
    assert ("note: the machine was busy" in done.stdout) == told


def test_a_folder_that_is_not_there_is_told_before_work(few: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_calibration, "suite", lambda: pytest.fail("measured"))
    done = run("-o", str(few / "none/box.json"))
    assert done.exit_code == 2
    assert "does not exist" in done.stderr


def test_what_onnx_runtime_rejects_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise onnxlr.ModelError("micro-benchmark: ONNX Runtime cannot load it: no kernel for float16")

    monkeypatch.setattr(device_calibration, "run_micro_benchmarks", fail)
    done = run("--dtype", "float16")
    assert done.exit_code == 3
    assert done.stderr == "Error: micro-benchmark: ONNX Runtime cannot load it: no kernel for float16\n"
