"""Sphinx: the pages of docs/, the docstrings and the help of the commands as one site (`make docs`)."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import click
from sphinx.ext.autodoc._dynamic import _mock

from onnxlr.cli import cli

project = "onnxlr"
release = metadata.version("onnxlr")
html_title = f"onnxlr {release}"
html_theme = "furo"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]

# GitHub reads the same files: $...$ and ```math are mathematics there too, and anchors are the same.
myst_enable_extensions = ["dollarmath"]
myst_fence_as_directive = ["math"]
myst_heading_anchors = 4

default_role = "code"
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_preserve_defaults = True
autodoc_mock_imports = ["torch"]
_mock._MockObject.__or__ = lambda self, _: self  # type: ignore[method-assign, misc, assignment]  # of torch's Tensor
napoleon_use_ivar = True
python_maximum_signature_line_length = 88

_ELSEWHERE = {
    "benchmarks": "../benchmarks/README.md",
    "changelog": "../CHANGELOG.md",
    "models": "../models/README.md",
}
"""Pages whose text stands outside of docs/."""


def _help() -> Iterator[str]:
    """What every command prints with --help, as Markdown."""
    yield "# Command line\n"
    group = click.Context(cli, info_name="onnxlr", terminal_width=100)
    yield f"```text\n{group.get_help()}\n```\n"
    for name in cli.list_commands(group):
        command = cli.commands[name]
        shown = command.get_help(click.Context(command, group, name, terminal_width=100))
        yield f"## {name}\n\n```text\n{shown}\n```\n"


def read_page(app: Any, name: str, source: list[str]) -> None:
    """Take the text from where it stands, and let links to such texts lead to their pages."""
    if name == "cli":
        source[0] = "\n".join(_help())
    if name in _ELSEWHERE:
        outside = Path(app.srcdir, _ELSEWHERE[name])
        app.env.note_dependency(str(outside))
        source[0] = outside.read_text(encoding="utf-8").replace("](../docs/", "](")
    for page, path in {**_ELSEWHERE, "index": "../README.md"}.items():
        source[0] = source[0].replace(f"]({path}", f"]({page}.md")


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("source-read", read_page)
