"""Where torch is missing, training says how to install it, and nothing else minds. Needs no torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

WITHOUT = "import sys; sys.modules['torch'] = None\n"
"""Python then raises what it raises where a module is not installed."""


def run(program: str) -> str:
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return result.stdout.strip()


@pytest.mark.parametrize("module", ["onnxlr.training", "onnxlr.training.module"])
def test_the_error_says_how_to_install_it(module: str) -> None:
    program = f"""{WITHOUT}
import importlib
from onnxlr.errors import UsageError
try:
    importlib.import_module("{module}")
except UsageError as error:
    print(error)
"""
    assert run(program) == "training needs torch, which is not installed: pip install 'onnxlr[train]'"


def test_other_missing_modules_are_not_taken_for_torch() -> None:
    program = """
import sys; sys.modules["torch"] = sys.modules["google.protobuf.message"] = None
try:
    import onnxlr.training
except ModuleNotFoundError as error:
    print(error.name)
"""
    assert run(program) == "google.protobuf.message"


def test_nothing_else_imports_torch() -> None:
    assert run("import sys, onnxlr, onnxlr.cli, passes; print('torch' in sys.modules)") == "False"
    assert run(WITHOUT + "import onnxlr, onnxlr.cli, passes.untie_parameters") == ""
