"""Trained weights go back into the same file: nothing but them changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

pytest.importorskip("torch", reason="needs the extra onnxlr[train]")

from onnx import ModelProto, TensorProto, helper, numpy_helper

from onnxlr.errors import ModelError
from onnxlr.model_file import load
from onnxlr.saving import save
from onnxlr.training import GraphModule
from onnxlr.training.stored import stored_tensors
from tests.builders import conv_bn_model, conv_model, one_line, stored_outside, weight
from tests.differences import differences
from tests.training.checks import ROOT, SHARED, largest_error, random_feed, train_step

FILES = sorted(
    [
        *(ROOT / "models/digits").glob("*.onnx"),
        *(ROOT / "models/exports/trap").glob("*.onnx"),
        *(SHARED / "exports").glob("*.onnx"),
        *(SHARED / "data/models").glob("cifar10*.onnx"),
    ]
)


def blanked(model: ModelProto, names: set[str]) -> ModelProto:
    """The model with the bytes of some stored tensors taken out, and nothing else."""
    copy = ModelProto()
    copy.CopyFrom(model)
    for name, tensor in stored_tensors(copy.graph).items():
        if name in names:
            for field in ("raw_data", "float_data", "double_data", "int32_data"):
                if field == "raw_data" and tensor.HasField(field):
                    tensor.raw_data = bytes(len(tensor.raw_data))
                elif field != "raw_data":
                    numbers = getattr(tensor, field)
                    numbers[:] = [0] * len(numbers)
    return copy


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_only_trained_tensors_change(path: Path) -> None:
    model = load(path)
    before = model.proto.SerializeToString(deterministic=True)
    module = GraphModule(model)
    assert module.model is model
    feed = random_feed(model, free=4)
    train_step(module, feed, rate=1e-4) if list(module.parameters()) else None
    written = module.write_back()
    assert model.proto.SerializeToString(deterministic=True) == before
    names = {name for name, _ in module.named_parameters()} | set(module.statistics)
    expected, actual = blanked(model.proto, names), blanked(written.proto, names)
    assert differences(expected, actual, "model") == []
    assert actual.SerializeToString() == expected.SerializeToString()
    stored, old = stored_tensors(written.proto.graph), stored_tensors(model.proto.graph)
    changed = {name for name in names if stored[name] != old[name]}
    assert len(changed) > len(names) / 2 or not names
    assert largest_error(module, written, feed) < 1e-5


def test_without_training_nothing_changes() -> None:
    model = load(ROOT / "models/digits/digits.onnx")
    assert GraphModule(model).write_back().proto == model.proto


def with_typed_fields(model: ModelProto) -> ModelProto:
    """The numbers not as bytes but in the fields of their type."""
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        typed = helper.make_tensor(tensor.name, tensor.data_type, array.shape, array.ravel().tolist())
        typed.doc_string = "kept"
        tensor.CopyFrom(typed)
    return model


@pytest.mark.parametrize(
    "kind", [TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE]
)
@pytest.mark.parametrize("typed", [False, True], ids=["bytes", "typed"])
def test_types_and_fields_stay(kind: int, typed: bool) -> None:
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    model = conv_model(weight(4, 3, 3, 3).astype(dtype))
    model = with_typed_fields(model) if typed else model
    module = GraphModule(model)
    train_step(module, {"x": weight(2, 3, 11, 13)}, rate=1.0)
    written = module.write_back().proto
    assert differences(blanked(model, {"w", "b"}), blanked(written, {"w", "b"}), "model") == []
    for name, parameter in module.named_parameters():
        array = numpy_helper.to_array(stored_tensors(written.graph)[name])
        np.testing.assert_array_equal(array, parameter.detach().numpy().astype(dtype))
        assert (array != numpy_helper.to_array(stored_tensors(model.graph)[name])).any()


def test_numbers_too_large_for_half_precision() -> None:
    module = GraphModule(conv_model(weight(4, 3, 3, 3, dtype=np.float16)))
    for parameter in module.parameters():
        parameter.data *= 1e9
    with pytest.raises(ModelError) as error:
        module.write_back()
    one_line(error, "'w'", "float16", "smaller learning rate")


def test_external_data(tmp_path: Path) -> None:
    model = load(stored_outside(tmp_path, conv_bn_model(weight(8, 3, 3, 3))))
    data = (tmp_path / "w.bin").read_bytes()
    module = GraphModule(model)
    feed = random_feed(model)
    train_step(module, feed, rate=0.1)
    written = module.write_back()
    save(written, tmp_path / "trained.onnx")
    assert (tmp_path / "w.bin").read_bytes() == data
    assert largest_error(module, load(tmp_path / "trained.onnx"), feed) < 1e-5
    onnx.checker.check_model(tmp_path / "trained.onnx")
