"""Fine-tuning of a factorized network: towards what its original gives, without labels, or towards labels."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from onnxlr.checking import CheckResult, Checks, run_checks
from onnxlr.comparing.layouts import find_channel_axes
from onnxlr.comparing.matching import match_layers
from onnxlr.comparing.sides import Side
from onnxlr.errors import ModelError, ProviderError, UsageError
from onnxlr.feeds import Feeds, load_feeds, load_labels
from onnxlr.images import ImageOptions
from onnxlr.model_file import Model, load, model_hash
from onnxlr.parallel import Progress, no_progress
from onnxlr.report import installed_versions
from onnxlr.result import Result
from onnxlr.runtime import Session, find_device
from onnxlr.saving import save
from onnxlr.training.dataset import Augmentation, Dataset
from onnxlr.training.module import GraphModule
from onnxlr.training.objective import Objective
from onnxlr.training.options import TrainingOptions
from onnxlr.training.statistics import channel_statistics
from onnxlr.training.trainer import Epoch, Trainer, ignore_epoch
from passes import fold_affine, prepare, remove_unused
from passes.unfold_batchnorm import find_unnormalized, unfold_batchnorm

__all__ = ["FineTuned", "TrainingData", "finetune", "finetune_result"]

_LOADED = 256
"""Samples that are read at a time."""


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


@dataclass(frozen=True, slots=True, eq=False)
class FineTuned:
    """A network after fine-tuning.

    Attributes:
        model: the network; only its weights are others than before.
        history: one entry an epoch.
        checked: outputs and latency against the teacher's; None if it was not asked for.
        settings: what it was trained by and on.
    """

    model: Model
    history: tuple[Epoch, ...]
    checked: CheckResult | None
    settings: Mapping[str, Any]

    def save(self, path: str | os.PathLike[str], external_data: str = "auto") -> list[Path]:
        """Write the model, as `onnxlr.Result.save` does."""
        return save(self.model, path, external_data)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; see docs/training.md for the schema."""
        return {
            "schema_version": 1,
            "settings": dict(self.settings),
            "history": [asdict(epoch) for epoch in self.history],
            **({"validation": None, "latency": None} if self.checked is None else self.checked.to_dict()),
            "versions": {**installed_versions(), "torch": torch.__version__},
        }


def finetune(
    model: Any,
    teacher: Any,
    data: TrainingData,
    options: TrainingOptions = TrainingOptions(),
    *,
    features: float = 1.0,
    label_weight: float = 1.0,
    unfold_bn: bool = False,
    device: str = "auto",
    threads: int = 0,
    checks: Checks | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: Progress = no_progress,
    on_epoch: Callable[[Epoch], None] = ignore_epoch,
) -> FineTuned:
    """Train a factorized network until it does what its original did.

    The loss is the relative squared distance of every output from the teacher's, plus `features` times the
    mean of that of the values behind the layers that were replaced, plus `label_weight` times the
    cross-entropy of labels, where they are given.

    Args:
        model: a path, or a model in memory: what `onnxlr.optimize` made.
        teacher: its original; None: labels alone.
        data: what it is trained on.
        options: how.
        features: weight of values behind layers.
        label_weight: weight of labels.
        unfold_bn: whether every Conv gets a BatchNormalization while it is trained; its statistics come from
            the data, and it is folded in again at the end.
        device: auto, cpu or cuda.
        threads: of torch on the CPU, 0 for its default.
        checks: how the result is held against the teacher; None: not at all.
        checkpoint: file to keep the state in, so that the same call goes on after an interruption; it is
            deleted at the end.
        progress: told about comparing and timing.
        on_epoch: told about every epoch.

    Raises:
        DataError: data or labels do not fit the model, or the checkpoint is of another training.
        ModelError: torch cannot run a model, their inputs or outputs differ, or the loss is not finite.
        ProviderError: the device is not there.
        UsageError: there is neither a teacher nor labels.
    """
    student_model, teacher_model = load(model), None if teacher is None else load(teacher)
    if teacher_model is None and data.labels is None:
        raise UsageError("give a teacher, labels, or both: there is nothing to train towards")
    place = _find_device(device)
    if threads:
        torch.set_num_threads(threads)
    feeds = _load(student_model, data)
    dataset = Dataset(list(feeds.batches), None if data.labels is None else load_labels(data.labels))
    if unfold_bn:
        student_model = _unfolded(student_model, feeds)
    student = GraphModule(student_model, options.autocast).to(place)
    label_weight = 0.0 if data.labels is None else label_weight
    objective = _objective(student, student_model, teacher_model, place, features, label_weight)
    settings = {
        **options.to_dict(),
        "data": asdict(data),
        "features": features,
        "label_weight": label_weight,
        "unfold_bn": unfold_bn,
    }
    state = None if checkpoint is None else Path(checkpoint)
    trainer = Trainer(
        student,
        objective,
        dataset,
        _augmentation(student_model, options),
        options,
        state,
        _run_name(settings, student_model, teacher_model),
        on_epoch,
    )
    history = trainer.train()
    result = student.write_back()
    if unfold_bn:
        folded = fold_affine(result.proto, str(result.folder))
        result = result.with_proto(remove_unused(result.proto, folded))
    checked = None
    if checks is not None and teacher_model is not None:
        checked = run_checks(teacher_model, result, checks, progress)
    if state is not None:
        state.unlink(missing_ok=True)
    return FineTuned(result, tuple(history), checked, settings)


def finetune_result(
    result: Result,
    original: Any,
    data: TrainingData,
    options: TrainingOptions,
    checks: Checks,
    *,
    device: str = "auto",
    threads: int = 0,
    progress: Progress = no_progress,
    on_epoch: Callable[[Epoch], None] = ignore_epoch,
) -> Result:
    """Fine-tune what `onnxlr.optimize` made, and check it anew.

    Args:
        result: of the optimization; without replaced layers it stays as it is.
        original: what it was made of, the teacher.
        data: what it is trained on.
        options: how.
        checks: data and limits for the trained network. Other arguments and errors as in `finetune`.
    """
    if not result.plan.layers:
        note = "nothing was replaced, so nothing was trained"
        return replace(result, report=replace(result.report, notes=(*result.report.notes, note)))
    tuned = finetune(
        result.loaded,
        original,
        data,
        options,
        device=device,
        threads=threads,
        checks=checks,
        progress=progress,
        on_epoch=on_epoch,
    )
    checked = tuned.checked
    kept = [note for note in result.report.notes if checked is None or note not in checked.notes]
    report = replace(
        result.report,
        validation=checked.validation if checked else None,
        latency=checked.latency if checked else None,
        latencies=checked.latencies if checked else (),
        notes=(*kept, *(checked.notes if checked else ())),
        training={"settings": tuned.settings, "history": [asdict(epoch) for epoch in tuned.history]},
    )
    return replace(result, model=tuned.model.proto, loaded=tuned.model, report=report)


def _find_device(wanted: str) -> torch.device:
    if wanted not in ("auto", "cpu", "cuda"):
        raise UsageError(f"device must be auto, cpu or cuda for training; got '{wanted}'")
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ProviderError(
            "device cuda: torch finds no GPU; use --device cpu, or --device auto to fall back"
        )
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def _load(model: Model, data: TrainingData) -> Feeds:
    inputs = Session(model, find_device("cpu")).inputs
    return load_feeds(
        data.inputs, inputs, samples=data.samples, batch=_LOADED, images=data.images, finite=True
    )


def _unfolded(model: Model, feeds: Feeds) -> Model:
    """The model with a BatchNormalization behind every Conv that can have one."""
    names = find_unnormalized(model.proto)
    statistics = channel_statistics(GraphModule(model), feeds.batches, names)
    return model.with_proto(unfold_batchnorm(model.proto, statistics))


def _objective(
    student: GraphModule,
    student_model: Model,
    teacher: Model | None,
    place: torch.device,
    features: float,
    label_weight: float,
) -> Objective:
    outputs = {name: name for name in student.output_names}
    if teacher is None:
        return Objective(None, outputs, {}, features, label_weight)
    prepared = teacher.with_proto(prepare(teacher.proto, str(teacher.folder)))
    module = GraphModule(prepared).to(place).eval()
    for parameter in module.parameters():
        parameter.requires_grad_(requires_grad=False)
    for what in ("input_names", "output_names"):
        names = getattr(student, what), getattr(module, what)
        if set(names[0]) != set(names[1]):
            kind = what.removesuffix("_names")
            raise ModelError(
                f"{kind}s differ: {', '.join(names[0])} against {', '.join(names[1])} of the teacher"
            )
    return Objective(module, outputs, _behind_chains(student_model, prepared), features, label_weight)


def _behind_chains(student: Model, teacher: Model) -> dict[str, str]:
    """Values behind chains of the student -> those behind the layers that they replaced."""
    sides = Side.of(teacher, {}), Side.of(student, {})
    chains = [match for match in match_layers(*sides).matches if match.by == "chain"]
    return {sides[1].output_name(m.other[-1]): sides[0].output_name(m.first[-1]) for m in chains}


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
    parts: Sequence[str] = [json.dumps(settings, sort_keys=True, default=str)]
    hashes = [model_hash(model) for model in models if model is not None]
    return hashlib.sha256("\n".join([*parts, *hashes]).encode()).hexdigest()
