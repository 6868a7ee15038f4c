"""The code blocks of a Markdown file, and how a test runs them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ROOT", "Block", "prepare", "read_blocks", "run", "run_block"]

ROOT = Path(__file__).parent.parent

_BLOCK = re.compile(
    r"^(?:<!-- (?:output|file): (?P<source>[^>]+) -->\n)?"
    r"(?P<fence>`{3,})(?P<kind>[^`\n]*)\n(?P<text>.*?)^(?P=fence)$",
    re.M | re.S,
)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block.

    Attributes:
        kind: what stands behind the fence: sh, python, text, and the like.
        text: what is in it, with the last line's end.
        source: what printed it, or the file that it stands in, where a comment before the block says so.
    """

    kind: str
    text: str
    source: str | None = None

    def __str__(self) -> str:
        return self.text.split("\n", 1)[0]


def read_blocks(path: str) -> list[Block]:
    """All blocks of a file of the repository, in order; none is missed."""
    text = (ROOT / path).read_text(encoding="utf-8")
    blocks = [Block(found["kind"], found["text"], found["source"]) for found in _BLOCK.finditer(text)]
    fences = len(re.findall(r"^\s*```", text, re.M))
    inner = sum(len(re.findall(r"^\s*```", block.text, re.M)) for block in blocks)
    assert fences == 2 * len(blocks) + inner, f"{path}: a block is indented, or does not end"
    return blocks


def run(command: list[str], folder: Path, **environment: str) -> str:
    """What a command prints; it has to succeed."""
    bin_folder = str(Path(sys.executable).parent)
    path = os.pathsep.join((bin_folder, os.environ["PATH"]))
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PATH": path, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}: {done.stdout}\n{done.stderr}"
    return done.stdout


def run_block(block: Block, folder: Path) -> str:
    """What a block of shell or Python prints; it has to succeed."""
    interpreter = {"python": [sys.executable, "-c"], "sh": ["sh", "-e", "-c"]}[block.kind]
    return run([*interpreter, block.text], folder)


def prepare(folder: Path) -> Path:
    """Put the shipped model, as `model.onnx`, and its data into the folder where a reader stands."""
    run([sys.executable, "-m", "models.digits.data", "-o", str(folder)], ROOT)
    shutil.copy(ROOT / "models/digits/digits.onnx", folder / "model.onnx")
    return folder
