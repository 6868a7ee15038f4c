"""AIMET's spatial SVD: one ratio for all layers (manual), or ratios by a score on labelled images (greedy).

`python -m benchmarks.rivals.in_torch.with_aimet REQUEST.json`
"""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import torch
from aimet_torch.common.defs import CompressionScheme, CostMetric, GreedySelectionParameters
from aimet_torch.compress import ModelCompressor
from aimet_torch.defs import ModuleCompRatioPair, SpatialSvdParameters
from torch import nn
from torch.nn import functional

from benchmarks.rivals.in_torch.serving import Task, serve

CANDIDATES = 10
"""Nine ratios, 0.1 to 0.9, are tried for each layer: AIMET's default."""

SCORES = Path("data/greedy_selection_eval_scores_dict.pkl")
"""Where AIMET leaves the scores that it measured, so that other targets need not measure again."""

BATCH = 128


class Score:
    """Mean log-likelihood of the labels, the higher the better.

    AIMET asks for an accuracy. But the networks are right on nearly all of these training images, and still
    are with most single layers at a tenth: with so many ties AIMET cut ResNet-56 to 22 % of its Conv MACs,
    whatever it was asked for (top-1 21.5 %). With likelihoods it is 39 % when asked for more. On ResNet-20
    both ways are within 2 points of each other.

    Args:
        file: `.npz` file with `input` and `labels`.
    """

    def __init__(self, file: str) -> None:
        arrays = np.load(file)
        self._images, self._labels = torch.from_numpy(arrays["input"]), torch.from_numpy(arrays["labels"])

    def __call__(self, model: nn.Module, iterations: int | None = None, use_cuda: bool = False) -> float:  # noqa: ARG002 - AIMET's signature
        """As AIMET calls it."""
        with torch.no_grad():
            logits = torch.cat([model(batch) for batch in self._images.split(BATCH)])
        return -float(functional.cross_entropy(logits, self._labels))


def prepare(task: Task) -> None:
    """Greedy: score each layer at each ratio, once for all targets."""
    if task.request.method == "greedy":
        _compress(task, _greedy(task, 0.5, None), Score(task.request.labelled))


def compress(task: Task, knob: float, is_draft: bool) -> nn.Module:
    """See `serving.Compress`; the knob is AIMET's compression ratio, that of each layer or of the network."""
    if task.request.method == "manual":
        return _compress(task, _manual(task, knob), _no_accuracy)
    evaluate = _no_accuracy if is_draft else Score(task.request.labelled)
    return _compress(task, _greedy(task, knob, str(SCORES)), evaluate)


def _no_accuracy(*_: Any, **__: Any) -> float:
    """Manual ratios need none, but AIMET asks for it before and after, for its statistics."""
    return 0.0


def _manual(task: Task, ratio: float) -> SpatialSvdParameters:
    pairs = [ModuleCompRatioPair(layer, ratio) for layer in task.layers.values()]
    return SpatialSvdParameters(
        SpatialSvdParameters.Mode.manual, SpatialSvdParameters.ManualModeParams(pairs)
    )


def _greedy(task: Task, ratio: float, scores: str | None) -> SpatialSvdParameters:
    selection = GreedySelectionParameters(Decimal(ratio), CANDIDATES, saved_eval_scores_dict=scores)
    compressed = task.layers.values()
    ignored = [m for m in task.network.modules() if isinstance(m, nn.Conv2d) and m not in compressed]
    return SpatialSvdParameters(
        SpatialSvdParameters.Mode.auto, SpatialSvdParameters.AutoModeParams(selection, ignored)
    )


def _compress(task: Task, parameters: SpatialSvdParameters, evaluate: Any) -> nn.Module:
    result: nn.Module = ModelCompressor.compress_model(
        task.network,
        eval_callback=evaluate,
        eval_iterations=None,
        input_shape=tuple(task.inputs.shape),
        compress_scheme=CompressionScheme.spatial_svd,
        cost_metric=CostMetric.mac,
        parameters=parameters,
    )[0]
    return result


if __name__ == "__main__":
    serve("aimet-torch", compress, prepare)
