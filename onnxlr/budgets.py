"""One model, many budgets: a plan for each, from what was found out of the layers once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from onnxlr.errors import UsageError
from onnxlr.job import Job, Selection
from onnxlr.plan import Plan
from onnxlr.selectors import Choice, Judges, LayerOptions, ModelSize, Refusal, all_selectors

__all__ = ["Budgets"]


class Budgets:
    """Plans within fractions of what a model has of something.

    Args:
        job: the model.
        selection: how schemes and ranks are chosen; its selector is not used.
        unit: what budgets are fractions of: macs, params or latency.

    Attributes:
        nothing: the plan that leaves all layers alone.

    Raises:
        DataError: calibration data are missing, damaged, or do not fit the model.
        UsageError: the model's MACs are unknown.
    """

    def __init__(self, job: Job, selection: Selection, unit: str) -> None:
        if unit == "macs" and job.size.macs is None:
            raise UsageError(
                "MACs are unknown, as sizes of the model's inputs are; give --input-shape, or --unit params"
            )
        self._job, self._selection = job, selection
        self._selector = all_selectors()[f"target-{unit}"]
        # whatever is wrong with model and data shows here, so that later errors are those of a budget
        self.nothing = job.plan(replace(selection, selector=_Nothing(f"target-{unit}")))

    def plan(self, fraction: float) -> Plan | str:
        """The best plan that keeps at most a fraction, or why there is none."""
        try:
            return self._job.plan(replace(self._selection, selector=self._selector(fraction)))
        except UsageError as error:
            return str(error)


class _Nothing:
    """A selector that leaves all layers alone.

    Args:
        name: of the selector whose highest budget it stands for.
    """

    help = ""
    takes_value = True
    judges: Judges = "outputs"

    def __init__(self, name: str) -> None:
        self.name, self.value = name, 1.0

    def __call__(self, options: Sequence[LayerOptions], model: ModelSize) -> Mapping[str, Choice | Refusal]:  # noqa: ARG002 - no budget
        """See `RankSelector`."""
        return {layer.layer: Refusal("no budget keeps the limits") for layer in options}
