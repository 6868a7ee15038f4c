"""A report as sections of tables and lines: what a terminal and a page show alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Grid", "Line", "Section"]


@dataclass(frozen=True, slots=True)
class Grid:
    """A table.

    Attributes:
        columns: their titles; a leading > aligns a column to the right.
        rows: as many cells as there are columns.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Line:
    """A line of text.

    Attributes:
        text: what it says.
        kind: plain, good, bad, note or quiet.
    """

    text: str
    kind: str = "plain"


@dataclass(frozen=True, slots=True)
class Section:
    """Lines and tables under a title."""

    title: str
    parts: Sequence[Grid | Line]
