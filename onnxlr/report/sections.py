"""A report as sections of tables, lines and charts: what a terminal and a page show alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Grid", "Line", "Picture", "Section"]


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
        kind: plain, strong, good, bad, note or quiet.
    """

    text: str
    kind: str = "plain"


@dataclass(frozen=True, slots=True)
class Picture:
    """A chart; a terminal does not show it.

    Attributes:
        svg: an element of SVG.
        text: what it shows, for those who cannot see it.
    """

    svg: str
    text: str


@dataclass(frozen=True, slots=True)
class Section:
    """Lines, tables and charts under a title."""

    title: str
    parts: Sequence[Grid | Line | Picture]
