"""Candidates and layers as selectors see them, in one line."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from onnxlr.schemes import Rank
from onnxlr.selectors import Candidate, LayerOptions


def candidate(
    scheme: str,
    cost: Sequence[float],
    error: Sequence[float],
    limit: float = 1.0,
    params: Sequence[float] | None = None,
    ranks: Sequence[Rank] | None = None,
    spectra: Sequence[NDArray[np.float64]] = (),
    groups: int = 1,
) -> Candidate:
    """Ranks 8, 16, ... unless given; MACs and time as the cost, params too unless given."""
    return Candidate(
        layer="layer",
        scheme=scheme,
        ranks=ranks or [(8 * (i + 1),) for i in range(len(cost))],
        macs=np.array(cost),
        params=np.array(cost if params is None else params),
        cost=np.array(cost),
        error=np.array(error),
        limit=limit,
        spectra=tuple(spectra),
        groups=groups,
        time=np.array(cost),
    )


def layer(
    *candidates: Candidate,
    name: str = "layer",
    macs: float | None = 100,
    params: int = 100,
    sensitivity: float = 1.0,
    seconds: float | None = 100.0,
) -> LayerOptions:
    return LayerOptions(name, macs, params, sensitivity, candidates, seconds)
