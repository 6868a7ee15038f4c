"""`Calibration`: which inputs show what layers do, and what is made of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from onnxlr.calibration import Calibrator
from onnxlr.errors import UsageError
from onnxlr.feeds import Feeds, load_feeds
from onnxlr.images import ImageOptions
from onnxlr.model_file import Model
from onnxlr.parallel import Progress
from onnxlr.runtime import Session, Value, check_device_name, find_device

__all__ = ["Calibration"]

_RUNS = 10
"""Runs to have at least, so that some samples can be held out whole."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Inputs to fit factors on, without labels, and how.

    Attributes:
        inputs: data in one of the formats of `onnxlr.feeds`.
        samples: at most so many, evenly spaced over the data; None: all.
        images: how image files become arrays.
        sensitivity: whether to measure what errors of each layer do to the model's outputs.
        refine: steps of alternating least squares where factors are not the optimum, at most.
        device: auto, cpu, cuda, or tensorrt, for which CUDA is used: fitting runs many networks, and TensorRT
            takes long to build each.
        threads: intra-op threads of ONNX Runtime, 0 for its default.
        seed: of the positions that are looked at.

    Raises:
        UsageError: a number is out of range.

    >>> import onnxlr
    >>> calibration = onnxlr.Calibration("calibration.npz", samples=256)  # read when it is used
    >>> calibration.to_dict()["samples"]
    256
    >>> onnxlr.Calibration("calibration.npz", samples=0)
    Traceback (most recent call last):
    onnxlr.errors.UsageError: calibration needs at least 1 sample, got 0
    """

    inputs: str | os.PathLike[str]
    samples: int | None = 1024
    images: ImageOptions = ImageOptions()
    sensitivity: bool = True
    refine: int = 1
    device: str = "auto"
    threads: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "inputs", os.fspath(self.inputs))
        if self.samples is not None and self.samples < 1:
            raise UsageError(f"calibration needs at least 1 sample, got {self.samples}")
        check_device_name(self.device)
        if self.refine < 0:
            raise UsageError(f"refine must be at least 0, got {self.refine}")

    def to_dict(self) -> dict[str, Any]:
        """Plain data for plans and reports."""
        return asdict(self)

    def calibrator(self, model: Model, workers: int, progress: Progress) -> Calibrator:
        """A prepared model with these data.

        Raises:
            DataError: they are missing, damaged, not finite, or do not fit the model.
            ModelError: ONNX Runtime cannot load the model.
            ProviderError: the device is not there.
        """
        device = find_device("cuda" if self.device == "tensorrt" else self.device)
        feeds = self.feeds(Session(model, device, self.threads).inputs)
        return Calibrator(model, feeds, device, self.threads, self.seed, self.refine, workers, progress)

    def feeds(self, inputs: Sequence[Value]) -> Feeds:
        """The data, in enough batches that some samples can be held out whole.

        Raises:
            DataError: they are missing, damaged, not finite, or do not fit the model.
        """
        feeds = self._load(inputs, None)
        if len(feeds.batches) >= _RUNS:
            return feeds
        return self._load(inputs, max(1, feeds.samples // _RUNS))

    def _load(self, inputs: Sequence[Value], batch: int | None) -> Feeds:
        return load_feeds(
            self.inputs, inputs, samples=self.samples, batch=batch, images=self.images, finite=True
        )
