"""Sections -> one self-contained page of HTML, for screens of any width, light or dark."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape

from onnxlr.report.sections import Grid, Line, Picture, Section

__all__ = ["to_html"]

_STYLE = """
:root { color-scheme: light dark; --line: #8884; }
:root { --good: #18794e; --bad: #c62a2f; --note: #946800; --quiet: #777; }
@media (prefers-color-scheme: dark) {
  :root { --good: #4cc38a; --bad: #ff6369; --note: #f0c000; --quiet: #999; }
}
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
p { margin: .2rem 0; white-space: pre-wrap; overflow-wrap: anywhere; }
.good { color: var(--good); font-weight: 600; } .bad { color: var(--bad); font-weight: 600; }
.strong { font-weight: 600; }
.note { color: var(--note); } .quiet { color: var(--quiet); }
.wide { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .8rem .25rem 0; }
th, td { text-align: left; vertical-align: top; }
figure { background: #fff; border-radius: 6px; margin: .8rem 0; max-width: 50rem; }
figure svg { width: 100%; height: auto; }
figure g[id^="bar"]:hover, figure g[id^="trace"]:hover { filter: brightness(.6); stroke-width: 3; }
@media (prefers-color-scheme: dark) { figure { filter: invert(.91) hue-rotate(180deg); } }
.right { text-align: right; white-space: nowrap; }
"""

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""Browsers load nothing from anywhere, and run nothing."""


def to_html(title: str, sections: Iterable[Section]) -> str:
    """The page."""
    return "\n".join(_page(title, sections)) + "\n"


def _page(title: str, sections: Iterable[Section]) -> Iterator[str]:
    yield '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
    yield f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>"
    yield f"<body>\n<h1>{escape(title)}</h1>"
    for section in sections:
        yield f"<section>\n<h2>{escape(section.title)}</h2>"
        for part in section.parts:
            yield from _part(part)
        yield "</section>"
    yield "</body>\n</html>"


def _part(part: Grid | Line | Picture) -> Iterator[str]:
    if isinstance(part, Line):
        yield _line(part)
    elif isinstance(part, Picture):
        yield f'<figure role="img" aria-label="{escape(part.text)}">{part.svg}</figure>'
    elif part.rows:
        yield from _grid(part)


def _line(line: Line) -> str:
    return f'<p class="{line.kind}">{escape(line.text)}</p>'


def _grid(grid: Grid) -> Iterator[str]:
    sides = [' class="right"' if column.startswith(">") else "" for column in grid.columns]
    titles = [column.removeprefix(">") for column in grid.columns]
    yield '<div class="wide"><table>\n<thead>' + _row("th", titles, sides) + "</thead>\n<tbody>"
    yield from (_row("td", row, sides) for row in grid.rows)
    yield "</tbody>\n</table></div>"


def _row(kind: str, cells: Iterable[str], sides: Iterable[str]) -> str:
    found = (f"<{kind}{side}>{escape(cell)}</{kind}>" for cell, side in zip(cells, sides, strict=True))
    return f"<tr>{''.join(found)}</tr>"
