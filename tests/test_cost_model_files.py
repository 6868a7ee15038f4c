"""Cost models as files: a cache by machine, defaults, clear errors, and nothing half written."""

from __future__ import annotations

import json
import logging
import multiprocessing
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from onnxlr import cost_model_files
from onnxlr.cost_model import CostModel
from onnxlr.cost_model_files import (
    cached_cost_models,
    find_cost_model,
    holds_here,
    machine_key,
    read_cost_model,
    write_cost_model,
)
from onnxlr.errors import DataError, UsageError
from onnxlr.hardware import processor_name
from onnxlr.providers import CPU, CUDA, TENSORRT, Device
from tests.builders import one_line


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config/onnxlr/cost-models"


def measured(device: Device = CPU, threads: int = 1, dtype: str = "float32", **key: str) -> CostModel:
    return CostModel({**machine_key(device, threads, dtype), **key}, 16, 2, 4, {"constant": 1e-6}, 0.05)


def test_the_cache(cache: Path) -> None:
    assert cached_cost_models() == []
    assert find_cost_model(CPU, 1).is_default
    assert not cache.exists()  # looking makes nothing
    model = measured()
    path = write_cost_model(model)
    assert path.parent == cache
    assert path.name.startswith("CPU-threads-1-float32-")
    assert find_cost_model(CPU, 1) == read_cost_model(path) == model
    assert write_cost_model(replace(model, block=8)) == path
    assert find_cost_model(CPU, 1).block == 8
    assert cached_cost_models() == [path]


OTHERS: dict[str, dict[str, Any]] = {
    "threads": {"threads": 2},
    "default threads": {"threads": 0},
    "type": {"dtype": "float16"},
    "provider": {"device": CUDA},
    "processor": {"processor": "another"},
    "features": {"features": "avx2"},
    "cores": {"cores": "1000"},
    "ONNX Runtime": {"onnxruntime": "1.0.0"},
    "GPU": {"gpu": "another"},
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS.keys())
def test_what_holds_elsewhere_is_not_used(other: dict[str, Any]) -> None:
    model = measured(**other)
    path = write_cost_model(model)
    assert find_cost_model(CPU, 1).is_default
    own = write_cost_model(measured())
    assert set(cached_cost_models()) == {path, own}
    assert not find_cost_model(CPU, 1).is_default
    assert holds_here(model) == (other.keys() <= {"threads", "dtype", "device"})


def test_a_file_of_another_machine_under_this_ones_name(caplog: pytest.LogCaptureFixture) -> None:
    path = write_cost_model(measured())
    write_cost_model(measured(processor="another"), path)
    assert find_cost_model(CPU, 1).is_default
    assert "holds for another machine" in caplog.text


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\xff", b"[]", b'{"schema_version": 1}'])
def test_a_damaged_file_is_passed_over(content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    path = write_cost_model(measured())
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert find_cost_model(CPU, 1).is_default
    assert str(path) in caplog.text
    write_cost_model(measured())
    assert not find_cost_model(CPU, 1).is_default


BAD: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "list": (lambda data: [data], "not a cost model; make one with onnxlr calibrate-device"),
    "plan": (lambda _: {"schema_version": 1, "layers": []}, "not a cost model; make one"),
    "newer": (lambda data: {**data, "schema_version": 2}, "schema version 2, and this onnxlr reads 1"),
    "no version": (lambda data: data.pop("schema_version") and data, "schema version None"),
    "wrong": (lambda data: {**data, "block": "x"}, "not a cost model (block must be a whole number)"),
    "unknown field": (lambda data: {**data, "x": 1}, "not a cost model ("),
    "negative": (lambda data: {**data, "coefficients": {"a": -1}}, "must be finite and not negative"),
}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD.keys())
def test_what_is_no_cost_model(change: Callable[[dict[str, Any]], Any], message: str, tmp_path: Path) -> None:
    path = write_cost_model(measured(), tmp_path / "m.json")
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(DataError) as error:
        read_cost_model(path)
    one_line(error, str(path), message)


@pytest.mark.parametrize("content", [None, b"{", b"\xff\xfe\xff", b"[" * 100_000])
def test_what_cannot_be_read(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as error:
        read_cost_model(path)
    one_line(error, str(path), "cannot be read as a cost model")


def test_a_cache_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("a file")
    assert find_cost_model(CPU, 1).is_default
    with pytest.raises(UsageError) as error:
        write_cost_model(measured())
    one_line(error, "the cache cannot be made there", "name a file")


DEFAULTS: dict[str, tuple[Device, tuple[str, ...], str, int]] = {
    "AVX-512": (CPU, ("avx2", "avx512f"), CPU.provider, 16),
    "AVX2": (CPU, ("avx2",), CPU.provider, 8),
    "ARM": (CPU, ("asimd",), CPU.provider, 8),
    "CUDA": (CUDA, ("avx2", "avx512f"), CUDA.provider, 8),
    "TensorRT": (TENSORRT, (), CUDA.provider, 8),
}


@pytest.mark.parametrize(("device", "features", "provider", "block"), DEFAULTS.values(), ids=DEFAULTS.keys())
def test_defaults(
    device: Device, features: tuple[str, ...], provider: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost_model_files, "cpu_features", lambda: features)
    found = find_cost_model(device, 0)
    assert found.is_default
    assert (found.key["provider"], found.block, found.itemsize) == (provider, block, 4)
    assert "onnxlr" in found.key["source"] or "an assumption, never measured" in found.key["source"]
    assert find_cost_model(device, 3, "float16") == replace(found, itemsize=2)


def test_the_key_tells_machines_apart() -> None:
    key = machine_key(CPU, 0, "float32")
    assert key.keys() == {
        *("processor", "features", "cores", "provider", "gpu", "onnxruntime", "threads", "dtype"),
    }
    assert key["processor"] == processor_name()
    assert (key["threads"], key["gpu"], key["provider"]) == ("0", "", CPU.provider)


def _write_often(number: int) -> None:
    for _ in range(20):
        write_cost_model(replace(measured(), error=0.5 + number / 100))


def test_several_processes_write_at_once(cache: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "onnxlr.cost_model_files"])  # imports once, not 32 times
    writers = [context.Process(target=_write_often, args=(number,)) for number in range(32)]
    write_cost_model(measured())
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert not find_cost_model(CPU, 1).is_default
    assert [writer.exitcode for writer in writers] == [0] * 32
    assert find_cost_model(CPU, 1).error in {0.5 + number / 100 for number in range(32)}
    assert [path.suffix for path in cache.iterdir()] == [".json"]
