"""The networks of the speed part."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

import models
from benchmarks.accuracy_data import INPUT
from benchmarks.rivals.asking import Method
from benchmarks.rivals.measuring import Yardstick
from benchmarks.rivals.protocol import Request
from models.weights import random_images
from onnxlr.model_file import load
from onnxlr.runtime import Session, find_device

__all__ = ["Subject", "make_subject"]

SHAPE = (3, 224, 224)

CALIBRATION = {"resnet18": 16, "vgg16": 8}
"""Images to calibrate on: few, as only the time counts."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A network to compress.

    Attributes:
        request: for all tools, but for what `asked` sets.
        yardstick: to measure by.
        image: `(1, 3, H, W)`, to time with.
    """

    request: Request
    yardstick: Yardstick
    image: NDArray[Any]

    @property
    def name(self) -> str:
        """Of the network."""
        return self.request.network

    def asked(self, method: Method, threads: int = 1, **changes: Any) -> Request:
        """What a tool is asked for."""
        folder = f"{self.request.folder}/{method.tool}_{method.name}"
        return replace(self.request, method=method.name, folder=folder, threads=threads, **changes)


def make_subject(name: str, folder: Path, kept: float) -> Subject:
    """Build a network and images for it.

    Args:
        name: of a builder.
        folder: for its files.
        kept: fraction of the Conv MACs that shall be kept.
    """
    folder.mkdir(parents=True)
    model, probe, calibration = (folder / file for file in ("model.onnx", "probe.npz", "calibration.npz"))
    onnx.save(models.build(name), model)
    images = random_images(np.random.default_rng(1), (CALIBRATION[name], *SHAPE))
    np.savez(calibration, input=images)
    few = images[:2]
    np.savez(probe, input=few, expected=Session(load(model), find_device("cpu")).run({INPUT: few})[0])
    request = Request(
        name, str(model), "", (kept,), str(folder), probe=str(probe), calibration=str(calibration)
    )
    return Subject(request, Yardstick(model, few, None), few[:1])
