"""What an error of a layer does to the outputs: as numpy has it, where that can be said."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, helper, numpy_helper

from onnxlr.model_file import Model
from onnxlr.network import Activations, Network, State
from onnxlr.positions import held_out_runs
from onnxlr.runtime import find_device
from onnxlr.sensitivity import Probes
from tests.builders import initializers, make_model, run, weight
from tests.passes.test_cut import normal, parse

node = helper.make_node
Change = Callable[[ModelProto], ModelProto]


def setting(**weights: Any) -> Change:
    """Puts other weights into a part of a model."""

    def change(part: ModelProto) -> ModelProto:
        changed = ModelProto()
        changed.CopyFrom(part)
        for tensor in changed.graph.initializer:
            if tensor.name in weights:
                array = np.asarray(weights[tensor.name], numpy_helper.to_array(tensor).dtype)
                tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
        return changed

    return change


def measured(model: ModelProto, output: str, feeds: Sequence[State], change: Change) -> float:
    """The effect of a change of the node that has this output."""
    network = Network(Model(model), [("", output)], find_device("cpu"), threads=1)
    activations = Activations(feeds)
    probes = Probes(network, activations.states)
    activations.advance(network.piece(0, activations.states[0]))
    return probes.measure(1, activations.states, change)


def chain(*shapes: tuple[int, int], op: str = "Identity") -> ModelProto:
    """MatMuls w0, w1, … with h0, h1, … behind them, and an operator between."""
    nodes, value = [], "x"
    for i in range(len(shapes)):
        nodes += [node("MatMul", [value, f"w{i}"], [f"h{i}"]), node(op, [f"h{i}"], [f"a{i}"])]
        value = f"a{i}"
    nodes[-1].output[0] = "y"
    weights = {f"w{i}": weight(*shape, seed=i) for i, shape in enumerate(shapes)}
    return make_model(nodes, {"x": ["N", shapes[0][0]]}, ["y"], weights)


FEEDS = [{"x": normal(n, 6, seed=n)} for n in (2, 1, 3, 2, 4)]


@pytest.mark.parametrize("error", [0.5, -0.03, 1e-3])
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_of_a_linear_network_it_is_the_error_itself(layer: int, error: float) -> None:
    model = chain((6, 8), (8, 7), (7, 5))
    w = initializers(model)[f"w{layer}"]
    found = measured(model, f"h{layer}", FEEDS, setting(**{f"w{layer}": (1 + error) * w.astype(np.float64)}))
    assert found == pytest.approx(error**2, rel=1e-3)


@pytest.mark.parametrize("op", ["Identity", "Relu", "Tanh"])
def test_any_error_as_the_whole_model_shows_it(op: str) -> None:
    model = chain((6, 8), (8, 7), (7, 5), op=op)
    change = setting(w1=initializers(model)["w1"] + 0.2 * weight(8, 7, seed=9))
    feed = FEEDS[0]
    expected, actual = (run(m, **feed)[0].astype(np.float64) for m in (model, change(model)))
    ratio = np.square(actual - expected).sum() / np.square(expected).sum()
    assert measured(model, "h1", [feed], change) == pytest.approx(ratio, rel=1e-4)


@pytest.mark.parametrize(
    ("runs", "chosen"),
    [
        (1, [0]),  # all of them where they are fewer than five
        (4, [0, 1, 2, 3]),
        (5, [4]),  # every fifth
        (9, [4]),
        (10, [4, 9]),
        (12, [4, 9]),
        (31, [4, 9, 14, 19, 24, 29]),
        (40, [4, 9, 14, 19, 24, 29, 34, 39]),
        (45, [4, 9, 14, 19, 24, 29, 34, 39]),  # eight of nine
        (100, [4, 14, 29, 39, 54, 64, 79, 89]),  # eight of twenty
    ],
)
def test_runs(runs: int, chosen: list[int]) -> None:
    """Some that nothing is fitted on, spread evenly."""
    assert set(chosen) <= set(held_out_runs(runs))
    model = parse("g (float[1, 2] x) => (float[1, 2] y) { y = Mul (x, w) }", w=np.ones((1, 2), np.float32))
    rng = np.random.default_rng(0)
    feeds = [{"x": rng.uniform(0.5, 2, (1, 2)).astype(np.float32)} for _ in range(runs)]
    found = measured(model, "y", feeds, setting(w=[[1.0, 1.5]]))
    taken = np.concatenate([feeds[i]["x"] for i in chosen]).astype(np.float64)
    assert found == pytest.approx(0.25 * np.square(taken[:, 1]).sum() / np.square(taken).sum(), rel=1e-5)


def test_energies_are_summed_over_runs() -> None:
    """A run whose output is nearly zero does not outweigh the others."""
    model = parse("g (float[N, 4] x) => (float[N, 4] y) { y = Add (x, b) }", b=np.zeros(4, np.float32))
    scales = dict(zip(held_out_runs(20), np.array([1e-6, 1, 2, 1], np.float32), strict=True))
    feeds = [{"x": scales.get(i, np.float32(5)) * normal(3, 4, seed=i)} for i in range(20)]
    energy = sum(float(np.square(feeds[i]["x"], dtype=np.float64).sum()) for i in scales)
    found = measured(model, "y", feeds, setting(b=[0.1, 0, 0, 0]))
    assert found == pytest.approx(4 * 3 * 0.01 / energy, rel=1e-4)


HEADS = {
    # further nodes and outputs; the mean over the outputs, when that of y is 0.25
    "one output": ("", "float[N, 4] y", 0.25),
    "whole numbers do not count": (
        "n = ArgMax <axis = 1> (y)",
        "float[N, 4] y, int64[N, 1] n",
        0.25,
    ),
    "nor truth values": ("m = Greater (y, zero)", "float[N, 4] y, bool[N, 4] m", 0.25),
    "nor sequences": ("s = SplitToSequence <axis = 1> (y)", "float[N, 4] y, seq(float[N, 1]) s", 0.25),
    "nor what is always zero": ("z = Mul (y, zero)", "float[N, 4] y, float[N, 4] z", 0.25),
    "nor what is stored": ("", "float[N, 4] y, float zero", 0.25),
    "another output of the layer": ("z = Neg (y)", "float[N, 4] y, float[N, 4] z", 0.25),
    "an output that it changes more": (
        "z = Mul (y, y)",
        "float[N, 4] y, float[N, 4] z",
        (0.25 + 1.25**2) / 2,
    ),
    "an output that it does not change": ("z = Neg (x)", "float[N, 4] y, float[N, 4] z", 0.125),
    "an output of before": ("", "float[N, 4] a, float[N, 4] y", 0.125),
    "an input as output": ("", "float[N, 4] x, float[N, 4] y", 0.125),
    "double precision": ("z = Cast <to = 11> (y)", "double[N, 4] z", 0.25),
    "half precision": ("z = Cast <to = 10> (y)", "float16[N, 4] z", 0.25),
    "nothing but whole numbers": ("n = ArgMax <axis = 1> (y)", "int64[N, 1] n", 0.0),
    "nothing but zeros": ("z = Mul (y, zero)", "float[N, 4] z", 0.0),
}


@pytest.mark.parametrize("case", HEADS)
def test_outputs(case: str) -> None:
    nodes, outputs, expected = HEADS[case]
    model = parse(
        f"g (float[N, 4] x) => ({outputs}) {{ a = Neg (x) y = MatMul (a, w) {nodes} }}",
        w=np.eye(4, dtype=np.float32),
        zero=np.array(0, np.float32),
    )
    found = measured(model, "y", [{"x": normal(5, 4)}], setting(w=1.5 * np.eye(4)))
    assert found == pytest.approx(expected, rel=2e-3 if "half" in case else 1e-5, abs=1e-12)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_does_not_count(value: float) -> None:
    """A mask that adds -inf, for example. Warnings are errors here."""
    model = parse(
        "g (float[N, 4] x) => (float[N, 4] y) { a = MatMul (x, w) y = Add (a, mask) }",
        w=np.eye(4, dtype=np.float32),
        mask=np.array([0, 0, value, 0], np.float32),
    )
    x = normal(5, 4)
    assert measured(model, "a", [{"x": x}], setting(w=1.5 * np.eye(4))) == pytest.approx(0.25, rel=1e-4)


def test_a_change_that_makes_outputs_infinite_is_finite() -> None:
    model = parse(
        "g (float[N, 4] x) => (float[N, 4] y) { a = Mul (x, w) y = Exp (a) }", w=np.array(1, np.float32)
    )
    found = measured(model, "a", [{"x": normal(5, 4)}], setting(w=np.float32(1e4)))
    assert np.isfinite(found)


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        ([[1, 3, 5]], 0.25),  # as many as before
        ([[1, 0.8, 3]], 1.0),  # 2 become 3
        ([[3, 0.8, 0.7]], 1.0),  # 1 becomes 3, from which it could be subtracted
        ([[1, 0.8], [2, 4], [0.1, 0.2]], (1 + 0.25 * 20) / 21),
        ([[0.8], [2, 4]], 0.25),  # 0 become 1: no energy to be measured by
        ([[0.8]], 0.0),
    ],
)
def test_outputs_of_another_shape_are_wholly_wrong(runs: list[list[float]], expected: float) -> None:
    model = parse(
        """g (float[N] x) => (float[M] y) {
            a = Mul (x, w)
            mask = Greater (a, limit)
            y = Compress (a, mask)
        }""",
        w=np.array(1, np.float32),
        limit=np.array(0.9, np.float32),
    )
    feeds = [{"x": np.array(x, np.float32)} for x in runs]
    assert measured(model, "a", feeds, setting(w=1.5)) == pytest.approx(expected, rel=1e-5)


def test_every_layer_from_one_survey_of_states() -> None:
    """Probes are made once, and measure at any piece from the states before it."""
    model = chain((6, 8), (8, 7), (7, 5), op="Tanh")
    keys = [("", f"h{i}") for i in range(3)]
    network = Network(Model(model), keys, find_device("cpu"), threads=1)
    activations = Activations(FEEDS[:1])
    probes = Probes(network, activations.states)
    found = []
    for i in range(3):
        activations.advance(network.piece(i, activations.states[0]))
        change = setting(**{f"w{i}": 1.1 * initializers(model)[f"w{i}"]})
        found.append(probes.measure(i + 1, activations.states, change))
    expected = []
    for i in range(3):
        change = setting(**{f"w{i}": 1.1 * initializers(model)[f"w{i}"]})
        before, after = (run(m, **FEEDS[0])[0].astype(np.float64) for m in (model, change(model)))
        expected.append(np.square(after - before).sum() / np.square(before).sum())
    assert found == pytest.approx(expected, rel=1e-4)
    assert len({round(value, 6) for value in found}) == 3


def test_no_change_no_effect() -> None:
    model = chain((6, 8), (8, 5))
    assert measured(model, "h0", FEEDS, lambda part: part) < 1e-12
