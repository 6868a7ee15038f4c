"""Models on disk: what is refused at loading, which tensors are read when, and the hash."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto

from onnxlr import model_file
from onnxlr.errors import ModelError
from onnxlr.external_data import is_spilled
from onnxlr.model_file import Model, load, model_hash, read_tensor
from tests.builders import W, gemm, initializers, one_line, stored_outside, weight

GARBAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (lambda _: None, "no such file"),
    "a folder": (lambda path: path.mkdir(), "not a regular file"),
    "empty": (lambda path: path.write_bytes(b""), "not an ONNX model"),
    "text": (lambda path: path.write_text("hello, world\n" * 20), "ONNX model"),
    "random bytes": (lambda path: path.write_bytes(np.random.default_rng(0).bytes(4096)), "ONNX model"),
    "truncated": (lambda path: path.write_bytes(gemm().SerializeToString()[:-100]), "cannot be read"),
    "truncated early": (lambda path: path.write_bytes(gemm().SerializeToString()[:20]), "ONNX model"),
    "no graph": (
        lambda path: path.write_bytes(ModelProto(ir_version=8).SerializeToString()),
        "without nodes",
    ),
}


@pytest.mark.parametrize(("make", "reason"), GARBAGE.values(), ids=GARBAGE.keys())
def test_what_is_no_model(tmp_path: Path, make: Callable[[Path], Any], reason: str) -> None:
    path = tmp_path / "m.onnx"
    make(path)
    with pytest.raises(ModelError) as error:
        load(path)
    one_line(error, str(path), reason)


@pytest.mark.parametrize("name", ["a" * 300, "a/b/c", "nul\0"])
def test_names_that_no_file_can_have(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError, match="no such file"):
        load(os.path.join(tmp_path, name))


def test_sources(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(gemm().SerializeToString())
    loaded = load(str(path))
    assert (loaded.name, loaded.folder) == ("m.onnx", tmp_path)
    assert loaded.proto == gemm()
    assert load(loaded) is loaded
    assert load(loaded.proto).proto is loaded.proto
    assert loaded.with_proto(gemm()).folder == tmp_path
    assert not loaded.is_external
    assert loaded.nbytes == path.stat().st_size


def test_hash(tmp_path: Path) -> None:
    path = tmp_path / "in_file.onnx"
    path.write_bytes(gemm().SerializeToString())
    assert model_hash(load(path)) == model_hash(load(onnx.load_model(path))) == model_hash(Model(gemm()))
    assert model_hash(load(path)).startswith("sha256:")
    assert len(model_hash(load(path))) == 7 + 64
    other = gemm()
    other.metadata_props.add(key="k", value="v")
    assert model_hash(Model(other)) != model_hash(Model(gemm()))


def test_hash_of_a_model_that_is_too_large_for_protobuf(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = model_hash(Model(gemm()))
    monkeypatch.setattr(model_file, "PROTOBUF_LIMIT", 2000)
    parts = model_hash(Model(gemm()))
    assert whole != parts == model_hash(Model(gemm()))
    for field, value in {"raw_data": (W + 1).tobytes(), "name": "v"}.items():
        other = gemm()
        setattr(other.graph.initializer[0], field, value)
        assert model_hash(Model(other)) != parts


@pytest.mark.parametrize("position", [0, 4799, 4800, 4919])
def test_hash_covers_external_bytes(tmp_path: Path, position: int) -> None:
    path = stored_outside(tmp_path)
    before = model_hash(load(path))
    data = bytearray((tmp_path / "w.bin").read_bytes())
    spans = [
        int(e.value) for t in load(path).proto.graph.initializer for e in t.external_data if e.key == "offset"
    ]
    at = spans[0] + position if position < 4800 else spans[1] + position - 4800
    data[at] ^= 1
    (tmp_path / "w.bin").write_bytes(data)
    assert model_hash(load(path)) != before
    data[at] ^= 1
    (tmp_path / "w.bin").write_bytes(data)
    assert model_hash(load(path)) == before


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_data_that_vanish_after_loading_are_no_silent_loss(tmp_path: Path, damage: str) -> None:
    model = load(stored_outside(tmp_path))
    data = tmp_path / "w.bin"
    data.write_bytes(data.read_bytes()[:500]) if damage == "cut" else data.unlink()
    with pytest.raises(ModelError) as error:
        model_hash(model)
    one_line(error, "w.bin", "'w'")


def test_weights_are_not_loaded_with_the_graph(tmp_path: Path) -> None:
    model = load(stored_outside(tmp_path))
    assert all(not tensor.raw_data for tensor in model.proto.graph.initializer)
    assert set(initializers(gemm())) == {tensor.name for tensor in model.proto.graph.initializer}


def test_reading_leaves_the_tensor_outside(tmp_path: Path) -> None:
    model = load(stored_outside(tmp_path))
    before = model.proto.SerializeToString()
    for tensor in model.proto.graph.initializer:
        assert np.array_equal(read_tensor(model, tensor), initializers(gemm())[tensor.name])
    assert model.proto.SerializeToString() == before


@pytest.mark.parametrize("external", [False, True])
def test_new_tensors_go_where_the_model_has_its_own(tmp_path: Path, external: bool) -> None:
    model = (load(stored_outside(tmp_path)) if external else Model(gemm())).with_spill()
    tensor = model.store(weight(30, 30))
    assert is_spilled(tensor) == external == (model.spill is not None)
    assert np.array_equal(read_tensor(model, tensor), weight(30, 30))
    assert model.with_spill() is model
    assert model.with_proto(gemm()).spill is model.spill


def test_size_of_a_model_with_tensors_in_a_spill(tmp_path: Path) -> None:
    model = load(stored_outside(tmp_path)).with_spill()
    before = model.with_proto(model.proto).nbytes
    model.proto.graph.initializer.append(model.store(weight(100, 100)))
    assert 40000 < model.with_proto(model.proto).nbytes - before < 40200
