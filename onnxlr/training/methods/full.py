"""The network as it is: what the other methods are compared with."""

from __future__ import annotations

from collections.abc import Sequence

from onnxlr.training.constraint import Constraint
from onnxlr.training.methods.base import Method, Target

__all__ = ["method"]


class Full(Method):
    """See the module."""

    name = "full"
    schemes = ()
    starts_from_scratch = True
    is_cut = False

    def constrain(self, targets: Sequence[Target]) -> Constraint:
        del targets
        return Constraint()


method = Full()
