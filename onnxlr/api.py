"""What users call: each function runs its stages in order, once."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from onnx import ModelProto

from onnxlr.calibration_data import Calibration
from onnxlr.checking import CheckResult, Checks, Reference, run_checks
from onnxlr.comparing import CompareOptions, Comparer, Comparison
from onnxlr.errors import ModelError, UsageError
from onnxlr.inspection import Inspection
from onnxlr.job import Job, Selection, find_schemes
from onnxlr.machine import Machine
from onnxlr.model_file import Model, load
from onnxlr.parallel import Progress, available_cores, no_progress
from onnxlr.plan import Plan
from onnxlr.report.curve import Sweep
from onnxlr.result import Result, make_result
from onnxlr.reverting import describe_times, keep_faster, time_layers
from onnxlr.rules import default_rule, find_rule
from onnxlr.searching import Trial, search
from onnxlr.selectors import RankSelector
from onnxlr.sweeping import find_targets, sweep_budgets
from onnxlr.validation import Limits

__all__ = ["Source", "apply", "compare", "inspect", "optimize", "plan", "sweep", "validate"]

Source = str | os.PathLike[str] | ModelProto | Model
"""A path, or a model in memory."""

InputShapes = Mapping[str, Sequence[int]]


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

    Args:
        source: a path, or a model in memory.
        energies: fractions of every weight's energy to tell ranks for, each 0 < energy ≤ 1. Weights have rows
            of norm 1, as in `plan` without calibration data.
        schemes: names of the schemes to look at; all of them by default.
        align: ranks are multiples of it, or full.
        input_shapes: shapes by input name, for symbolic dimensions.
        workers: number of cores to use; all that the process may use by default.
        progress: called with a stage, the steps done and all steps.

    Returns:
        What was found, in graph order: layers with ranks and predicted costs, and what is left alone.

    Raises:
        ModelError: the model cannot be read.
        UsageError: a scheme is not known, or shapes contradict the model.

    >>> import onnxlr
    >>> found = onnxlr.inspect("models/digits/digits.onnx", energies=[0.9])
    >>> [(scheme.scheme, scheme.ranks) for scheme in found.layers[0].schemes if scheme.scheme == "spatial"]
    [('spatial', ((16,),))]
    >>> [layer.name for layer in found.skipped]
    ['conv1', 'fc']
    """
    job = _start(source, input_shapes, workers, progress)
    return job.inspect(find_schemes(schemes), energies, align)


def plan(
    source: Source,
    *,
    energy: float | None = None,
    target_macs: float | None = None,
    target_params: float | None = None,
    target_latency: float | None = None,
    evbmf: bool = False,
    selector: RankSelector | None = None,
    schemes: Sequence[str] = (),
    include: str | None = None,
    exclude: str | None = None,
    align: int | None = None,
    gate: str | None = None,
    input_shapes: InputShapes | None = None,
    calibration: Calibration | str | os.PathLike[str] | None = None,
    machine: Machine | None = None,
    workers: int | None = None,
    progress: Progress = no_progress,
) -> Plan:
    """Choose scheme and rank of every layer; nothing is changed.

    Args:
        source: a path, or a model in memory.
        energy: fraction of every weight's ‖W‖² to keep, 0 < energy ≤ 1; 0.95 unless another rule is given.
        target_macs: fraction of the model's MACs to keep at most, at the least sum of errors.
        target_params: the same of the model's parameters.
        target_latency: the same of the time of a run, as predicted for a machine: its layers are timed in
            place, and a cost model tells what chains take (see `calibrate_device`).
        evbmf: whether to keep what Bayesian matrix factorization finds to be more than noise.
        selector: another rule to choose ranks by. At most one of these six is given.
        schemes: names of the schemes that compete; all of them by default.
        include: regular expression; only layers whose name it finds (`re.search`) are considered.
        exclude: regular expression; layers whose name it finds are left alone.
        align: ranks are multiples of it, or full. ONNX Runtime computes Convs in blocks of 8 channels (16
            with AVX-512); at other ranks it converts layouts between the Convs of a chain. 8 by default;
            where times are predicted, the block that the cost model has learned.
        gate: `macs` leaves a layer alone whose chain is not predicted to be cheaper by MACs, `latency` one
            whose chain is not predicted to be faster, `none` replaces whatever a scheme accepts. By default
            `latency` with `target_latency`, else `macs`.
        input_shapes: shapes by input name, for symbolic dimensions.
        calibration: inputs to judge layers by what they do to the outputs; without them, errors are those
            of the weights, and accuracy is not protected. A path stands for `Calibration(path)`.
        machine: where the result is to be fast, if times are predicted; this one by default.
        workers: number of cores to use; all that the process may use by default.
        progress: called with a stage, the steps done and all steps.

    Raises:
        DataError: calibration data are missing, damaged, or do not fit the model.
        ModelError: the model cannot be read.
        ProviderError: a device that calibration or the machine asks for is not there.
        UsageError: an option is out of range or contradicts another.

    References:
        Zhang et al., arXiv 1505.06798, for errors of the outputs; Nakajima et al., JMLR 14, 2013, for EVBMF.
        Budgets are multiple-choice knapsacks, solved by HiGHS (`onnxlr.selectors.knapsack`).

    >>> import onnxlr
    >>> plan = onnxlr.plan("models/digits/digits.onnx", energy=0.9)
    >>> [(layer.name, layer.scheme, layer.rank) for layer in plan.layers][:2]
    [('conv2', 'tucker2', (16, 16)), ('conv3', 'channel-out', (24,))]
    >>> plan.layers[0].macs
    BeforeAfter(before=37748736, after=4456448)
    >>> plan.skipped[0].name, plan.skipped[0].reason
    ('conv1', 'too small to gain: at the lowest rank a chain costs 1.00 of the layer')
    """
    rule = find_rule(
        selector,
        energy=energy,
        target_macs=target_macs,
        target_params=target_params,
        target_latency=target_latency,
        evbmf=evbmf,
    )
    selection = Selection(rule or default_rule(), find_schemes(schemes), include, exclude, align, gate)
    return _start(source, input_shapes, workers, progress, calibration, machine).plan(selection)


def apply(
    source: Source,
    plan: Plan,
    *,
    calibration: Calibration | str | os.PathLike[str] | None = None,
    workers: int | None = None,
    progress: Progress = no_progress,
) -> Result:
    """Rewrite a model as a plan says; the result is not run.

    Args:
        source: the model that the plan was made for.
        plan: may have been edited.
        calibration: inputs to fit factors on; without them, factors follow the weights alone. Other arguments
            as in `plan`.

    Returns:
        The new model, with a report that has sizes and no measurements.

    Raises:
        DataError: calibration data are missing, damaged, or do not fit the model.
        ModelError: the model cannot be read.
        PlanError: the plan is for another model, or asks for what cannot be done.

    >>> import onnxlr
    >>> plan = onnxlr.plan("models/digits/digits.onnx", target_params=0.5)
    >>> result = onnxlr.apply("models/digits/digits.onnx", plan)
    >>> totals = result.report.totals
    >>> totals.params.after <= 0.5 * totals.params.before
    True
    """
    job = _start(source, plan.settings.get("input_shapes"), workers, progress, calibration)
    return make_result(job, plan, job.apply(plan))


def optimize(
    source: Source,
    *,
    energy: float | None = None,
    target_macs: float | None = None,
    target_params: float | None = None,
    target_latency: float | None = None,
    evbmf: bool = False,
    selector: RankSelector | None = None,
    schemes: Sequence[str] = (),
    include: str | None = None,
    exclude: str | None = None,
    align: int | None = None,
    gate: str | None = None,
    input_shapes: InputShapes | None = None,
    calibration: Calibration | str | os.PathLike[str] | None = None,
    machine: Machine | None = None,
    checks: Checks | None = Checks(),
    keep_slower: bool = False,
    verify_layers: bool = False,
    workers: int | None = None,
    progress: Progress = no_progress,
) -> Result:
    """Plan, rewrite, and hold the result against the original.

    With limits and no rule to choose ranks by, the cheapest plan that keeps the limits is searched: budgets
    of MACs (of parameters, where MACs are unknown) are bisected, and the best plan for each is tried.

    Where latency is measured and the result is not faster beyond noise, replacements are reverted, those
    first whose chain takes at least as long in place as its layer; if nothing is faster, the result is the
    original. A note says so. Not with `target_params`, which asks for size, nor with the gate `none`.

    Args:
        source: a path, or a model in memory. It is left alone.
        machine: by default the one of the checks: device, threads, and the first batch size.
        checks: data, limits and device; None to run neither model. Without data of their own they use those
            of `calibration`. Whether the limits held is in `result.report.validation.passed`.
        keep_slower: whether to leave a result as it is that is not faster.
        verify_layers: whether to time every replaced layer in place, from ONNX Runtime's profile. On a GPU it
            tells nothing of single layers. Other arguments and errors as in `plan`.

    Returns:
        The new model, the plan that it follows, and the report; nothing is written before `Result.save`.

    Raises:
        DataError: data do not fit the model.
        ProviderError: the device is not there.
        UsageError: limits are to be searched for that not even the original keeps, or layers to be timed
            without checks.
        OnnxlrError: what `plan` raises.

    References:
        Those of the schemes, see `onnxlr.schemes`; Zhang et al., arXiv 1505.06798, for fitting to what the
        original gave.

    >>> import onnxlr
    >>> checks = onnxlr.Checks(latency_seconds=0, limits=onnxlr.Limits(max_rel_l2=0.2))
    >>> result = onnxlr.optimize("models/digits/digits.onnx", energy=0.9, checks=checks)
    >>> result.report.totals.macs.before, len(result.report.layers)
    (146343168, 6)
    >>> result.report.validation.passed
    True
    >>> result.report.notes[0].partition(":")[0]
    'accuracy is not protected'
    """
    rule = find_rule(
        selector,
        energy=energy,
        target_macs=target_macs,
        target_params=target_params,
        target_latency=target_latency,
        evbmf=evbmf,
    )
    selection = Selection(rule or default_rule(), find_schemes(schemes), include, exclude, align, gate)
    job = _start(source, input_shapes, workers, progress, calibration, machine or _machine(checks))
    if checks is None:
        if verify_layers:
            raise UsageError("verify_layers needs checks: layers are timed on their data")
        made = job.plan(selection)
        return make_result(job, made, job.apply(made))
    checks, notes = _completed(checks, input_shapes, job.calibration)
    trial, reference = _try(job, selection, checks, rule is None and checks.limits != Limits(), progress)
    if not keep_slower and gate != "none":
        trial = keep_faster(job, trial, reference, sized=selection.selector.name == "target-params")
    times = time_layers(job, trial, reference) if verify_layers else None
    told = () if times is None else describe_times(trial.plan.layers, times)
    notes = (*notes, *trial.notes, *told)
    return make_result(job, trial.plan, trial.model, checks, trial.checked, notes, times)


def sweep(
    source: Source,
    *,
    points: int = 10,
    lowest: float = 0.2,
    unit: str = "macs",
    schemes: Sequence[str] = (),
    include: str | None = None,
    exclude: str | None = None,
    align: int | None = None,
    gate: str | None = None,
    input_shapes: InputShapes | None = None,
    calibration: Calibration | str | os.PathLike[str] | None = None,
    machine: Machine | None = None,
    checks: Checks | None = Checks(latency_seconds=0.2),
    workers: int | None = None,
    progress: Progress = no_progress,
) -> Sweep:
    """The trade-off curve: plan, rewrite and check at many budgets; what they share is computed once.

    Args:
        source: a path, or a model in memory.
        points: number of budgets, evenly spaced from the whole model (left out) down to the lowest.
        lowest: the smallest budget, as a fraction of the model.
        unit: what budgets are fractions of: `macs`, `params` or `latency`.
        machine: as in `optimize`.
        checks: as in `optimize`; `latency_seconds` are spent at each point. Limits are entered at points that
            break them. Other arguments and errors as in `plan`.

    Returns:
        The points, from the largest budget to the smallest, each with its plan; `Sweep.save` writes them.

    Raises:
        DataError: data do not fit the model.
        ProviderError: the device is not there.
        UsageError: none of the budgets can be reached.
        OnnxlrError: what `plan` raises.

    >>> import onnxlr
    >>> curve = onnxlr.sweep("models/digits/digits.onnx", points=2, lowest=0.4, checks=None)
    >>> [point.target for point in curve.points]
    [0.7, 0.4]
    >>> all(p.totals.macs.after <= p.target * p.totals.macs.before for p in curve.points)
    True
    """
    targets = find_targets(points, lowest, unit)
    selection = Selection(default_rule(), find_schemes(schemes), include, exclude, align, gate)
    job = _start(source, input_shapes, workers, progress, calibration, machine or _machine(checks))
    notes: Sequence[str] = ()
    reference = None
    if checks is not None:
        checks, notes = _completed(checks, input_shapes, job.calibration)
        reference = Reference(job.original, checks, progress, kept=True)
    found = sweep_budgets(job, selection, unit, targets, reference, progress)
    asked = {"points": points, "lowest": lowest, "checks": None if checks is None else checks.to_dict()}
    return replace(found, settings={**found.settings, **asked}, notes=(*found.notes, *notes))


def validate(
    reference: Source, candidate: Source, checks: Checks = Checks(), *, progress: Progress = no_progress
) -> CheckResult:
    """Compare outputs and latency of two models.

    Args:
        reference: the original: a path, or a model in memory.
        candidate: another one with the same inputs and outputs, whatever it was made by.
        checks: data, limits, device, and how long to time.
        progress: called with a stage, the steps done and all steps.

    Returns:
        Differences of every output with the limits that they break, and paired latency, in milliseconds, at
        every batch size.

    Raises:
        ModelError: a model cannot be read or run, or their outputs differ in number or shape.
        DataError: data do not fit the models.
        ProviderError: the device is not there.

    >>> import onnxlr
    >>> model = "models/digits/digits.onnx"
    >>> smaller = onnxlr.optimize(model, energy=0.9, checks=None).model
    >>> limits = onnxlr.Limits(max_rel_l2=0.001)
    >>> checked = onnxlr.validate(model, smaller, onnxlr.Checks(latency_seconds=0, limits=limits))
    >>> (logits,) = checked.validation.outputs
    >>> logits.name, 0.001 < logits.rel_l2 < 0.5, checked.validation.passed
    ('logits', True, False)
    """
    checked = run_checks(load(reference), load(candidate), checks, progress)
    if checked.validation is None:
        raise ModelError(checked.notes[-1])
    return checked


def compare(
    sources: Sequence[Source],
    options: CompareOptions = CompareOptions(),
    *,
    optimized: Mapping[str, Any] | None = None,
    progress: Progress = no_progress,
) -> Comparison:
    """Hold exports of one network against each other: outputs, layers, files, what `optimize` makes of them.

    Args:
        sources: two or more; all others are held against the first.
        options: data, tolerance, and what names and layouts do not tell.
        optimized: arguments of `plan` to optimize every model by; None: not to. A calibration has data for
            the first model. Results are timed all together, and none is taken back for being slow.
        progress: called with a stage, the steps done and all steps.

    Returns:
        Whether they are the same function, behind which layer they begin to differ, what their files have.

    Raises:
        UsageError: inputs or outputs can be matched in several ways; `options` have to say which.
        ModelError: a model cannot be read or run, or inputs, outputs or their shapes do not fit.
        DataError: data do not fit the first model.
        ProviderError: the device is not there.
        OnnxlrError: what `plan` raises.

    >>> import onnxlr
    >>> exports = ["models/exports/trap/torch_ts.onnx", "models/exports/trap/paddle.onnx"]
    >>> found = onnxlr.compare(exports)
    >>> found.same, found.walks[0].divergence
    (True, None)
    """
    comparer = Comparer([load(source) for source in sources], options, progress)
    found = comparer.compare()
    if optimized is None:
        return found
    with tempfile.TemporaryDirectory(prefix="onnxlr-") as folder:
        results = [
            optimize(export.model, **given, checks=None, progress=progress)
            for export, given in comparer.arguments(optimized, Path(folder))
        ]
    return replace(found, optimized=comparer.compare_results(results))


def _start(
    source: Source,
    input_shapes: InputShapes | None,
    workers: int | None,
    progress: Progress,
    calibration: Calibration | str | os.PathLike[str] | None = None,
    machine: Machine | None = None,
) -> Job:
    given = Calibration(calibration) if isinstance(calibration, str | os.PathLike) else calibration
    cores = workers or available_cores()
    return Job(load(source), input_shapes or {}, cores, progress, given, machine)


def _machine(checks: Checks | None) -> Machine | None:
    """The machine that latency is measured on."""
    if checks is None:
        return None
    return Machine(device=checks.device, threads=checks.threads, batch=checks.batches[0])


def _try(
    job: Job, selection: Selection, checks: Checks, searched: bool, progress: Progress
) -> tuple[Trial, Reference]:
    """The plan that a rule chooses or that limits are searched for; the original to hold it against."""
    if searched:
        reference = Reference(job.original, checks, progress, kept=True)
        return search(job, selection, reference, progress), reference
    made = job.plan(selection)
    model = job.apply(made)
    reference = Reference(job.original, checks, progress)
    return Trial(made, model, reference.check(model)), reference


def _completed(
    checks: Checks, shapes: InputShapes | None, calibration: Calibration | None
) -> tuple[Checks, Sequence[str]]:
    """Checks with the shapes and data that planning had, where they have none; what to tell of that."""
    checks = replace(checks, input_shapes=checks.input_shapes or shapes)
    if checks.inputs is not None or calibration is None:
        return checks, ()
    note = "outputs were compared on the data that factors were fitted to; give others with --inputs"
    inputs, images, samples = calibration.inputs, calibration.images, calibration.samples
    return replace(checks, inputs=inputs, images=images, samples=samples), (note,)
