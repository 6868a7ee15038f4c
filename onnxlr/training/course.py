"""`Course`: what all trainings share: data, device, objective, and a student that comes back as a model."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from onnxlr.comparing.layouts import find_channel_axes
from onnxlr.data_files import is_script
from onnxlr.errors import ModelError, ProviderError, UsageError
from onnxlr.feeds import Feeds, load_feeds, load_labels
from onnxlr.images import ImageOptions
from onnxlr.model_file import Model, model_hash
from onnxlr.runtime import Session, find_device
from onnxlr.sampling import evenly_spaced
from onnxlr.training.constraint import Constraint
from onnxlr.training.dataset import Augmentation, Dataset
from onnxlr.training.module import GraphModule
from onnxlr.training.objective import Objective
from onnxlr.training.options import TrainingOptions
from onnxlr.training.statistics import channel_statistics
from onnxlr.training.trainer import Epoch, Trainer, ignore_epoch
from passes import fold_affine, prepare, remove_unused
from passes.unfold_batchnorm import find_unnormalized, unfold_batchnorm

__all__ = ["Course", "TrainingData", "fold_batchnorm", "prepared"]

_LOADED = 256
"""Samples that are read at a time."""

_MEASURED = 16
"""Batches that the statistics of a BatchNormalization are measured on, at most; evenly spaced."""


@dataclass(frozen=True, slots=True)
class TrainingData:
    """What a network is trained on.

    Attributes:
        inputs: data in one of the formats of `onnxlr.feeds`.
        labels: .npy file with the class of every sample; None: there are none.
        images: how image files become arrays.
        samples: at most so many, evenly spaced; None: all.
    """

    inputs: str
    labels: str | None = None
    images: ImageOptions = ImageOptions()
    samples: int | None = None


@dataclass(frozen=True)
class Course:
    """See the module.

    Attributes:
        model: what comes in; tells the inputs.
        data: what is trained on.
        options: how.
        features: weight of values behind layers, where there is a teacher.
        label_weight: weight of labels, where there are any.
        device: auto, cpu or cuda.
        threads: of torch on the CPU, 0 for its default.
        checkpoint: file to keep the state in; None: nowhere.
        on_epoch: told about every epoch.

    Raises:
        ProviderError: the device is not there.
        UsageError: there is no such device.
    """

    model: Model
    data: TrainingData
    options: TrainingOptions
    features: float = 1.0
    label_weight: float = 1.0
    device: str = "auto"
    threads: int = 0
    checkpoint: str | os.PathLike[str] | None = None
    on_epoch: Callable[[Epoch], None] = ignore_epoch

    def __post_init__(self) -> None:
        _find_device(self.device)
        if self.threads:
            torch.set_num_threads(self.threads)

    @cached_property
    def feeds(self) -> Feeds:
        """The data, as the model takes them.

        Raises:
            DataError: they do not fit it.
        """
        inputs = Session(self.model, find_device("cpu")).inputs
        data = self.data
        return load_feeds(
            data.inputs, inputs, samples=data.samples, batch=_LOADED, images=data.images, finite=True
        )

    def unfold(self, model: Model) -> Model:
        """A model with a BatchNormalization behind every Conv that can have one; its function stays."""
        names = find_unnormalized(model.proto)
        batches = self.feeds.batches
        step = -(-len(batches) // _MEASURED)
        measured = (batches[i] for i in range(0, len(batches), step))  # of all classes, though they be sorted
        place = _find_device(self.device)
        statistics = channel_statistics(GraphModule(model).to(place), measured, names)
        return model.with_proto(unfold_batchnorm(model.proto, statistics))

    def train(
        self,
        student: GraphModule,
        teacher: Model | None,
        values: Mapping[str, str],
        settings: Mapping[str, Any],
        constraint: Constraint | None = None,
    ) -> list[Epoch]:
        """Train a student in place; it is then in evaluation mode.

        Args:
            student: on any device; it is moved.
            teacher: what it shall do; None: labels alone.
            values: names of values behind layers, the student's -> the teacher's.
            settings: what, besides the options, tells this training from others.
            constraint: on its weights.

        Raises:
            DataError: data or labels do not fit the model, or the checkpoint is of another training.
            ModelError: torch cannot run a model, inputs or outputs differ, or the loss is not finite.
        """
        place = _find_device(self.device)
        labels = self._labels()
        outputs = {name: name for name in student.output_names}
        weight = 0.0 if labels is None else self.label_weight
        taught = None if teacher is None else _teacher(teacher, student).to(place)
        trainer = Trainer(
            student.to(place),
            Objective(taught, outputs, values if taught else {}, self.features, weight),
            Dataset(list(self.feeds.batches), labels),
            _augmentation(self.model, self.options),
            self.options,
            None if self.checkpoint is None else Path(self.checkpoint),
            _run_name({**self.settings, **settings}, self.model, teacher),
            self.on_epoch,
            constraint,
        )
        return trainer.train()

    def _labels(self) -> NDArray[np.int64] | None:
        """Of the samples that are taken."""
        if self.data.labels is None:
            return None
        labels, taken = load_labels(self.data.labels), self.feeds.samples
        if self.data.samples is None or is_script(self.data.inputs):
            return labels[: self.data.samples]
        return labels[evenly_spaced(len(labels), min(taken, len(labels)))]

    @property
    def settings(self) -> dict[str, Any]:
        """What it trains by and on, as plain data."""
        return {
            **self.options.to_dict(),
            "data": asdict(self.data),
            "features": self.features,
            "label_weight": 0.0 if self.data.labels is None else self.label_weight,
        }


def prepared(model: Model) -> Model:
    """The model as layers are found in it, for a teacher."""
    return model.with_proto(prepare(model.proto, str(model.folder)))


def fold_batchnorm(model: Model) -> Model:
    """The inverse of `Course.unfold`."""
    folded = fold_affine(model.proto, str(model.folder))
    return model.with_proto(remove_unused(model.proto, folded))


def _find_device(wanted: str) -> torch.device:
    if wanted not in ("auto", "cpu", "cuda"):
        raise UsageError(f"device must be auto, cpu or cuda for training; got '{wanted}'")
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ProviderError(
            "device cuda: torch finds no GPU; use --device cpu, or --device auto to fall back"
        )
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def _teacher(teacher: Model, student: GraphModule) -> GraphModule:
    """The teacher, not to be trained."""
    module = GraphModule(teacher).eval()
    for parameter in module.parameters():
        parameter.requires_grad_(requires_grad=False)
    for what in ("input_names", "output_names"):
        names = getattr(student, what), getattr(module, what)
        if set(names[0]) != set(names[1]):
            kind = what.removesuffix("_names")
            raise ModelError(
                f"{kind}s differ: {', '.join(names[0])} against {', '.join(names[1])} of the teacher"
            )
    return module


def _augmentation(model: Model, options: TrainingOptions) -> Augmentation:
    """Of the inputs whose channels are known to be first or last, and that have height and width."""
    axes = {}
    channels = find_channel_axes(model.proto.graph)
    for value in model.proto.graph.input:
        if len(value.type.tensor_type.shape.dim) == 4 and value.name in channels:
            axes[value.name] = (2, 3) if channels[value.name] == 1 else (1, 2)
    if not axes and (options.flip or options.crop):
        raise UsageError("flip and crop are for images, and the model has no image input")
    return Augmentation(options.flip, options.crop, axes)


def _run_name(settings: Mapping[str, Any], *models: Model | None) -> str:
    """What tells this training from others."""
    hashes = [model_hash(model) for model in models if model is not None]
    parts = [json.dumps(settings, sort_keys=True, default=str), *hashes]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
