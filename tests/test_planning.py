"""Candidates, filters, and plans that account for every layer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, helper

import onnxlr
from onnxlr import factorization
from onnxlr.analysis import analyse
from onnxlr.conv import ConvSpec, chain_macs, chain_params
from onnxlr.factorization import LayerWeights
from onnxlr.judging import judge_weights
from onnxlr.layer import Layer
from onnxlr.offers import Prospect, aligned_ranks, find_prospects
from onnxlr.parallel import no_progress
from onnxlr.planning import plan_layers
from onnxlr.schemes import Scheme, all_schemes
from onnxlr.selectors import Candidate, Choice, Judges, LayerOptions, ModelSize, Refusal
from tests.builders import constants, conv_model, gemm_model, make_model, weight


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


def candidates(model: ModelProto, schemes: Iterable[Scheme], align: int = 8) -> tuple[Candidate, ...]:
    """What the schemes offer for a model's only layer, whatever it costs."""
    (prospect,) = find_prospects(analyse(model), schemes, align, "none")
    assert isinstance(prospect, Prospect)
    return judge_weights([prospect], LayerWeights(), 1, no_progress).candidates(prospect)


def test_equal_chains_are_tried_once() -> None:
    found = candidates(gemm_model(weight(32, 16)), all_schemes().values())
    assert [candidate.scheme for candidate in found] == ["channel-in"]


@pytest.mark.parametrize("scheme", list(all_schemes()))
@pytest.mark.parametrize("size", [(11, 13), ("H", "W")])
def test_cost_of_every_rank_is_that_of_its_chain(scheme: str, size: Any) -> None:
    model = conv_model(weight(24, 20, 3, 3), size, strides=[2, 1], pads=[1, 1, 0, 0])
    (layer,) = analyse(model)
    assert isinstance(layer, Layer)
    (offer,) = candidates(model, [all_schemes()[scheme]], align=3)
    chains = [all_schemes()[scheme].chain(layer.conv, rank) for rank in offer.ranks]
    own = chain_macs([layer.conv], layer.spatial)
    assert offer.macs == pytest.approx(
        [chain_macs(links, layer.spatial) / own for links in chains], rel=1e-12
    )
    assert offer.params == pytest.approx(
        [chain_params(links) / layer.conv.params for links in chains], rel=1e-12
    )


def sigma2(matrix: Any) -> Any:
    return np.linalg.svd(matrix, compute_uv=False) ** 2


@pytest.mark.parametrize(
    ("scheme", "group", "groups", "unfold"),
    [
        ("channel-out", 1, 1, [lambda w: w.reshape(24, -1)]),
        ("channel-in", 1, 1, [lambda w: w.swapaxes(0, 1).reshape(16, -1)]),
        ("spatial", 1, 1, [lambda w: w.transpose(1, 2, 0, 3).reshape(16 * 3, -1)]),
        ("tucker2", 1, 1, [lambda w: w.swapaxes(0, 1).reshape(16, -1), lambda w: w.reshape(24, -1)]),
        ("group-4", 1, 4, [lambda w: w.reshape(4, 6, 16, 9).swapaxes(1, 2).reshape(4, 16, -1)]),
        ("channel-out", 2, 2, [lambda w: w.reshape(2, 12, -1)]),
        (
            "tucker2",
            2,
            2,
            [
                lambda w: w.reshape(2, 12, 16, 9).swapaxes(1, 2).reshape(2, 16, -1),
                lambda w: w.reshape(2, 12, -1),
            ],
        ),
    ],
)
def test_spectra_are_those_of_what_each_rank_entry_truncates(
    scheme: str, group: int, groups: int, unfold: Any
) -> None:
    w = weight(24, 16, 3, 3).astype(np.float64)
    w /= np.linalg.norm(w.reshape(24, -1), axis=1)[
        :, None, None, None
    ]  # so every output channel counts alike
    w = w.astype(np.float32)
    (offer,) = candidates(conv_model(w, group=group), [all_schemes()[scheme]])
    assert offer.groups == groups
    for spectrum, matrix, full in zip(offer.spectra, (f(w) for f in unfold), offer.ranks[-1], strict=True):
        expected = sigma2(matrix.astype(np.float64))
        assert len(spectrum) == full
        assert spectrum == pytest.approx(expected.reshape(groups, -1).sum(axis=0), rel=1e-6, abs=1e-9)


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


def network(seed: int = 0) -> ModelProto:
    """Three Convs and a Gemm, and a depthwise Conv and a normalization that cannot be made smaller."""
    shapes = {"w1": (32, 16, 3, 3), "w2": (48, 32, 3, 3), "w3": (48, 48, 1, 1), "d": (48, 1, 1, 1)}
    weights = {name: low_rank_weight(6, *shape) for name, shape in shapes.items()} | constants("bn", 32, seed)
    weights["fc"] = low_rank_weight(4, 48, 40)
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], "conv1", pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["a", *constants("bn", 32)], ["b"], "bn"),
        helper.make_node("Conv", ["b", "w2"], ["c"], "conv2", strides=[2, 2]),
        helper.make_node("Conv", ["c", "d"], ["e"], "depthwise", group=48),
        helper.make_node("Conv", ["e", "w3"], ["f"], "conv3"),
        helper.make_node("ReduceMean", ["f"], ["g"], axes=[2, 3], keepdims=0),
        helper.make_node("Gemm", ["g", "fc"], ["y"], "fc"),
    ]
    return make_model(nodes, {"x": ["N", 16, 12, 12]}, ["y"], weights)


@pytest.mark.parametrize("target", [0.3, 0.5, 0.8])
@pytest.mark.parametrize("unit", ["macs", "params"])
def test_a_target_is_met_from_below(unit: str, target: float) -> None:
    options: dict[str, Any] = {f"target_{unit}": target}
    result = onnxlr.optimize(network(), checks=None, align=2, **options)
    counted = getattr(result.report.totals, unit)
    assert target - 0.05 < counted.after / counted.before <= target
    assert result.plan.settings[f"target-{unit}"] == target
    assert {item.name for item in result.plan.skipped} >= {"depthwise"}


def test_a_smaller_target_loses_more() -> None:
    losses = [
        sum(layer.error**2 for layer in onnxlr.plan(network(), target_macs=target, align=2).layers)
        for target in (0.3, 0.5, 0.8, 1.0)
    ]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] == 0


def test_a_target_needs_sizes() -> None:
    model = conv_model(low_rank_weight(4, 32, 32, 3, 3), ("H", "W"))
    with pytest.raises(onnxlr.UsageError, match="give --input-shape"):
        onnxlr.plan(model, target_macs=0.5)
    assert onnxlr.plan(model, target_macs=0.5, input_shapes={"x": [1, 32, 9, 9]}).layers
    assert onnxlr.plan(model, target_params=0.5).layers


def test_evbmf_finds_the_rank_of_the_weight() -> None:
    w = low_rank_weight(4, 32, 32, 3, 3)
    w /= np.linalg.norm(w.reshape(32, -1), axis=1)[:, None, None, None]
    model = conv_model(w + np.float32(0.1) * weight(32, 32, 3, 3, seed=1))
    (layer,) = onnxlr.plan(model, evbmf=True, schemes=["channel-out"], align=1).layers
    assert layer.rank == (4,)
    (skipped,) = onnxlr.plan(conv_model(weight(32, 32, 3, 3)), evbmf=True).skipped
    assert skipped.reason == "EVBMF finds nothing but noise in the weight"


class Recorder:
    """Leaves all alone, and keeps what it was shown."""

    name = "recorder"
    help = ""
    value = 1.0
    takes_value = False
    judges: Judges = "outputs"
    options: Sequence[LayerOptions]
    model: ModelSize

    def __init__(self, value: float = 1.0) -> None:
        pass

    def __call__(self, options: Sequence[LayerOptions], model: ModelSize) -> dict[str, Choice | Refusal]:
        self.options, self.model = options, model
        return {layer.layer: Refusal("seen") for layer in options}


def test_selectors_are_shown_layers_and_the_model() -> None:
    recorder = Recorder()
    plan = onnxlr.plan(network(), selector=recorder, exclude="fc")
    before = onnxlr.optimize(network(), selector=recorder, checks=None).report.totals
    assert (recorder.model.macs, recorder.model.params) == (before.macs.before, before.params.before)
    assert [skipped.name for skipped in plan.skipped if skipped.reason == "seen"] == [
        "conv1",
        "conv2",
        "conv3",
    ]
    first = recorder.options[0]
    assert (first.layer, first.macs, first.params) == ("conv1", 32 * 16 * 9 * 12 * 12, 32 * 16 * 9)
    assert first.sensitivity == 1.0
    assert {candidate.layer for candidate in first.candidates} == {"conv1"}


def shown(model: ModelProto, sensitivity: dict[str, float]) -> Sequence[LayerOptions]:
    """What a selector is shown where some layers' sensitivities were measured."""
    recorder = Recorder()
    found = find_prospects(analyse(model), all_schemes().values(), 8, "macs")
    measured = {
        f.layer.key: sensitivity[f.layer.name]
        for f in found
        if isinstance(f, Prospect) and f.layer.name in sensitivity
    }
    judgement = replace(judge_weights(found, LayerWeights(), 1, no_progress), sensitivity=measured)
    plan_layers(found, judgement, recorder, ModelSize(None, 1), LayerWeights().shared_key)
    return recorder.options


def test_sensitivities_reach_the_selector() -> None:
    options = shown(network(), {"conv1": 0.5, "conv3": 0.1, "fc": 0.2})
    assert {o.layer: o.sensitivity for o in options} == {"conv1": 0.5, "conv2": 0.2, "conv3": 0.1, "fc": 0.2}


def test_layers_that_share_a_weight_are_one_to_the_selector() -> None:
    (options,) = shown(chain(a="first", b="second", c="third"), {"first": 0.5, "second": 0.25, "third": 1.0})
    assert options.params == 32 * 32 * 9
    assert options.macs == 32 * 32 * 9 * (7 * 7 + 5 * 5 + 3 * 3)
    assert options.sensitivity == 1.75


@pytest.mark.parametrize("target", [0.2, 0.5, 0.9])
def test_a_target_of_params_is_met_where_layers_share_a_weight(target: float) -> None:
    result = onnxlr.optimize(chain(a="first", b="second", c="third"), target_params=target, checks=None)
    params = result.report.totals.params
    assert params.before is not None
    assert params.after is not None
    assert params.after <= target * params.before
    assert len({layer.rank for layer in result.plan.layers}) == 1


@pytest.mark.parametrize("energy", [0.5, 0.8, 0.95, 0.999])
@pytest.mark.parametrize("scheme", list(all_schemes()))
def test_energy_is_kept_by_the_smallest_rank(scheme: str, energy: float) -> None:
    model = conv_model(weight(24, 16, 3, 3))
    (layer,) = onnxlr.plan(model, energy=energy, schemes=[scheme], gate="none", align=1).layers
    assert layer.energy >= energy
    assert layer.error == pytest.approx((1 - layer.energy) ** 0.5)
    (weights,) = analyse(model)
    residuals = LayerWeights().decompose(weights, all_schemes()[scheme]).residuals  # type: ignore[arg-type]
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
        ({"target_macs": 1.5}, "target-macs is a fraction"),
        ({"target_params": 0}, "target-params is a fraction"),
        (
            {"target_params": 0.01},
            r"target-params 0\.01: the lowest that can be reached is 0\.6713 of the par",
        ),
        ({"energy": 0.9, "evbmf": True}, "give one of energy, evbmf"),
        ({"target_macs": 0.9, "selector": Recorder()}, "give one of target-macs, selector"),
        ({"align": 0}, "align must be at least 1"),
        ({"gate": "luck"}, "gate must be one of macs, latency, none"),
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
