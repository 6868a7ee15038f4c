"""ONNX Runtime's static and dynamic quantization, in short; tests/test_recipes.py has the whole recipe."""

from __future__ import annotations

import re

import pytest

from tests.interoperability.page import Ran, operators

SECTION = "Quantization"
INTEGER = {"static": "QuantizeLinear", "dynamic": "ConvInteger"}


@pytest.fixture(scope="module")
def measured(ran: Ran) -> dict[str, tuple[float, float]]:
    """Top-1 accuracy in percent and speed-up of each file, as printed."""
    found = re.findall(r"^(\w+)\.onnx: top-1 ([\d.]+)%, ([\d.]+) times as fast$", ran.printed[-1], re.M)
    assert [name for name, _, _ in found] == ["smaller", "static", "dynamic"]
    return {name: (float(top1), float(speedup)) for name, top1, speedup in found}


@pytest.mark.parametrize("name", INTEGER)
def test_accuracy_stays_and_size_falls(ran: Ran, measured: dict[str, tuple[float, float]], name: str) -> None:
    assert measured[name][0] > measured["smaller"][0] - 0.5
    smaller, quantized = ((ran.folder / f"{file}.onnx").stat().st_size for file in ("smaller", name))
    assert 0.25 < quantized / smaller < 0.34
    assert INTEGER[name] in operators(ran.folder / f"{name}.onnx")


def test_dynamic_quantization_makes_convs_slow(measured: dict[str, tuple[float, float]]) -> None:
    assert measured["dynamic"][1] < measured["smaller"][1]
