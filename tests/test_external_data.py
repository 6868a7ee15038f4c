"""References to other files: which are followed, and what is refused at loading."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from onnxlr.errors import ModelError
from onnxlr.model_file import load, read_tensor
from tests.builders import W, gemm, gemm_model, one_line, stored_outside


def entry(tensor: TensorProto, **values: object) -> None:
    """Change entries of a tensor's external data; None removes one."""
    kept = {e.key: e.value for e in tensor.external_data} | values
    del tensor.external_data[:]
    for key, value in kept.items():
        if value is not None:
            tensor.external_data.add(key=key, value=str(value))


def behind_link(folder: Path, w: TensorProto) -> None:
    (folder / "link.bin").symlink_to(folder / "w.bin")
    entry(w, location="link.bin")


def behind_linked_folder(folder: Path, w: TensorProto) -> None:
    (folder / "link").symlink_to(folder, target_is_directory=True)
    entry(w, location="link/w.bin")


def link_to_outside(folder: Path, w: TensorProto) -> None:
    (folder / "link.bin").symlink_to(folder.parent / "secret.bin")
    entry(w, location="link.bin")


def loop_of_links(folder: Path, w: TensorProto) -> None:
    (folder / "a.bin").symlink_to(folder / "a.bin")
    entry(w, location="a.bin")


def hard_link(folder: Path, _: TensorProto) -> None:
    os.link(folder / "w.bin", folder / "again.bin")


BAD_DATA: dict[str, tuple[Callable[[Path, TensorProto], Any], str]] = {
    "outside by ..": (lambda _, w: entry(w, location="../secret.bin"), "outside the model's folder"),
    "outside by ../..": (lambda _, w: entry(w, location="x/../../secret.bin"), "outside the model's folder"),
    "absolute": (lambda f, w: entry(w, location=f.parent / "secret.bin"), "outside the model's folder"),
    "absolute, within the folder": (
        lambda f, w: entry(w, location=f / "w.bin"),
        "outside the model's folder",
    ),
    "the folder itself": (lambda _, w: entry(w, location="."), "outside the model's folder"),
    "no location": (lambda _, w: entry(w, location=None), "outside the model's folder"),
    "a link to outside": (link_to_outside, "outside the model's folder"),
    "a link within": (behind_link, "symbolic link"),
    "a link to a folder within": (behind_linked_folder, "symbolic link"),
    "a loop of links": (loop_of_links, ""),
    "a hard link": (hard_link, "hard links"),
    "missing": (lambda _, w: entry(w, location="gone.bin"), "is missing: no file 'gone.bin'"),
    "a folder": (lambda f, w: (f / "sub").mkdir() or entry(w, location="sub"), "is missing"),
    "short": (lambda f, _: (f / "w.bin").write_bytes((f / "w.bin").read_bytes()[:1000]), "is cut off"),
    "offset past the end": (lambda _, w: entry(w, offset=10**9), "is cut off"),
    "negative offset": (lambda _, w: entry(w, offset=-1), "is cut off"),
    "negative length": (lambda _, w: entry(w, length=-4), "is cut off"),
    "shorter than its shape": (lambda _, w: entry(w, length=100), "take 4800"),
    "longer than its shape": (lambda _, w: entry(w, length=4804), "take 4800"),
    "open end with more after it": (lambda _, w: entry(w, length=None), "no length"),
    "offset is no number": (lambda _, w: entry(w, offset="x"), "unreadable attributes"),
    "location no file can have": (lambda _, w: entry(w, location="nul\0"), "unreadable attributes"),
    "location too long": (lambda _, w: entry(w, location="a" * 300), ""),
    "type unknown": (lambda _, w: setattr(w, "data_type", 99), "unreadable attributes"),
}


@pytest.mark.parametrize(("change", "reason"), BAD_DATA.values(), ids=BAD_DATA.keys())
def test_external_data_refused(
    tmp_path: Path, change: Callable[[Path, TensorProto], Any], reason: str
) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(10000))
    folder = tmp_path / "model"
    folder.mkdir()
    path = stored_outside(folder)
    proto = onnx.load_model(path, load_external_data=False)
    tensor = proto.graph.initializer[0]
    assert tensor.name == "w"
    change(folder, tensor)
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError) as error:
        load(path)
    one_line(error, "m.onnx", "'w'", reason)


def test_references_of_a_model_in_memory_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proto = onnx.load_model(stored_outside(tmp_path), load_external_data=False)
    with pytest.raises(ModelError, match="is missing"):
        load(proto)
    monkeypatch.chdir(tmp_path)
    assert np.array_equal(read_tensor(load(proto), proto.graph.initializer[0]), W)


@pytest.mark.parametrize("where", ["w.bin", "./w.bin", "sub/w.bin", "sub/../w.bin", "sub/./deep/../w.bin"])
def test_locations_within_the_folder(tmp_path: Path, where: str) -> None:
    path = stored_outside(tmp_path)
    (tmp_path / "sub" / "deep").mkdir(parents=True)
    (tmp_path / "sub" / "w.bin").write_bytes((tmp_path / "w.bin").read_bytes())
    proto = onnx.load_model(path, load_external_data=False)
    for tensor in proto.graph.initializer:
        entry(tensor, location=where)
    path.write_bytes(proto.SerializeToString())
    model = load(path)
    assert np.array_equal(read_tensor(model, model.proto.graph.initializer[0]), W)


def test_length_may_be_left_out_where_the_file_ends(tmp_path: Path) -> None:
    """PyTorch's first exporter wrote one file a tensor, and nothing but its location."""
    proto = gemm_model(W)
    path = stored_outside(tmp_path, proto)
    outside = onnx.load_model(path, load_external_data=False)
    entry(outside.graph.initializer[0], offset=None, length=None)
    path.write_bytes(outside.SerializeToString())
    model = load(path)
    assert np.array_equal(read_tensor(model, model.proto.graph.initializer[0]), W)
    assert model.nbytes == path.stat().st_size + W.nbytes


@pytest.mark.parametrize(
    ("data_type", "count", "expected"),
    [
        (TensorProto.INT4, 5, 3),
        (TensorProto.UINT4, 4, 2),
        (TensorProto.BFLOAT16, 5, 10),
        (TensorProto.BOOL, 5, 5),
        (TensorProto.DOUBLE, 0, 0),
    ],
)
def test_bytes_of_a_type(tmp_path: Path, data_type: int, count: int, expected: int) -> None:
    proto = gemm()
    tensor = proto.graph.initializer.add(name="t", data_type=data_type, dims=[count])
    tensor.data_location = TensorProto.EXTERNAL
    entry(tensor, location="t.bin")
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    (tmp_path / "t.bin").write_bytes(bytes(expected))
    assert load(path).nbytes == path.stat().st_size + expected
    (tmp_path / "t.bin").write_bytes(bytes(expected + 1))
    with pytest.raises(ModelError, match="no length"):
        load(path)
