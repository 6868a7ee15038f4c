"""Layers and data: stated errors are those in the network, and fits make up for the layers before them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper
from threadpoolctl import threadpool_limits

import onnxlr
from onnxlr import calibration as calibration_module
from onnxlr import calibration_data
from onnxlr import positions as positions_module
from onnxlr import subject as subject_module
from onnxlr.analysis import analyse
from onnxlr.calibration import Calibrator, Survey, Task
from onnxlr.calibration_data import Calibration
from onnxlr.factorization import LayerWeights
from onnxlr.feeds import Feeds
from onnxlr.fitting import Fit
from onnxlr.layer import Layer
from onnxlr.model_file import Model, load
from onnxlr.parallel import no_progress
from onnxlr.positions import Positions
from onnxlr.replacement import Replacement
from onnxlr.rewriting import rewrite
from onnxlr.runtime import find_device
from onnxlr.schemes import Rank, Regression, Scheme, all_schemes
from onnxlr.spill import Spill
from tests.builders import Array, initializers, make_model, relative_error, run, stored_outside, weight
from tests.passes.test_cut import normal, parse
from tests.schemes.test_schemes import compose
from tests.test_conformance import MODELS
from tests.test_patches import random_input
from tests.test_planning import low_rank_weight

SCHEMES = all_schemes()
CPU = find_device("cpu")
node = helper.make_node


@pytest.fixture(autouse=True, scope="module")
def _small() -> Iterator[None]:
    """Some positions instead of all of these small outputs; threads on small matrices disturb each other."""
    with pytest.MonkeyPatch.context() as patch, threadpool_limits(1):
        patch.setattr(positions_module, "_FEWEST", 1000)
        patch.setattr(positions_module, "_HELD_OUT", 500)
        yield


Choices = dict[str, tuple[str | None, Rank]]
"""By the layer's name; no scheme: it stays one node."""


def layers(model: ModelProto) -> dict[str, Layer]:
    return {item.name: item for item in analyse(model) if isinstance(item, Layer)}


def tasks(model: ModelProto, schemes: Iterable[str] = SCHEMES) -> list[Task]:
    """Every layer, with every scheme up to its full rank."""
    chosen = [SCHEMES[name] for name in schemes]
    return [
        Task(layer, [(s, s.max_rank(layer.conv)) for s in chosen if s.refuses(layer.conv) is None])
        for layer in layers(model).values()
    ]


def calibrator(model: ModelProto | Model, batches: Sequence[Array], **options: Any) -> Calibrator:
    """On batches of the model's input x."""
    feeds = Feeds([{"x": batch} for batch in batches], "test")
    return Calibrator(model if isinstance(model, Model) else Model(model), feeds, CPU, threads=1, **options)


def chosen_of(model: ModelProto, choices: Choices) -> list[Replacement]:
    known = layers(model)
    return [
        Replacement(known[n], None if s is None else SCHEMES[s], rank) for n, (s, rank) in choices.items()
    ]


def applied(model: ModelProto, chosen: Sequence[Replacement], fits: Mapping[Any, Fit]) -> ModelProto:
    """The model with fits in the place of their layers."""
    found = [Replacement(c.layer, c.scheme, c.rank, fits[c.layer.key]) for c in chosen if c.layer.key in fits]
    return rewrite(Model(model), found, LayerWeights(), 1, no_progress).proto


def values(model: ModelProto, name: str, batch: Array) -> Array:
    """Rows of a value somewhere in the model: channels last."""
    shown = ModelProto()
    shown.CopyFrom(model)
    shown.graph.output.add(name=name)
    value = run(shown, x=batch)[-1]
    return np.moveaxis(value, 1, -1).reshape(-1, value.shape[1]).astype(np.float64)


def split(model: ModelProto, layer: Layer, batches: Sequence[Array], seed: int = 0) -> tuple[Array, Array]:
    """A layer's outputs where they are fitted, and where they are held out; of models with the same sizes."""
    fitted, held = [], []
    for number, batch in enumerate(batches):
        rows = values(model, layer.key[1], batch)
        sizes = (len(rows), layer.conv.out_channels, *(1,) * len(layer.conv.kernel_shape))
        positions, count = Positions(seed, len(batches)).of(layer, number, sizes)
        fitted.append(rows[positions[:count]])
        held.append(rows[positions[count:]])
    return np.concatenate(fitted), np.concatenate(held)


def mean_square(rows: Array) -> float:
    return float(np.square(rows).sum(axis=1).mean())


# A small network --------------------------------------------------------------------------------------------


def network(dtype: Any = np.float32, **others: Array) -> ModelProto:
    """Two Convs and a Gemm of ranks 3, 4 and 4 as `channel-out`."""
    weights = {
        "w1": low_rank_weight(3, 12, 4, 3, 3),
        "b1": weight(12, seed=5),
        "w2": low_rank_weight(4, 16, 12, 3, 3),
        "b2": weight(16, seed=6),
        "w3": low_rank_weight(4, 16, 10),
        "b3": weight(10, seed=7),
    } | others
    nodes = [
        node("Conv", ["x", "w1", "b1"], ["h1"], "conv1", pads=[1, 1, 1, 1]),
        node("Relu", ["h1"], ["a1"]),
        node("Conv", ["a1", "w2", "b2"], ["h2"], "conv2", strides=[2, 2]),
        node("Relu", ["h2"], ["a2"]),
        node("ReduceMean", ["a2"], ["m"], axes=[2, 3], keepdims=0),
        node("Gemm", ["m", "w3", "b3"], ["y"], "fc"),
    ]
    stored = {name: array.astype(dtype) for name, array in weights.items()}
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return make_model(nodes, {"x": ["N", 4, 9, 9]}, ["y"], stored, dtype=kind)


def images(count: int, seed: int, dtype: Any = np.float32) -> Array:
    """Images whose pixels and channels have to do with each other."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((count, 4, 9, 9)) + rng.standard_normal((count, 4, 1, 1))
    mixing = np.random.default_rng(0).standard_normal((4, 4))
    return np.einsum("ij,njhw->nihw", mixing, noise).astype(dtype)


BATCHES = [images(8, i) for i in range(12)]
FRESH = [images(16, 100 + i) for i in range(4)]
KEYS = {"conv1": ("", "h1"), "conv2": ("", "h2"), "fc": ("", "y")}


PLANS: dict[str, Choices] = {
    "channel-out": {
        "conv1": ("channel-out", (2,)),
        "conv2": ("channel-out", (3,)),
        "fc": ("channel-in", (3,)),
    },
    "channel-in": {"conv1": ("channel-in", (1,)), "conv2": ("channel-out", (8,)), "fc": ("channel-in", (2,))},
    "spatial": {"conv1": ("spatial", (2,)), "conv2": ("spatial", (4,)), "fc": (None, ())},
    "groups": {"conv1": ("tucker2", (2, 2)), "conv2": ("group-2", (3,)), "fc": ("channel-out", (4,))},
    "one stays": {"conv1": ("channel-out", (1,)), "conv2": (None, ())},
}


class Recorded:
    """A survey, the regressions that it made, by layer and scheme, and fits."""

    def __init__(self, model: ModelProto, batches: Sequence[Array], **options: Any) -> None:
        self.regressions: dict[tuple[Any, str], Regression] = {}
        found = layers(model)
        shapes = {layer.conv.weight_shape: layer.key for layer in found.values()}
        with pytest.MonkeyPatch.context() as patch:
            for name, scheme in SCHEMES.items():
                patch.setattr(scheme, "regress", self._recording(name, scheme, shapes))
            self.calibrator = calibrator(model, batches, **options)
            self.survey = self.calibrator.survey(tasks(model))
        self.plans = {name: chosen_of(model, plan) for name, plan in PLANS.items()}
        self.fits = {name: self.calibrator.fit(chosen) for name, chosen in self.plans.items()}

    def _recording(self, name: str, scheme: Scheme, shapes: Any) -> Any:
        own = scheme.regress

        def regress(conv: Any, *arguments: Any) -> Regression:
            made = own(conv, *arguments)
            self.regressions[shapes[conv.weight_shape], name] = made
            return made

        return regress


@pytest.fixture(scope="module")
def recorded() -> Recorded:
    return Recorded(network(), BATCHES, seed=3)


RANKS: dict[str, dict[str, Rank]] = {
    "conv1": {"channel-in": (2,), "channel-out": (2,), "group-2": (1,), "spatial": (3,), "tucker2": (2, 3)},
    "conv2": {"channel-in": (5,), "channel-out": (3,), "group-4": (2,), "spatial": (7,), "tucker2": (4, 3)},
    "fc": {"channel-in": (2,), "channel-out": (3,)},
}
CASES = [(layer, scheme, rank) for layer, ranks in RANKS.items() for scheme, rank in ranks.items()]


@pytest.mark.parametrize(("name", "scheme", "rank"), CASES)
def test_residuals_are_errors_of_the_layer_in_the_network(
    recorded: Recorded, name: str, scheme: str, rank: Rank
) -> None:
    """The layer with the factors' product as its weight, in ONNX Runtime, means made equal."""
    model, layer = network(), layers(network())[name]
    factors = recorded.regressions[layer.key, scheme].factors(rank)
    product = compose(layer.conv, SCHEMES[scheme].chain(layer.conv, rank), factors)
    stored = layer.layout.store(product, layer.conv).astype(np.float32)
    other = network(**{f"w{list(KEYS).index(name) + 1}": stored})
    (fitted, held), (other_fitted, other_held) = (split(m, layer, BATCHES, seed=3) for m in (model, other))
    shift = fitted.mean(axis=0) - other_fitted.mean(axis=0)
    residuals = recorded.survey.residuals[layer.key, scheme]
    tolerance = 0.1 if scheme == "tucker2" else 1e-3  # whose last factor is chosen by what the first two give
    assert mean_square(held - other_held - shift) == pytest.approx(residuals[rank], rel=tolerance)
    total = mean_square(held - fitted.mean(axis=0))
    assert residuals[(0,) * len(rank)] == pytest.approx(total, rel=1e-4)
    assert 0.001 * total < residuals[rank] < 0.8 * total


@pytest.mark.parametrize("name", KEYS)
def test_residuals_fall_to_nothing_at_the_rank_of_the_weight(recorded: Recorded, name: str) -> None:
    layer = layers(network())[name]
    for (key, scheme), residuals in recorded.survey.residuals.items():
        if key == layer.key:
            assert residuals.shape == tuple(r + 1 for r in SCHEMES[scheme].max_rank(layer.conv))
            assert residuals.flat[-1] < 1e-9 * residuals.flat[0]
    own = recorded.survey.residuals[layer.key, "channel-out"]
    assert own[3 if name == "conv1" else 4] < 1e-4 * own[0]
    assert own[2] > 1e-3 * own[0]


def test_every_layer_has_its_sensitivity(recorded: Recorded) -> None:
    assert recorded.survey.problems == {}
    assert recorded.survey.sensitivity.keys() == {*KEYS.values()}
    assert all(0.01 < value < 2 for value in recorded.survey.sensitivity.values())


def same(one: Survey, other: Survey) -> bool:
    assert one.residuals.keys() == other.residuals.keys()
    arrays = [(one.residuals[key], other.residuals[key]) for key in one.residuals]
    return all(np.array_equal(a, b) for a, b in arrays) and one.sensitivity == other.sensitivity


def test_the_same_again(recorded: Recorded) -> None:
    again = calibrator(network(), BATCHES, seed=3, workers=2)
    assert same(again.survey(tasks(network())[::-1]), recorded.survey)
    assert same(again.survey(tasks(network())), recorded.survey)
    assert not same(calibrator(network(), BATCHES, seed=4).survey(tasks(network())), recorded.survey)


def test_the_highest_rank_of_interest() -> None:
    scheme = SCHEMES["channel-out"]
    (full,) = (Task(layer, [(scheme, (16,))]) for name, layer in layers(network()).items() if name == "conv2")
    (some,) = (Task(full.layer, [(scheme, (5,))]) for _ in "1")
    whole, part = (calibrator(network(), BATCHES).survey([task]).residuals for task in (full, some))
    ((key, residuals),) = part.items()
    assert len(residuals) == 6
    assert residuals == pytest.approx(whole[key][:6], rel=1e-3)


# Fits -------------------------------------------------------------------------------------------------------


def check_errors(chosen: Sequence[Replacement], fits: Mapping[Any, Fit]) -> None:
    """All fits in place, each has the error that it states; the bias is among what is fitted."""
    model, made = network(), applied(network(), chosen, fits)
    for item in chosen:
        fitted, held = split(model, item.layer, BATCHES, seed=3)
        other_fitted, other_held = split(made, item.layer, BATCHES, seed=3)
        error = mean_square(held - other_held) / mean_square(held - fitted.mean(axis=0))
        assert fits[item.layer.key].error == pytest.approx(error, rel=1e-3)
        assert 1e-3 < error < 0.9
        assert np.abs(other_fitted.mean(axis=0) - fitted.mean(axis=0)).max() < 1e-4


@pytest.mark.parametrize("plan", PLANS)
def test_the_error_of_a_fit_is_that_of_the_network_it_makes(recorded: Recorded, plan: str) -> None:
    assert recorded.fits[plan].keys() == {KEYS[name] for name in PLANS[plan]}
    check_errors(recorded.plans[plan], recorded.fits[plan])


def test_refined_fits(recorded: Recorded) -> None:
    chosen = recorded.plans["spatial"][:1]
    fits = calibrator(network(), BATCHES, seed=3, refine=1).fit(chosen)
    check_errors(chosen, fits)
    assert fits[KEYS["conv1"]].error < 0.999 * recorded.fits["spatial"][KEYS["conv1"]].error


@pytest.mark.parametrize("plan", PLANS)
def test_later_layers_make_up_for_earlier_ones(recorded: Recorded, plan: str) -> None:
    """On fresh data: against fits that were made as if the layers before were exact."""
    chosen, fits = recorded.plans[plan], recorded.fits[plan]
    alone = {key: fit for item in chosen for key, fit in recorded.calibrator.fit([item]).items()}
    expected = values(network(), "h2", np.concatenate(FRESH))
    together, apart = (
        mean_square(expected - values(applied(network(), chosen, found), "h2", np.concatenate(FRESH)))
        for found in (fits, alone)
    )
    assert together < 0.995 * apart


def test_a_layer_that_stays_has_its_shape(recorded: Recorded) -> None:
    first, second = recorded.fits["one stays"].values()
    assert [factor.shape for factor in first.factors] == [(1, 4, 3, 3), (12, 1, 1, 1)]
    assert [factor.shape for factor in second.factors] == [(16, 12, 3, 3)]
    assert second.bias is not None


def test_a_layer_that_stays_and_has_its_inputs_stays_as_it_is(recorded: Recorded) -> None:
    fits = recorded.calibrator.fit(chosen_of(network(), {"conv1": (None, ()), "fc": ("channel-in", (10,))}))
    assert fits.get(KEYS["conv1"], fits[KEYS["fc"]]).error < 1e-9


def test_a_layer_whose_fit_is_no_better(recorded: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has none, and the one before it is not put in its place again."""
    monkeypatch.setattr(calibration_module, "refit_layer", lambda *_: None)
    plan: Choices = {"conv1": ("channel-out", (2,)), "conv2": (None, ()), "fc": ("channel-in", (3,))}
    fits = recorded.calibrator.fit(chosen_of(network(), plan))
    assert fits.keys() == {KEYS["conv1"], KEYS["fc"]}
    del plan["conv2"]
    others = recorded.calibrator.fit(chosen_of(network(), plan))
    assert fits[KEYS["fc"]].error == pytest.approx(others[KEYS["fc"]].error, rel=1e-3)


def test_fitting_needs_no_survey(recorded: Recorded) -> None:
    chosen, fits = recorded.plans["channel-out"], recorded.fits["channel-out"]
    others = calibrator(network(), BATCHES, seed=3).fit(chosen[::-1])
    assert fits.keys() == others.keys()
    for key, fit in fits.items():
        assert all(np.array_equal(a, b) for a, b in zip(fit.factors, others[key].factors, strict=True))
        assert np.array_equal(fit.bias, others[key].bias)
        assert fit.error == others[key].error


def test_steps_are_told() -> None:
    steps: list[tuple[str, int, int]] = []
    made = calibrator(network(), BATCHES, progress=lambda *step: steps.append(step))
    made.survey(tasks(network(), ["channel-in"]))
    made.fit(chosen_of(network(), {"conv1": ("channel-in", (1,)), "fc": (None, ())}))
    assert steps == [("Calibrating", i, 3) for i in (1, 2, 3)] + [("Fitting", i, 2) for i in (1, 2)]


def test_nothing_to_look_at() -> None:
    made = calibrator(network(), BATCHES)
    survey = made.survey([])
    assert (survey.residuals, survey.sensitivity, survey.problems) == ({}, {}, {})
    assert made.fit([]) == {}


def test_layers_without_schemes_are_only_looked_at() -> None:
    made = calibrator(network(), BATCHES)
    survey = made.survey([Task(layer) for layer in layers(network()).values()])
    assert (survey.residuals, survey.sensitivity, survey.problems) == ({}, {}, {})


def test_the_model_is_left_alone() -> None:
    model = network()
    before = model.SerializeToString(deterministic=True)
    made = calibrator(model, BATCHES)
    made.survey(tasks(model))
    made.fit(chosen_of(model, PLANS["spatial"]))
    assert model.SerializeToString(deterministic=True) == before


def test_weights_in_files(tmp_path: Path, recorded: Recorded) -> None:
    """New weights go to a spill, as those of the model may not fit memory."""
    path = stored_outside(tmp_path, network())
    loaded = load(path)
    found = {i.name: i for i in analyse(loaded.proto, folder=str(tmp_path)) if isinstance(i, Layer)}
    chosen = [Replacement(found["conv1"], SCHEMES["channel-out"], (1,)), Replacement(found["conv2"], None)]
    stored: list[Array] = []

    def store(spill: Spill, array: Array) -> TensorProto:
        stored.append(array)
        return own(spill, array)

    own = Spill.store
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Spill, "store", store)
        fits = calibrator(loaded, BATCHES, seed=3).fit(chosen)
    assert len(stored) == 5  # two factors, one weight, two biases
    expected = recorded.fits["one stays"]
    for key, fit in expected.items():
        for a, b in zip(fit.factors, fits[key].factors, strict=True):
            assert relative_error(a, b) < 1e-5


# Any layer --------------------------------------------------------------------------------------------------

ANY = [
    "conv, stride, dilation, asymmetric",
    "conv, no bias",
    "conv, SAME_LOWER, stride 2x3, even kernel",
    "conv, 1x1, stride 2",
    "conv, 1-D",
    "conv, 3-D, everything",
    "conv, grouped, everything",
    "conv, depthwise",
    "conv, one output channel",
    "transposed, everything",
    "transposed, output_shape",
    "transposed, 1x1, stride 2",
    "transposed, grouped",
    "gemm transA transB",
    "gemm alpha beta",
    "gemm scalar bias",
    "gemm no bias",
    "gemm of opset 9, transB",
    "gemm left transA",
    "matmul 4-D",
    "matmul (2, K, N)",
    "matmul (3, 2, K, N), broadcast",
    "matmul left, batched",
    "matmul left (2, M, K)",
]


@pytest.mark.parametrize("case", ANY)
def test_full_rank_of_any_layer_is_exact(case: str) -> None:
    model = MODELS[case]
    shape = random_input(model).shape
    rng = np.random.default_rng(0)
    batches = [rng.standard_normal(shape).astype(np.float32) for _ in range(6)]
    made = calibrator(model, batches)
    (task,) = tasks(model)
    survey = made.survey([task])
    assert survey.problems == {}
    assert {scheme for _, scheme in survey.residuals} == {scheme.name for scheme, _ in task.schemes}
    for residuals in survey.residuals.values():
        assert residuals.flat[-1] < 1e-9 * residuals.flat[0]
        assert residuals.flat[0] > 0.1
    for scheme, rank in task.schemes[:2]:
        chosen = [Replacement(task.layer, scheme, rank)]
        fits = made.fit(chosen)
        assert fits[task.layer.key].error < 1e-9
        other = applied(model, chosen, fits)
        assert relative_error(run(model, x=batches[0])[0], run(other, x=batches[0])[0]) < 1e-4


def test_a_stand_in_finds_what_the_layer_does(monkeypatch: pytest.MonkeyPatch, recorded: Recorded) -> None:
    """`channel-out` is the optimum over what either can have: with the same inputs it is the same chain."""
    monkeypatch.setattr(subject_module, "_LARGEST", 40)  # conv2 has 108 entries
    model = network()
    made = calibrator(model, BATCHES, seed=3)
    survey = made.survey(tasks(model))
    key = KEYS["conv2"]
    assert [scheme for found, scheme in survey.residuals if found == key] == ["channel-out"]
    expected = recorded.survey.residuals[key, "channel-out"]
    assert survey.residuals[key, "channel-out"] == pytest.approx(expected, rel=0.02, abs=1e-6 * expected[0])
    chosen = chosen_of(model, {"conv2": ("channel-out", (3,))})
    fits = made.fit(chosen)
    fitted, held = split(model, chosen[0].layer, BATCHES, seed=3)
    _, other_held = split(applied(model, chosen, fits), chosen[0].layer, BATCHES, seed=3)
    error = mean_square(held - other_held) / mean_square(held - fitted.mean(axis=0))
    assert fits[key].error == pytest.approx(error, rel=1e-3)
    monkeypatch.undo()
    itself = calibrator(model, BATCHES, seed=3)
    sensitivity = itself.survey(tasks(model, ["channel-out"])).sensitivity
    assert survey.sensitivity[key] == pytest.approx(sensitivity[key], rel=0.05)
    assert fits[key].error == pytest.approx(itself.fit(chosen)[key].error, rel=0.02)


# Layers out of reach ----------------------------------------------------------------------------------------

ELSEWHERE = "not in the main graph"
SHARED = "shares its weight with another layer"
FUNCTION = '<ir_version: 8, opset_import: ["" : 17, "local" : 1]>\n'

OUT_OF_REACH: dict[str, tuple[ModelProto, dict[tuple[str, str], str]]] = {
    "If": (
        parse(
            """g (float[N, 6] x) => (float[N, 6] y) {
                a = MatMul (x, w0)
                s = ReduceSum <keepdims = 0> (a)
                flag = Greater (s, zero)
                b = If (flag) <
                    then_branch = left () => (float[N, 6] t) { t = MatMul (a, w1) },
                    else_branch = right () => (float[N, 6] u) { u = Neg (a) }>
                y = MatMul (b, w2)
            }""",
            w0=weight(6, 6),
            w1=weight(6, 6, seed=1),
            w2=weight(6, 6, seed=2),
            zero=np.array(0, np.float32),
        ),
        {("/b[0]", "t"): ELSEWHERE},
    ),
    "Loop, with a weight of outside": (
        parse(
            """g (float[N, 6] x) => (float[N, 6] y) {
                a = MatMul (x, w0)
                b = Loop (n, yes, a) <
                    body = step (int64 i, bool c, float[N, 6] s) => (bool c1, float[N, 6] s1) {
                        c1 = Identity (c)
                        s1 = MatMul (s, w1)
                    }>
                c = MatMul (b, w1)
                y = MatMul (c, w2)
            }""",
            w0=weight(6, 6),
            w1=weight(6, 6, seed=1),
            w2=weight(6, 6, seed=2),
            n=np.array(2),
            yes=np.array(True),
        ),
        {("/b[0]", "s1"): ELSEWHERE, ("", "c"): SHARED},
    ),
    "local function": (
        parse(
            """g (float[N, 6] x) => (float[N, 6] y) {
                a = MatMul (x, w0)
                b = local.f (a)
                y = MatMul (b, w2)
            }
            <domain: "local", opset_import: ["" : 17]> f (p) => (q) {
                w = Constant <value = float[6, 1] {1, -1, 2, -2, 3, -3}> ()
                h = MatMul (p, w)
                q = Add (p, h)
            }""",
            FUNCTION,
            w0=weight(6, 6),
            w2=weight(6, 6, seed=2),
        ),
        {("function local:f", "h"): ELSEWHERE},
    ),
    "shared weight": (
        parse(
            """g (float[N, 6] x) => (float[N, 6] y) {
                a = MatMul (x, w0)
                b = MatMul (a, w1)
                c = Relu (b)
                d = MatMul (c, w1)
                y = MatMul (d, w2)
            }""",
            w0=weight(6, 6),
            w1=weight(6, 6, seed=1),
            w2=weight(6, 6, seed=2),
        ),
        {("", "b"): SHARED, ("", "d"): SHARED},
    ),
    "matrices that broadcast": (
        parse(
            """g (float[3, 2, 4, 6] x) => (float[3, 2, 4, 6] y) {
                a = MatMul (x, w0)
                b = MatMul (a, w1)
                y = MatMul (b, w2)
            }""",
            w0=weight(6, 6),
            w1=weight(3, 1, 6, 6, seed=1),
            w2=weight(6, 6, seed=2),
        ),
        {("", "b"): "axes of the matrices broadcast"},
    ),
}


@pytest.mark.parametrize("case", OUT_OF_REACH)
def test_layers_out_of_reach(case: str) -> None:
    """They have their reason, and the others are looked at and fitted as if they were no layers."""
    model, problems = OUT_OF_REACH[case]
    dims = [dim.dim_value or 50 for dim in model.graph.input[0].type.tensor_type.shape.dim]
    batches = [normal(*dims, seed=i) for i in range(5)]
    made = calibrator(model, batches)
    survey = made.survey(tasks(model))
    assert survey.problems == problems
    reached = {("", "a"), ("", "y")}
    assert {key for key, _ in survey.residuals} == survey.sensitivity.keys() == reached
    chosen = [Replacement(layer, SCHEMES["channel-in"], (6,)) for layer in layers(model).values()]
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(Calibrator, "survey")  # what is known to be a problem is not looked at again
        fits = made.fit(chosen)
    assert fits.keys() == reached
    other = applied(model, chosen, fits)
    assert relative_error(run(model, x=batches[0])[0], run(other, x=batches[0])[0]) < 1e-4


# Unusual data -----------------------------------------------------------------------------------------------


def mlp() -> ModelProto:
    return parse(
        """g (float[N, 6] x) => (float[N, 4] y) {
            h = Gemm (x, w1, b1)
            a = Relu (h)
            y = Gemm (a, w2, b2)
        }""",
        w1=weight(6, 8),
        b1=weight(8, seed=1),
        w2=weight(8, 4, seed=2),
        b2=weight(4, seed=3),
    )


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_rows_that_are_not_finite_are_left_out(value: float) -> None:
    batches = [normal(60, 6, seed=i) for i in range(7)]
    broken = [batch.copy() for batch in batches]
    broken[0][7, 2], broken[3][0], broken[4][5, 1] = value, value, value
    clean = [
        np.delete(batch, rows, 0)
        for batch, rows in zip(batches, ([7], [], [], [0], [5], [], []), strict=True)
    ]
    found, expected = (calibrator(mlp(), data) for data in (broken, clean))
    with np.errstate(invalid="ignore"):  # of inf in the sensitivities
        surveys = [made.survey(tasks(mlp())) for made in (found, expected)]
    assert surveys[0].problems == {}
    for offer, residuals in surveys[1].residuals.items():
        assert surveys[0].residuals[offer] == pytest.approx(residuals, rel=1e-4, abs=1e-9)
    chosen = [Replacement(layer, SCHEMES["channel-in"], (2,)) for layer in layers(mlp()).values()]
    fits = [made.fit(chosen) for made in (found, expected)]
    for key, fit in fits[1].items():
        assert fits[0][key].error == pytest.approx(fit.error, rel=1e-3)


def test_nothing_finite() -> None:
    batches = [np.full((8, 6), np.nan, np.float32)] * 6
    made = calibrator(mlp(), batches)
    survey = made.survey(tasks(mlp()))
    assert set(survey.problems.values()) == {"too few positions"}
    assert len(survey.problems) == 2
    assert (
        made.fit([Replacement(layer, SCHEMES["channel-in"], (2,)) for layer in layers(mlp()).values()]) == {}
    )


def biased(**values: float) -> ModelProto:
    """The network with another number in the first five entries of some biases."""
    changed = {name: initializers(network())[name].copy() for name in values}
    for name, value in values.items():
        changed[name][:5] = value
    return network(**changed)


def with_channel(channel: int, value: float) -> list[Array]:
    changed = [batch.copy() for batch in BATCHES]
    for batch in changed:
        batch[:, channel] = value
    return changed


def depthwise() -> ModelProto:
    return make_model(
        [node("Conv", ["x", "w"], ["y"], "conv", group=4)],
        {"x": ["N", 4, 9, 9]},
        ["y"],
        {"w": weight(8, 1, 3, 3)},
    )


UNUSUAL = [
    pytest.param(network(), with_channel(1, 0), id="a channel of zeros"),
    pytest.param(network(), with_channel(1, 0.7), id="a constant channel"),
    pytest.param(network(), [np.repeat(b[:, :1], 4, axis=1) for b in BATCHES], id="equal channels"),
    pytest.param(network(), [b * np.float32(1e-3) for b in BATCHES], id="small numbers"),
    pytest.param(network(), [b * np.float32(1e6) for b in BATCHES], id="large numbers"),
    pytest.param(biased(b1=-1e3), BATCHES, id="dead outputs"),
    pytest.param(biased(b1=-1e3, b2=-1e3), BATCHES, id="dead outputs of two layers"),
    pytest.param(network(), [b[: 1 + i % 4] for i, b in enumerate(BATCHES)], id="runs of several sizes"),
    pytest.param(network(), BATCHES[:5], id="five runs"),
    pytest.param(network(), [b[:1] for b in BATCHES[:5]], id="five images"),
    pytest.param(depthwise(), BATCHES, id="depthwise"),
    pytest.param(depthwise(), with_channel(1, 0), id="depthwise, a channel of zeros"),
    pytest.param(network(), [0 * b for b in BATCHES], id="zeros"),
    pytest.param(network(b1=np.full(12, -1e3)), BATCHES, id="a layer whose inputs are zeros"),
    pytest.param(network(w1=np.zeros((12, 4, 3, 3))), BATCHES, id="a weight of zeros"),
    pytest.param(network(), [BATCHES[0][:2]], id="two images in one run"),
    pytest.param(network(), [0 * b + np.float32(0.7) for b in BATCHES], id="constant inputs"),
    pytest.param(network(), [b + np.float32(300) for b in BATCHES], id="a large mean"),
]


@pytest.mark.parametrize(("model", "batches"), UNUSUAL)
def test_unusual_data(model: ModelProto, batches: Sequence[Array]) -> None:
    """Every layer has finite errors, or a problem; what is fitted at full rank computes the same."""
    made = calibrator(model, batches)
    found = tasks(model, ["channel-in", "channel-out", "spatial", "tucker2"])
    survey = made.survey(found)
    judged = {key for key, _ in survey.residuals}
    assert judged | survey.problems.keys() == {layer.key for layer in layers(model).values()}
    for residuals in survey.residuals.values():
        assert np.isfinite(residuals).all()
        assert residuals.flat[-1] <= max(1e-6 * residuals.flat[0], 1e-30)
    chosen = [Replacement(item.layer, *item.schemes[0]) for item in found]
    fits = made.fit(chosen)
    assert fits.keys() == judged
    made_of_fits = applied(model, chosen, fits)
    expected, actual = (run(m, x=batches[0])[0] for m in (model, made_of_fits))
    assert np.abs(expected - actual).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("count", [1, 2, 4])
def test_few_images(count: int) -> None:
    """A run of one image has many positions of a Conv, and one of a Gemm, which cannot be held out."""
    made = calibrator(network(), [images(1, i) for i in range(count)])
    survey = made.survey(tasks(network()))
    assert survey.problems == {KEYS["fc"]: "too few positions"}
    assert {key for key, _ in survey.residuals} == {KEYS["conv1"], KEYS["conv2"]}
    fits = made.fit(chosen_of(network(), PLANS["channel-out"]))
    assert fits.keys() == {KEYS["conv1"], KEYS["conv2"]}
    assert all(0 < fit.error < 0.5 for fit in fits.values())


def test_half_precision(recorded: Recorded) -> None:
    model = network(np.float16)
    batches = [batch.astype(np.float16) for batch in BATCHES]
    made = calibrator(model, batches, seed=3)
    survey = made.survey(tasks(model))
    assert survey.problems == {}
    for offer, residuals in recorded.survey.residuals.items():
        tolerance = 1e-5 * residuals.flat[0]
        assert survey.residuals[offer] == pytest.approx(residuals, rel=0.03, abs=tolerance)
    chosen = chosen_of(model, PLANS["channel-out"])
    fits = made.fit(chosen)
    arrays = [array for fit in fits.values() for array in (*fit.factors, fit.bias) if array is not None]
    assert {array.dtype for array in arrays} == {np.dtype(np.float16)}
    for key, fit in recorded.fits["channel-out"].items():
        assert fits[key].error == pytest.approx(fit.error, rel=0.1)


def test_a_run_without_samples() -> None:
    """As the second stage of a detector may have it, where it finds nothing."""
    made = calibrator(network(), [*BATCHES[:3], BATCHES[3][:0], *BATCHES[4:]])
    assert made.survey(tasks(network(), ["channel-out"])).problems == {}


def test_fewer_positions_than_samples() -> None:
    """40 runs of 64 samples with one position each: of some samples nothing is drawn."""
    model = parse(
        "g (float[N, 4, 1, 1] x) => (float[N, 6, 1, 1] y) { y = Conv (x, w) }", w=weight(6, 4, 1, 1)
    )
    made = calibrator(model, [normal(64, 4, 1, 1, seed=i) for i in range(40)])
    assert made.survey(tasks(model, ["channel-out"]), sensitivity=False).problems == {}


def compressing() -> ModelProto:
    """How many rows the second layer gets depends on what the first one computes."""
    return parse(
        """g (float[N, 4] x) => (float[M, 5] y) {
            a = MatMul (x, w1)
            sums = ReduceSum <keepdims = 0> (a, one)
            found = Greater (sums, zero)
            b = Compress <axis = 0> (a, found)
            y = MatMul (b, w2)
        }""",
        w1=weight(4, 6),
        w2=weight(6, 5, seed=1),
        one=np.array([1]),
        zero=np.array(0, np.float32),
    )


def test_sensitivity_where_sizes_depend_on_values() -> None:
    made = calibrator(compressing(), [normal(32, 4, seed=i) for i in range(10)])
    assert made.survey(tasks(compressing())).problems == {}


def test_fits_where_sizes_depend_on_values() -> None:
    made = calibrator(compressing(), [normal(32, 4, seed=i) for i in range(10)])
    assert made.survey(tasks(compressing()), sensitivity=False).problems == {}
    chosen = [Replacement(layer, SCHEMES["channel-in"], (1,)) for layer in layers(compressing()).values()]
    assert made.fit(chosen).keys() == {("", "a")}


# Sensitivity ------------------------------------------------------------------------------------------------


def linear(*nodes: NodeProto, **weights: Array) -> ModelProto:
    return make_model(nodes, {"x": ["N", 20]}, ["y"], weights)


def rotation(size: int, seed: int) -> Array:
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((size, size)))[0].astype(np.float32)


SENSITIVE: dict[str, tuple[ModelProto, dict[str, float]]] = {
    "the last layer": (linear(node("MatMul", ["x", "w"], ["y"]), w=weight(20, 12)), {"y": 1.0}),
    "before a rotation": (
        linear(
            node("MatMul", ["x", "w"], ["a"]),
            node("MatMul", ["a", "r"], ["y"]),
            w=weight(20, 12),
            r=rotation(12, 0),
        ),
        {"a": 1.0, "y": 1.0},
    ),
    "beside a larger branch": (
        linear(
            node("MatMul", ["x", "w"], ["a"]),
            node("MatMul", ["x", "v"], ["b"]),
            node("Add", ["a", "b"], ["y"]),
            w=weight(20, 12),
            v=3 * weight(20, 12, seed=1),
        ),
        {"a": 0.1, "b": 0.9},
    ),
    "of no use": (
        linear(
            node("MatMul", ["x", "w"], ["a"]),
            node("MatMul", ["x", "v"], ["y"]),
            w=weight(20, 12),
            v=weight(20, 12, seed=1),
        ),
        {"a": 0.0, "y": 1.0},
    ),
}


@pytest.mark.parametrize("case", SENSITIVE)
def test_sensitivity(case: str) -> None:
    model, expected = SENSITIVE[case]
    made = calibrator(model, [normal(200, 20, seed=i) for i in range(20)])
    found = made.survey(tasks(model, ["channel-out"])).sensitivity
    assert {output: found["", output] for output in expected} == pytest.approx(expected, rel=0.4)


def test_sensitivity_with_fewer_samples_than_inputs() -> None:
    """A wide Gemm behind pooling: as many positions as images."""
    model, _ = SENSITIVE["the last layer"]
    made = calibrator(model, [normal(3, 20, seed=i) for i in range(6)])
    found = made.survey(tasks(model, ["channel-out"])).sensitivity
    assert 0.2 < found["", "y"] < 5


def test_fitting_takes_cuda_where_tensorrt_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorRT would build each of the many networks that fitting runs."""
    model, asked = MODELS["conv, plain"], list[str]()
    monkeypatch.setattr(calibration_data, "find_device", lambda name: asked.append(name) or CPU)
    np.save(tmp_path / "x.npy", random_input(model))
    Calibration(str(tmp_path / "x.npy"), device="tensorrt").calibrator(
        Model(model), workers=1, progress=no_progress
    )
    assert asked == ["cuda"]


def test_sizes_that_are_computed_between_layers(tmp_path: Path) -> None:
    """A Resize to the size of an earlier value: the vector that enters a part of the model has a length."""
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], "first", pads=[1] * 4),
        helper.make_node("Shape", ["a"], ["sa"]),
        helper.make_node("Slice", ["sa", "two", "four"], ["hw"]),
        helper.make_node("Conv", ["a", "w1"], ["b"], "second", strides=[2, 2], pads=[1] * 4),
        helper.make_node("Shape", ["b"], ["sb"]),
        helper.make_node("Slice", ["sb", "zero", "two"], ["nc"]),
        helper.make_node("Concat", ["nc", "hw"], ["z"], axis=0),
        helper.make_node("Resize", ["b", "", "", "z"], ["u"], mode="linear"),
        helper.make_node("Conv", ["u", "w2"], ["y"], "third", pads=[1] * 4),
    ]
    ends = {name: np.array([value], np.int64) for name, value in (("zero", 0), ("two", 2), ("four", 4))}
    convs = {"w0": weight(32, 8, 3, 3), "w1": weight(32, 32, 3, 3), "w2": weight(32, 32, 3, 3)}
    model = make_model(nodes, {"x": ["N", 8, "H", "W"]}, ["y"], {**convs, **ends})
    path = tmp_path / "x.npz"
    np.savez(path, x=np.random.default_rng(0).standard_normal((4, 8, 12, 12)).astype(np.float32))
    plan = onnxlr.plan(model, energy=0.5, align=1, calibration=path)
    assert {layer.name for layer in plan.layers} >= {"second", "third"}
    assert all(layer.judged_by == "outputs" for layer in plan.layers)
