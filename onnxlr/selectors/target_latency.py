"""`target-latency`: a fraction of the time that one run of the model takes, as predicted."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnxlr.errors import UsageError
from onnxlr.selectors.base import Candidate, LayerOptions, ModelSize
from onnxlr.selectors.budget import BudgetSelector

__all__ = ["Selector"]

_UNITS = 1e9  # nanoseconds


class Selector(BudgetSelector):
    """See `BudgetSelector`. Time that is spent outside of layers counts, and cannot be saved."""

    name = "target-latency"
    help = "Keep at most this fraction of the model's predicted latency, at the least loss."
    unit = "predicted latency"

    def amount(self, size: LayerOptions | ModelSize) -> int:
        """See `BudgetSelector`."""
        if size.seconds is None:
            raise UsageError(f"{self.name}: no times were predicted")
        return round(size.seconds * _UNITS)

    def shares(self, candidate: Candidate) -> NDArray[np.float64]:
        """See `BudgetSelector`."""
        if candidate.time is None:
            raise UsageError(f"{self.name}: no times were predicted")
        return candidate.time
