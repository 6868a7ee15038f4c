"""The parameters of one network and what it computes for a few images, as an .npz file (needs numpy only)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

__all__ = ["TOLERANCE", "Array", "Checkpoint"]

Array = npt.NDArray[np.float32]

TOLERANCE = 1e-4
"""Largest absolute difference from the logits of a checkpoint, which are of about 1 to 5 in size."""


@dataclass(frozen=True)
class Checkpoint:
    """Parameters by name (see `networks`), images (N, C, H, W) and their logits (N, classes), all float32."""

    parameters: Mapping[str, Array]
    images: Array
    logits: Array

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what `write` wrote."""
        with np.load(path) as file:
            arrays = dict(file)
        return cls(images=arrays.pop("images"), logits=arrays.pop("logits"), parameters=arrays)

    def write(self, path: Path) -> None:
        """Write an .npz file; the same checkpoint always gives the same bytes."""
        arrays: dict[str, Any] = {"images": self.images, "logits": self.logits, **self.parameters}
        np.savez(path, **arrays)

    def difference(self, logits: Array) -> float:
        """Largest absolute difference from the checkpoint's logits; infinite for another shape or NaN."""
        if logits.shape != self.logits.shape or not np.isfinite(logits).all():
            return float("inf")
        return float(np.abs(logits - self.logits).max())
