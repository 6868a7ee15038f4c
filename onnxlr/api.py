"""What users call: each function runs its stages in order, once."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from onnx import ModelProto

from onnxlr.calibration_data import Calibration
from onnxlr.checking import CheckResult, Checks, run_checks
from onnxlr.errors import ModelError, UsageError
from onnxlr.inspection import Inspection
from onnxlr.job import Job, Selection, find_schemes
from onnxlr.model_file import Model, load
from onnxlr.parallel import Progress, available_cores, no_progress
from onnxlr.plan import Plan
from onnxlr.report import Report, installed_versions
from onnxlr.runtime import ort_version
from onnxlr.saving import save
from onnxlr.selectors import RankSelector, all_selectors

__all__ = ["Result", "Source", "apply", "inspect", "optimize", "plan", "validate"]

Source = str | os.PathLike[str] | ModelProto | Model
"""A path, or a model in memory."""

InputShapes = Mapping[str, Sequence[int]]

_DEFAULT_ENERGY = 0.95


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """An optimized model.

    Attributes:
        model: the new ModelProto. Where the original has external data, what was not touched still refers to
            them, and new weights to a temporary file that lives as long as this; `save` brings both along.
        plan: what was factorized how.
        report: what was done and measured.
    """

    model: ModelProto
    plan: Plan
    report: Report
    _loaded: Model = field(repr=False)

    def save(self, path: str | os.PathLike[str], external_data: str = "auto") -> list[Path]:
        """Write the model; it appears whole or not at all, and may replace the original.

        Args:
            path: of the model's file; external data go to `<name>.data` beside it (`<name>.2.data` and so on
                where there is such a file: none is ever overwritten).
            external_data: `always` writes tensors above 1 KiB to a data file, `never` none, `auto` does if
                the original has external data, or if the model takes more than protobuf's 2 GB.

        Returns:
            The files written, the model's first.

        Raises:
            UsageError: it cannot be written there, or is too large for one file.
        """
        return save(self._loaded, path, external_data)


def inspect(
    source: Source,
    *,
    energies: Sequence[float] = (0.8, 0.9, 0.95, 0.99),
    schemes: Sequence[str] = (),
    align: int = 8,
    input_shapes: InputShapes | None = None,
    workers: int | None = None,
    progress: Progress = no_progress,
) -> Inspection:
    """Tell of every linear layer what it costs and what rank each energy needs, or why it is left alone.

    Arguments and errors as in `plan`.
    """
    job = _start(source, input_shapes, workers, progress)
    return job.inspect(find_schemes(schemes), energies, align)


def plan(
    source: Source,
    *,
    energy: float | None = None,
    target_macs: float | None = None,
    target_params: float | None = None,
    evbmf: bool = False,
    selector: RankSelector | None = None,
    schemes: Sequence[str] = (),
    include: str | None = None,
    exclude: str | None = None,
    align: int = 8,
    gate: str = "macs",
    input_shapes: InputShapes | None = None,
    calibration: Calibration | str | None = None,
    workers: int | None = None,
    progress: Progress = no_progress,
) -> Plan:
    """Choose scheme and rank of every layer; nothing is changed.

    Args:
        source: a path, or a model in memory.
        energy: fraction of every weight's ‖W‖² to keep, 0 < energy ≤ 1; 0.95 unless another rule is given.
        target_macs: fraction of the model's MACs to keep at most, at the least sum of errors.
        target_params: the same of the model's parameters.
        evbmf: whether to keep what Bayesian matrix factorization finds to be more than noise.
        selector: another rule to choose ranks by. At most one of these five is given.
        schemes: names of the schemes that compete; all of them by default.
        include: regular expression; only layers whose name it finds (`re.search`) are considered.
        exclude: regular expression; layers whose name it finds are left alone.
        align: ranks are multiples of it, or full. ONNX Runtime computes Convs in blocks of 8 channels (16
            with AVX-512); at other ranks it converts layouts between the Convs of a chain.
        gate: `macs` leaves a layer alone whose chain is not predicted to be cheaper, `none` replaces
            whatever a scheme accepts.
        input_shapes: shapes by input name, for symbolic dimensions.
        calibration: inputs to judge layers by what they do to the outputs; without them, errors are those
            of the weights, and accuracy is not protected. A path stands for `Calibration(path)`.
        workers: number of cores to use; all that the process may use by default.
        progress: called with a stage, the steps done and all steps.

    Raises:
        DataError: calibration data are missing, damaged, or do not fit the model.
        ModelError: the model cannot be read.
        UsageError: an option is out of range or contradicts another.
    """
    rule = _find_selector(selector, energy, target_macs, target_params, evbmf)
    selection = Selection(rule, find_schemes(schemes), include, exclude, align, gate)
    return _start(source, input_shapes, workers, progress, calibration).plan(selection)


def apply(
    source: Source,
    plan: Plan,
    *,
    calibration: Calibration | str | None = None,
    workers: int | None = None,
    progress: Progress = no_progress,
) -> Result:
    """Rewrite a model as a plan says; the result is not run.

    Args:
        source: the model that the plan was made for.
        plan: may have been edited.
        calibration: inputs to fit factors on; without them, factors follow the weights alone. Other arguments
            as in `plan`.

    Raises:
        DataError: calibration data are missing, damaged, or do not fit the model.
        ModelError: the model cannot be read.
        PlanError: the plan is for another model, or asks for what cannot be done.
    """
    job = _start(source, plan.settings.get("input_shapes"), workers, progress, calibration)
    return _result(job, plan, None, progress)


def optimize(
    source: Source,
    *,
    energy: float | None = None,
    target_macs: float | None = None,
    target_params: float | None = None,
    evbmf: bool = False,
    selector: RankSelector | None = None,
    schemes: Sequence[str] = (),
    include: str | None = None,
    exclude: str | None = None,
    align: int = 8,
    gate: str = "macs",
    input_shapes: InputShapes | None = None,
    calibration: Calibration | str | None = None,
    checks: Checks | None = Checks(),
    workers: int | None = None,
    progress: Progress = no_progress,
) -> Result:
    """Plan, rewrite, and hold the result against the original.

    Args:
        checks: data, limits and device; None to run neither model. Without data of their own they use those
            of `calibration`. Whether the limits held is in `result.report.validation.passed`. Other arguments
            and errors as in `plan`.

    Raises:
        DataError: data do not fit the model.
        ProviderError: the device is not there.
        OnnxlrError: what `plan` raises.

    >>> result = optimize("model.onnx", energy=0.9)  # doctest: +SKIP
    >>> result.save("smaller.onnx")  # doctest: +SKIP
    """
    rule = _find_selector(selector, energy, target_macs, target_params, evbmf)
    selection = Selection(rule, find_schemes(schemes), include, exclude, align, gate)
    job = _start(source, input_shapes, workers, progress, calibration)
    if checks is not None:
        checks = _completed(checks, input_shapes, job.calibration)
    return _result(job, job.plan(selection), checks, progress)


def validate(
    reference: Source, candidate: Source, checks: Checks = Checks(), *, progress: Progress = no_progress
) -> CheckResult:
    """Compare outputs and latency of two models.

    Raises:
        ModelError: a model cannot be read or run, or their outputs differ in number or shape.
        DataError: data do not fit the models.
        ProviderError: the device is not there.
    """
    checked = run_checks(load(reference), load(candidate), checks, progress)
    if checked.validation is None:
        raise ModelError(checked.notes[-1])
    return checked


def _start(
    source: Source,
    input_shapes: InputShapes | None,
    workers: int | None,
    progress: Progress,
    calibration: Calibration | str | None = None,
) -> Job:
    given = Calibration(calibration) if isinstance(calibration, str) else calibration
    return Job(load(source), input_shapes or {}, workers or available_cores(), progress, given)


def _completed(checks: Checks, shapes: InputShapes | None, calibration: Calibration | None) -> Checks:
    """Checks with the shapes and data that planning had, where they have none."""
    checks = replace(checks, input_shapes=checks.input_shapes or shapes)
    if checks.inputs is not None or calibration is None:
        return checks
    return replace(checks, inputs=calibration.inputs, images=calibration.images, samples=calibration.samples)


def _find_selector(
    selector: RankSelector | None,
    energy: float | None,
    target_macs: float | None,
    target_params: float | None,
    evbmf: bool,
) -> RankSelector:
    numbers = {
        "energy": energy,
        "target-macs": target_macs,
        "target-params": target_params,
        "evbmf": 1.0 if evbmf else None,
    }
    given = {name: value for name, value in numbers.items() if value is not None}
    names = [*given, *([] if selector is None else ["selector"])]
    if len(names) > 1:
        raise UsageError(f"give one of {', '.join(names)}")
    if selector is not None:
        return selector
    name, value = next(iter(given.items()), ("energy", _DEFAULT_ENERGY))
    try:
        return all_selectors()[name](value)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _result(job: Job, plan: Plan, checks: Checks | None, progress: Progress) -> Result:
    model = job.apply(plan)
    checked = None if checks is None else run_checks(job.original, model, checks, progress)
    report = Report(
        model=plan.model,
        settings={**plan.settings, **({} if checks is None else {"checks": checks.to_dict()})},
        layers=plan.layers,
        skipped=plan.skipped,
        totals=job.totals(model),
        predicted_rel_l2=plan.predicted_rel_l2,
        validation=checked.validation if checked else None,
        latency=checked.latency if checked else None,
        notes=(*job.notes, *(checked.notes if checked else ())),
        versions=installed_versions() | {"onnxruntime": ort_version()},
    )
    return Result(model.proto, plan, report, model)
