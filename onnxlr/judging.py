"""Prospects -> the error of every scheme and rank: of the weights, or of the outputs where there are data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

import numpy as np
from numpy.typing import NDArray

from onnxlr.calibration import Calibrator, Task
from onnxlr.factorization import LayerWeights
from onnxlr.layer import Layer, Skipped
from onnxlr.offers import Prospect
from onnxlr.parallel import Progress, gram_work, map_layers
from onnxlr.selectors import Candidate
from passes.graph import Key

__all__ = ["Judgement", "judge_outputs", "judge_weights"]

Residuals = Mapping[tuple[Key, str], NDArray[np.float64]]


@dataclass(frozen=True, slots=True, eq=False)
class Judgement:
    """What was found out of every prospect.

    Attributes:
        residuals: squared error at every rank, by layer and name of the scheme.
        by_weight: why layers that should be judged by their outputs were judged by their weight.
        of_outputs: layers whose errors are of the outputs.
        sensitivity: by layer, where it was measured.
    """

    residuals: Residuals
    by_weight: Mapping[Key, str] = field(default_factory=dict)
    of_outputs: frozenset[Key] = frozenset()
    sensitivity: Mapping[Key, float] = field(default_factory=dict)

    def candidates(self, prospect: Prospect) -> tuple[Candidate, ...]:
        """The candidates of a prospect."""
        key = prospect.layer.key
        has_spectra = key not in self.of_outputs
        known = [offer for offer in prospect.offers if (key, offer.scheme.name) in self.residuals]
        return tuple(o.candidate(self.residuals[key, o.scheme.name], has_spectra) for o in known)

    def weighed(self, layer: Layer) -> float:
        """What an error of a layer counts: the median of all where its sensitivity was not measured."""
        return self.sensitivity.get(layer.key, median(self.sensitivity.values() or [1.0]))


def judge_weights(
    found: Sequence[Prospect | Skipped], weights: LayerWeights, workers: int, progress: Progress
) -> Judgement:
    """‖W − Ŵ‖² of every offer.

    Args:
        found: prospects, and what was skipped.
        weights: their weights.
        workers: number of cores to use.
        progress: told the number of layers analysed.
    """
    prospects = [item for item in found if isinstance(item, Prospect)]

    def judge(prospect: Prospect) -> dict[tuple[Key, str], NDArray[np.float64]]:
        layer = prospect.layer
        return {
            (layer.key, o.scheme.name): weights.decompose(layer, o.scheme).residuals for o in prospect.offers
        }

    judged = map_layers(
        judge,
        prospects,
        lambda prospect: gram_work(prospect.layer.conv),
        workers,
        lambda done: progress("Analysing weights", done, len(prospects)),
    )
    return Judgement({key: value for part in judged for key, value in part.items()})


def judge_outputs(
    found: Sequence[Prospect | Skipped],
    calibrator: Calibrator,
    sensitivity: bool,
    weights: LayerWeights,
    workers: int,
    progress: Progress,
    also: Sequence[Layer] = (),
) -> Judgement:
    """E‖y − ŷ‖² of every offer; by the weight where a layer's outputs cannot be looked at.

    Args:
        found: prospects, and what was skipped.
        calibrator: has the data.
        sensitivity: whether to measure it.
        weights: of the layers that are judged by them.
        workers: number of cores to use.
        progress: told the number of layers done.
        also: layers that will be fitted without being a prospect.
    """
    prospects = [item for item in found if isinstance(item, Prospect)]
    tasks = {prospect.layer.key: _task(prospect) for prospect in prospects}
    tasks |= {layer.key: Task(layer) for layer in also if layer.key not in tasks}
    survey = calibrator.survey(list(tasks.values()), sensitivity)
    keys = frozenset(prospect.layer.key for prospect in prospects)
    problems = {key: reason for key, reason in survey.problems.items() if key in keys}
    rest = [prospect for prospect in prospects if prospect.layer.key in problems]
    by_weight = judge_weights(rest, weights, workers, progress).residuals if rest else {}
    return Judgement({**survey.residuals, **by_weight}, problems, keys - problems.keys(), survey.sensitivity)


def _task(prospect: Prospect) -> Task:
    return Task(prospect.layer, [(offer.scheme, offer.top) for offer in prospect.offers])
