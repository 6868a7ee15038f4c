"""Factorization schemes, one idea a file. A module with a tuple named `schemes` is found by being here."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

from onnxlr.schemes.base import Decomposition, Factors, Rank, Regression, Scheme, Weight

__all__ = ["Decomposition", "Factors", "Rank", "Regression", "Scheme", "Weight", "all_schemes"]


@cache
def all_schemes() -> Mapping[str, Scheme]:
    """Every scheme by its name, in alphabetical order of their modules.

    >>> list(all_schemes())
    ['channel-in', 'channel-out', 'group-2', 'group-4', 'spatial', 'tucker2']
    """
    modules = (importlib.import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__))
    found = (scheme for module in modules for scheme in getattr(module, "schemes", ()))
    return MappingProxyType({scheme.name: scheme for scheme in found})
