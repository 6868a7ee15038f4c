"""Methods of low-rank training, one a module; a module with a variable `method` is found by being here."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache

from onnxlr.training.methods.base import Method, Target, TrainedWeight

__all__ = ["Method", "Target", "TrainedWeight", "all_methods"]


@cache
def all_methods() -> Mapping[str, Method]:
    """Every method by its name."""
    modules = (
        importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)
    )
    methods = (vars(module).get("method") for module in modules)
    return {method.name: method for method in methods if method is not None}
