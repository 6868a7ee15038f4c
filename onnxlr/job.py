"""One model on its way through the stages: prepared once, weights and decompositions shared by the stages."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxlr.analysis import analyse
from onnxlr.errors import PlanError, UsageError
from onnxlr.factorization import LayerWeights
from onnxlr.inspection import Inspection, inspect_layers
from onnxlr.layer import Layer, Skipped
from onnxlr.model_file import Model, model_hash
from onnxlr.parallel import Progress
from onnxlr.plan import BeforeAfter, Plan, PlannedLayer
from onnxlr.planning import GATES, filter_layers, plan_layers
from onnxlr.report import Totals
from onnxlr.rewriting import Replacement, rewrite
from onnxlr.schemes import Scheme, all_schemes
from onnxlr.selectors import RankSelector
from passes import fold_batchnorm, merge_pads, remove_unused
from passes.constants import FLOATS
from passes.graph import Key, all_tensors

__all__ = ["Job", "Selection", "find_schemes"]


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
    align: int = 8
    gate: str = "macs"

    def __post_init__(self) -> None:
        if self.gate not in GATES:
            raise UsageError(f"gate must be one of {', '.join(GATES)}; got '{self.gate}'")
        if self.align < 1:
            raise UsageError(f"align must be at least 1, got {self.align}")
        for name, pattern in (("include", self.include), ("exclude", self.exclude)):
            try:
                re.compile(pattern or "")
            except re.error as error:
                raise UsageError(f"{name}: '{pattern}' is no regular expression ({error})") from error

    def to_dict(self) -> dict[str, Any]:
        """Plain data for plans and reports."""
        return {
            self.selector.name: self.selector.value,
            "schemes": list(self.schemes),
            "include": self.include,
            "exclude": self.exclude,
            "align": self.align,
            "gate": self.gate,
        }


class Job:
    """A model, prepared and analysed.

    Args:
        model: the original; left alone.
        input_shapes: for symbolic dimensions.
        workers: number of cores to use.
        progress: told about the steps of long work.

    Raises:
        UsageError: `input_shapes` does not fit the model.
    """

    def __init__(
        self, model: Model, input_shapes: Mapping[str, Sequence[int]], workers: int, progress: Progress
    ) -> None:
        self.original = model
        self._input_shapes = input_shapes
        self._workers = workers
        self._progress = progress
        prepared, scales = self._prepare()
        self._weights = LayerWeights(scales)
        self._found = self._analyse(prepared)

    @cached_property
    def identity(self) -> dict[str, str]:
        """Name and hash of the original."""
        return {"name": self.original.name, "hash": model_hash(self.original)}

    def inspect(self, schemes: Mapping[str, Scheme], energies: Sequence[float], align: int) -> Inspection:
        """See `onnxlr.inspect`."""
        return inspect_layers(
            self.original.name,
            self._found,
            self._weights,
            schemes,
            energies,
            align,
            self._workers,
            self._progress,
        )

    def plan(self, selection: Selection) -> Plan:
        """See `onnxlr.plan`."""
        layers, skipped = plan_layers(
            filter_layers(self._found, selection.include, selection.exclude),
            self._weights,
            selection.schemes,
            selection.selector,
            selection.align,
            selection.gate,
            self._workers,
            self._progress,
        )
        shapes = {name: list(shape) for name, shape in self._input_shapes.items()}
        settings = {**selection.to_dict(), "input_shapes": shapes}
        return Plan(self.identity, settings, tuple(layers), tuple(skipped))

    def apply(self, plan: Plan) -> Model:
        """See `onnxlr.apply`.

        Raises:
            PlanError: the plan is for another model, or names layers, schemes or ranks that do not exist.
        """
        if plan.model.get("hash") != self.identity["hash"]:
            raise PlanError(
                f"the plan was made for '{plan.model.get('name')}' ({plan.model.get('hash')}), "
                f"not for '{self.original.name}' ({self.identity['hash']}); make a new plan"
            )
        layers = {item.name: item for item in self._found if isinstance(item, Layer)}
        replacements = [_replacement(planned, layers) for planned in plan.layers]
        if len({item.layer.name for item in replacements}) < len(replacements):
            raise PlanError("the plan names a layer twice")
        prepared, _ = self._prepare({item.layer.key for item in replacements})
        return rewrite(prepared, replacements, self._weights, self._workers, self._progress)

    def totals(self, result: Model) -> Totals:
        """Count params, MACs and bytes of the original and of `result`, from their graphs."""
        # what was found in the prepared model is in the original: folding changes no Conv's or Gemm's shape
        pairs = zip(_count(self.original, self._found), _count(result, self._analyse(result)), strict=True)
        return Totals(*(BeforeAfter(before, after) for before, after in pairs))

    def _prepare(self, only: Collection[Key] | None = None) -> tuple[Model, dict[Key, NDArray[np.float64]]]:
        """The original with what stands around its layers drawn into them, and the scales it gave them.

        Args:
            only: the layers whose surroundings may change; None for all. Others keep every byte.
        """
        proto, folder = self.original.proto, str(self.original.folder)
        outputs = None if only is None else {output for path, output in only if not path}
        folded = fold_batchnorm(proto, folder, outputs)
        merged = merge_pads(folded.model, folder, only)
        scales = {("", output): scale for output, scale in folded.scales.items()}
        return self.original.with_proto(remove_unused(proto, merged)), scales

    def _analyse(self, model: Model) -> list[Layer | Skipped]:
        return analyse(model.proto, self._input_shapes, str(model.folder))


def _count(model: Model, found: Iterable[Layer | Skipped]) -> tuple[int | None, int | None, int | None]:
    """Params, MACs (None where sizes are unknown) and bytes of a model whose layers were found."""
    tensors = all_tensors(model.proto)
    params = sum(prod(tensor.dims) for tensor in tensors if tensor.data_type in FLOATS)
    macs = [item.macs for item in found if isinstance(item, Layer)]
    known = [count for count in macs if count is not None]
    return params, sum(known) if len(known) == len(macs) else None, model.nbytes


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
