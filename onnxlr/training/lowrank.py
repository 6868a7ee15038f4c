"""Low-rank training: a network, a method and a plan -> a factorized network that was trained as such."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

from onnxlr.checking import Checks, run_checks
from onnxlr.errors import UsageError
from onnxlr.job import Job
from onnxlr.model_file import Model, load, model_hash
from onnxlr.parallel import Progress, available_cores, no_progress
from onnxlr.plan import Plan
from onnxlr.replacement import Replacement
from onnxlr.result import Result, make_result
from onnxlr.training.constraint import Constraint
from onnxlr.training.course import Course, TrainingData, fold_batchnorm, prepared
from onnxlr.training.initialization import draw_weights, reset_normalizations
from onnxlr.training.methods import Method, all_methods
from onnxlr.training.module import GraphModule
from onnxlr.training.options import TrainingOptions
from onnxlr.training.targets import find_targets
from onnxlr.training.trainer import Epoch, ignore_epoch
from onnxlr.validation import Limits, Validation

__all__ = ["STARTS", "train"]

STARTS = ("scratch", "weights")
"""What training can start with: weights drawn anew, or those of the model."""


def train(
    model: Any,
    method: str,
    plan: Plan | None,
    data: TrainingData,
    options: TrainingOptions = TrainingOptions(),
    *,
    start: str | None = None,
    teacher: Any = None,
    features: float = 1.0,
    label_weight: float = 1.0,
    device: str = "auto",
    threads: int = 0,
    checks: Checks | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    progress: Progress = no_progress,
    on_epoch: Callable[[Epoch], None] = ignore_epoch,
) -> Result:
    """Train a network so that it has the ranks of a plan.

    The loss is that of `finetune` (labels, a teacher, or both) and what the method asks of the weights; see
    the modules of `onnxlr.training.methods`. From scratch, and by tai and elrt in any case, every Conv that
    can have one is trained with a BatchNormalization behind it; a chain has one behind its last Conv.

    Args:
        model: a path, or a model in memory.
        method: tai, adaptive-rank, elrt, or full.
        plan: schemes and ranks, from `onnxlr.plan` with the method's schemes; None for `full`.
        data: what it is trained on.
        options: how.
        start: `scratch` draws weights anew (He et al., arXiv 1502.01852), `weights` starts with those given.
            By default `weights` for adaptive-rank, else `scratch`.
        teacher: another network with the same inputs and outputs, to be like; None: labels alone. Where it is
            the model itself, values behind planned layers count as well.
        checks: how the result is held against the model; None: not at all.
        workers: cores to factorize with; None: all. Other arguments and errors as in `finetune`.

    Raises:
        PlanError: the plan is for another model.
        UsageError: there is no such method or start, the plan replaces nothing, or there is nothing to train
            towards.
    """
    known = _find_method(method, start)
    original, taught = load(model), None if teacher is None else load(teacher)
    if taught is None and data.labels is None:
        raise UsageError("give a teacher, labels, or both: there is nothing to train towards")
    cores = workers or available_cores()
    job = Job(original, {} if plan is None else plan.settings.get("input_shapes", {}), cores, progress)
    plan = _checked(plan, known, job)
    replacements = job.replacements(plan)
    is_new = known.starts_from_scratch if start is None else start == "scratch"
    course = Course(original, data, options, features, label_weight, device, threads, checkpoint, on_epoch)

    full, left = _drawn(job.prepared, options.seed) if is_new else (job.prepared, [])
    begun = full if known.is_cut else _factorize(full, plan, cores, progress)
    is_normalized = is_new or not known.is_cut
    student = GraphModule(course.unfold(begun) if is_normalized else begun, options.autocast)
    if is_new:
        reset_normalizations(student)
    constraint = known.constrain(find_targets(student, replacements, not known.is_cut))
    settings = {"method": method, "start": STARTS[0 if is_new else 1]}
    history = course.train(
        student,
        None if taught is None else prepared(taught),
        _shared_values(replacements, job, taught),
        {**settings, "plan": plan.to_dict()},
        constraint,
    )
    trained = fold_batchnorm(student.write_back()) if is_normalized else student.write_back()
    result = _factorize(trained, plan, cores, progress) if known.is_cut else trained
    cut = _measure_cut(trained, result, checks, progress) if known.is_cut else None
    checked = None if checks is None else run_checks(original, result, checks, progress)
    made = make_result(job, plan, result, checks, checked)
    told = {
        **settings,
        "settings": course.settings,
        "history": [asdict(epoch) for epoch in history],
        "cut": None if cut is None else cut.to_dict(),
    }
    notes = (*_notes(plan, left, constraint), *([] if checked is None else checked.notes))
    return replace(made, report=replace(made.report, training=told, notes=notes))


def _find_method(name: str, start: str | None) -> Method:
    methods = all_methods()
    if name not in methods:
        raise UsageError(f"method must be one of {', '.join(methods)}; got '{name}'")
    if start not in (None, *STARTS):
        raise UsageError(f"start must be one of {', '.join(STARTS)}; got '{start}'")
    return methods[name]


def _checked(plan: Plan | None, method: Method, job: Job) -> Plan:
    """The plan, if it fits method and model; an empty one for a method that replaces nothing."""
    if not method.schemes:
        if plan is not None:
            raise UsageError(f"method {method.name} replaces nothing, so it takes no plan")
        return Plan(job.identity, {}, (), ())
    if plan is None or not plan.layers:
        raise UsageError(f"method {method.name} needs a plan that replaces a layer; ask for less rank")
    job.check(plan)
    for layer in plan.layers:
        if method.is_bound and layer.scheme not in method.schemes:
            raise UsageError(
                f"layer '{layer.name}': method {method.name} does not train the scheme {layer.scheme},"
                f" but {', '.join(method.schemes)}"
            )
    return plan


def _drawn(model: Model, seed: int) -> tuple[Model, list[str]]:
    """The model with new weights; the names of those that stay, for no rule is known."""
    module = GraphModule(model)
    left = draw_weights(module, seed)
    return module.write_back(), left


def _factorize(model: Model, plan: Plan, workers: int, progress: Progress) -> Model:
    """A plan applied to a network of the same layers with other weights."""
    job = Job(model, plan.settings.get("input_shapes", {}), workers, progress)
    return job.apply(replace(plan, model=job.identity))


def _shared_values(replacements: Sequence[Replacement], job: Job, teacher: Model | None) -> dict[str, str]:
    """Values behind planned layers, the student's and the teacher's, which are those of the same network."""
    if teacher is None or model_hash(teacher) != job.identity["hash"]:
        return {}
    return {item.layer.key[1]: item.layer.key[1] for item in replacements}


def _measure_cut(
    trained: Model, result: Model, checks: Checks | None, progress: Progress
) -> Validation | None:
    """What the factorization at the end changes."""
    if checks is None:
        return None
    return run_checks(
        trained, result, replace(checks, latency_seconds=0, limits=Limits(), require_speedup=None), progress
    ).validation


def _notes(plan: Plan, left: Sequence[str], constraint: Constraint) -> list[str]:
    """What the user should know; what a plan tells of accuracy without data does not hold after training."""
    notes = []
    if not constraint.is_met:
        beyond = f"{constraint.violation:.1%} of a layer's energy was beyond its rank"
        notes.append(f"it was cut while {beyond}; train longer")
    if plan.layers:
        notes.append("errors of layers are those that the plan was made by, before training")
    if left:
        notes.append(f"started as they were, for no rule is known to draw them anew: {', '.join(left)}")
    return notes
