"""The network as it is: what the other methods are compared with."""

from __future__ import annotations

from onnxlr.training.methods.base import Method

__all__ = ["method"]


class Full(Method):
    """See the module."""

    name = "full"
    schemes = ()
    starts_from_scratch = True
    is_cut = False


method = Full()
