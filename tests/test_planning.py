"""Candidates, filters, and plans that account for every layer."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, helper

import onnxlr
from onnxlr import factorization
from onnxlr.analysis import analyse
from onnxlr.conv import ConvSpec, chain_macs
from onnxlr.factorization import LayerWeights
from onnxlr.layer import Layer
from onnxlr.planning import aligned_ranks, candidates
from onnxlr.schemes import all_schemes
from onnxlr.selectors import Candidate
from tests.builders import conv_model, gemm_model, make_model, weight


def low_rank_weight(rank: int, *shape: int) -> Any:
    """A weight whose `shape[0] × rest` unfolding has the given rank, and a little noise."""
    left, right = weight(shape[0], rank, seed=1), weight(rank, int(np.prod(shape[1:])), seed=2)
    return (left @ right).reshape(shape) + 1e-3 * weight(*shape)


@pytest.mark.parametrize(
    ("full", "align", "ranks"),
    [
        ((27,), 8, [(8,), (16,), (24,), (27,)]),
        ((16,), 8, [(8,), (16,)]),
        ((5,), 8, [(5,)]),
        ((3,), 1, [(1,), (2,), (3,)]),
        ((8, 20), 16, [(8, 16), (8, 20)]),
    ],
)
def test_ranks_are_aligned_and_never_above_full(full: Any, align: int, ranks: Any) -> None:
    assert aligned_ranks(full, align) == tuple(ranks)


def test_equal_chains_are_tried_once() -> None:
    model = gemm_model(weight(32, 16))
    (layer,) = analyse(model)
    found = candidates(layer, all_schemes().values(), LayerWeights({}), 8, 1.0)  # type: ignore[arg-type]
    assert [candidate.scheme for candidate in found] == ["channel-in"]  # type: ignore[union-attr]


@pytest.mark.parametrize("scheme", list(all_schemes()))
@pytest.mark.parametrize("size", [(11, 13), ("H", "W")])
def test_cost_of_every_rank_is_that_of_its_chain(scheme: str, size: Any) -> None:
    model = conv_model(weight(24, 20, 3, 3), size, strides=[2, 1], pads=[1, 1, 0, 0])
    (layer,) = analyse(model)
    assert isinstance(layer, Layer)
    (offer,) = candidates(layer, [all_schemes()[scheme]], LayerWeights({}), 3, math.inf)
    assert isinstance(offer, Candidate)
    chains = [all_schemes()[scheme].chain(layer.conv, rank) for rank in offer.ranks]
    own = chain_macs([layer.conv], layer.spatial)
    assert offer.macs == pytest.approx(
        [chain_macs(links, layer.spatial) / own for links in chains], rel=1e-12
    )


def chain(**names: str) -> ModelProto:
    """Three Convs in a row."""
    values = ["x", "a", "b", "y"]
    nodes = [
        helper.make_node("Conv", [values[i], "w"], [values[i + 1]], n) for i, n in enumerate(names.values())
    ]
    return make_model(nodes, {"x": ["N", 32, 9, 9]}, ["y"], {"w": low_rank_weight(4, 32, 32, 3, 3)})


@pytest.mark.parametrize(
    ("options", "factorized"),
    [
        ({}, ["first", "second", "third"]),
        ({"include": "^s"}, ["second"]),
        ({"exclude": "ir"}, ["second"]),
        ({"include": "r", "exclude": "first"}, ["third"]),
        ({"include": "nothing"}, []),
    ],
)
def test_filters(options: Any, factorized: list[str]) -> None:
    plan = onnxlr.plan(chain(a="first", b="second", c="third"), energy=0.9, **options)
    assert [layer.name for layer in plan.layers] == factorized
    assert {layer.name for layer in plan.layers} | {item.name for item in plan.skipped} == {
        "first",
        "second",
        "third",
    }
    assert all("clude" in item.reason for item in plan.skipped)


def test_the_gate_leaves_alone_what_does_not_pay() -> None:
    model = conv_model(weight(32, 32, 3, 3))
    gated = onnxlr.plan(model, energy=0.99)
    assert gated.layers == ()
    assert gated.skipped[0].reason.startswith("no gain at energy 0.99")
    (layer,) = onnxlr.plan(model, energy=0.99, gate="none").layers
    assert layer.macs.after is not None
    assert layer.macs.before is not None
    assert layer.macs.after > layer.macs.before


def test_too_small_to_gain() -> None:
    (skipped,) = onnxlr.plan(conv_model(weight(8, 8, 1, 1)), energy=0.5).skipped
    assert skipped.reason.startswith("too small to gain")


def test_refusals_of_all_schemes_are_given() -> None:
    (skipped,) = onnxlr.plan(conv_model(weight(16, 1, 3), (9,), group=16)).skipped
    assert skipped.reason.startswith("no scheme accepts it: channel-in: depthwise: one channel a group")
    assert "group-2: already in 16 groups" in skipped.reason
    (skipped,) = onnxlr.plan(conv_model(weight(16, 16, 3), (9,)), schemes=["spatial"]).skipped
    assert skipped.reason == "needs 2 or 3 spatial axes, has 1"


@pytest.mark.parametrize("energy", [0.5, 0.8, 0.95, 0.999])
@pytest.mark.parametrize("scheme", list(all_schemes()))
def test_energy_is_kept_by_the_smallest_rank(scheme: str, energy: float) -> None:
    model = conv_model(weight(24, 16, 3, 3))
    (layer,) = onnxlr.plan(model, energy=energy, schemes=[scheme], gate="none", align=1).layers
    assert layer.energy >= energy
    assert layer.error == pytest.approx((1 - layer.energy) ** 0.5)
    (weights,) = analyse(model)
    residuals = LayerWeights({}).decompose(weights, all_schemes()[scheme]).residuals  # type: ignore[arg-type]
    for i, r in enumerate(layer.rank):
        smaller = tuple(q - (i == j) for j, q in enumerate(layer.rank))
        is_cheaper = len(layer.rank) == 1 and not scheme.startswith("group")  # small groups are slow
        if r > 1 and is_cheaper:
            assert 1 - residuals[smaller] / residuals[0] < energy


def test_a_zero_weight_has_no_error() -> None:
    (layer,) = onnxlr.plan(conv_model(0 * weight(32, 32, 3, 3))).layers
    assert (layer.energy, layer.error) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"energy": 0.0}, "energy is a fraction"),
        ({"align": 0}, "align must be at least 1"),
        ({"gate": "luck"}, "gate must be one of macs, none"),
        ({"schemes": ["svd"]}, "no scheme named svd; there are: channel-in"),
        ({"include": "("}, "no regular expression"),
        ({"input_shapes": {"z": [1]}}, "input shape given for 'z'"),
    ],
)
def test_wrong_usage(options: Any, message: str) -> None:
    with pytest.raises(onnxlr.UsageError, match=message):
        onnxlr.plan(conv_model(weight(8, 8, 3, 3)), **options)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("scheme", list(all_schemes()))
def test_a_weight_that_is_not_finite_is_an_error(scheme: str, value: float) -> None:
    w = weight(16, 16, 3, 3)
    w[3, 2, 1, 0] = value
    with pytest.raises(onnxlr.ModelError, match="layer 'conv' cannot be used: NaN or infinite"):
        onnxlr.plan(conv_model(w), schemes=[scheme], gate="none")


def test_planning_decomposes_each_weight_once_even_if_nothing_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scheme = all_schemes()["spatial"]
    decomposed: list[ConvSpec] = []

    def count(conv: ConvSpec, w: Any) -> Any:
        decomposed.append(conv)
        return decompose(conv, w)

    decompose = scheme.decompose
    monkeypatch.setattr(scheme, "decompose", count)
    monkeypatch.setattr(factorization, "_KEPT_BYTES", 0)
    plan = onnxlr.plan(conv_model(low_rank_weight(4, 32, 32, 3, 3)), schemes=["spatial"])
    assert len(plan.layers) == 1
    assert len(decomposed) == 1
