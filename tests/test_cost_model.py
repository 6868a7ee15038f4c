"""Fits find the model that times were made with; what is read back is checked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from onnxlr.conv import ConvSpec
from onnxlr.cost_model import CostModel, Timed, fit_cost_model
from onnxlr.micro_benchmarks import suite

COEFFICIENTS = {
    **{"constant": 2e-6, "input": 1e-11, "output": 2e-11, "weights": 1e-12, "gemm weights": 1e-11},
    **{"gemm": 1.5e-11, "depthwise": 1e-11, "unrolled": 2.5e-11, "planar": 2e-11, "grouped": 3e-11},
    **{f"window {n}": 1.5e-11 + 1e-11 / n for n in (1, 2, 3, 4)},
    **{f"pointwise {n}": 1.6e-11 + 2e-11 / n for n in (1, 2, 3, 4)},
}
CONVS = {
    "window": (ConvSpec.create((64, 32, 3, 3), pads=(1,) * 4), (28, 28)),
    "strided": (ConvSpec.create((64, 32, 3, 3), strides=(2, 2)), (28, 28)),
    "pointwise": (ConvSpec.create((64, 32, 1, 1)), (28, 28)),
    "strided pointwise": (ConvSpec.create((64, 32, 1, 1), strides=(2, 2)), (28, 28)),
    "depthwise": (ConvSpec.create((64, 1, 3, 3), pads=(1,) * 4, group=64), (28, 28)),
    "grouped": (ConvSpec.create((64, 16, 3, 3), pads=(1,) * 4, group=2), (28, 28)),
    "transposed": (ConvSpec.create((64, 32, 2, 2), strides=(2, 2), transposed=True), (14, 14)),
    "1-D": (ConvSpec.create((64, 32, 3)), (100,)),
    "3-D": (ConvSpec.create((64, 32, 3, 3, 3)), (8, 8, 8)),
    "gemm": (ConvSpec.create((64, 32)), ()),
}


def made_with(block: int, filter_set: int) -> CostModel:
    unused = {f"{kind} {n}" for kind in ("window", "pointwise") for n in range(filter_set + 1, 5)}
    return CostModel(
        {}, block, filter_set, 4, {name: n for name, n in COEFFICIENTS.items() if name not in unused}
    )


def times(model: CostModel, noise: float = 0.0) -> list[Timed]:
    """Of the suite, as a machine that is exactly like the model would take."""
    rng = np.random.default_rng(0)
    return [
        Timed(item.conv, item.spatial, batch, seconds * (1 + noise * float(rng.standard_normal())))
        for item in suite()
        for batch in (1, 8)
        for seconds in [model.seconds(item.conv, item.spatial, batch)]
    ]


@pytest.mark.parametrize("block", [8, 16])
def test_a_fit_finds_the_model_behind_the_times(block: int) -> None:
    """Where all blocks cost the same, so do those of a filter set of any width."""
    model = made_with(block, 1)
    found = fit_cost_model(times(model), {"a": "b"})
    assert (found.block, found.itemsize, found.key) == (block, 4, {"a": "b"})
    assert not found.is_default
    assert found.error == pytest.approx(0, abs=1e-6)
    for name, value in found.coefficients.items():
        kind = name.split()[0] + " 1" if name.startswith(("window ", "pointwise ")) else name
        if value > 1e-14:
            assert value == pytest.approx(model.coefficients[kind], rel=1e-4), name


def test_a_fit_finds_filter_sets() -> None:
    model = made_with(16, 4)
    found = fit_cost_model(times(model), {})
    assert (found.block, found.filter_set) == (16, 4)
    assert {name: n for name, n in found.coefficients.items() if n > 1e-14} == {
        name: pytest.approx(value, rel=1e-4) for name, value in model.coefficients.items()
    }


@pytest.mark.parametrize("block", [8, 16])
def test_noise_hides_no_block(block: int) -> None:
    found = fit_cost_model(times(made_with(block, 4), noise=0.05), {})
    assert found.block == block
    assert found.error is not None
    assert 0.02 < found.error < 0.08


def test_nothing_is_faster_than_nothing() -> None:
    """Whatever the times are, no coefficient is negative."""
    rng = np.random.default_rng(1)
    timed = [replace(item, seconds=float(rng.uniform(1e-6, 1e-3))) for item in times(made_with(8, 1))]
    found = fit_cost_model(timed, {})
    assert found.coefficients
    assert min(found.coefficients.values()) > 0


@pytest.mark.parametrize(("conv", "spatial"), CONVS.values(), ids=CONVS.keys())
def test_many_at_once_are_what_each_is(conv: ConvSpec, spatial: Sequence[int]) -> None:
    model, sizes = made_with(16, 4), tuple(spatial)
    outputs = np.arange(1, 6) * conv.out_channels
    inputs = np.arange(1, 6) * conv.in_channels
    if conv.is_depthwise:  # with more channels it would have more groups
        inputs, outputs = inputs[:1], outputs[:1]
    found = model.seconds_at(conv, sizes, 3, inputs, outputs)
    for i, (c, m) in enumerate(zip(inputs, outputs, strict=True)):
        one = replace(conv, weight_shape=(int(m), int(c) // conv.group, *conv.kernel_shape))
        assert found[i] == pytest.approx(model.seconds(one, sizes, 3))
    assert (np.diff(found) > 0).all()
    assert found.shape == outputs.shape


def test_channels_are_paid_in_whole_blocks() -> None:
    model = replace(made_with(16, 1), coefficients={"window 1": 1e-11})
    conv = CONVS["window"][0]
    outputs = np.array([1, 16, 17, 32, 33])
    found = model.seconds_at(conv, (28, 28), 1, np.full(5, 32), outputs)
    np.testing.assert_allclose(found / found[0], [1, 1, 2, 2, 3])


GOOD = CostModel({"provider": "x"}, 16, 2, 4, {"constant": 1e-6, "input": 1}, 0.05, True)


def test_there_and_back() -> None:
    assert CostModel.from_dict(json.loads(json.dumps(GOOD.to_dict()))) == GOOD
    assert not CostModel.from_dict({**replace(GOOD, is_default=False).to_dict()}).is_default
    assert CostModel.from_dict({**GOOD.to_dict(), "error": None}).error is None


BAD: dict[str, tuple[dict[str, Any], type[Exception]]] = {
    "block of 0": ({"block": 0}, ValueError),
    "block of half": ({"block": 8.0}, TypeError),
    "block is true": ({"block": True}, TypeError),
    "filter set": ({"filter_set": "2"}, TypeError),
    "negative itemsize": ({"itemsize": -4}, ValueError),
    "key is a list": ({"key": ["x"]}, TypeError),
    "key of numbers": ({"key": {"threads": 1}}, TypeError),
    "coefficients is a list": ({"coefficients": [1.0]}, TypeError),
    "coefficient is a word": ({"coefficients": {"constant": "1"}}, TypeError),
    "coefficient is true": ({"coefficients": {"constant": True}}, TypeError),
    "coefficient is null": ({"coefficients": {"constant": None}}, TypeError),
    "negative": ({"coefficients": {"constant": -1.0}}, ValueError),
    "NaN": ({"coefficients": {"constant": float("nan")}}, ValueError),
    "infinite": ({"coefficients": {"constant": float("inf")}}, ValueError),
    "all 0": ({"coefficients": {"constant": 0.0}}, ValueError),
    "none": ({"coefficients": {}}, ValueError),
    "error is a word": ({"error": "5 %"}, TypeError),
    "error is true": ({"error": True}, TypeError),
    "error is NaN": ({"error": float("nan")}, ValueError),
    "error is negative": ({"error": -0.1}, ValueError),
    "default is a number": ({"is_default": 1}, TypeError),
    "unknown": ({"colour": "red"}, TypeError),
}


@pytest.mark.parametrize(("change", "error"), BAD.values(), ids=BAD.keys())
def test_bad_data_are_rejected(change: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        CostModel.from_dict({**GOOD.to_dict(), **change})


def test_a_missing_field_is_rejected() -> None:
    with pytest.raises(TypeError):
        CostModel.from_dict({"block": 8})
