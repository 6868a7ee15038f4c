"""One model at many budgets -> `Sweep`; statistics of layers and outputs of the original serve all points."""

from __future__ import annotations

from collections.abc import Sequence

from onnxlr.budgets import Budgets
from onnxlr.checking import CheckResult, Reference
from onnxlr.errors import UsageError
from onnxlr.job import Job, Selection
from onnxlr.model_file import Model
from onnxlr.parallel import Progress
from onnxlr.plan import Plan
from onnxlr.report import installed_versions
from onnxlr.report.curve import Sweep
from onnxlr.report.plot import plot_problem
from onnxlr.report.points import UNITS, SweepPoint, Unreachable

__all__ = ["find_targets", "sweep_budgets"]

_DIGITS = 4
"""Decimals of a target; they are in the names of plans."""


_ABREAST = 2
"""Results that are in memory at the same time."""


def find_targets(points: int, lowest: float, unit: str) -> list[float]:
    """Fractions, evenly spaced from 1 (left out) down to `lowest`.

    >>> find_targets(4, 0.2, "macs")
    [0.8, 0.6, 0.4, 0.2]

    Raises:
        UsageError: a number is out of range, or there is no such unit.
    """
    if unit not in UNITS:
        raise UsageError(f"unit must be one of {', '.join(UNITS)}; got '{unit}'")
    if points < 1:
        raise UsageError(f"points must be at least 1, got {points}")
    if not 0 < lowest < 1:
        raise UsageError(f"lowest is a fraction, 0 < lowest < 1; got {lowest}")
    step = (1 - lowest) / points
    targets = [round(1 - i * step, _DIGITS) for i in range(points + 1 if step >= 10.0**-_DIGITS else 0)]
    if len(set(targets)) <= points or targets[-1] == 0:
        raise UsageError(f"{points} points down to {lowest:g} are closer than {10.0**-_DIGITS:g}; take fewer")
    return targets[1:]


def sweep_budgets(
    job: Job,
    selection: Selection,
    unit: str,
    targets: Sequence[float],
    reference: Reference | None,
    progress: Progress,
) -> Sweep:
    """Plan, apply and check at every budget.

    Args:
        job: the model.
        selection: how schemes and ranks are chosen; its selector is not used.
        unit: what budgets are fractions of: macs or params.
        targets: the fractions, from the largest to the smallest.
        reference: the original, with data and limits; None to run no model.
        progress: told the number of budgets done.

    Raises:
        DataError: data do not fit the model.
        ModelError: a model cannot be run.
        UsageError: no budget can be reached, or the model's MACs are unknown.
    """
    if reference is not None:
        reference.check(job.original, timed=False)  # the data are looked at before long work
    budgets = Budgets(job, selection, unit)
    planned = [(target, budgets.plan(target)) for target in targets]
    unreachable = [Unreachable(target, plan) for target, plan in planned if isinstance(plan, str)]
    reached = [(target, plan) for target, plan in planned if not isinstance(plan, str)]
    if not reached:
        raise UsageError(f"no point can be reached: {unreachable[0].reason}")
    points: list[SweepPoint] = []
    notes: list[str] = []
    progress("Sweeping", 0, len(reached))
    for start in range(0, len(reached), _ABREAST):
        some = reached[start : start + _ABREAST]
        for (target, plan), model in zip(some, job.apply_all([plan for _, plan in some]), strict=True):
            point, found = _point(job, target, plan, model, reference)
            points.append(point)
            notes.extend(found)
            progress("Sweeping", len(points), len(reached))
    problem = plot_problem()
    settings = {key: value for key, value in budgets.nothing.settings.items() if key != f"target-{unit}"}
    return Sweep(
        model=budgets.nothing.model,
        settings=settings,
        unit=unit,
        points=tuple(points),
        unreachable=tuple(unreachable),
        notes=tuple(dict.fromkeys([*job.notes, *notes, *([] if problem is None else [problem])])),
        versions=installed_versions(),
    )


def _point(
    job: Job, target: float, plan: Plan, model: Model, reference: Reference | None
) -> tuple[SweepPoint, Sequence[str]]:
    """A point, and what the user should know of it."""
    checked = CheckResult(None, None, ()) if reference is None else reference.check(model)
    totals = job.totals(model)
    point = SweepPoint(target, plan, totals, checked.validation, checked.latency, checked.latencies)
    return point, checked.notes
