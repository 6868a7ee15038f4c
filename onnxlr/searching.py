"""Limits -> the cheapest plan that keeps them: bisection over budgets, each tried for real.

A budget is a fraction of the model's MACs, or of its parameters where MACs are unknown. For each, the best
plan is made, applied, and run on the data of the checks. That results get no worse as budgets grow is taken
for granted. Statistics of the layers and outputs of the original serve all steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from onnxlr.budgets import Budgets
from onnxlr.checking import CheckResult, Reference
from onnxlr.errors import UsageError
from onnxlr.job import Job, Selection
from onnxlr.model_file import Model
from onnxlr.parallel import Progress
from onnxlr.plan import Plan
from onnxlr.report.points import UNITS

__all__ = ["BRACKET", "Trial", "search"]

BRACKET = 0.02
"""Fraction of the model that a search ends within."""

_STEPS = math.ceil(-math.log2(BRACKET))


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """A plan, applied and run.

    Attributes:
        plan: what was tried.
        model: the plan applied.
        checked: what was measured.
        notes: how it was found, one line each.
    """

    plan: Plan
    model: Model
    checked: CheckResult
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether it keeps the limits."""
        return self.checked.validation is not None and self.checked.validation.passed


def search(job: Job, selection: Selection, reference: Reference, progress: Progress) -> Trial:
    """The cheapest plan that keeps the limits; where none does, one that leaves all layers alone.

    Args:
        job: the model.
        selection: how schemes and ranks are chosen; its selector is not used.
        reference: the original, with data and limits.
        progress: told the number of budgets tried.

    Raises:
        DataError: data do not fit the model, or there are labels, but no class-like output.
        ModelError: a model cannot be run.
        UsageError: the original itself does not keep the limits.
    """
    _check_limits(job, reference)  # before long work
    unit = "params" if job.size.macs is None else "macs"
    budgets = Budgets(job, selection, unit)
    low, high = 0.0, 1.0
    best = failed = None
    for step in range(_STEPS):
        progress("Searching", step, _STEPS)
        budget = (low + high) / 2
        trial = _try(job, budgets.plan(budget), reference, (best, failed))
        if trial is not None and trial.passed:
            best, high = trial, budget
        else:
            failed, low = trial or failed, budget
    progress("Searching", _STEPS, _STEPS)
    lowest = f"{high:.2g} of the {UNITS[unit]} is the lowest that keeps the limits"
    if best is None:
        best, lowest = (
            _apply(job, budgets.nothing, reference),
            "none keeps the limits, so nothing was replaced",
        )
    if reference.checks.latency_seconds > 0:
        best = replace(best, checked=reference.check(best.model))
    return replace(best, notes=(f"searched {_STEPS} budgets: {lowest}",))


def _check_limits(job: Job, reference: Reference) -> None:
    """Hold the original against itself."""
    validation = reference.check(job.original, timed=False).validation
    if validation is not None and not validation.passed:
        problems = "; ".join(validation.violations)
        raise UsageError(f"the limits cannot be kept, not even by the original: {problems}")


def _try(job: Job, plan: Plan | str, reference: Reference, tried: tuple[Trial | None, ...]) -> Trial | None:
    """A plan's trial; budgets that are close to each other often have the same plan. None without a plan."""
    if isinstance(plan, str):
        return None
    for trial in tried:
        if trial is not None and trial.plan.layers == plan.layers:
            return replace(trial, plan=plan)
    return _apply(job, plan, reference)


def _apply(job: Job, plan: Plan, reference: Reference) -> Trial:
    model = job.apply(plan)
    return Trial(plan, model, reference.check(model, timed=False))
