"""Model -> files: weights in the model file or in a data file beside it; and what other tools want of them.

onnx.checker and ONNX Runtime take external data from one folder only, and protobuf holds no more than 2 GB.
"""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import BinaryIO

import onnx
from onnx import ModelProto, TensorProto, numpy_helper

from onnxlr.errors import ModelError
from onnxlr.external_data import (
    THRESHOLD,
    TYPED_FIELDS,
    ExternalData,
    append,
    is_external,
    is_spilled,
    refer,
    take_in,
)
from onnxlr.model_file import Model
from onnxlr.spill import Spill
from onnxlr.staging import flush
from passes.graph import all_tensors, loaded_tensors

__all__ = ["check", "gathered", "write_model"]


def write_model(model: Model, folder: Path, name: str, data_name: str | None) -> ModelProto:
    """Write a model's file and its data file.

    Args:
        model: its external data are copied.
        folder: where to.
        name: of the model's file.
        data_name: of the file for tensors above 1 KiB, where `onnx.load` looks for them, and all that are
            external; None puts everything into the model's file. No tensor there, no such file.

    Returns:
        What the model's file holds.

    Raises:
        ModelError: external data are gone, or have become shorter.
    """
    proto = ModelProto()
    proto.CopyFrom(model.proto)
    if data_name is None:
        for tensor in filter(is_external, all_tensors(proto)):
            take_in(tensor, model.folder)
    else:
        with (folder / data_name).open("wb") as data:
            movable = {id(tensor): tensor for tensor in loaded_tensors(proto)}
            movable |= {id(tensor): tensor for tensor in filter(is_external, all_tensors(proto))}
            moved = [_move_out(tensor, model.folder, data, data_name) for tensor in movable.values()]
            flush(data)
        if not any(moved):
            (folder / data_name).unlink()
    with (folder / name).open("wb") as file:
        file.write(proto.SerializeToString())
        flush(file)
    return proto


def gathered(model: Model) -> Model:
    """The model with all its external data in its folder: itself, or a copy in a temporary folder."""
    if not any(map(is_spilled, all_tensors(model.proto))) and not model.is_too_large:
        return model
    spill = Spill()
    proto = write_model(model, spill.folder, "model.onnx", "model.onnx.data")
    return Model(proto, spill.folder, model.name, spill=spill)


def check(model: Model) -> None:
    """Run onnx.checker with shape inference over a model.

    Raises:
        ModelError: what the checker found.
    """
    try:
        if model.is_external or model.is_too_large:
            _check_on_disk(model.proto)
        else:
            onnx.checker.check_model(model.proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"{model.name}: onnx.checker rejects it: {reason}") from error


def _check_on_disk(proto: ModelProto) -> None:
    """Check a model without its weights: of a data file the checker only asks whether it is there.

    So all tensors refer to one file of the right size, which takes no room on the disk: it is one hole.
    """
    bare = ModelProto()
    bare.CopyFrom(proto)
    with tempfile.TemporaryDirectory(prefix="onnxlr-") as name:
        folder, size = Path(name), 0
        for tensor in all_tensors(bare):
            length = ExternalData(tensor).length if is_external(tensor) else len(_raw_data(tensor))
            if is_external(tensor) or length > THRESHOLD:
                refer(tensor, "data", 0, length)
                size = max(size, length)
        with (folder / "data").open("wb") as data:
            data.truncate(size)
        (folder / "model.onnx").write_bytes(bare.SerializeToString())
        onnx.checker.check_model(folder / "model.onnx", full_check=True)


def _move_out(tensor: TensorProto, folder: Path, data: BinaryIO, data_name: str) -> bool:
    """Append a tensor's bytes to `data` and make the tensor a reference to them, unless it is small."""
    if is_external(tensor):
        if not ExternalData(tensor).length:  # to many readers, a length of 0 means the rest of the file
            take_in(tensor, folder)
            return False
        refer(tensor, data_name, *append(data, ExternalData(tensor).blocks(folder)))
        return True
    content = _raw_data(tensor)
    if len(content) <= THRESHOLD:
        return False
    refer(tensor, data_name, *append(data, [content]))
    return True


def _raw_data(tensor: TensorProto) -> bytes:
    """The bytes of a tensor in memory, as a data file holds them.

    None for strings, which ONNX keeps in the model's file, and for tensors that contradict their shape.
    """
    if tensor.HasField("raw_data"):
        return tensor.raw_data
    if any(len(getattr(tensor, name)) for name in TYPED_FIELDS):
        with contextlib.suppress(ValueError, TypeError, KeyError):
            return numpy_helper.from_array(numpy_helper.to_array(tensor)).raw_data
    return b""
