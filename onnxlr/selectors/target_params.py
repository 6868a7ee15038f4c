"""`target-params`: a fraction of the model's parameters."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnxlr.selectors.base import Candidate, LayerOptions, ModelSize
from onnxlr.selectors.budget import BudgetSelector

__all__ = ["Selector"]


class Selector(BudgetSelector):
    """See `BudgetSelector`. A weight that several layers share counts for each of them."""

    name = "target-params"
    help = "Keep at most this fraction of the model's parameters, at the least loss."
    unit = "parameters"

    def amount(self, size: LayerOptions | ModelSize) -> int:
        """See `BudgetSelector`."""
        return size.params

    def shares(self, candidate: Candidate) -> NDArray[np.float64]:
        """See `BudgetSelector`."""
        return candidate.params
