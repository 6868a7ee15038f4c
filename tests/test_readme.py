"""README's code blocks are run in the order in which they stand."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(
    r"^(?:<!-- output: (?P<command>[^>]+) -->\n)?```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.M | re.S
)
BLOCKS = list(BLOCK.finditer(README))


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


def make(target: str, out: Path) -> str:
    """Run a target in the environment of the tests, without installing into it."""
    arguments = [f"VENV={sys.prefix}", "PIP=true", f"OUT={out}", "ARGS=--collect-only -q"]
    return run(["make", "-s", target, *arguments], ROOT, COLUMNS="300")  # so that long paths do not wrap


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where README's reader stands: with the model and the data that the demo writes."""
    folder = tmp_path_factory.mktemp("readme")
    run([sys.executable, "-m", "models.digits.data", "-o", str(folder)], ROOT)
    shutil.copy(ROOT / "models/digits/digits.onnx", folder / "model.onnx")
    return folder


def test_every_kind_of_block_is_known() -> None:
    assert {block["kind"] for block in BLOCKS} == {"sh", "python", "text"}
    assert all(block["command"] for block in BLOCKS if block["kind"] == "text")


@pytest.mark.parametrize(
    "block", [b for b in BLOCKS if b["kind"] != "text"], ids=lambda b: b["text"].split("\n")[0]
)
def test_blocks_run(block: re.Match[str], folder: Path) -> None:
    text = block["text"]
    if text.startswith("make "):
        assert make(text.split()[1], folder)
    elif text.startswith("pip install"):
        assert run(
            [
                sys.executable,
                "-m",
                "pip",
                "install",
                "--dry-run",
                "--no-deps",
                "--no-build-isolation",
                str(ROOT),
            ],
            folder,
        )
    elif block["kind"] == "python":
        assert "layers" not in run([sys.executable, "-c", text], folder)
        assert (folder / "smaller.onnx").is_file()
    else:
        assert run(["sh", "-e", "-c", text], folder)


def test_the_demo_prints_what_readme_says(tmp_path: Path) -> None:
    (shown,) = [block["text"] for block in BLOCKS if block["command"] == "make demo"]
    printed = make("demo", tmp_path)
    assert _stable(shown) == _stable(printed)
    assert (tmp_path / "report.json").is_file()


def _stable(text: str) -> list[str]:
    """What does not depend on the machine: no path, no time, and the last digits of no error."""
    lines = [" ".join(line.split()) for line in text.splitlines()]
    kept = [line for line in lines if line and not line.startswith(("on 797", "latency", "batch", "wrote"))]
    return [re.sub(r"(\d\.\d{2})\d*", r"\1", line) for line in kept]
