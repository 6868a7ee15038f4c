"""Rank selectors, one a file. A module with a class named `Selector` is found by being here."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

from onnxlr.selectors.base import Candidate, Choice, Judges, LayerOptions, ModelSize, RankSelector, Refusal

__all__ = [
    "Candidate",
    "Choice",
    "Judges",
    "LayerOptions",
    "ModelSize",
    "RankSelector",
    "Refusal",
    "all_selectors",
]


@cache
def all_selectors() -> Mapping[str, type[RankSelector]]:
    """Every selector's class by its name.

    >>> sorted(all_selectors())
    ['energy', 'evbmf', 'target-latency', 'target-macs', 'target-params']
    """
    modules = (importlib.import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__))
    found = [module.Selector for module in modules if hasattr(module, "Selector")]
    return MappingProxyType({selector.name: selector for selector in found})
