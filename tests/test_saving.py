"""Saving: nothing is lost, nothing dangles, and a model is whole at every moment, also on its own place."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from onnxlr import model_file, model_writing, saving, staging
from onnxlr.errors import ModelError, UsageError
from onnxlr.external_data import is_external
from onnxlr.model_file import Model, load, read_tensor
from onnxlr.model_writing import check
from onnxlr.runtime import Session, find_device
from onnxlr.saving import EXTERNAL_DATA, save
from passes.graph import all_tensors
from tests.builders import W, gemm, one_line, serialized, stored_outside, weight


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


def contents(model: Model) -> list[tuple[Any, ...]]:
    """Every tensor of a model, wherever it is stored."""
    tensors = all_tensors(model.proto)
    return [(t.name, t.data_type, tuple(t.dims), read_tensor(model, t).tobytes()) for t in tensors]


def files(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def in_one_file(folder: Path, proto: ModelProto) -> Path:
    path = folder / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


STYLES: dict[str, Callable[[Path, ModelProto], Path]] = {
    "outside": stored_outside,
    "in one file": in_one_file,
}
STYLE = pytest.mark.parametrize("style", STYLES.values(), ids=STYLES.keys())


@STYLE
@pytest.mark.parametrize("external_data", EXTERNAL_DATA)
@pytest.mark.parametrize("name", ["m.onnx", "other.onnx", "sub/other.onnx"])
def test_round_trip(
    tmp_path: Path, style: Callable[[Path, ModelProto], Path], external_data: str, name: str
) -> None:
    """Also onto the model itself, and twice to the same place."""
    source = style(tmp_path, sizes())
    before = files(tmp_path)
    (tmp_path / "sub").mkdir()
    is_split = external_data == "always" or (external_data == "auto" and "w.bin" in before)
    for data in ([f"{name}.data"], [f"{name}.2.data"]) if is_split else ([], []):
        written = save(load(source), tmp_path / name, external_data)
        assert written == [tmp_path / name, *(tmp_path / file for file in data)]
        assert contents(load(tmp_path / name)) == contents(Model(sizes()))
        assert any(map(is_external, all_tensors(load(tmp_path / name).proto))) == is_split
        assert files(tmp_path).keys() == {*before, name, *data}
    for file in before.keys() - {name}:
        assert files(tmp_path)[file] == before[file]
    check(load(tmp_path / name))


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
    path = in_one_file(tmp_path, sizes())
    for _ in range(2):
        save(load(path), path)
        assert files(tmp_path) == {"m.onnx": sizes().SerializeToString()}


def run_gemm(model: Model) -> None:
    x = weight(2, 40)
    (y,) = Session(model, find_device("cpu")).run({"x": x})
    np.testing.assert_allclose(y, x @ W + weight(30, seed=4), atol=1e-5)


def test_too_large_for_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (model_file, saving):
        monkeypatch.setattr(module, "PROTOBUF_LIMIT", 2000)
    proto = gemm()
    save(Model(proto), tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx").stat().st_size < 2000 < (tmp_path / "m.onnx.data").stat().st_size
    model = load(tmp_path / "m.onnx")
    assert contents(model) == contents(Model(gemm()))
    assert proto == gemm()
    run_gemm(model)
    run_gemm(Model(proto))
    for source in (model, Model(proto)):
        with pytest.raises(UsageError) as error:
            save(source, tmp_path / "one.onnx", "never")
        one_line(error, source.name, "2 GB", "auto or always")
    assert files(tmp_path).keys() == {"m.onnx", "m.onnx.data"}


def test_unknown_style(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as error:
        save(Model(gemm()), tmp_path / "m.onnx", "sometimes")
    one_line(error, "auto, always, never", "'sometimes'")
    assert not files(tmp_path)


def test_new_tensors_in_a_spill(tmp_path: Path) -> None:
    """What a rewriting leaves: tensors beside the original, new ones in a spill."""
    model = load(stored_outside(tmp_path)).with_spill()
    tensor = model.store(W)
    tensor.name = "w"
    model.proto.graph.initializer[0].CopyFrom(tensor)
    for name in ("out.onnx", "m.onnx", "again.onnx"):
        save(model, tmp_path / name)
        assert contents(load(tmp_path / name)) == contents(Model(gemm()))
    save(model, tmp_path / "one.onnx", "never")
    assert onnx.load(tmp_path / "one.onnx") == gemm()
    run_gemm(model)


class Stopped(BaseException):
    """Stands for the end of the process."""


WATCHED = [(os, "replace"), (os, "fsync"), (Path, "unlink"), (shutil, "rmtree")]


def watch(monkeypatch: pytest.MonkeyPatch, look: Callable[[], None], stop_at: int = 10**9) -> list[str]:
    """Look before and after every step that changes files; the list of steps grows as they are taken."""
    steps: list[str] = []

    def watched(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **options: Any) -> Any:
            look()
            steps.append(name)
            if len(steps) == stop_at:
                raise Stopped
            result = function(*args, **options)
            look()
            return result

        return step

    for owner, name in WATCHED:
        monkeypatch.setattr(owner, name, watched(name, getattr(owner, name)))
    return steps


def own(folder: Path) -> tuple[Path, Model]:
    """A model with its data file as `save` names it, and another model to take its place."""
    path = folder / "own.onnx"
    save(load(stored_outside(folder)), path)
    new = load(path)
    new.proto.graph.initializer.append(numpy_helper.from_array(weight(900), "more"))
    return path, new


@pytest.mark.parametrize("external_data", EXTERNAL_DATA)
def test_the_model_is_whole_at_every_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, external_data: str
) -> None:
    path, new = own(tmp_path)
    versions = [contents(load(path)), contents(new)]
    seen: list[int] = []
    with monkeypatch.context() as patch:
        steps = watch(patch, lambda: seen.append(versions.index(contents(load(path)))))
        save(new, path, external_data)
    assert seen == sorted(seen)
    assert {*seen} == {0, 1}
    assert "unlink" in steps


@pytest.mark.parametrize("stop_at", range(1, 8))
def test_a_save_that_is_stopped_leaves_the_old_or_the_new_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    path, new = own(tmp_path)
    versions = [contents(load(path)), contents(new)]
    before = files(tmp_path)
    with monkeypatch.context() as patch:
        steps = watch(patch, lambda: None, stop_at)
        with pytest.raises(Stopped):
            save(new, path)
    found = contents(load(path))
    assert found in versions
    if found == versions[0] and steps[stop_at - 1] != "rmtree":
        assert files(tmp_path) == before


def fail(*_: object) -> None:
    raise OSError(28, "No space left on device")


@STYLE
@pytest.mark.parametrize(
    ("module", "step"),
    [(staging, "flush"), (model_writing, "append"), (saving, "write_model"), (os, "replace"), (os, "fsync")],
)
def test_a_failed_save_leaves_the_old_file(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    style: Callable[[Path, ModelProto], Path],
    module: Any,
    step: str,
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    model = load(style(source, gemm()))
    (target / "m.onnx").write_bytes(b"old")
    (target / "m.onnx.data").write_bytes(b"old data")
    monkeypatch.setattr(module, step, fail)
    if module is staging:
        monkeypatch.setattr(model_writing, step, fail)
    with pytest.raises(UsageError) as error:
        save(model, target / "m.onnx", "always")
    one_line(error, str(target / "m.onnx"), "No space left")
    assert files(target) == {"m.onnx": b"old", "m.onnx.data": b"old data"}
    assert len(list(target.iterdir())) == 2


def test_a_save_that_fails_between_its_two_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, new = own(tmp_path)
    before = files(tmp_path)
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: fail() if b == path else replace(a, b))
    with pytest.raises(UsageError, match="No space left"):
        save(new, path)
    assert files(tmp_path) == before


@pytest.mark.parametrize("external_data", EXTERNAL_DATA)
def test_a_model_saved_onto_itself_can_be_saved_again(tmp_path: Path, external_data: str) -> None:
    path, _ = own(tmp_path)
    loaded = load(path)
    del loaded.proto.graph.initializer[0]
    loaded.proto.graph.node[0].input[1] = "b"
    expected = contents(loaded)
    save(loaded, path, external_data)
    save(loaded, tmp_path / "again.onnx")
    assert contents(load(path)) == contents(load(tmp_path / "again.onnx")) == contents(loaded) == expected


def test_a_model_in_a_folder_below_saved_onto_itself(tmp_path: Path) -> None:
    """Its references go through a folder: they still do when they follow the new data file."""
    (tmp_path / "sub").mkdir()
    path, _ = own(tmp_path / "sub")
    proto = load(path).proto
    for tensor in proto.graph.initializer:
        tensor.external_data[0].value = f"sub/{tensor.external_data[0].value}"
    model = Model(proto, tmp_path)
    expected = contents(model)
    save(model, path)
    assert [t.external_data[0].value for t in proto.graph.initializer] == ["sub/own.onnx.2.data"] * 2
    assert contents(model) == contents(load(path)) == expected


def test_an_older_model_in_memory_never_reads_other_data(tmp_path: Path) -> None:
    path, _ = own(tmp_path)
    older = load(path)
    for seed in range(3):
        new = load(path)
        new.proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight(40, 30, seed=seed), "w"))
        save(new, path)
    with pytest.raises(ModelError) as error:
        save(older, tmp_path / "out.onnx")
    one_line(error, "own.onnx.data")
    assert sorted(files(tmp_path)) == ["m.onnx", "own.onnx", "own.onnx.4.data", "w.bin"]


COPIES = ["copy.onnx", "own.onnx.bak", "b.onnx"]


@pytest.mark.parametrize("name", COPIES)
def test_data_that_another_model_refers_to_stay(tmp_path: Path, name: str) -> None:
    path, new = own(tmp_path)
    shutil.copy(path, tmp_path / name)
    expected = contents(load(path))
    save(new, path)
    assert (tmp_path / "own.onnx.data").exists()
    assert contents(load(tmp_path / name)) == expected
    save(new, path)
    assert sorted(files(tmp_path)) == sorted(
        ["m.onnx", "w.bin", "own.onnx", name, "own.onnx.data", "own.onnx.3.data"]
    )


OTHERS = ["own.onnx.data", "own.onnx.2.data", "own.onnx.7.data"]


@pytest.mark.parametrize("taken", OTHERS)
def test_no_data_file_is_overwritten(tmp_path: Path, taken: str) -> None:
    """Nor removed, where the model that is replaced does not mention it."""
    (tmp_path / taken).write_bytes(b"of somebody else")
    (tmp_path / "own.onnx").write_bytes(gemm().SerializeToString())
    (_, data) = save(Model(gemm()), tmp_path / "own.onnx", "always")
    assert data.name != taken
    assert (tmp_path / taken).read_bytes() == b"of somebody else"


def test_the_data_file_is_not_to_be_replaced_by_the_model(tmp_path: Path) -> None:
    model = load(stored_outside(tmp_path))
    before = files(tmp_path)
    with pytest.raises(UsageError) as error:
        save(model, tmp_path / "w.bin")
    one_line(error, "w.bin", "choose another name")
    assert files(tmp_path) == before


def test_names_that_cross_the_blocks_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "_BLOCK", 7)
    for i in range(20):
        (tmp_path / "f").write_bytes(b"-" * i + b"own.onnx.data" + b"-" * (20 - i))
        assert saving._mentions(tmp_path / "f", "own.onnx.data")
        assert not saving._mentions(tmp_path / "f", "own.onnx.2.data")


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_data_that_vanish_after_loading_are_no_silent_loss(tmp_path: Path, damage: str) -> None:
    model = load(stored_outside(tmp_path))
    data = tmp_path / "w.bin"
    data.write_bytes(data.read_bytes()[:500]) if damage == "cut" else data.unlink()
    for external_data in EXTERNAL_DATA:
        with pytest.raises(ModelError) as error:
            save(model, tmp_path / "out.onnx", external_data)
        one_line(error, "w.bin", "'w'")
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize("target", ["missing/m.onnx", "file/m.onnx", "folder", "", "folder/..", "a" * 254])
def test_targets_refused(tmp_path: Path, target: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError) as error:
        save(Model(gemm()), tmp_path / target, "always")
    one_line(error, str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
