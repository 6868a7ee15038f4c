"""The state of a training, to go on with after it was interrupted."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from onnxlr.errors import DataError
from onnxlr.staging import staged_file

__all__ = ["Progressed", "read_checkpoint", "write_checkpoint"]

_FORMAT = 2


@dataclass(slots=True)
class Progressed:
    """How far a training is.

    Attributes:
        epoch: the one that runs, from 0.
        step: batches of it that are done.
        seconds: spent so far.
        best: smallest held-out loss; infinite before the first.
        waited: epochs since then.
        history: one entry a finished epoch.
    """

    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    best: float = float("inf")
    waited: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)


def write_checkpoint(path: Path, run: str, state: dict[str, Any]) -> None:
    """Write a state, whole or not at all.

    Args:
        path: of the file.
        run: what tells this training from others.
        state: tensors, numbers, text, and lists and dicts of these.

    Raises:
        UsageError: it cannot be written there.
    """
    buffer = io.BytesIO()
    torch.save({"format": _FORMAT, "run": run, **state}, buffer)
    with staged_file(path) as file:
        file.write(buffer.getvalue())


def read_checkpoint(path: Path, run: str) -> dict[str, Any] | None:
    """The state of this training, None if there is no such file; only tensors and plain data are unpickled.

    Raises:
        DataError: it is no checkpoint, or one of another training.
    """
    if not path.is_file():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever torch raises for what is none
        raise DataError(f"{path}: is no checkpoint; delete it to start anew") from error
    if state.get("format") != _FORMAT or state.get("run") != run:
        raise DataError(f"{path}: is of another training; delete it to start anew, or name another file")
    return state
