"""Models on disk: what is refused at loading, what saving keeps, and that it is whole or not at all."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from onnxlr import model_file
from onnxlr.errors import ModelError, UsageError
from onnxlr.model_file import Model, check, load, model_hash, read_tensor, save, staged_file
from onnxlr.runtime import Session, find_device
from passes.graph import all_tensors
from tests.builders import W, gemm, initializers, one_line, serialized, stored_outside, weight

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


def sizes() -> ModelProto:
    """A model with an empty tensor, a large Constant node, and types that numpy has not."""
    proto = gemm()
    proto.graph.initializer.append(numpy_helper.from_array(np.zeros((0,), np.float32), "empty"))
    proto.graph.initializer.append(numpy_helper.from_array(np.arange(5000), "numbers"))
    int4 = proto.graph.initializer.add(
        name="int4", data_type=TensorProto.INT4, dims=[3], raw_data=b"\x21\x03"
    )
    assert numpy_helper.to_array(int4).astype(int).tolist() == [1, 2, 3]
    constant = numpy_helper.from_array(weight(500), "inner")
    proto.graph.node.append(helper.make_node("Constant", [], ["c"], value=constant))
    proto.graph.initializer.append(numpy_helper.from_array(np.zeros((2, 0), np.float32), "last"))
    return proto


def same_tensors(left: Model, right: Model) -> None:
    pairs = list(zip(all_tensors(left.proto), all_tensors(right.proto), strict=True))
    assert pairs
    for expected, actual in pairs:
        assert (expected.name, expected.data_type, expected.dims) == (
            actual.name,
            actual.data_type,
            actual.dims,
        )
        assert read_tensor(left, expected).tobytes() == read_tensor(right, actual).tobytes()


@pytest.mark.parametrize("name", ["m.onnx", "other.onnx", "sub/other.onnx"])
def test_round_trip_with_external_data(tmp_path: Path, name: str) -> None:
    """Also onto the model itself, and onto a model whose data file has the name of the new one."""
    model = load(stored_outside(tmp_path, sizes()))
    assert model.is_external
    (tmp_path / "sub").mkdir()
    save(model, tmp_path / name)
    again = load(tmp_path / name)
    assert again.is_external
    same_tensors(Model(sizes()), again)
    save(again, tmp_path / name)
    same_tensors(Model(sizes()), load(tmp_path / name))
    left = {"m.onnx", "w.bin", name, f"{name}.data"}
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == left


def test_what_external_data_leave_alone(tmp_path: Path) -> None:
    proto = sizes()
    proto.metadata_props.add(key="k", value="v")
    proto.graph.quantization_annotation.add(tensor_name="w")
    model = load(stored_outside(tmp_path, proto))
    save(model, tmp_path / "out.onnx")
    saved = onnx.load_model(tmp_path / "out.onnx")
    assert serialized(saved.graph.node[:1]) == serialized(proto.graph.node[:1])
    for name in ("metadata_props", "functions", "opset_import"):
        assert serialized(getattr(saved, name)) == serialized(getattr(proto, name))
    assert serialized(saved.graph.quantization_annotation) == serialized(proto.graph.quantization_annotation)


def test_round_trip_is_byte_for_byte(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    save(Model(sizes()), path)
    assert path.read_bytes() == sizes().SerializeToString()
    save(load(path), path)
    assert path.read_bytes() == sizes().SerializeToString()
    assert list(tmp_path.iterdir()) == [path]


def test_too_large_for_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_file, "_PROTOBUF_LIMIT", 2000)
    proto = gemm()
    save(Model(proto), tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx").stat().st_size < 2000 < (tmp_path / "m.onnx.data").stat().st_size
    model = load(tmp_path / "m.onnx")
    same_tensors(Model(gemm()), model)
    assert proto == gemm()
    x = weight(2, 40)
    (y,) = Session(model, find_device("cpu")).run({"x": x})
    np.testing.assert_allclose(y, x @ W + weight(30, seed=4), atol=1e-5)
    check(Model(proto))


def fail(*_: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    ("step", "external"),
    [(step, external) for step in ("_flush", "_write", "os.replace") for external in (False, True)]
    + [("_move_out", True)],
)
def test_a_failed_save_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, external: bool
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    model = load(stored_outside(source)) if external else Model(gemm())
    (target / "m.onnx").write_bytes(b"old")
    (target / "m.onnx.data").write_bytes(b"old data")
    if step == "os.replace":
        monkeypatch.setattr(os, "replace", fail)
    else:
        monkeypatch.setattr(model_file, step, fail)
    with pytest.raises(OSError, match="No space left"):
        save(model, target / "m.onnx")
    found = {path.name: path.read_bytes() for path in target.iterdir()}
    assert found == {"m.onnx": b"old", "m.onnx.data": b"old data"}


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_data_that_vanish_after_loading_are_no_silent_loss(tmp_path: Path, damage: str) -> None:
    model = load(stored_outside(tmp_path))
    data = tmp_path / "w.bin"
    data.write_bytes(data.read_bytes()[:500]) if damage == "cut" else data.unlink()
    for action in (lambda: save(model, tmp_path / "out.onnx"), lambda: model_hash(model)):
        with pytest.raises(ModelError) as error:
            action()
        one_line(error, "w.bin", "'w'")
    assert not (tmp_path / "out.onnx").exists()


def test_staged_file(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), staged_file(path) as file:
        file.write(bytes([1 // (file.write(b"half") - 4)]))
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"f": b"old"}
    with staged_file(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"f": b"new"}


@pytest.mark.parametrize("target", ["missing/m.onnx", "file/m.onnx", "folder", "", "folder/.."])
def test_targets_refused(tmp_path: Path, target: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError) as error:
        save(Model(gemm()), tmp_path / target)
    one_line(error, str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_hash(tmp_path: Path) -> None:
    path = tmp_path / "in_file.onnx"
    path.write_bytes(gemm().SerializeToString())
    assert model_hash(load(path)) == model_hash(load(onnx.load_model(path))) == model_hash(Model(gemm()))
    assert model_hash(load(path)).startswith("sha256:")
    assert len(model_hash(load(path))) == 7 + 64
    other = gemm()
    other.metadata_props.add(key="k", value="v")
    assert model_hash(Model(other)) != model_hash(Model(gemm()))


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


def test_check_accepts_good_models(tmp_path: Path) -> None:
    check(Model(gemm()))
    check(load(stored_outside(tmp_path)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.onnx", "w.bin"]


def unknown_op(proto: ModelProto) -> None:
    proto.graph.node[0].op_type = "Gem"


def wrong_shape(proto: ModelProto) -> None:
    proto.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 7


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("damage", [unknown_op, wrong_shape])
def test_check_refuses(tmp_path: Path, damage: Callable[[ModelProto], None], external: bool) -> None:
    proto = gemm()
    damage(proto)
    model = load(stored_outside(tmp_path, proto)) if external else Model(proto)
    with pytest.raises(ModelError) as error:
        check(model)
    one_line(error, model.name, "onnx.checker rejects it")


def test_weights_are_not_loaded_with_the_graph(tmp_path: Path) -> None:
    model = load(stored_outside(tmp_path))
    assert all(not tensor.raw_data for tensor in model.proto.graph.initializer)
    assert set(initializers(gemm())) == {tensor.name for tensor in model.proto.graph.initializer}


@pytest.mark.xfail(strict=True, reason="the data file that the model in memory refers to was replaced")
def test_a_model_saved_onto_itself_can_be_saved_again(tmp_path: Path) -> None:
    save(load(stored_outside(tmp_path)), tmp_path / "own.onnx")
    loaded = load(tmp_path / "own.onnx")
    del loaded.proto.graph.initializer[0]
    loaded.proto.graph.node[0].input[1] = "b"
    save(loaded, tmp_path / "own.onnx")
    save(loaded, tmp_path / "again.onnx")
    same_tensors(load(tmp_path / "own.onnx"), load(tmp_path / "again.onnx"))


@pytest.mark.xfail(strict=True, reason="the new data are in place before the model that refers to them")
def test_a_save_that_fails_between_its_two_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "own.onnx"
    save(load(stored_outside(tmp_path)), path)
    old = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    model = load(path)
    model.proto.graph.initializer.append(numpy_helper.from_array(weight(900), "more"))
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: fail() if b == path else replace(a, b))
    with pytest.raises(OSError, match="No space left"):
        save(model, path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == old
