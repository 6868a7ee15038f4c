"""README's code blocks are run in the order in which they stand."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.blocks import ROOT, Block, prepare, read_blocks, run, run_block

BLOCKS = read_blocks("README.md")


def make(target: str, out: Path) -> str:
    """Run a target in the environment of the tests, without installing into it."""
    arguments = [f"VENV={sys.prefix}", "PIP=true", f"OUT={out}", "ARGS=--collect-only -q"]
    return run(["make", "-s", target, *arguments], ROOT, COLUMNS="300")  # so that long paths do not wrap


def dry_install(folder: Path) -> str:
    """See that pip would install the package, without doing it."""
    options = ["--dry-run", "--no-deps", "--no-build-isolation"]
    return run([sys.executable, "-m", "pip", "install", *options, str(ROOT)], folder)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What `make demo` prints, and where it writes."""
    out = tmp_path_factory.mktemp("demo")
    return make("demo", out), out


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where README's reader stands: with the model and the data that the demo writes."""
    return prepare(tmp_path_factory.mktemp("readme"))


def test_every_kind_of_block_is_known() -> None:
    assert {block.kind for block in BLOCKS} == {"sh", "python", "text"}
    assert all(block.source for block in BLOCKS if block.kind == "text")


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.kind != "text"], ids=str)
def test_blocks_run(block: Block, folder: Path, request: pytest.FixtureRequest) -> None:
    if block.text.strip() == "make demo":
        assert request.getfixturevalue("demo")
    elif block.text.startswith("make "):
        assert make(block.text.split()[1], folder)
    elif block.text.startswith("pip install"):
        assert dry_install(folder)
    elif block.kind == "python":
        assert "layers factorized" not in run_block(block, folder)
        assert (folder / "smaller.onnx").is_file()
    else:
        assert run_block(block, folder)


def test_the_demo_prints_what_readme_says(demo: tuple[str, Path]) -> None:
    (shown,) = [block.text for block in BLOCKS if block.source == "make demo"]
    printed, out = demo
    assert _stable(shown) == _stable(printed)
    assert (out / "report.json").is_file()


def _stable(text: str) -> list[str]:
    """What does not depend on the machine: no path, no time or its width, the last digits of no error."""
    lines = [" ".join(line.split()) for line in text.splitlines()]
    measured = ("on 797", "latency", "batch", "peak memory", "wrote")
    kept = [line for line in lines if line.strip("─") and not line.startswith(measured)]
    return [re.sub(r"(\d\.\d{2})\d*", r"\1", line) for line in kept]
