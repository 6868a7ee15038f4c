"""Fine-tuning of a factorized network: towards what its original gives, without labels, or towards labels."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from onnxlr.checking import CheckResult, Checks, run_checks
from onnxlr.comparing.matching import match_layers
from onnxlr.comparing.sides import Side
from onnxlr.errors import UsageError
from onnxlr.model_file import Model, load
from onnxlr.parallel import Progress, no_progress
from onnxlr.report import installed_versions
from onnxlr.result import Result
from onnxlr.saving import save
from onnxlr.training.course import Course, TrainingData, fold_batchnorm, prepared
from onnxlr.training.module import GraphModule
from onnxlr.training.options import TrainingOptions
from onnxlr.training.trainer import Epoch, ignore_epoch
from onnxlr.validation import Limits

__all__ = ["FineTuned", "finetune", "finetune_result"]


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
        checkpoint: file to keep the state in, so that the same call goes on after an interruption; it
            stays: delete it when the result is saved.
        progress: told about comparing and timing.
        on_epoch: told about every epoch.

    Raises:
        DataError: data or labels do not fit the model, or the checkpoint is of another training.
        ModelError: torch cannot run a model, their inputs or outputs differ, or the loss is not finite.
        ProviderError: the device is not there.
        UsageError: there is neither a teacher nor labels, or there are limits and no teacher.
    """
    given, teacher_model = load(model), None if teacher is None else load(teacher)
    if teacher_model is None and data.labels is None:
        raise UsageError("give a teacher, labels, or both: there is nothing to train towards")
    if teacher_model is None and checks is not None and checks.limits != Limits():
        raise UsageError("limits are held against the teacher's outputs: give a teacher")
    course = Course(given, data, options, features, label_weight, device, threads, checkpoint, on_epoch)
    start = course.unfold(given) if unfold_bn else given
    taught = None if teacher_model is None else prepared(teacher_model)
    student = GraphModule(start, options.autocast)
    values = {} if taught is None else _behind_chains(start, taught)
    own = {"unfold_bn": unfold_bn}
    history = course.train(student, taught, values, own)
    result = fold_batchnorm(student.write_back()) if unfold_bn else student.write_back()
    checked = None
    if checks is not None and teacher_model is not None:
        checked = run_checks(teacher_model, result, checks, progress)
    return FineTuned(result, tuple(history), checked, {**course.settings, **own})


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


def _behind_chains(student: Model, teacher: Model) -> dict[str, str]:
    """Values behind chains of the student -> those behind the layers that they replaced."""
    sides = Side.of(teacher, {}), Side.of(student, {})
    chains = [match for match in match_layers(*sides).matches if match.by == "chain"]
    return {sides[1].output_name(m.other[-1]): sides[0].output_name(m.first[-1]) for m in chains}
