"""Two methods that `benchmarks.accuracy` compares with, put together from onnxlr's own parts.

`weight_svd`, Tai et al. (arXiv 1511.06067): `spatial` alone, each Conv the truncated SVD of its weight, no
data. Ranks by one Lagrange multiplier over the relative squared errors of the weights, where the paper sets
them by hand. Errors count every output channel alike; the results were measured when they were in the scale
from before BatchNormalization was folded.

`output_pca`, BALF's method: `channel-out` alone, each layer Ŵ = U Uᵀ W, where U are the leading principal
components of its outputs. Ranks by one Lagrange multiplier over the relative squared errors of the outputs;
all layers count alike. Each layer is fitted on the inputs that it has in the *original* network, so no layer
makes up for the errors of others, and the last Gemm is not refitted. On those inputs the PCA is the optimum:
refitting the last factor, its ridge and scales of channels, which onnxlr tries with every fit, change
nothing. Unlike in BALF's own code the PCA is centred, the mean goes into the bias, and errors are measured on
held-out inputs.

Neither has a gate: whatever has fewer MACs may be taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

import onnxlr
from onnxlr.calibration import Calibrator
from onnxlr.errors import UsageError
from onnxlr.fitting import Fit
from onnxlr.model_file import Model
from onnxlr.parallel import Progress
from onnxlr.replacement import Replacement
from onnxlr.selectors import Choice, Judges, LayerOptions, ModelSize, Refusal
from passes.graph import Key

__all__ = ["OneMultiplier", "OriginalInputs", "output_pca", "weight_svd"]

Float = NDArray[np.float64]

_HALVINGS = 100


def weight_svd(kept: float) -> dict[str, Any]:
    """Options of `onnxlr.optimize` for Tai et al., to keep a fraction of the MACs."""
    return {"selector": OneMultiplier(kept, "weights"), "schemes": ["spatial"], "gate": "none"}


def output_pca(kept: float, inputs: str, samples: int) -> dict[str, Any]:
    """Options of `onnxlr.optimize` for BALF's method, to keep a fraction of the MACs."""
    return {
        "selector": OneMultiplier(kept, "outputs"),
        "schemes": ["channel-out"],
        "gate": "none",
        "calibration": OriginalInputs(inputs, samples, sensitivity=False, refine=0, device="cpu"),
    }


class OneMultiplier:
    """Meets a target for the MACs from below: each layer takes its least error + λ · MACs, by one λ for all.

    Args:
        value: the fraction of the model's MACs to keep, 0 < value ≤ 1.
        judges: what errors are of.
    """

    name = "one-multiplier"
    help = "Keep this fraction of the model's MACs, by one multiplier."
    takes_value = True

    def __init__(self, value: float, judges: Judges = "outputs") -> None:
        self.value = value
        self.judges: Judges = judges

    def __call__(self, options: Sequence[LayerOptions], model: ModelSize) -> Mapping[str, Choice | Refusal]:
        """See `onnxlr.selectors.RankSelector`."""
        if model.macs is None:
            raise UsageError("MACs are unknown")
        menus = [_Menu(layer, model.macs) for layer in options]
        budget = self.value - (1 - sum(menu.macs[0] for menu in menus))
        low, high = 0.0, 1.0
        while _total(menus, high) > budget:
            low, high = high, 2 * high
            if not np.isfinite(high):
                raise UsageError(f"{self.name}: {self.value:g} of the MACs cannot be reached")
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if _total(menus, middle) > budget else (low, middle)
        return {menu.layer: menu.verdict(high) for menu in menus}


class _Menu:
    """What may be done with a layer, to leave it alone first.

    Attributes:
        layer: its name.
        macs: `(options,)`, by those of the model.
    """

    def __init__(self, options: LayerOptions, total: float) -> None:
        self.layer = options.layer
        self._choices = [Choice(self.layer, c.scheme, rank) for c in options.candidates for rank in c.ranks]
        own = (options.macs or 0) / total
        self.macs: Float = own * np.concatenate([[1.0], *(c.macs for c in options.candidates)])
        self._errors = np.concatenate([[0.0], *(c.error for c in options.candidates)])

    def best(self, multiplier: float) -> int:
        """The option with the least error + multiplier · MACs."""
        return int(np.argmin(self._errors + multiplier * self.macs))

    def verdict(self, multiplier: float) -> Choice | Refusal:
        """What that option is."""
        best = self.best(multiplier)
        return self._choices[best - 1] if best else Refusal("the MACs are better saved in other layers")


def _total(menus: Sequence[_Menu], multiplier: float) -> float:
    return float(sum(menu.macs[menu.best(multiplier)] for menu in menus))


class OriginalInputs(onnxlr.Calibration):
    """Inputs to fit each layer on as if it were the only one that is replaced."""

    def calibrator(self, model: Model, workers: int, progress: Progress) -> Calibrator:
        """See `onnxlr.Calibration`."""
        return _OneByOne(super().calibrator(model, workers, progress))


class _OneByOne(Calibrator):
    """Another calibrator, but for `fit`.

    Args:
        calibrator: what it has, this one has as well.
    """

    def __init__(self, calibrator: Calibrator) -> None:
        vars(self).update(vars(calibrator))

    def fit(self, chosen: Sequence[Replacement], workers: int | None = None) -> dict[Key, Fit]:
        """See `Calibrator`; what stays one layer is left as it is."""
        fits: dict[Key, Fit] = {}
        for item in chosen:
            if item.scheme is not None:
                fits |= super().fit([item], workers)
        return fits
