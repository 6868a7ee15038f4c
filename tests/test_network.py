"""A network run piece by piece computes what it does at once, and keeps what it needs and no more."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper

import onnxlr
from onnxlr import network as network_module
from onnxlr.errors import DataError
from onnxlr.model_file import Model
from onnxlr.network import Activations, Network, State
from onnxlr.runtime import Session, find_device
from onnxlr.shelf import Shelf
from passes.graph import Key
from tests.builders import run, stored_outside
from tests.passes.test_cut import MODELS, alive, assert_equal, normal, parse, skips

CPU = find_device("cpu")


def keys(model: ModelProto) -> list[Key]:
    """Of every node that has one."""
    return [("", node.output[0]) for node in model.graph.node if node.output[0]]


def network(model: ModelProto, nodes: Sequence[Key]) -> Network:
    return Network(Model(model), nodes, CPU, threads=1)


def outputs(model: ModelProto, feed: dict[str, Any]) -> dict[str, Any]:
    """Of the model at once, those that are stored left out."""
    stored = {tensor.name for tensor in model.graph.initializer}
    names = [value.name for value in model.graph.output]
    return {n: v for n, v in zip(names, run(model, **feed), strict=True) if n not in stored}


def assert_equal_outputs(model: ModelProto, feeds: Sequence[dict[str, Any]], states: Sequence[State]) -> None:
    for feed, state in zip(feeds, states, strict=True):
        expected = outputs(model, feed)
        assert state.keys() == expected.keys()
        for name, value in expected.items():
            assert_equal(value, state[name])


@pytest.mark.parametrize("case", MODELS)
def test_cut_before_every_node(case: str) -> None:
    build, feeds = MODELS[case]
    model = build()
    before = model.SerializeToString(deterministic=True)
    nodes = keys(model)
    whole = network(model, nodes[::-1])
    assert whole.order == nodes
    assert whole.outputs == [value.name for value in model.graph.output]
    places = {key: i for i, key in enumerate([("", n.output[0]) for n in model.graph.node])}
    activations = Activations(feeds)
    for i in range(len(nodes) + 1):
        activations.advance(whole.piece(i, activations.states[0]))
        end = places[nodes[i]] if i < len(nodes) else len(model.graph.node)
        assert {frozenset(state) for state in activations.states} == {frozenset(alive(model, end))}
    assert_equal_outputs(model, feeds, activations.states)
    assert model.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("case", ["residual blocks", "skips", "outputs", "If", "Constant nodes"])
def test_any_cuts(case: str) -> None:
    build, feeds = MODELS[case]
    model = build()
    for nodes in [*combinations(keys(model)[1:], 2), (), keys(model)[-1:]]:
        cut = network(model, nodes)
        activations = Activations(feeds)
        for i in range(len(nodes) + 1):
            activations.advance(cut.piece(i, activations.states[0]))
        assert_equal_outputs(model, feeds, activations.states)


@pytest.mark.parametrize("case", MODELS)
def test_several_pieces_as_one(case: str) -> None:
    build, feeds = MODELS[case]
    model = build()
    nodes = keys(model)
    cut = network(model, nodes)
    middle = len(nodes) // 2
    activations = Activations(feeds)
    activations.advance(cut.piece(0, activations.states[0], until=middle))
    whole = cut.piece(middle + 1, activations.states[0], until=len(nodes))
    assert_equal_outputs(model, feeds, [whole.run(state) for state in activations.states])


@pytest.mark.parametrize("case", MODELS)
def test_on_disk(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_module, "Shelf", lambda: Shelf(0))
    build, feeds = MODELS[case]
    model = build()
    nodes = keys(model)
    cut = network(model, nodes)
    activations = Activations(feeds)
    for i in range(len(nodes) + 1):
        before = list(activations.states)
        activations.advance(cut.piece(i, activations.states[0]))
        for old, new in zip(before, activations.states, strict=True):
            made = {name: value for name, value in new.items() if value is not old.get(name)}
            arrays = [v for v in made.values() if isinstance(v, np.ndarray) and v.nbytes]
            arrays = [v for v in arrays if v.dtype != object]  # texts stay in memory
            assert all(isinstance(value, np.memmap) for value in arrays)
    assert_equal_outputs(model, feeds, activations.states)


ROW = 4 * 4  # bytes of a row of any value of `skips`


def in_files(states: Sequence[State]) -> list[int]:
    """Of each state how many of its values are in files."""
    return [sum(isinstance(value, np.memmap) for value in state.values()) for state in states]


def test_what_fits_stays_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is passed through counts as well, and may have to leave what comes behind the next piece."""
    monkeypatch.setattr(network_module, "Shelf", lambda: Shelf(8 * ROW))
    cut = network(skips(), [("", "b"), ("", "c")])
    feeds = [{"x": normal(n, 4, seed=n)} for n in (3, 2, 1)]
    activations = Activations(feeds)
    assert in_files(activations.states) == [0, 0, 0]
    for state, feed in zip(activations.states, feeds, strict=True):
        assert state["x"] is feed["x"]
    for i, (values, expected) in enumerate([({"x", "a"}, [0, 1, 2]), ({"x", "a", "b"}, [1, 2, 3])]):
        activations.advance(cut.piece(i, activations.states[0]))
        assert [state.keys() for state in activations.states] == [values] * 3
        assert in_files(activations.states) == expected
    activations.advance(cut.piece(2, activations.states[0]))
    assert_equal_outputs(skips(), feeds, activations.states)


def test_feeds_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Feeds that do not fit are in files as soon as they are read, and one that fits comes behind them."""
    monkeypatch.setattr(network_module, "Shelf", lambda: Shelf(4 * ROW))
    feeds = [{"x": normal(n, 4, seed=n)} for n in (3, 2, 1)]
    activations = Activations(iter(feeds))
    assert in_files(activations.states) == [0, 1, 0]
    assert all(np.array_equal(s["x"], feed["x"]) for s, feed in zip(activations.states, feeds, strict=True))


def test_what_is_in_a_file_stays_there_and_takes_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    rooms = iter([0, 3 * ROW])
    monkeypatch.setattr(network_module, "Shelf", lambda: Shelf(next(rooms)))
    cut = network(skips(), [("", "b")])
    activations = Activations([{"x": normal(n, 4)} for n in (2, 1)])
    before = [state["x"] for state in activations.states]
    assert in_files(activations.states) == [1, 1]
    activations.advance(cut.piece(0, activations.states[0]))
    assert all(state["x"] is x for state, x in zip(activations.states, before, strict=True))
    assert not any(isinstance(state["a"], np.memmap) for state in activations.states)


def test_extra_values_are_seen_and_dropped() -> None:
    model = skips()
    cut = network(model, [("", "b"), ("", "d")])
    feeds = [{"x": normal(n, 4)} for n in (1, 3)]
    activations = Activations(feeds)
    seen: list[tuple[int, set[str], set[str]]] = []

    def look(number: int, before: State, after: State) -> None:
        seen.append((number, {*before}, {*after}))
        w = numpy_helper.to_array(model.graph.initializer[0])
        np.testing.assert_allclose(after["c"], feeds[number]["x"] @ w @ w @ w, rtol=1e-5, atol=1e-6)

    activations.advance(cut.piece(0, activations.states[0]))
    piece = cut.piece(1, activations.states[0], ["b", "c"])
    assert piece.extra == []
    assert list(activations.watch(piece, look)) == [None, None]
    assert seen == [(i, {"x", "a"}, {"x", "a", "b", "c"}) for i in range(2)]
    seen.clear()
    activations = Activations(feeds)
    list(activations.watch(cut.piece(0, activations.states[0], until=2, extra=["c"]), look))
    assert seen == [(i, {"x"}, {"c", "y"}) for i in range(2)]
    assert all(state.keys() == {"y"} for state in activations.states)


def test_a_piece_can_be_changed() -> None:
    model = skips()
    before = model.SerializeToString(deterministic=True)
    cut = network(model, [("", "b"), ("", "c")])

    def negate(part: ModelProto) -> ModelProto:
        changed = ModelProto()
        changed.CopyFrom(part)
        w = changed.graph.initializer[0]
        w.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(w), "w"))
        return changed

    feed = {"x": normal(2, 4)}
    activations = Activations([feed])
    for i in range(3):
        activations.advance(cut.piece(i, activations.states[0], change=negate if i == 1 else None))
    expected = run(model, **feed)[0] * np.repeat([-1, -1, 1, 1], 4)  # c and b of -b
    np.testing.assert_allclose(activations.states[0]["y"], expected, rtol=1e-5, atol=1e-6)
    assert model.SerializeToString(deterministic=True) == before


def test_nothing_runs_where_nothing_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the first node, and where nobody reads what is computed."""
    build, feeds = MODELS["loose ends"]
    cut = network(build(), [("", "dead"), ("", "left")])
    activations = Activations(feeds)
    with monkeypatch.context() as patch:
        patch.delattr(network_module, "Session")
        for i in range(2):
            activations.advance(cut.piece(i, activations.states[0]))
    activations.advance(cut.piece(2, activations.states[0]))
    assert_equal_outputs(build(), feeds, activations.states)


def test_each_piece_runs_once_over_each_run(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    class Counting(Session):
        def run(self, feed: Any) -> list[Any]:
            ran.append(self.output_names[-1])
            return super().run(feed)

    monkeypatch.setattr(network_module, "Session", Counting)
    cut = network(skips(), [("", "b"), ("", "d")])
    activations = Activations({"x": normal(n, 4)} for n in (1, 2, 3))
    for i in range(3):
        activations.advance(cut.piece(i, activations.states[0]))
    assert ran == ["a"] * 3 + ["c"] * 3 + ["y"] * 3


def test_values_that_nobody_reads_any_more_are_let_go() -> None:
    cut = network(skips(), [("", "b")])
    feed = {"x": normal(2, 4)}
    activations = Activations([feed])
    activations.advance(cut.piece(0, activations.states[0], until=1))
    assert activations.states[0].keys() == {"y"}
    assert feed.keys() == {"x"}


def test_weights_in_files(tmp_path: Path) -> None:
    model = parse(
        "g (float[N, 40] x) => (float[N, 40] y) { a = MatMul (x, w) b = Tanh (a) y = MatMul (b, w) }",
        w=normal(40, 40),
    )
    loaded = onnxlr.model_file.load(stored_outside(tmp_path, model))
    assert loaded.is_external
    cut = Network(loaded, [("", "b"), ("", "y")], CPU)
    feed = {"x": normal(3, 40)}
    activations = Activations([feed])
    for i in range(3):
        activations.advance(cut.piece(i, activations.states[0]))
    np.testing.assert_allclose(activations.states[0]["y"], run(model, **feed)[0], rtol=1e-4, atol=1e-5)


def test_a_node_that_is_not_there() -> None:
    with pytest.raises(KeyError):
        network(skips(), [("", "nowhere")])


def test_an_empty_sequence_has_no_type() -> None:
    """The elements of an empty sequence cannot be told."""
    model = parse(
        """g (float[N, 4] x) => (float[N, 4] y, int64 n) {
            s = SequenceEmpty ()
            y = Neg (x)
            t = SequenceInsert (s, y)
            n = SequenceLength (t)
        }"""
    )
    cut = network(model, [("", "y")])
    activations = Activations([{"x": normal(2, 4)}])
    activations.advance(cut.piece(0, activations.states[0]))
    with pytest.raises(DataError, match="value 's' of type list cannot be fed to a part of the model"):
        cut.piece(1, activations.states[0])
