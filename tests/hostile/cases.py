"""What a case is: files that something is wrong with, a command, its exit code, and what it says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import ModelProto

from tests.builders import conv_bn_model, weight

__all__ = ["Case", "good_model", "write_model"]


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
