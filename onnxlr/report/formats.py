"""Numbers as people read them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from onnxlr.layer import Skipped
from onnxlr.plan import BeforeAfter

__all__ = ["by_reason", "count", "dims", "kept_percent", "short_count", "short_name", "sparkline"]

_BLOCKS = "▁▂▃▄▅▆▇█"


def short_count(value: int) -> str:
    """Three digits with k, M or G.

    >>> short_count(1_234_567)
    '1.23 M'
    """
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return str(value)


def count(number: int, what: str) -> str:
    """A number of things.

    >>> count(1, "layer"), count(2, "layer")
    ('1 layer', '2 layers')
    """
    return f"{number} {what}{'' if number == 1 else 's'}"


def kept_percent(value: BeforeAfter) -> str:
    """What is left; ? where it is not known."""
    if not value.before or value.after is None:
        return "?"
    return f"{value.after / value.before:.0%}"


def dims(sizes: Sequence[int]) -> str:
    """Sizes or ranks.

    >>> dims((64, 3, 3, 3))
    '64×3×3×3'
    """
    return "×".join(map(str, sizes))


def by_reason(skipped: Iterable[Skipped]) -> dict[str, list[str]]:
    """Names of layers by reason in short: what follows a colon or stands in parentheses is left out."""
    found: dict[str, list[str]] = {}
    for item in skipped:
        found.setdefault(re.split(r": | \(", item.reason)[0], []).append(item.name)
    return found


def short_name(name: str, limit: int = 24) -> str:
    """The end of a long name: exporters put what differs there."""
    limit = max(limit, 13)
    return name if len(name) <= limit else f"…{name[1 - limit :]}"


def sparkline(values: Sequence[float], width: int = 32) -> str:
    """Values as blocks of their height by the largest, `width` of them at most.

    >>> sparkline([4.0, 2.0, 1.0, 0.0])
    '█▅▃▁'
    """
    shown = values[:: -(-len(values) // width)] if values else ()
    top = max(shown, default=0.0) or 1.0
    return "".join(_BLOCKS[min(int(len(_BLOCKS) * value / top), len(_BLOCKS) - 1)] for value in shown)
