"""The models that benchmarks of all models go over."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import onnx

import models

__all__ = ["every_model"]

_SHIPPED = Path(models.__file__).parent / "digits" / "digits.onnx"


def every_model(files: Sequence[Path]) -> Iterator[Path]:
    """Paths of every builder's model, gone when the next is asked for, of the shipped one, and `files`."""
    with tempfile.TemporaryDirectory() as folder:
        for name in models.NAMES:
            path = Path(folder) / f"{name}.onnx"
            onnx.save(models.build(name), path)
            yield path
            path.unlink()
    yield _SHIPPED
    yield from files
