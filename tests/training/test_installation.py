"""Where torch is missing, training says how to install it, and nothing else minds. Needs no torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

WITHOUT = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name in {missing}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
"""
NO_TORCH = WITHOUT.format(missing=("torch",))


def run(program: str) -> str:
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return result.stdout.strip()


@pytest.mark.parametrize("module", ["onnxlr.training", "onnxlr.training.module"])
def test_the_error_says_how_to_install_it(module: str) -> None:
    program = f"""{NO_TORCH}
import importlib
from onnxlr.errors import UsageError
try:
    importlib.import_module("{module}")
except UsageError as error:
    print(error)
"""
    assert run(program) == "training needs torch, which is not installed: pip install 'onnxlr[train]'"


def test_other_missing_modules_are_not_taken_for_torch() -> None:
    program = f"""{WITHOUT.format(missing=("torch", "scipy"))}
try:
    import onnxlr.training
except ModuleNotFoundError as error:
    print(error.name)
"""
    assert run(program) == "scipy"


def test_nothing_else_imports_torch() -> None:
    assert run("import sys, onnxlr, onnxlr.cli, passes; print('torch' in sys.modules)") == "False"
    assert run(NO_TORCH + "import onnxlr, onnxlr.cli, passes.untie_parameters") == ""
