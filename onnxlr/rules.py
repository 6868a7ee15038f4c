"""Keyword arguments -> the rank selector that they stand for."""

from __future__ import annotations

from onnxlr.errors import UsageError
from onnxlr.selectors import RankSelector, all_selectors

__all__ = ["default_rule", "find_rule"]

_DEFAULT_ENERGY = 0.95


def find_rule(
    selector: RankSelector | None = None,
    *,
    energy: float | None = None,
    target_macs: float | None = None,
    target_params: float | None = None,
    target_latency: float | None = None,
    evbmf: bool = False,
) -> RankSelector | None:
    """The one rule that is given; None if none is. See `onnxlr.plan` for the arguments.

    Raises:
        UsageError: two are given, or a number is out of range.
    """
    numbers = {
        "energy": energy,
        "target-macs": target_macs,
        "target-params": target_params,
        "target-latency": target_latency,
        "evbmf": 1.0 if evbmf else None,
    }
    given = {name: value for name, value in numbers.items() if value is not None}
    names = [*given, *([] if selector is None else ["selector"])]
    if len(names) > 1:
        raise UsageError(f"give one of {', '.join(names)}")
    if not given:
        return selector
    ((name, value),) = given.items()
    try:
        return all_selectors()[name](value)
    except ValueError as error:
        raise UsageError(str(error)) from error


def default_rule() -> RankSelector:
    """The rule where none is given."""
    return all_selectors()["energy"](_DEFAULT_ENERGY)
