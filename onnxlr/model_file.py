"""Models on disk and in memory: load, read tensors, hash.

Weights in external files are never loaded with the graph: tensors stay references until one is read.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError, EncodeError
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, numpy_helper

from onnxlr.errors import ModelError
from onnxlr.external_data import ExternalData, is_external, stored_bytes, take_in
from onnxlr.model_checks import check_model
from onnxlr.regular_files import check_regular
from onnxlr.spill import Spill
from passes.graph import all_tensors

__all__ = ["PROTOBUF_LIMIT", "Model", "load", "model_hash", "read_tensor"]

PROTOBUF_LIMIT = 2**31 - 2**20
"""Bytes of the largest model file; protobuf cannot write 2 GiB."""


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A ModelProto and where it came from.

    Attributes:
        proto: the master copy; tensors in external files are references.
        folder: what locations of external data are relative to.
        name: for messages and reports.
        file: the file that `proto` was read from, if it was.
        spill: where tensors of `proto` with an absolute location are; it lives as long as this.
    """

    proto: ModelProto
    folder: Path = Path()
    name: str = "model in memory"
    file: Path | None = None
    spill: Spill | None = None

    def with_proto(self, proto: ModelProto) -> Model:
        """Another version of this model."""
        return Model(proto, self.folder, self.name, spill=self.spill)

    def with_spill(self) -> Model:
        """This model, with room on disk for new tensors if it has any there: they may not fit memory."""
        return replace(self, spill=Spill()) if self.is_external and self.spill is None else self

    @property
    def store(self) -> Callable[[NDArray[Any]], TensorProto]:
        """Makes a nameless tensor of an array: in the spill, or in memory if there is none."""
        return numpy_helper.from_array if self.spill is None else self.spill.store

    @property
    def is_external(self) -> bool:
        """Whether any tensor lies in another file."""
        return any(map(is_external, all_tensors(self.proto)))

    @property
    def nbytes(self) -> int:
        """Size in bytes of the model with its external data."""
        external = (ExternalData(tensor) for tensor in all_tensors(self.proto) if is_external(tensor))
        in_file = _serialized_size(self.proto) if self.file is None else self.file.stat().st_size
        return in_file + sum(data.length for data in external)

    @property
    def is_too_large(self) -> bool:
        """Whether protobuf cannot write down what is in memory.

        To ask protobuf takes as long as writing; 16 bytes a number is more than any type takes.
        """
        numbers = sum(prod(tensor.dims) for tensor in all_tensors(self.proto) if not is_external(tensor))
        return 16 * numbers > PROTOBUF_LIMIT and _serialized_size(self.proto) > PROTOBUF_LIMIT


def load(source: str | os.PathLike[str] | ModelProto | Model) -> Model:
    """Load a model without its external data, or wrap one that is in memory.

    Raises:
        ModelError: there is no such file, it is no ONNX model, its external data are missing, too short, or
            outside its folder, or it is damaged in a way that others do not survive.
    """
    if isinstance(source, Model):
        return source
    model = Model(source) if isinstance(source, ModelProto) else _read(Path(source))
    size = PROTOBUF_LIMIT if model.file is None else model.file.stat().st_size
    check_model(model.proto, model.folder, model.name, size)
    return model


def _read(path: Path) -> Model:
    try:
        check_regular(path)
    except OSError as error:
        raise ModelError(f"{path}: {error}") from error
    try:
        proto = onnx.load(path, load_external_data=False, format="protobuf")
    except (DecodeError, OSError) as error:
        raise ModelError(f"{path}: cannot be read as an ONNX model ({error})") from error
    if not proto.graph.node:
        raise ModelError(f"{path}: not an ONNX model, or one without nodes")
    return Model(proto, path.parent, path.name, path)


def read_tensor(model: Model, tensor: TensorProto) -> NDArray[Any]:
    """A stored tensor as an array; of external data only this tensor's bytes are read.

    Raises:
        ModelError: external data are gone, or have become shorter.
    """
    if is_external(tensor):
        reference, tensor = tensor, TensorProto()
        tensor.CopyFrom(reference)
        take_in(tensor, model.folder)
    return numpy_helper.to_array(tensor)


def model_hash(model: Model) -> str:
    """`sha256:<hex>` over the model's file (in memory: what would be its file) and its external data."""
    digest = hashlib.sha256()
    if model.file is not None:
        with model.file.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
    elif model.is_too_large:
        _hash_in_parts(model.proto, digest)
    else:
        digest.update(model.proto.SerializeToString(deterministic=True))
    for tensor in filter(is_external, all_tensors(model.proto)):
        for block in ExternalData(tensor).blocks(model.folder):
            digest.update(block)
    return f"sha256:{digest.hexdigest()}"


def _hash_in_parts(proto: ModelProto, digest: hashlib._Hash) -> None:
    """Hash a model that protobuf cannot write: the weights, and then the model without them."""
    bare = ModelProto()
    bare.CopyFrom(proto)
    for tensor in all_tensors(bare):
        digest.update(tensor.raw_data)
        tensor.ClearField("raw_data")
    digest.update(bare.SerializeToString(deterministic=True))


def _serialized_size(proto: ModelProto) -> int:
    """Bytes of the proto in a file, also where protobuf cannot write it."""
    try:
        return proto.ByteSize()
    except EncodeError:
        inside = [tensor for tensor in all_tensors(proto) if not is_external(tensor)]
        return max(2**31, sum(map(stored_bytes, inside)))
