"""What every kind of block of a page is held to; a kind without a rule fails, so that new pages are covered.

Blocks of shell and Python run in the order in which they stand, in a folder that has what pages take for
granted: see `stand`. What the reader does with time and patience, tests do quickly: see `QUICK`.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from onnx import helper, save
from packaging.requirements import Requirement
from PIL import Image

import onnxlr
from models.digits.data import load
from tests.blocks import ROOT, Block, prepare, read_blocks, run
from tests.builders import make_model, weight

__all__ = ["QUICK", "check_printed", "known_kinds", "quick", "run_page", "stand"]

QUICK = (
    # README's blocks and those with --calibration-samples run with calibration, which takes seconds
    (r" --calibration calibration\.npz(?! --calibration-samples)", ""),
    (r'calibration ?= ?"calibration\.npz",?', ""),
    # one round of timing; what is not faster by chance is not taken back, replacement by replacement
    (r"--latency-seconds [\d.]+", "--latency-seconds 0"),
    (
        r"(onnxlr (?:optimize|sweep|finetune|train|compare(?= .*--optimize)))\b(?!.*--lat)",
        r"\1 --latency-seconds 0",
    ),
    (r"(onnxlr validate)\b(?!.*--lat)", r"\1 --latency-seconds 0.05"),
    (r"latency_seconds=[1-9]\d*\)", "latency_seconds=0.05), keep_slower=True"),
    # one model of all that there are
    (r"onnxlr batch '\*\.onnx'", "onnxlr batch 'm*.onnx'"),
    # what can be reached on a machine that is busy with tests
    (r"--target-latency [\d.]+", "--target-latency 0.9"),
    # half a minute of benchmarks
    (r"onnxlr calibrate-device .*-o (\S+)", rf"cp {ROOT}/onnxlr/cost_models/cpu.json \1"),
    (r"(onnxlr calibrate-device) .*", r"\1 --help"),
    # training
    (r"(--time-budget|--finetune) \d+m", r"\1 1s"),
    (r"--epochs \d+", "--epochs 1"),
)
"""Patterns and what they are replaced by, so that tests take seconds where a reader takes minutes."""

EXPORTS = {"torch.onnx": "torch_ts.onnx", "keras.onnx": "keras_torch.onnx", "jax.onnx": "jax2onnx.onnx"}


def stand(folder: Path) -> Path:
    """Put what pages take for granted into a folder; less data than the reader has.

    * `model.onnx` with `calibration.npz`, `train.npz`, `train_labels.npy`, `test.npz`, `test_labels.npy`, and
      `smaller.onnx`, made of it
    * `torch.onnx`, `keras.onnx`, `jax.onnx`: exports of one network
    * `classifier.onnx` for images of any size, with the folders of images `train` and `val`
    """
    folder.mkdir()
    prepare(folder)
    train, test = load()
    np.savez(folder / "calibration.npz", image=train.images[:32])
    np.savez(folder / "train.npz", image=train.images[:64])
    np.save(folder / "train_labels.npy", train.labels[:64])
    np.savez(folder / "test.npz", image=test.images[::16])
    np.save(folder / "test_labels.npy", test.labels[::16])
    onnxlr.optimize(folder / "model.onnx", energy=0.9, checks=None).save(folder / "smaller.onnx")
    for name, export in EXPORTS.items():
        shutil.copy(ROOT / "models/exports/trap" / export, folder / name)
    _stand_images(folder)
    return folder


def _stand_images(folder: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"], "conv", strides=[8, 8]),
        helper.make_node("GlobalAveragePool", ["h"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "v"], ["y"], "fc"),
    ]
    weights = {"w": weight(32, 3, 5, 5), "v": weight(32, 10)}
    save(make_model(nodes, {"x": ["N", 3, "H", "W"]}, ["y"], weights), folder / "classifier.onnx")
    rng = np.random.default_rng(0)
    for name in ("train", "val"):
        (folder / name).mkdir()
        for i in range(12):
            Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(folder / name / f"{i}.png")


def run_page(path: str, folder: Path) -> None:
    """Hold every block of a page to its rule, in order."""
    printed = ""
    for block in read_blocks(path):
        try:
            printed = check_block(block, folder, printed)
        except AssertionError as error:
            raise AssertionError(f"{path}: the block `{block}`: {error}") from error


def check_block(block: Block, folder: Path, printed: str) -> str:
    """Hold a block to the rule of its kind.

    Args:
        block: the block.
        folder: where it runs.
        printed: by the last block that ran.

    Returns:
        What this one printed, if it ran; else `printed`.
    """
    return RULES[_rule(block.kind)](block, folder, printed)


def known_kinds(path: str) -> Iterator[tuple[str, bool]]:
    """The kinds of blocks of a page, and whether there is a rule for each."""
    for block in read_blocks(path):
        yield block.kind, _rule(block.kind) in RULES


def _rule(kind: str) -> str:
    return "{}" if re.fullmatch(r"\{[\w-]+\}.*", kind) else kind


def quick(text: str) -> str:
    """A text with what `QUICK` says."""
    for pattern, replacement in QUICK:
        text = re.sub(pattern, replacement, text)
    return text


def _run_shell(block: Block, folder: Path, _: str) -> str:
    return _shell(block.text, folder)


def _shell(text: str, folder: Path) -> str:
    """Run commands, as they are written but for `QUICK`; nothing is installed."""
    text = text.replace("\\\n", " ")
    commands = [line for line in text.splitlines() if not line.startswith("pip install ")]
    for line in text.splitlines():
        if line not in commands:
            check_installation(line)
    if not commands:
        return ""
    return run(["sh", "-e", "-c", quick("\n".join(commands))], folder, COLUMNS="100", HOME=str(folder))


def check_installation(line: str) -> None:
    """See that what pip is told to install is a requirement, and of onnxlr an extra that there is."""
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    names = [word for word in shlex.split(line)[2:] if not word.startswith("-")]
    assert names, line
    for requirement in (Requirement(name) for name in names if name != "."):
        assert requirement.name != "onnxlr" or requirement.extras <= known.keys(), line


def _run_python(block: Block, folder: Path, printed: str) -> str:
    """Run it; one that begins with a comment that names a file is what stands in the file."""
    name = re.match(r"# (\S+\.py)\n", block.text)
    if name is None:
        return run([sys.executable, "-c", quick(block.text)], folder)
    compile(block.text, name[1], "exec")
    (folder / name[1]).write_text(block.text)
    return printed


def _check_text(block: Block, _: Path, printed: str) -> str:
    assert block.source == "the block above", "a comment before it has to say what printed the text"
    check_printed(block.text, printed)
    return printed


def check_printed(shown: str, printed: str) -> None:
    """All lines that are shown were printed, in this order; `…` stands for lines that are left out."""
    lines = iter(_stable(printed))
    for line in _stable(shown):
        assert any(_alike(line, other) for other in lines), f"not printed: {line}\n{printed}"


def _stable(text: str) -> list[list[str]]:
    """Lines as words, but those that tell times or how much data there were."""
    words = [line.split() for line in text.splitlines()]
    measured = re.compile(r"latency|batch|peak|on$|…")
    return [line for line in words if line and "ms" not in line and not measured.match(line[0])]


def _alike(shown: list[str], printed: list[str]) -> bool:
    return all(a == b or _close(a or "", b or "") for a, b in zip_longest(shown, printed))


def _close(shown: str, printed: str) -> bool:
    """Whether two words are the same number within 5 %, or 0.02, between the same signs."""
    number = re.compile(r"([^\d-]*)(-?\d+(?:\.\d+)?)([^\d]*)")
    a, b = number.fullmatch(shown), number.fullmatch(printed)
    if not (a and b) or (a[1], a[3]) != (b[1], b[3]):
        return False
    return abs(float(a[2]) - float(b[2])) <= max(0.02, 0.05 * abs(float(a[2])))


def _check_toml(block: Block, folder: Path, printed: str) -> str:
    """It is TOML; where a comment names a file, it is what stands in the file."""
    tomllib.loads(block.text)
    if block.source is not None:
        (folder / block.source).write_text(quick(block.text))
    return printed


def _check_json(block: Block, folder: Path, printed: str) -> str:
    """It is JSON; where a comment names a file, the file has all of it."""
    shown = json.loads(block.text)
    if block.source is not None:
        written = json.loads((folder / block.source).read_text())
        assert _has(written, shown), f"{block.source} does not have it"
    return printed


def _has(written: Any, shown: Any) -> bool:
    """Whether all that is shown is there; the entries of a list may be some of those that are there."""
    if isinstance(shown, dict):
        return isinstance(written, dict) and all(
            k in written and _has(written[k], v) for k, v in shown.items()
        )
    if isinstance(shown, list) and any(isinstance(item, dict) for item in shown):
        return all(any(_has(entry, item) for entry in written) for item in shown)
    return _close(str(shown), str(written)) or bool(written == shown)


def _run_yaml(block: Block, folder: Path, _: str) -> str:
    """Run the steps of a workflow, or the hooks of pre-commit."""
    data = yaml.safe_load(block.text)
    if "jobs" in data:
        steps = [step for job in data["jobs"].values() for step in job["steps"]]
        commands = [step["run"] for step in steps if "run" in step]
    else:
        hooks = [hook for repo in data["repos"] for hook in repo["hooks"]]
        assert all(hook["pass_filenames"] is False and re.compile(hook["files"]) for hook in hooks)
        commands = [hook["entry"] for hook in hooks]
    assert commands
    return "".join(_shell(command, folder) for command in commands)


def _keep(_: Block, __: Path, printed: str) -> str:
    """Of the site, whose build fails on it if it is wrong."""
    return printed


RULES: Mapping[str, Callable[[Block, Path, str], str]] = {
    "sh": _run_shell,
    "python": _run_python,
    "text": _check_text,
    "toml": _check_toml,
    "json": _check_json,
    "yaml": _run_yaml,
    "math": _keep,
    "{}": _keep,
}
"""By what stands behind the fence; `{}` for all directives of Sphinx."""
