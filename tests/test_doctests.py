"""Docstrings: their examples run, and what the Python pages document has some, with arguments and errors."""

from __future__ import annotations

import doctest
import importlib
import inspect
import re
from collections.abc import Iterator
from types import FunctionType
from typing import Any

import pytest

import onnxlr
from tests.blocks import ROOT, read_blocks

LEFT_OUT = ("onnxlr.__main__", "onnxlr.cli", "onnxlr.training")  # a program; the command line; needs torch

SKIPPED = {"onnxlr.device_calibration.calibrate_device"}
"""Examples that are not run, or not in full."""

SHOWN = {"write_report": "docs/quickstart.md"}
"""Functions whose example is in a page, where it runs as well."""

PARTS = ("conv", "factorization", "linalg", "regression", "schemes", "selectors", "selectors.knapsack")


def modules() -> Iterator[Any]:
    for path in sorted([*(ROOT / "onnxlr").rglob("*.py"), *(ROOT / "passes").rglob("*.py")]):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if not name.startswith(LEFT_OUT):
            yield importlib.import_module(name)


EXAMPLES = [
    test
    for module in modules()
    for test in doctest.DocTestFinder().find(module, module.__name__)
    if test.examples
]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_examples(example: doctest.DocTest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    printed: list[str] = []
    doctest.DocTestRunner().run(example, out=printed.append)
    assert not printed, "".join(printed)


def test_no_other_example_is_skipped() -> None:
    skipped = {
        example.name
        for example in EXAMPLES
        if any(line.options.get(doctest.SKIP) for line in example.examples)
    }
    assert skipped == SKIPPED


def functions(module: Any) -> Iterator[tuple[str, FunctionType]]:
    for name in module.__all__:
        found = inspect.unwrap(getattr(module, name))
        if inspect.isfunction(found):
            yield name, found


PUBLIC = list(functions(onnxlr))
OTHERS = [pair for part in PARTS for pair in functions(importlib.import_module(f"onnxlr.{part}"))]


@pytest.mark.parametrize(("name", "function"), [*PUBLIC, *OTHERS], ids=str)
def test_every_function_has_an_example(name: str, function: FunctionType) -> None:
    if name in SHOWN:
        blocks = read_blocks(SHOWN[name])
        assert any(block.kind == "python" and f"onnxlr.{name}(" in block.text for block in blocks)
    else:
        assert ">>> " in inspect.getdoc(function)


@pytest.mark.parametrize(("name", "function"), [pair for pair in PUBLIC if pair[0] not in SHOWN], ids=str)
def test_every_argument_and_error_is_documented(name: str, function: FunctionType) -> None:
    text = inspect.getdoc(function)
    _, _, described = text.partition("Args:")
    elsewhere = "as in `plan`" in text or "as in `optimize`" in text
    missing = [
        parameter
        for parameter in inspect.signature(function).parameters
        if not re.search(rf"^ +{parameter}: ", described, re.M)
    ]
    assert not missing or elsewhere, name
    assert "Raises:" in described
    returned = ("None", "Plan", "Iterator[None]")
    assert "Returns:" in described or inspect.signature(function).return_annotation in returned


@pytest.mark.parametrize("name", sorted(set(onnxlr.__all__) - {name for name, _ in PUBLIC}))
def test_every_field_is_documented(name: str) -> None:
    """Of the dataclasses; what a class adds to them is documented where it stands."""
    found = getattr(onnxlr, name)
    fields = getattr(found, "__dataclass_fields__", {})
    missing = [field for field in fields if not re.search(rf"^ +{field}: ", inspect.getdoc(found), re.M)]
    assert missing == []
