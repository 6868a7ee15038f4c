"""What a case is: files that something is wrong with, a command, its exit code, and what it says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto

from tests.builders import conv_bn_model, weight

__all__ = ["Case", "external_model", "good_model", "in_turn", "write_model"]


@dataclass(frozen=True)
class Case:
    """One.

    Attributes:
        name: of the test.
        make: writes the files into a folder that has `m.onnx`, a good model, and `x.npz`, good data.
        command: arguments; `-o out.onnx` and what makes it quick come with commands that write.
        code: the exit code.
        says: part of the one line on stderr.
        unprivileged: whether not to run as root, who may read and write anything.
        disk: bytes that no file may grow beyond, as on a full disk or past a quota.
    """

    name: str
    make: Callable[[Path], object]
    command: Sequence[str]
    code: int
    says: str
    unprivileged: bool = False
    disk: int | None = None


def good_model() -> ModelProto:
    """A Conv that can be factorized, with its BatchNormalization."""
    w = np.einsum("or,rcij->ocij", weight(32, 4, seed=1), weight(4, 16, 3, 3, seed=2)).astype(np.float32)
    return conv_bn_model(w)


def write_model(change: Callable[[ModelProto], object]) -> Callable[[Path], object]:
    """Writes the good model with a change."""

    def write(folder: Path) -> None:
        model = good_model()
        changed = change(model)
        data = changed if isinstance(changed, bytes) else model.SerializeToString()
        (folder / "m.onnx").write_bytes(data)

    return write


def external_model(**entries: object) -> Callable[[Path], None]:
    """The good model with its weight in `m.data`, and what is said of it changed."""

    def write(folder: Path) -> None:
        model = good_model()
        tensor = model.graph.initializer[0]
        content = tensor.raw_data
        (folder / "m.data").write_bytes(content)
        said = {"location": "m.data", "offset": 0, "length": len(content), **entries}
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in said.items():
            if value is not None:
                tensor.external_data.add(key=key, value=str(value))
        (folder / "m.onnx").write_bytes(model.SerializeToString())

    return write


def in_turn(*steps: Callable[[Path], object]) -> Callable[[Path], None]:
    """Takes one step after the other."""

    def take(folder: Path) -> None:
        for step in steps:
            step(folder)

    return take
