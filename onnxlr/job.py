"""One model on its way through the stages: prepared once, weights and decompositions shared by the stages."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from onnxlr.analysis import analyse
from onnxlr.calibration import Calibrator
from onnxlr.calibration_data import Calibration
from onnxlr.clock import Clock
from onnxlr.damage import explained
from onnxlr.errors import PlanError, UsageError
from onnxlr.factorization import LayerWeights
from onnxlr.inspection import Inspection, inspect_layers
from onnxlr.judging import Judgement, judge_outputs, judge_weights
from onnxlr.layer import Layer, Skipped
from onnxlr.machine import Machine, describe_clock, set_clock
from onnxlr.memory import workers_that_fit
from onnxlr.model_file import Model, model_hash
from onnxlr.offers import GATES, Prospect, find_prospects
from onnxlr.parallel import Progress, map_in_order, one_blas_thread
from onnxlr.plan import BeforeAfter, Milliseconds, Plan, PlannedLayer
from onnxlr.planning import filter_layers, plan_layers
from onnxlr.replacement import Replacement
from onnxlr.report import Totals
from onnxlr.rewriting import rewrite
from onnxlr.schemes import Scheme, all_schemes
from onnxlr.selectors import ModelSize, RankSelector
from onnxlr.sizes import count_macs, count_params
from onnxlr.spectra import Spectrum, find_spectra
from passes import prepare
from passes.graph import Key

__all__ = ["Job", "Selection", "find_schemes"]

_NOT_CALIBRATED = (
    "accuracy is not protected: without data, factors follow the weights alone; give a few hundred inputs"
    " with --calibration (no labels)"
)


_COPIES = 6 * 8
"""Bytes a weight that a worker needs: VGG-16's largest layer takes 0.8 GB, six copies in double precision."""

_ALIGN = 8

P = ParamSpec("P")
R = TypeVar("R")


def _explained(method: Callable[Concatenate[Job, P], R]) -> Callable[Concatenate[Job, P], R]:
    """A method of a job whose unforeseen errors tell what is wrong with its model."""

    @wraps(method)
    def guarded(self: Job, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with explained(self.original):
            return method(self, *args, **kwargs)

    return guarded


@dataclass(frozen=True, slots=True)
class Selection:
    """How schemes and ranks are chosen; see `onnxlr.plan` for the fields.

    Raises:
        UsageError: an option is out of range.
    """

    selector: RankSelector
    schemes: Mapping[str, Scheme] = field(default_factory=all_schemes)
    include: str | None = None
    exclude: str | None = None
    align: int | None = None
    gate: str | None = None

    def __post_init__(self) -> None:
        if self.gate not in (None, *GATES):
            raise UsageError(f"gate must be one of {', '.join(GATES)}; got '{self.gate}'")
        if self.align is not None and self.align < 1:
            raise UsageError(f"align must be at least 1, got {self.align}")
        for name, pattern in (("include", self.include), ("exclude", self.exclude)):
            try:
                re.compile(pattern or "")
            except (re.error, RecursionError, OverflowError) as error:
                raise UsageError(f"{name}: '{pattern}' is no regular expression ({error})") from error

    @property
    def gate_name(self) -> str:
        """The gate: that of times where a budget of time is asked for and nothing else was said."""
        return self.gate or ("latency" if self._has_budget_of_time else "macs")

    @property
    def needs_times(self) -> bool:
        """Whether times are to be predicted."""
        return self._has_budget_of_time or self.gate_name == "latency"

    @property
    def _has_budget_of_time(self) -> bool:
        return self.selector.name == "target-latency"

    def to_dict(self, align: int) -> dict[str, Any]:
        """Plain data for plans and reports; `align` is the one that was used."""
        return {
            self.selector.name: self.selector.value,
            "schemes": list(self.schemes),
            "include": self.include,
            "exclude": self.exclude,
            "align": align,
            "gate": self.gate_name,
        }


class Job:
    """A model, prepared and analysed.

    Args:
        model: the original; left alone.
        input_shapes: for symbolic dimensions.
        workers: number of cores to use.
        progress: told about the steps of long work.
        calibration: inputs to judge and fit by; None: all goes by the weights.
        machine: where the result is to be fast; None: here.

    Attributes:
        original: the model.
        prepared: the model after the passes that bring exporters together; layers are found in it.

    Raises:
        UsageError: `input_shapes` does not fit the model.
    """

    def __init__(
        self,
        model: Model,
        input_shapes: Mapping[str, Sequence[int]],
        workers: int,
        progress: Progress,
        calibration: Calibration | None = None,
        machine: Machine | None = None,
    ) -> None:
        self.original = model
        self.calibration = calibration
        self._machine = machine or Machine()
        self._progress = progress
        self._weights = LayerWeights()
        self._calibrator: Calibrator | None = None
        with explained(model):
            self.prepared = model.with_proto(prepare(model.proto, str(model.folder)))
            if calibration is not None:
                self._calibrator = calibration.calibrator(self.prepared, workers, progress)
            self._input_shapes = {**self._sizes_of_data(), **input_shapes}
            self._found = self._analyse(self.prepared)
        layers = [item.conv.params for item in self._found if isinstance(item, Layer)]
        self._workers = workers_that_fit(workers, _COPIES * max(layers, default=0))
        self._judged: tuple[object, list[Prospect | Skipped], Judgement] | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of the way to the result, one line each."""
        told = () if "_clock" not in self.__dict__ else (describe_clock(self._clock),)
        if self.calibration is None:
            return (_NOT_CALIBRATED, *told)
        problems = {} if self._judged is None else self._judged[2].by_weight
        counts = Counter(problems.values())
        lines = (f"by their weights, not their outputs: {n} layers ({why})" for why, n in counts.items())
        return (*lines, *told)

    @cached_property
    def identity(self) -> dict[str, str]:
        """Name and hash of the original."""
        return {"name": self.original.name, "hash": model_hash(self.original)}

    @cached_property
    def size(self) -> ModelSize:
        """Size of the original."""
        return ModelSize(count_macs(self._found), count_params(self.original))

    @_explained
    def inspect(self, schemes: Mapping[str, Scheme], energies: Sequence[float], align: int) -> Inspection:
        """See `onnxlr.inspect`."""
        return inspect_layers(
            self.original.name,
            find_prospects(self._found, schemes.values(), align, "macs"),
            self._weights,
            energies,
            self._workers,
            self._progress,
        )

    @cached_property
    def _clock(self) -> Clock:
        """Times of the layers, measured once."""
        layers = [item for item in self._found if isinstance(item, Layer)]
        return set_clock(self._machine, self.prepared, layers, self._input_shapes, self._progress)

    def _find_clock(self, selection: Selection) -> Clock | None:
        """The clock, if times are to be predicted."""
        return self._clock if selection.needs_times else None

    def _align(self, selection: Selection) -> int:
        """What ranks are multiples of: where times count, the blocks that are fast on the machine."""
        clock = self._find_clock(selection)
        return selection.align or (_ALIGN if clock is None else clock.cost_model.block)

    @_explained
    def plan(self, selection: Selection) -> Plan:
        """See `onnxlr.plan`."""
        clock = self._find_clock(selection)
        size = self.size if clock is None else replace(self.size, seconds=clock.whole)
        found, judgement = self._judge(selection)
        layers, skipped = plan_layers(
            found, judgement, selection.selector, size, self._weights.shared_key, clock
        )
        shapes = {name: list(shape) for name, shape in self._input_shapes.items()}
        calibration = None if self.calibration is None else self.calibration.to_dict()
        settings = {
            **selection.to_dict(self._align(selection)),
            "input_shapes": shapes,
            "calibration": calibration,
        }
        latency = None
        if clock is not None:
            settings["machine"] = {**asdict(self._machine), "cost_model": dict(clock.cost_model.key)}
            saved = sum(layer.latency.before - layer.latency.after for layer in layers if layer.latency)
            latency = Milliseconds(clock.whole * 1e3, clock.whole * 1e3 - saved)
        return Plan(self.identity, settings, tuple(layers), tuple(skipped), latency)

    def apply(self, plan: Plan) -> Model:
        """See `onnxlr.apply`.

        Raises:
            PlanError: the plan is for another model, or names layers, schemes or ranks that do not exist.
        """
        return self._apply(plan, self._workers)

    def check(self, plan: Plan) -> None:
        """Refuse a plan that was made for another model.

        Raises:
            PlanError: it was.
        """
        if plan.model.get("hash") != self.identity["hash"]:
            raise PlanError(
                f"the plan was made for '{plan.model.get('name')}' ({plan.model.get('hash')}), "
                f"not for '{self.original.name}' ({self.identity['hash']}); make a new plan"
            )

    def chains(self, plan: Plan) -> dict[str, tuple[Key, int]]:
        """For each layer of a plan, by name: its scope and output, and of how many nodes its chain consists.

        Raises:
            PlanError: the plan names layers, schemes or ranks that do not exist.
        """
        return {item.layer.name: (item.layer.key, len(item.links)) for item in self.replacements(plan)}

    @one_blas_thread
    def apply_all(self, plans: Sequence[Plan]) -> list[Model]:
        """Apply several plans at the same time: to fit layer after layer leaves cores idle.

        Raises:
            PlanError: the plan is for another model, or names layers, schemes or ranks that do not exist.
        """
        share = max(1, self._workers // max(1, len(plans)))
        return list(
            map_in_order(lambda plan: self._apply(plan, share), plans, min(len(plans), self._workers))
        )

    @_explained
    def _apply(self, plan: Plan, workers: int) -> Model:
        self.check(plan)
        fitted = self._fitted(self.replacements(plan), workers)
        if not fitted:
            return self.original
        return rewrite(self.prepared, fitted, self._weights, workers, self._progress)

    def replacements(self, plan: Plan) -> list[Replacement]:
        """What a plan replaces, in its order; factors are not computed yet.

        Raises:
            PlanError: it names layers, schemes or ranks that do not exist.
        """
        layers = {item.name: item for item in self._found if isinstance(item, Layer)}
        replacements = [_replacement(planned, layers) for planned in plan.layers]
        if len({item.layer.name for item in replacements}) < len(replacements):
            raise PlanError("the plan names a layer twice")
        return replacements

    def _sizes_of_data(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the inputs, as the data have them."""
        return {} if self._calibrator is None else self._calibrator.input_shapes

    def _judge(self, selection: Selection) -> tuple[list[Prospect | Skipped], Judgement]:
        """Prospects and their errors: once for all selectors that judge by the same."""
        names = (
            tuple(selection.schemes),
            selection.include,
            selection.exclude,
            self._align(selection),
            selection.gate_name,
            selection.needs_times,
        )
        key = (*names, selection.selector.judges)
        if self._judged is None or self._judged[0] != key:
            layers = filter_layers(self._found, selection.include, selection.exclude)
            found = find_prospects(
                layers,
                selection.schemes.values(),
                self._align(selection),
                selection.gate_name,
                self._find_clock(selection),
            )
            calibrator = self._calibrator if selection.selector.judges == "outputs" else None
            if calibrator is None:
                judgement = judge_weights(found, self._weights, self._workers, self._progress)
            else:
                sensitivity = self.calibration is not None and self.calibration.sensitivity
                last = self._last_dense()
                also = [] if last is None else [last]
                judgement = judge_outputs(
                    found, calibrator, sensitivity, self._weights, self._workers, self._progress, also
                )
            self._judged = key, found, judgement
        return self._judged[1], self._judged[2]

    def _fitted(self, replacements: Sequence[Replacement], workers: int) -> list[Replacement]:
        """Replacements with factors fitted on the outputs, if there are data, and the last layer refitted."""
        if self._calibrator is None or not replacements:
            return list(replacements)
        wanted, last = list(replacements), self._last_dense()
        if last is not None and all(item.layer.key != last.key for item in replacements):
            wanted.append(Replacement(last, None))
        fits = self._calibrator.fit(wanted, workers)
        fitted = [replace(item, fit=fits.get(item.layer.key)) for item in wanted]
        return [item for item in fitted if item.scheme is not None or item.fit is not None]

    def _last_dense(self) -> Layer | None:
        """The Gemm or MatMul of the main graph that no linear layer follows."""
        inside = [item for item in self._found if isinstance(item, Layer) and not item.key[0]]
        return inside[-1] if inside and not inside[-1].conv.kernel_shape else None

    @_explained
    def totals(self, result: Model) -> Totals:
        """Count params, MACs and bytes of the original and of `result`, from their graphs."""
        # what was found in the prepared model is in the original: no pass changes what a layer multiplies
        return Totals(
            BeforeAfter(count_params(self.original), count_params(result)),
            BeforeAfter(count_macs(self._found), count_macs(self._analyse(result))),
            BeforeAfter(self.original.nbytes, result.nbytes),
        )

    def spectra(self, plan: Plan) -> tuple[Spectrum, ...]:
        """Of all layers that were judged or decomposed, by the plan's schemes; nothing is computed for it."""
        layers = [item for item in self._found if isinstance(item, Layer)]
        chosen = {layer.name: layer.scheme for layer in plan.layers}
        return find_spectra(layers, chosen, self._judged and self._judged[2], self._weights)

    def _analyse(self, model: Model) -> list[Layer | Skipped]:
        return analyse(model.proto, self._input_shapes, str(model.folder))


def find_schemes(names: Sequence[str]) -> Mapping[str, Scheme]:
    """Schemes by name, all of them for no names.

    Raises:
        UsageError: there is no such scheme.
    """
    known = all_schemes()
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UsageError(f"no scheme named {', '.join(unknown)}; there are: {', '.join(known)}")
    return {name: known[name] for name in names} or known


def _replacement(planned: PlannedLayer, layers: Mapping[str, Layer]) -> Replacement:
    layer, scheme = layers.get(planned.name), all_schemes().get(planned.scheme)
    if layer is None:
        raise PlanError(f"the plan names '{planned.name}', which is no layer that can be factorized")
    if scheme is None:
        raise PlanError(f"layer '{planned.name}': no scheme named '{planned.scheme}'")
    reason = scheme.refuses(layer.conv)
    if reason is not None:
        raise PlanError(f"layer '{planned.name}': {planned.scheme} cannot factorize it: {reason}")
    full = scheme.max_rank(layer.conv)
    if len(planned.rank) != len(full) or not all(
        1 <= r <= f for r, f in zip(planned.rank, full, strict=True)
    ):
        raise PlanError(f"layer '{planned.name}': rank {list(planned.rank)} is not within 1 to {list(full)}")
    return Replacement(layer, scheme, planned.rank)
