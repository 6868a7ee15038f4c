"""What `tests/test_wheel.py` asks of all modules, of those that need torch."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs the extra onnxlr[train]")

import onnxlr.training
from tests.training.checks import ROOT

MODULES = sorted((ROOT / "onnxlr/training").rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_all_names_what_is_there(path: Path) -> None:
    parts = path.relative_to(ROOT).with_suffix("").parts
    module = importlib.import_module(".".join(parts).removesuffix(".__init__"))
    assert [name for name in module.__all__ if not hasattr(module, name)] == []


@pytest.mark.parametrize("name", onnxlr.training.__all__)
def test_public_names_are_documented(name: str) -> None:
    assert getattr(onnxlr.training, name).__doc__
