"""Models in files: what goes to the data file, what onnx.checker and ONNX Runtime make of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from onnx import ModelProto, TensorProto, numpy_helper

from onnxlr import model_file
from onnxlr.errors import ModelError
from onnxlr.external_data import is_external, is_spilled
from onnxlr.model_file import Model, load, read_tensor
from onnxlr.model_writing import check, gathered, write_model
from passes.graph import all_tensors
from tests.builders import W, gemm, one_line, stored_outside, weight


def typed(data_type: int, field: str, values: Any, dims: Any = None) -> TensorProto:
    tensor = TensorProto(name="t", data_type=data_type, dims=dims or [len(values)])
    getattr(tensor, field).extend(values)
    return tensor


NUMBERS = [int(i) for i in np.random.default_rng(0).integers(-8, 8, 3000)]
HALVES = weight(700, dtype=np.float16)
BRAINS = weight(700).astype(ml_dtypes.bfloat16)

OUTSIDE: dict[str, TensorProto] = {
    "raw": numpy_helper.from_array(weight(300), "t"),
    "float_data": typed(TensorProto.FLOAT, "float_data", weight(300).tolist()),
    "double_data": typed(TensorProto.DOUBLE, "double_data", weight(300).tolist()),
    "int64_data": typed(TensorProto.INT64, "int64_data", NUMBERS),
    "uint64_data": typed(TensorProto.UINT64, "uint64_data", range(300)),
    "int32": typed(TensorProto.INT32, "int32_data", NUMBERS),
    "int8": typed(TensorProto.INT8, "int32_data", NUMBERS),
    "bool": typed(TensorProto.BOOL, "int32_data", [i % 2 for i in range(2000)]),
    "float16": typed(TensorProto.FLOAT16, "int32_data", HALVES.view(np.uint16).tolist()),
    "bfloat16": typed(TensorProto.BFLOAT16, "int32_data", BRAINS.view(np.uint16).tolist()),
    "complex64": typed(TensorProto.COMPLEX64, "float_data", weight(600).tolist(), [300]),
    "int4": typed(TensorProto.INT4, "int32_data", [0x21] * 1500, [3000]),
    "raw int4": TensorProto(name="t", data_type=TensorProto.INT4, dims=[3000], raw_data=b"\x21" * 1500),
}
INSIDE: dict[str, TensorProto] = {
    "small": numpy_helper.from_array(weight(256), "t"),
    "small, typed": typed(TensorProto.FLOAT, "float_data", weight(256).tolist()),
    "strings": numpy_helper.from_array(np.array(["text"] * 1000, object), "t"),
    "empty": numpy_helper.from_array(np.zeros((0, 3), np.float32), "t"),
    "of no type": typed(TensorProto.UNDEFINED, "float_data", weight(300).tolist()),
    "of another shape": typed(TensorProto.FLOAT, "float_data", weight(300).tolist(), [299]),
}


def with_tensor(tensor: TensorProto) -> Model:
    proto = gemm()
    proto.graph.initializer.append(tensor)
    return Model(proto)


def last(model: Model) -> TensorProto:
    return model.proto.graph.initializer[-1]


@pytest.mark.parametrize("tensor", OUTSIDE.values(), ids=OUTSIDE.keys())
def test_tensors_that_go_to_the_data_file(tmp_path: Path, tensor: TensorProto) -> None:
    write_model(with_tensor(tensor), tmp_path, "m.onnx", "data")
    model = load(tmp_path / "m.onnx")
    assert is_external(last(model))
    assert (tmp_path / "m.onnx").stat().st_size < 1000
    stored, expected = read_tensor(model, last(model)), numpy_helper.to_array(tensor)
    assert (stored.dtype, stored.shape) == (expected.dtype, expected.shape)
    assert stored.tobytes() == expected.tobytes()


@pytest.mark.parametrize("tensor", INSIDE.values(), ids=INSIDE.keys())
def test_tensors_that_stay_in_the_model(tmp_path: Path, tensor: TensorProto) -> None:
    write_model(with_tensor(tensor), tmp_path, "m.onnx", "data")
    assert last(load(tmp_path / "m.onnx")) == tensor


def test_no_data_file_where_no_tensor_goes_there(tmp_path: Path) -> None:
    proto = gemm()
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight(4, 3), "w"))
    written = write_model(Model(proto), tmp_path, "m.onnx", "data")
    assert written == proto
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


@pytest.mark.parametrize("tensor", OUTSIDE.values(), ids=OUTSIDE.keys())
def test_there_and_back(tmp_path: Path, tensor: TensorProto) -> None:
    write_model(with_tensor(tensor), tmp_path, "outside.onnx", "data")
    write_model(load(tmp_path / "outside.onnx"), tmp_path, "inside.onnx", None)
    model = load(tmp_path / "inside.onnx")
    assert not model.is_external
    assert last(model) == numpy_helper.from_array(numpy_helper.to_array(tensor), "t")


def test_the_model_in_memory_is_left_alone(tmp_path: Path) -> None:
    model = load(stored_outside(tmp_path))
    before = model.proto.SerializeToString()
    write_model(model, tmp_path, "inside.onnx", None)
    write_model(model, tmp_path, "outside.onnx", "data")
    check(model)
    assert model.proto.SerializeToString() == before


def spilled(folder: Path) -> Model:
    """`gemm` with the weight in a spill and the bias beside the model."""
    model = load(stored_outside(folder)).with_spill()
    model.proto.graph.initializer[0].CopyFrom(model.store(W))
    model.proto.graph.initializer[0].name = "w"
    assert [is_spilled(tensor) for tensor in all_tensors(model.proto)] == [True, False]
    return model


def test_gathered(tmp_path: Path) -> None:
    model = spilled(tmp_path)
    together = gathered(model)
    assert together.name == model.name
    assert not any(map(is_spilled, all_tensors(together.proto)))
    for tensor, expected in zip(together.proto.graph.initializer, [W, weight(30, seed=4)], strict=True):
        assert np.array_equal(read_tensor(together, tensor), expected)
    folder = together.folder
    assert folder != tmp_path
    del together
    assert not folder.exists()


@pytest.mark.parametrize("external", [False, True])
def test_nothing_to_gather(tmp_path: Path, external: bool) -> None:
    model = load(stored_outside(tmp_path)) if external else Model(gemm())
    assert gathered(model) is model


def in_memory(_: Path) -> Model:
    return Model(gemm())


def outside(folder: Path) -> Model:
    return load(stored_outside(folder))


PLACES: dict[str, Callable[[Path], Model]] = {"in memory": in_memory, "outside": outside, "spilled": spilled}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES.keys())
def test_check_accepts_good_models(tmp_path: Path, place: Callable[[Path], Model]) -> None:
    check(place(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) in ([], ["m.onnx", "w.bin"])


def test_check_accepts_models_that_are_too_large_for_protobuf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_file, "PROTOBUF_LIMIT", 2000)
    check(Model(gemm()))


def unknown_op(proto: ModelProto) -> None:
    proto.graph.node[0].op_type = "Gem"


def wrong_shape(proto: ModelProto) -> None:
    proto.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 7


def wrong_type(proto: ModelProto) -> None:
    proto.graph.input[0].type.tensor_type.elem_type = TensorProto.DOUBLE


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES.keys())
@pytest.mark.parametrize("damage", [unknown_op, wrong_shape, wrong_type])
def test_check_refuses(
    tmp_path: Path, damage: Callable[[ModelProto], None], place: Callable[[Path], Model]
) -> None:
    model = place(tmp_path)
    damage(model.proto)
    with pytest.raises(ModelError) as error:
        check(model)
    one_line(error, model.name, "onnx.checker rejects it")


def test_check_copies_no_weights(tmp_path: Path) -> None:
    """A model whose data file is a hole of 1 TB is checked in no time."""
    proto = gemm()
    del proto.graph.initializer[0]
    huge = proto.graph.initializer.add(name="w", data_type=TensorProto.FLOAT, dims=[2**38 // 30, 30])
    huge.data_location = TensorProto.EXTERNAL
    huge.external_data.add(key="location", value="w.bin")
    proto.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 2**38 // 30
    with (tmp_path / "w.bin").open("wb") as file:
        file.truncate(2**38 // 30 * 30 * 4)
    check(Model(proto, tmp_path))


def test_an_empty_tensor_is_taken_in(tmp_path: Path) -> None:
    """To some releases of onnx (1.20 is one), a length of 0 means the rest of the file."""
    empty = numpy_helper.from_array(np.zeros((0, 3), np.float32), "t")
    model = load(stored_outside(tmp_path, with_tensor(empty).proto))
    write_model(model, tmp_path, "out.onnx", "data")
    assert last(load(tmp_path / "out.onnx")) == empty
