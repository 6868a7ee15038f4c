"""A part of a graph as a model: what it reads, what lives behind it, and that it computes the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper, parser

from passes.cut import cut, reads_between, values_between
from tests.builders import Array, make_model, run, serialized, weight

node = helper.make_node
HEADER = '<ir_version: 8, opset_import: ["" : 17]>\n'


def parse(text: str, header: str = HEADER, **weights: Array) -> ModelProto:
    """A model from ONNX's text format, and further initializers."""
    model = parser.parse_model(header + text)
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    return model


def residual_blocks() -> ModelProto:
    return parse(
        """g (float[N, 4, 6, 6] x) => (float[N, 4, 6, 6] y) {
            a = Conv <pads = [1, 1, 1, 1]> (x, w1)
            b = Relu (a)
            c = Conv <pads = [1, 1, 1, 1]> (b, w2)
            d = Add (c, x)
            e = Conv <pads = [1, 1, 1, 1]> (d, w1)
            f = Relu (e)
            h = Conv <pads = [1, 1, 1, 1]> (f, w2)
            y = Add (h, d)
        }""",
        w1=weight(4, 4, 3, 3),
        w2=weight(4, 4, 3, 3, seed=1),
    )


def skips() -> ModelProto:
    """Values that live across several cuts, and come back in reverse."""
    return parse(
        """g (float[N, 4] x) => (float[N, 16] y) {
            a = MatMul (x, w)
            b = MatMul (a, w)
            c = MatMul (b, w)
            d = Concat <axis = 1> (c, b)
            e = Concat <axis = 1> (d, a)
            y = Concat <axis = 1> (e, x)
        }""",
        w=weight(4, 4),
    )


def branches() -> ModelProto:
    """Bodies that capture an input, an activation of long ago and a weight; one has another If in it."""
    return parse(
        """g (float[N, 4] x) => (float[N, 4] y) {
            a = MatMul (x, w)
            total = ReduceSum <keepdims = 0> (x)
            flag = Greater (total, zero)
            b = Tanh (a)
            c = If (flag) <
                then_branch = left () => (float[N, 4] t) {
                    t0 = Add (a, x)
                    t = If (flag) <
                        then_branch = inner () => (float[N, 4] u) { u = MatMul (t0, w) },
                        else_branch = other () => (float[N, 4] v) { v = Neg (b) }>
                },
                else_branch = right () => (float[N, 4] s) { s = Sub (b, w0) }>
            y = Mul (c, b)
        }""",
        w=weight(4, 4),
        w0=weight(1, 4, seed=1),
        zero=np.array(0, np.float32),
    )


def loop() -> ModelProto:
    return parse(
        """g (float[N, 4] x) => (float[N, 4] y, float[M, N, 4] all) {
            a = Tanh (x)
            b = Neg (x)
            last, all = Loop (n, yes, b) <
                body = step (int64 i, bool c, float[N, 4] s) => (bool c1, float[N, 4] s1, float[N, 4] out) {
                    c1 = Identity (c)
                    p = MatMul (s, w)
                    s1 = Add (p, a)
                    out = Neg (s1)
                }>
            y = Mul (last, a)
        }""",
        w=weight(4, 4),
        n=np.array(3),
        yes=np.array(True),
    )


def scan() -> ModelProto:
    return parse(
        """g (float[N, 4] x) => (float[N, 4] y) {
            a = Tanh (x)
            mean = ReduceMean <axes = [0], keepdims = 0> (a)
            y = Scan <num_scan_inputs = 1,
                body = step (float[4] row) => (float[4] out) { m = MatMul (row, w) out = Add (m, mean) }> (a)
        }""",
        w=weight(4, 4),
    )


def constant_nodes() -> ModelProto:
    """A Constant node at the start is read at the end, and one in between."""
    return parse(
        """g (float[N, 4] x) => (float[N, 4] y) {
            two = Constant <value_float = 2.0> ()
            axes = Constant <value_ints = [1]> ()
            a = Mul (x, two)
            m = ReduceSum <keepdims = 1> (a, axes)
            half = Constant <value = float[1] {0.5}> ()
            b = Mul (m, half)
            c = Add (a, b)
            y = Div (c, two)
        }"""
    )


def outputs() -> ModelProto:
    """Outputs that are computed early, that are read again, that are the input, and that are stored."""
    return parse(
        """g (float[N, 4] x) => (float[N, 4] early, float[N, 4] y, float[4, 4] w, float[N, 4] read) {
            early = Tanh (x)
            read = MatMul (x, w)
            a = Relu (read)
            y = MatMul (a, w)
        }""",
        w=weight(4, 4),
    )


def optional_inputs() -> ModelProto:
    """Inputs and outputs that are left out."""
    return make_model(
        [
            node("Clip", ["x", "", "top"], ["a"]),
            node("LSTM", ["a", "lw", "lr", "", "", "h0"], ["", "h"], hidden_size=3),
            node("Squeeze", ["h", "first"], ["s"]),
            node("Dropout", ["s"], ["d", ""]),
            node("Unsqueeze", ["d", "first"], ["u"]),
            node("Resize", ["u", "", "scales"], ["y"]),
        ],
        {"x": ["T", 2, 4], "h0": [1, 2, 3]},
        ["y"],
        {
            "lw": weight(1, 12, 4),
            "lr": weight(1, 12, 3, seed=1),
            "top": np.array(0.5, np.float32),
            "first": np.array([0]),
            "scales": np.array([1, 2, 1], np.float32),
        },
    )


FUNCTIONS = '<ir_version: 8, opset_import: ["" : 17, "local" : 1]>\n'


def functions() -> ModelProto:
    return parse(
        """g (float[N, 4] x) => (float[N, 4] y) {
            a = local.twice (x)
            b = MatMul (a, w)
            c, d = local.both <alpha = 0.5> (b, a)
            e = Add (c, d)
            y = local.twice (e)
        }
        <domain: "local", opset_import: ["" : 17]> twice (p) => (q) { q = Add (p, p) }
        <domain: "local", opset_import: ["" : 17, "local" : 1]> both <alpha> (p, q) => (r, s) {
            r = Elu <alpha: float = @alpha> (p)
            t = local.twice (q)
            s = Sub (t, p)
        }""",
        FUNCTIONS,
        w=weight(4, 4),
    )


def sparse_initializers() -> ModelProto:
    model = parse(
        """g (float[N, 4] x) => (float[N, 5] y) {
            a = Tanh (x)
            b = MatMul (a, sparse)
            c = MatMul (b, back)
            y = MatMul (c, sparse)
        }""",
        back=weight(5, 4),
    )
    values = numpy_helper.from_array(np.array([1, -2, 3], np.float32), "sparse")
    indices = numpy_helper.from_array(np.array([1, 8, 19]), "sparse_indices")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4, 5]))
    return model


def old(version: int) -> ModelProto:
    """IR 3: every weight is an input as well; operators as they were in opset 6 to 9."""
    op = "Sum" if version < 8 else "Add"
    model = make_model(
        [
            node("Conv", ["x", "w1"], ["a"], pads=[1, 1, 1, 1]),
            node("Relu", ["a"], ["b"]),
            node("Conv", ["b", "w2"], ["c"], pads=[1, 1, 1, 1]),
            node(op, ["c", "x"], ["d"]),
            node("Conv", ["d", "w1"], ["e"], pads=[1, 1, 1, 1]),
            node("Sigmoid", ["e"], ["y"]),
        ],
        {"x": ["N", 4, 6, 6], "w1": [4, 4, 3, 3], "w2": [4, 4, 3, 3]},
        ["y"],
        {"w1": weight(4, 4, 3, 3), "w2": weight(4, 4, 3, 3, seed=1)},
        opset=version,
    )
    model.ir_version = 3
    return model


def sequences() -> ModelProto:
    return parse(
        """g (float[N, 4] x) => (float[N, 2] y) {
            parts = SplitToSequence <axis = 1> (x, two)
            a = Tanh (x)
            first = SequenceAt (parts, zero)
            more = SequenceInsert (parts, first)
            n = SequenceLength (more)
            last = SequenceAt (more, minus)
            s = Add (first, last)
            f = Cast <to = 1> (n)
            y = Mul (s, f)
        }""",
        two=np.array(2),
        zero=np.array(0),
        minus=np.array(-1),
    )


def half_precision() -> ModelProto:
    return parse(
        """g (float16[N, 4] x) => (float16[N, 4] y) {
            a = MatMul (x, w)
            b = Tanh (a)
            y = MatMul (b, w)
        }""",
        w=weight(4, 4, dtype=np.float16),
    )


def double_precision() -> ModelProto:
    return parse(
        """g (double[N, 4] x) => (double[N, 4] y) {
            a = MatMul (x, w)
            b = Neg (a)
            y = MatMul (b, w)
        }""",
        w=weight(4, 4, dtype=np.float64),
    )


def shapes() -> ModelProto:
    """Shapes are computed, whole numbers, truth values and numbers without axes cross the cuts."""
    return parse(
        """g (float[N, 2, 6] x) => (float[N, 12] y, bool[N, 12] mask, int64 n) {
            shape = Shape (x)
            batch = Gather (shape, zero)
            n = Squeeze (batch)
            rest = Constant <value_ints = [-1]> ()
            target = Concat <axis = 0> (batch, rest)
            flat = Reshape (x, target)
            mask = Greater (flat, level)
            fill = Neg (flat)
            y = Where (mask, flat, fill)
        }""",
        zero=np.array([0]),
        level=np.array(0.1, np.float32),
    )


def texts() -> ModelProto:
    """Strings cross a cut."""
    return parse(
        """g (string[N] x) => (float[N, 1] y) {
            a = Unsqueeze (x, one)
            b = ai.onnx.ml.LabelEncoder <keys_strings = ["a", "b"], values_floats = [1.5, -2.0]> (a)
            y = Neg (b)
        }""",
        '<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 2]>\n',
        one=np.array([1]),
    )


def loose_ends() -> ModelProto:
    """Nodes and inputs that nothing reads, and a node of which one output is read."""
    return parse(
        """g (float[N, 4] x, float[N, 4] unread) => (float[N, 2] y) {
            dead = Neg (x)
            deader = Abs (dead)
            left, right = Split <axis = 1> (x)
            y = Exp (right)
            dead2 = Neg (left)
        }"""
    )


def contrib() -> ModelProto:
    """Operators of ONNX Runtime's own, whose types ONNX does not infer."""
    return parse(
        """g (float[N, 4] x) => (float[N, 4] y) {
            a = com.microsoft.Gelu (x)
            b = com.microsoft.FusedMatMul <alpha = 0.5> (a, w)
            y = Add (a, b)
        }""",
        '<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>\n',
        w=weight(4, 4),
    )


def normal(*shape: int, seed: int = 0, dtype: Any = np.float32) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def of(*shape: int, dtype: Any = np.float32) -> list[dict[str, Array]]:
    """Runs of one, three and two samples."""
    return [{"x": normal(n, *shape, seed=n, dtype=dtype)} for n in (1, 3, 2)]


MODELS: dict[str, tuple[Callable[[], ModelProto], list[dict[str, Array]]]] = {
    "residual blocks": (residual_blocks, of(4, 6, 6)),
    "skips": (skips, of(4)),
    "If": (branches, [{"x": sign * normal(2, 4)} for sign in (1, -1)]),
    "Loop": (loop, of(4)),
    "Scan": (scan, of(4)),
    "Constant nodes": (constant_nodes, of(4)),
    "outputs": (outputs, of(4)),
    "optional inputs": (optional_inputs, [{"x": normal(t, 2, 4), "h0": normal(1, 2, 3)} for t in (2, 5)]),
    "functions": (functions, of(4)),
    "sparse initializers": (sparse_initializers, of(4)),
    "opset 6": (lambda: old(6), of(4, 6, 6)),
    "opset 7": (lambda: old(7), of(4, 6, 6)),
    "opset 8": (lambda: old(8), of(4, 6, 6)),
    "opset 9": (lambda: old(9), of(4, 6, 6)),
    "sequences": (sequences, of(4)),
    "float16": (half_precision, of(4, dtype=np.float16)),
    "float64": (double_precision, of(4, dtype=np.float64)),
    "shapes": (shapes, of(2, 6)),
    "texts": (texts, [{"x": np.array(list(text), object)} for text in ("ab", "bba")]),
    "loose ends": (loose_ends, [{"x": normal(n, 4), "unread": normal(n, 4)} for n in (1, 2)]),
    "contrib": (contrib, of(4)),
}
"""Models, and feeds of several shapes."""


def type_of(value: Any) -> onnx.TypeProto:
    if isinstance(value, list):
        return helper.make_sequence_type_proto(type_of(value[0]))
    kind = helper.np_dtype_to_tensor_dtype(value.dtype)
    return helper.make_tensor_type_proto(kind, [None] * value.ndim)


def reads(target: NodeProto) -> set[str]:
    """What a node reads, its bodies included, apart from what these compute themselves."""
    found = set(target.input)
    for attribute in target.attribute:
        if attribute.HasField("g"):
            own = {t.name for t in attribute.g.initializer} | {v.name for v in attribute.g.input}
            own |= {name for inner in attribute.g.node for name in inner.output}
            inner_reads = {name for inner in attribute.g.node for name in reads(inner)}
            found |= (inner_reads | {v.name for v in attribute.g.output}) - own
    return found - {""}


def alive(model: ModelProto, position: int) -> set[str]:
    """By definition: computed before, read afterwards, not stored."""
    graph = model.graph
    before = {value.name for value in graph.input} | {v for n in graph.node[:position] for v in n.output}
    after = {value.name for value in graph.output}.union(*map(reads, graph.node[position:]))
    stored = {t.name for t in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
    return (before & after) - stored


@pytest.mark.parametrize("case", MODELS)
def test_values_between(case: str) -> None:
    model = MODELS[case][0]()
    positions = list(range(len(model.graph.node) + 1))
    assert values_between(model.graph, positions) == [alive(model, position) for position in positions]


def test_positions_in_any_order_and_twice() -> None:
    model = skips()
    assert values_between(model.graph, [4, 0, 2, 4]) == [
        {"d", "a", "x"},
        {"x"},
        {"a", "b", "x"},
        {"d", "a", "x"},
    ]
    assert values_between(model.graph, []) == []


@pytest.mark.parametrize(
    ("case", "start", "stop", "names"),
    [
        ("residual blocks", 0, 8, {"x"}),
        ("residual blocks", 3, 5, {"c", "x"}),
        ("residual blocks", 2, 2, set()),
        ("outputs", 1, 4, {"x"}),
        ("optional inputs", 0, 2, {"x", "h0"}),
        ("sparse initializers", 1, 4, {"a"}),
        ("Constant nodes", 5, 8, {"m", "half", "a", "two"}),
        ("opset 9", 3, 6, {"c", "x"}),
    ],
)
def test_reads_between(case: str, start: int, stop: int, names: set[str]) -> None:
    assert reads_between(MODELS[case][0]().graph, start, stop) == names


def test_bodies_read_for_their_node() -> None:
    graph = branches().graph
    assert reads_between(graph, 4, 5) & {"a", "x", "b", "flag", "w", "w0"} == {"a", "x", "b", "flag"}
    assert {"a", "x", "b"} <= reads_between(graph, 4, 6)


def piecewise(model: ModelProto, feed: Mapping[str, Any], borders: list[int]) -> dict[str, Any]:
    """All values that a chain of parts gives out."""
    graph = model.graph
    stops = [*borders, len(graph.node)]
    state = dict(feed)
    for (start, stop), needed in zip(pairwise([0, *stops]), values_between(graph, stops), strict=True):
        made = {name for target in graph.node[start:stop] for name in target.output}
        names = reads_between(graph, start, stop) & state.keys()
        part = cut(model, start, stop, {name: type_of(state[name]) for name in names}, sorted(needed & made))
        if part.graph.output:
            results = run(part, **{name: state[name] for name in names})
            state.update(zip(sorted(needed & made), results, strict=True))
        state = {name: state[name] for name in needed}
    return state


def assert_equal(expected: Any, actual: Any) -> None:
    if isinstance(expected, list):
        assert len(expected) == len(actual)
        for a, b in zip(expected, actual, strict=True):
            assert_equal(a, b)
        return
    assert (expected.dtype, expected.shape) == (actual.dtype, actual.shape)
    if expected.dtype.kind == "f":
        tolerance = 1e-6 if expected.itemsize > 2 else 2e-3  # in a whole, float16 stays single between nodes
        np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)
    else:
        assert np.array_equal(expected, actual)


@pytest.mark.parametrize("case", MODELS)
def test_part_by_part_is_the_whole(case: str) -> None:
    build, feeds = MODELS[case]
    model, names = build(), [value.name for value in build().graph.output]
    stored = {tensor.name for tensor in model.graph.initializer}
    count = len(model.graph.node)
    for feed, borders in zip(feeds, ([*range(1, count)], [count // 2]), strict=False):
        found = piecewise(model, feed, borders)
        for name, expected in zip(names, run(model, **feed), strict=True):
            if name not in stored:
                assert_equal(expected, found[name])


@given(data=st.data())
def test_any_cuts_of_any_graph(data: st.DataObject) -> None:
    """Sums of earlier values, some of which are outputs."""
    values = ["x", "w"]
    nodes = []
    for i in range(data.draw(st.integers(1, 8))):
        inputs = data.draw(st.lists(st.sampled_from(values), min_size=1, max_size=3))
        nodes.append(node("Sum", inputs, [f"v{i}"]))
        values.append(f"v{i}")
    names = data.draw(st.lists(st.sampled_from(values[2:]), min_size=1, max_size=3, unique=True))
    borders = sorted(data.draw(st.lists(st.integers(0, len(nodes)), max_size=4)))
    model = make_model(nodes, {"x": [2]}, names, {"w": np.array([3, -5], np.float32)})
    positions = list(range(len(nodes) + 1))
    assert values_between(model.graph, positions) == [alive(model, position) for position in positions]
    feed = {"x": np.array([1, 2], np.float32)}
    found = piecewise(model, feed, borders)
    assert found.keys() == {*names}
    for name, expected in zip(names, run(model, **feed), strict=True):
        assert np.array_equal(found[name], expected)


@pytest.mark.parametrize("case", MODELS)
def test_a_part_holds_what_it_reads_and_no_more(case: str) -> None:
    model = MODELS[case][0]()
    before = model.SerializeToString(deterministic=True)
    graph = model.graph
    for start in range(len(graph.node)):
        part = cut(model, start, start + 1, {}, [])
        assert serialized(part.graph.node) == serialized(graph.node[start : start + 1])
        needed = reads(graph.node[start])
        assert {t.name for t in part.graph.initializer} == needed & {t.name for t in graph.initializer}
        assert {t.values.name for t in part.graph.sparse_initializer} == needed & {
            t.values.name for t in graph.sparse_initializer
        }
        assert serialized(part.functions) == serialized(model.functions)
        assert serialized(part.opset_import) == serialized(model.opset_import)
        assert part.ir_version == max(model.ir_version, 4)
    assert model.SerializeToString(deterministic=True) == before


def test_inputs_and_outputs_are_those_asked_for() -> None:
    kinds = {"b": type_of(weight(2, 4)), "x": type_of(weight(2, 4).astype(ml_dtypes.bfloat16))}
    part = cut(skips(), 2, 5, kinds, iter(["e", "c"]))
    assert [(value.name, value.type) for value in part.graph.input] == list(kinds.items())
    assert [value.name for value in part.graph.output] == ["e", "c"]
    assert [n.output[0] for n in part.graph.node] == ["c", "d", "e"]


def test_a_stored_tensor_may_be_fed_instead() -> None:
    part = cut(skips(), 0, 1, {"x": type_of(weight(2, 4)), "w": type_of(weight(4, 4))}, ["a"])
    assert list(part.graph.initializer) == []
    x, w = normal(2, 4), normal(4, 4, seed=1)
    np.testing.assert_allclose(run(part, x=x, w=w)[0], x @ w, rtol=1e-5)


def test_references_to_external_data_stay_references() -> None:
    model = skips()
    (tensor,) = model.graph.initializer
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="w.bin")
    part = cut(model, 0, 1, {"x": type_of(weight(2, 4))}, ["a"])
    assert serialized(part.graph.initializer) == [tensor.SerializeToString(deterministic=True)]
