"""`target-macs`: a fraction of the model's multiply-accumulates."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnxlr.errors import UsageError
from onnxlr.selectors.base import Candidate, LayerOptions, ModelSize
from onnxlr.selectors.budget import BudgetSelector

__all__ = ["Selector"]


class Selector(BudgetSelector):
    """See `BudgetSelector`."""

    name = "target-macs"
    help = "Keep at most this fraction of the model's MACs, at the least loss."
    unit = "MACs"

    def amount(self, size: LayerOptions | ModelSize) -> int:
        """See `BudgetSelector`."""
        if size.macs is None:
            raise UsageError(
                f"{self.name}: MACs are unknown, as sizes are: give --input-shape; where the model computes"
                " sizes itself, fix them first (onnxsim does), or take --target-params"
            )
        return round(size.macs)

    def shares(self, candidate: Candidate) -> NDArray[np.float64]:
        """See `BudgetSelector`."""
        return candidate.macs
