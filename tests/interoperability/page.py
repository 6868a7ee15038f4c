"""docs/interoperability.md by its sections, and how tests run one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import onnx
import pytest

from tests.blocks import ROOT, Block, read_blocks, run_block

__all__ = ["Ran", "conv_shapes", "needs", "operators", "read_sections", "run_section"]

PAGE = "docs/interoperability.md"


@dataclass(frozen=True)
class Ran:
    """A folder after the blocks of a section ran in it.

    Attributes:
        folder: where they ran.
        printed: by each block that ran, in order.
        shown: by the page: its blocks of text, in order.
    """

    folder: Path
    printed: list[str]
    shown: list[str]


def read_sections() -> dict[str, list[Block]]:
    """Heading -> its blocks, for every section of the page."""
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    _, *parts = re.split(r"^## (.+)$", text, flags=re.M)
    blocks = read_blocks(PAGE)
    sections = zip(parts[::2], parts[1::2], strict=True)
    return {title: [block for block in blocks if block.text in body] for title, body in sections}


def run_section(title: str, folder: Path) -> Ran:
    """Do with the blocks of a section what a reader does, in order."""
    blocks = read_sections()[title]
    shown = [block.text for block in blocks if block.kind == "text"]
    return Ran(folder, list(_follow(blocks, folder)), shown)


def _follow(blocks: list[Block], folder: Path) -> Iterator[str]:
    for block in blocks:
        name = re.match(r"# (\w+\.py)\n", block.text)
        if name is not None:
            (folder / name[1]).write_text(block.text, encoding="utf-8")
        elif block.kind != "text":
            yield run_block(block, folder)


def needs(*modules: str) -> pytest.MarkDecorator:
    """Skip where one of them is missing; none is imported."""
    missing = [name for name in modules if find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"needs onnxlr[interoperability]: {', '.join(missing)}")


def conv_shapes(path: Path) -> list[tuple[int, ...]]:
    """The shapes of the weights of all Convs, in order: layers, schemes and ranks in one."""
    graph = onnx.load(path).graph
    stored = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    return [stored[node.input[1]] for node in graph.node if node.op_type == "Conv"]


def operators(path: Path) -> list[str]:
    """The operators of a model, in order."""
    return [node.op_type for node in onnx.load(path, load_external_data=False).graph.node]
