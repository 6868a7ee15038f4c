"""Constants: what is known before the run, what it is, where it lies, and what depends on it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper, parser

from passes import constants
from passes.constants import Constant, ConstantError, Constants, all_constants
from passes.graph import count_reads, scopes
from tests.builders import Array, make_model, run, stored_outside, weight

node = helper.make_node
tensor = numpy_helper.from_array

X = np.zeros(1, np.float32)
W = weight(2, 3, 4)
POSITIVE = np.abs(W)
TOLERANCE = {np.float16: 1e-3, np.float32: 1e-6, np.float64: 1e-14}


def int64(*values: int) -> Array:
    return np.array(values, np.int64)


def float32(*values: float) -> Array:
    return np.array(values, np.float32)


def look_up(model: ModelProto, name: str, path: str = "") -> Constant | None:
    """A constant by the path of the scope that reads it and its name there."""
    return {found.scope.path: found for found in all_constants(model)}[path].find(name)


def find(model: ModelProto, name: str = "c", path: str = "") -> Constant:
    found = look_up(model, name, path)
    assert found is not None
    return found


def computing(nodes: Sequence[NodeProto], weights: dict[str, Array], opset: int = 17) -> ModelProto:
    """A model whose nodes compute c; it runs, with x of shape (1,)."""
    return make_model(nodes, {"x": [1]}, ["c"], weights, opset)


def agrees_with_runtime(model: ModelProto, name: str = "c") -> None:
    """ONNX Runtime computes the same array, and says that the type is the same."""
    found, stored = find(model, name), model.SerializeToString()
    array = found.read()
    assert (found.shape, found.data_type) == (array.shape, helper.np_dtype_to_tensor_dtype(array.dtype))
    typed = ModelProto.FromString(stored)
    typed.graph.output[0].type.tensor_type.elem_type = found.data_type
    (expected,) = run(typed, x=X)
    assert (array.dtype, array.shape) == (expected.dtype, expected.shape)
    np.testing.assert_allclose(array, expected, rtol=TOLERANCE.get(array.dtype.type, 0), atol=0)
    assert model.SerializeToString() == stored


# Rules 1 and 2: stored values

STORED: dict[str, tuple[list[NodeProto], Array]] = {
    "initializer": ([], W),
    "Constant": ([node("Constant", [], ["c"], value=tensor(W))], W),
    "Constant of a float": ([node("Constant", [], ["c"], value_float=0.1)], np.array(0.1, np.float32)),
    "Constant of floats": ([node("Constant", [], ["c"], value_floats=[0.5, 2.0])], float32(0.5, 2)),
    "Constant of an int": ([node("Constant", [], ["c"], value_int=2**40)], np.array(2**40)),
    "Constant of ints": ([node("Constant", [], ["c"], value_ints=[3, -1])], int64(3, -1)),
}


def reading(nodes: Sequence[NodeProto], output: str = "y") -> ModelProto:
    """The model also has the initializer c where no node computes it."""
    weights = {} if any("c" in n.output for n in nodes) else {"c": W}
    return make_model([*nodes, node("Identity", ["c"], [output])], {"x": [1]}, [output], weights)


@pytest.mark.parametrize(("nodes", "expected"), STORED.values(), ids=STORED.keys())
def test_stored(nodes: list[NodeProto], expected: Array) -> None:
    model = reading(nodes)
    agrees_with_runtime(model, "y")
    found = find(model)
    assert found.tensor is not None
    assert (found.name, found.home.path, found.read().dtype) == ("c", "", expected.dtype)
    np.testing.assert_array_equal(found.read(), expected)


def test_an_initializer_that_is_an_input_as_well() -> None:
    model = reading([])
    model.ir_version, model.opset_import[0].version = 3, 8
    model.graph.input.append(helper.make_tensor_value_info("c", TensorProto.FLOAT, W.shape))
    onnx.checker.check_model(model)
    agrees_with_runtime(model, "y")
    assert find(model).tensor == model.graph.initializer[0]


def test_a_tensor_with_a_name_of_its_own_goes_by_that() -> None:
    found = find(reading([node("Constant", [], ["c"], value=tensor(W, "its own"))]))
    assert found.name == "its own"


# Rule 3: computed values. Inputs of the one node, its attributes, opsets

Case = tuple[str, list[Array | None], dict[str, Any], list[int]]

TURNED = [1, -1]


def reduction(op: str, by_attribute: list[int], by_input: list[int]) -> list[Case]:
    """Cases of an operator whose axes are an attribute in some opsets and an input in others."""
    return [
        (op, [W], {"axes": [1, 2]}, [1, 9, *by_attribute]),
        (op, [W], {"axes": TURNED, "keepdims": 0}, by_attribute),
        (op, [W], {}, [1, *by_attribute, *by_input]),
        (op, [W], {"keepdims": 0}, [1, 13, 18]),
        (op, [W.astype(np.float64)], {"keepdims": 0}, [13]),
        (op, [W, int64(*TURNED)], {"keepdims": 0}, by_input),
        (op, [W, int64()], {}, by_input),
        (op, [W, int64()], {"noop_with_empty_axes": 1}, by_input),
        (op, [W], {"noop_with_empty_axes": 1}, by_input),
    ]


def arithmetic(op: str) -> list[Case]:
    """Cases of an operator of two operands: shapes that are broadcast, types, rounding of integers."""
    return [
        (op, [W, weight(3, 1, seed=1)], {}, [7, 13, 14]),
        (op, [W.astype(np.float16), weight(4, seed=1, dtype=np.float16)], {}, [13]),
        (op, [W.astype(np.float64), weight(1, seed=1, dtype=np.float64)], {}, [13]),
        (op, [int64(-7, 7, 7, -7), int64(2, -2, 2, -2)], {}, [7, 14]),
    ]


COMPUTED: list[Case] = [
    ("Abs", [W], {}, [6, 13]),
    ("Neg", [W], {}, [6, 13]),
    ("Reciprocal", [W], {}, [6, 13]),
    ("Sqrt", [POSITIVE], {}, [6, 13]),
    *arithmetic("Add"),
    *arithmetic("Div"),
    *arithmetic("Mul"),
    *arithmetic("Sub"),
    ("Pow", [POSITIVE, W], {}, [7, 13, 15]),
    ("Pow", [W, int64(2)], {}, [12, 15]),
    *reduction("ReduceL2", [11, 13, 17], [18, 20]),
    *reduction("ReduceMean", [11, 13, 17], [18, 20]),
    *reduction("ReduceSum", [11], [13, 18, 20]),
    ("Cast", [W], {"to": TensorProto.FLOAT16}, [6, 9, 13, 19, 21]),
    ("Cast", [W.astype(np.float16)], {"to": TensorProto.FLOAT}, [6, 13, 19]),
    ("Cast", [W], {"to": TensorProto.DOUBLE}, [9]),
    ("Cast", [10 * W], {"to": TensorProto.INT64}, [9, 13]),
    ("Cast", [int64(0, 2)], {"to": TensorProto.BOOL}, [13]),
    ("Concat", [W, W, -W], {"axis": 1}, [4, 13]),
    ("Concat", [W, W], {"axis": -1}, [11]),
    ("ConstantOfShape", [int64(2, 3)], {}, [9, 20]),
    ("ConstantOfShape", [int64()], {}, [9]),
    ("ConstantOfShape", [int64(2, 3)], {"value": tensor(np.array([3], np.float16))}, [9, 21]),
    ("Expand", [W, int64(5, 1, 1, 4)], {}, [8, 13]),
    ("Flatten", [W], {}, [1, 9, 13]),
    ("Flatten", [W], {"axis": 2}, [1, 9, 13]),
    ("Flatten", [W], {"axis": 0}, [9]),
    ("Flatten", [W], {"axis": -1}, [11]),
    ("Gather", [W, int64(2, 0)], {"axis": 1}, [1, 11, 13]),
    ("Gather", [W, np.array([[-1, 0]], np.int32)], {"axis": -2}, [11, 13]),
    ("Gather", [W, np.array(1, np.int64)], {}, [1, 13]),
    ("Identity", [W], {}, [1, 13, 16]),
    ("Reshape", [W, int64(0, -1)], {}, [5, 13, 14]),
    ("Reshape", [W, int64(6, 4)], {"allowzero": 1}, [14]),
    ("Shape", [W], {}, [1, 13, 15]),
    ("Shape", [W], {"start": 1, "end": -1}, [15, 19]),
    ("Slice", [W], {"starts": [1], "ends": [3], "axes": [2]}, [1, 9]),
    ("Slice", [W], {"starts": [0, 1], "ends": [1, -1]}, [1, 9]),
    ("Slice", [W, int64(0, 1), int64(1, 99)], {}, [10, 13]),
    ("Slice", [W, int64(3), int64(-9), int64(-1), int64(-2)], {}, [10, 13]),
    ("Slice", [W, int64(0, 0, 1), int64(2, 2, 9), None, int64(1, 1, 2)], {}, [10, 13]),
    ("Squeeze", [W[:1, :, :1]], {}, [1, 11, 13]),
    ("Squeeze", [W[:1, :, :1]], {"axes": [0, 2]}, [1, 11]),
    ("Squeeze", [W[:1, :, :1]], {"axes": [-1]}, [11]),
    ("Squeeze", [W[:1, :, :1], int64(-1)], {}, [13, 21]),
    ("Transpose", [W], {}, [1, 13, 21]),
    ("Transpose", [W], {"perm": [2, 0, 1]}, [1, 13, 21]),
    ("Unsqueeze", [W], {"axes": [0, 2]}, [1, 11]),
    ("Unsqueeze", [W], {"axes": [-1]}, [11]),
    ("Unsqueeze", [W, int64(3, 0)], {}, [13, 21]),
    ("Unsqueeze", [W, int64(-1, 0)], {}, [13, 21]),
]


def one_node(op: str, arrays: Sequence[Array | None], given: dict[str, Any], opset: int = 17) -> ModelProto:
    """`c = op(i0, i1, …)`; None is an input that is left out, the same array twice one initializer."""
    names = {id(array): f"i{i}" for i, array in enumerate(arrays) if array is not None}
    weights = {names[id(array)]: array for array in arrays if array is not None}
    inputs = ["" if array is None else names[id(array)] for array in arrays]
    return computing([node(op, inputs, ["c"], **given)], weights, opset)


def expand(cases: Sequence[Case]) -> list[Any]:
    return [
        pytest.param(op, arrays, given, opset, id=f"{op}({', '.join(given)}) of {len(arrays)} @ {opset}")
        for op, arrays, given, opsets in cases
        for opset in opsets
    ]


@pytest.mark.parametrize(("op", "arrays", "given", "opset"), expand(COMPUTED))
def test_computed(op: str, arrays: list[Array | None], given: dict[str, Any], opset: int) -> None:
    agrees_with_runtime(one_node(op, arrays, given, opset))


def test_every_foldable_operator_is_tested() -> None:
    assert {op for op, *_ in COMPUTED} == constants._FOLDABLE


def test_axes_of_unsqueeze_come_in_any_order() -> None:
    agrees_with_runtime(one_node("Unsqueeze", [W], {"axes": [2, 0]}, 11))


def test_the_default_domain_by_its_other_name() -> None:
    model = one_node("Transpose", [W], {})
    model.graph.node[0].domain = "ai.onnx"
    agrees_with_runtime(model)


def test_an_overflow_does_not_warn() -> None:
    agrees_with_runtime(one_node("Cast", [float32(1e6)], {"to": TensorProto.FLOAT16}))


def test_a_long_expression() -> None:
    names = ["w", *(f"n{i}" for i in range(999)), "c"]
    agrees_with_runtime(computing([node("Neg", [a], [b]) for a, b in pairwise(names)], {"w": W}))


def weight_norm() -> list[NodeProto]:
    """`c = g v / ‖v‖`, norms over all axes but the first, in opset 17."""
    return [
        node("Mul", ["v", "v"], ["squared"]),
        node("ReduceSum", ["squared", "axes"], ["sum"]),
        node("Sqrt", ["sum"], ["norm"]),
        node("Div", ["v", "norm"], ["direction"]),
        node("Mul", ["direction", "g"], ["c"]),
    ]


def test_an_expression_of_many_nodes() -> None:
    weights = {"v": W, "g": weight(2, 1, 1, seed=5), "axes": int64(1, 2)}
    model = computing(weight_norm(), weights)
    agrees_with_runtime(model)
    found = find(model)
    assert (found.name, found.home.path, found.tensor) == ("c", "", None)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_types(dtype: Any) -> None:
    """Arrays have the type in which they are stored, computed ones too; read does not change a bit."""
    stored = W.astype(dtype)
    model = computing([node("Transpose", ["w"], ["t"]), node("Neg", ["t"], ["c"])], {"w": stored})
    data_type = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    assert data_type in constants.FLOATS
    for name, expected in (("w", stored), ("t", stored.T), ("c", -stored.T)):
        found = find(model, name)
        assert (found.data_type, found.shape) == (data_type, expected.shape)
        assert found.read().dtype == dtype
        assert found.read().tobytes() == expected.tobytes()


def test_bfloat16_agrees_with_runtime() -> None:
    """ONNX Runtime gives no array of bfloat16 back, but one of float32."""
    to_bfloat16 = node("Cast", ["w"], ["b"], to=TensorProto.BFLOAT16)
    agrees_with_runtime(computing([to_bfloat16, node("Cast", ["b"], ["c"], to=TensorProto.FLOAT)], {"w": W}))


def test_an_identity_is_the_value_itself() -> None:
    nodes = [
        node("Identity", ["w"], ["w1"]),
        node("Identity", ["w1"], ["w2"]),
        node("Transpose", ["w2"], ["t"]),
        node("Identity", ["t"], ["c"]),
    ]
    model = computing(nodes, {"w": W})
    (known,) = all_constants(model)
    assert known.find("w2") is known.find("w1") is known.find("w")
    assert known.find("c") is known.find("t") is not known.find("w")
    assert (find(model, "w2").name, find(model, "c").name) == ("w", "t")
    agrees_with_runtime(model)


# What is not constant


def referring(made: NodeProto, name: str, kind: Any) -> NodeProto:
    """The node with an attribute that the caller of the function gives."""
    made.attribute.append(AttributeProto(name=name, ref_attr_name="given", type=kind))
    return made


SPARSE = helper.make_sparse_tensor(tensor(float32(1)), tensor(int64(1)), [4])

NOT_CONSTANT: dict[str, NodeProto] = {
    "an input": node("Relu", ["x"], ["c2"]),
    "computed from an input": node("Neg", ["x"], ["c"]),
    "computed from an input and a constant": node("Add", ["w", "x"], ["c"]),
    "computed from what is not there": node("Neg", ["nowhere"], ["c"]),
    "computed by an operator of another kind": node("Relu", ["w"], ["c"]),
    "computed from nothing": node("Concat", [], ["c"], axis=0),
    "random": node("RandomNormal", [], ["c"], shape=[2]),
    "computed in another domain": node("Neg", ["w"], ["c"], domain="test"),
    "a Constant of another domain": node("Constant", [], ["c"], domain="test", value=tensor(W)),
    "strings": node("Constant", [], ["c"], value_strings=["a", "b"]),
    "a string": node("Constant", [], ["c"], value_string="a"),
    "sparse": node("Constant", [], ["c"], sparse_value=SPARSE),
    "a Constant of nothing": node("Constant", [], ["c"]),
    "a Constant without output": node("Constant", [], [], value=tensor(W)),
}


@pytest.mark.parametrize("made", NOT_CONSTANT.values(), ids=NOT_CONSTANT.keys())
def test_not_constant(made: NodeProto) -> None:
    model = reading([])
    model.graph.initializer[0].name = "w"
    model.graph.node.insert(0, made)
    (known,) = all_constants(model)
    assert known.find("c") is None
    assert known.find("y") is None
    assert known.find("x") is None
    assert known.find("") is None
    assert known.find("w") is not None


def test_a_sparse_initializer_is_not_constant() -> None:
    model = reading([])
    model.graph.sparse_initializer.add().CopyFrom(SPARSE)
    model.graph.sparse_initializer[0].values.name = "sparse"
    assert look_up(model, "sparse") is None


GIVEN: dict[str, NodeProto] = {
    "value": referring(node("Constant", [], ["c"]), "value", AttributeProto.TENSOR),
    "value_int": referring(node("Constant", [], ["c"]), "value_int", AttributeProto.INT),
    "value_floats": referring(node("Constant", [], ["c"]), "value_floats", AttributeProto.FLOATS),
    "perm": referring(node("Transpose", ["k"], ["c"]), "perm", AttributeProto.INTS),
    "to": referring(node("Cast", ["k"], ["c"]), "to", AttributeProto.INT),
}


@pytest.mark.parametrize("made", GIVEN.values(), ids=GIVEN.keys())
def test_what_a_caller_gives_is_not_constant(made: NodeProto) -> None:
    model = reading([])
    nodes = [node("Constant", [], ["k"], value=tensor(W)), made]
    opsets = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("d", "f", ["p"], ["c"], nodes, opsets, ["given"]))
    assert look_up(model, "c", "function d:f") is None


# Rule 4: scopes

SCOPES = """
<ir_version: 10, opset_import: ["" : 17, "d" : 1]>
g (float[2] x, bool flag, int64 n) => (float[2] y, float[2] z) <float[2] w = {1, 2}, float[2] v = {3, 4}>
{
    k = Constant <value_floats = [5.0, 6.0]> ()
    m = Neg (w)
    late = Relu (x)
    y = If (flag) <
        then_branch = left () => (float[2] t) <float[2] own = {7, 8}> {
            sum = Add (w, own)
            alias = Identity (w)
            deep = If (flag) <
                then_branch = a () => (float[2] u) { far = Mul (sum, k)  u = Add (far, x) },
                else_branch = b () => (float[2] s) <float[2] own = {0, 1}> { s = Sub (own, x) }>
            t = Add (deep, sum)
        },
        else_branch = right () => (float[2] e) { m = Abs (x)  e = Add (m, v) }>
    r = Loop (n, flag, x) <
        body = step (int64 i, bool c, float[2] v) => (bool c1, float[2] v1) {
            c1 = Identity (c)
            sum = Add (v, w)
            late = Neg (w)
            v1 = Sub (sum, late)
        }>
    z = d.f (r)
}
<domain: "d", opset_import: ["" : 17]>
f (w) => (q) {
    k = Constant <value_floats = [9.0, 9.0]> ()
    flag = Constant <value = bool {1}> ()
    p = Add (w, k)
    q = If (flag) <
        then_branch = a () => (h) { j = Neg (k)  h = Mul (p, j) },
        else_branch = b () => (h) { h = Neg (w) }>
}
"""

# scope, name there, its values, scope that is its home
SEEN: list[tuple[str, str, list[float] | None, str]] = [
    ("", "w", [1, 2], ""),
    ("", "k", [5, 6], ""),
    ("", "m", [-1, -2], ""),
    ("", "own", None, ""),
    ("/y[0]", "w", [1, 2], ""),
    ("/y[0]", "k", [5, 6], ""),
    ("/y[0]", "m", [-1, -2], ""),
    ("/y[0]", "own", [7, 8], "/y[0]"),
    ("/y[0]", "sum", [8, 10], "/y[0]"),
    ("/y[0]", "alias", [1, 2], ""),
    ("/y[0]", "deep", None, ""),
    ("/y[0]/deep[0]", "w", [1, 2], ""),
    ("/y[0]/deep[0]", "own", [7, 8], "/y[0]"),
    ("/y[0]/deep[0]", "sum", [8, 10], "/y[0]"),
    ("/y[0]/deep[0]", "far", [40, 60], "/y[0]/deep[0]"),
    ("/y[0]/deep[1]", "own", [0, 1], "/y[0]/deep[1]"),  # hides the outer one
    ("/y[1]", "v", [3, 4], ""),
    ("/y[1]", "m", None, ""),  # hidden by the output of a node
    ("/y[1]", "sum", None, ""),  # of the other branch
    ("/r[0]", "v", None, ""),  # hidden by an input
    ("/r[0]", "w", [1, 2], ""),
    ("/r[0]", "sum", None, ""),
    ("/r[0]", "late", [-1, -2], "/r[0]"),
    ("function d:f", "w", None, ""),
    ("function d:f", "v", None, ""),  # a function sees nothing of the model
    ("function d:f", "k", [9, 9], "function d:f"),
    ("function d:f", "p", None, ""),
    ("function d:f/q[0]", "k", [9, 9], "function d:f"),
    ("function d:f/q[0]", "j", [-9, -9], "function d:f/q[0]"),
    ("function d:f/q[1]", "w", None, ""),
]


@pytest.mark.parametrize(("path", "name", "values", "home"), SEEN, ids=[f"{s[0]} {s[1]}" for s in SEEN])
def test_scopes(path: str, name: str, values: list[float] | None, home: str) -> None:
    found = look_up(parser.parse_model(SCOPES), name, path)
    if values is None:
        assert found is None
    else:
        assert found is not None
        np.testing.assert_array_equal(found.read(), float32(*values))
        assert found.home.path == home


def test_order_of_scopes() -> None:
    model = parser.parse_model(SCOPES)
    assert [known.scope.path for known in all_constants(model)] == [scope.path for scope in scopes(model)]


# scope, name there, operator that computes it
PRODUCERS: list[tuple[str, str, str | None]] = [
    ("", "late", "Relu"),
    ("", "k", "Constant"),
    ("", "w", None),
    ("", "x", None),
    ("", "t", None),  # of a body
    ("", "", None),
    ("", "nowhere", None),
    ("/y[0]", "deep", "If"),
    ("/y[0]", "late", "Relu"),
    ("/y[0]", "own", None),
    ("/y[0]/deep[0]", "far", "Mul"),
    ("/y[0]/deep[0]", "sum", "Add"),
    ("/y[0]/deep[0]", "late", "Relu"),
    ("/y[1]", "m", "Abs"),
    ("/r[0]", "v", None),
    ("/r[0]", "late", "Neg"),
    ("function d:f", "late", None),
    ("function d:f", "w", None),
    ("function d:f/q[0]", "p", "Add"),
    ("function d:f/q[1]", "w", None),
]


@pytest.mark.parametrize(("path", "name", "op"), PRODUCERS, ids=[f"{p[0]} {p[1]}" for p in PRODUCERS])
def test_producer(path: str, name: str, op: str | None) -> None:
    known = {found.scope.path: found for found in all_constants(parser.parse_model(SCOPES))}
    found = known[path].producer(name)
    assert (None if found is None else found.op_type) == op


def test_what_a_body_stores_has_no_producer() -> None:
    model = of_readers(
        "k = Neg (x)  y = If (flag) <then_branch = a () => (t) <float[1, 1] k = {1}> { t = Abs (k) },"
        "else_branch = b () => (e) { e = Abs (k) }>"
    )
    known = {found.scope.path: found for found in all_constants(model)}
    assert known["/y[0]"].find("k") is not None
    assert known["/y[0]"].producer("k") is None


def test_expressions_in_bodies_have_the_opset_of_their_model_or_function() -> None:
    """In opset 13 the axes of ReduceMean are an attribute, in opset 18 an input."""
    model = parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 13, "d" : 1]>
        g (float[2] x, bool flag) => (float y) <float[2] w = {1, 3}> {
            y = If (flag) <
                then_branch = a () => (float t) { t = ReduceMean <axes = [0], keepdims = 0> (w) },
                else_branch = b () => (float e) { e = d.f (x) }>
        }
        <domain: "d", opset_import: ["" : 18]>
        f (x) => (q) {
            w = Constant <value_floats = [1.0, 5.0]> ()
            axes = Constant <value_ints = [0]> ()
            q = ReduceMean <keepdims = 0> (w, axes)
        }""")
    assert find(model, "t", "/y[0]").read() == 2
    assert find(model, "q", "function d:f").read() == 3


# has_one_reader

# nodes of a model with the initializers u, v, w, g (float) and s (int64); constant; whether it has one reader
READERS: dict[str, tuple[str, str, bool]] = {
    "read once": ("y = Conv (x, w)", "w", True),
    "read by nothing": ("y = Conv (x, v)", "w", False),
    "read twice": ("h = Conv (x, w)  y = Conv (h, w)", "w", False),
    "read twice by one node": ("y = Conv (w, w)", "w", False),
    "an output of the graph": ("h = Conv (x, w)  y = Identity (w)", "w", False),
    "a Constant": ("k = Constant <value_floats = [1.0]> ()  y = Conv (x, k)", "k", True),
    "by a body": (
        "y = If (flag) <then_branch = a () => (t) { t = Conv (x, w) }, else_branch = b () => (x) {}>",
        "w",
        True,
    ),
    "by two bodies": (
        "y = If (flag) <then_branch = a () => (t) { t = Conv (x, w) }, "
        "else_branch = b () => (e) { e = Conv (x, w) }>",
        "w",
        False,
    ),
    "by one alias": ("a = Identity (w)  y = Conv (x, a)", "w", True),
    "by one of two aliases": (
        "a = Identity (w)  b = Identity (a)  c = Identity (w)  y = Conv (x, b)",
        "b",
        True,
    ),
    "by two aliases": ("a = Identity (w)  b = Identity (w)  h = Conv (x, a)  y = Conv (h, b)", "a", False),
    "by name and alias": ("a = Identity (w)  h = Conv (x, a)  y = Conv (h, w)", "w", False),
    "Transpose": ("t = Transpose (w)  y = Conv (x, t)", "t", True),
    "Transpose, read twice": ("t = Transpose (w)  h = Conv (x, t)  y = Conv (h, t)", "t", False),
    "Transpose, and its source": ("t = Transpose (w)  h = Conv (x, t)  y = Conv (h, w)", "t", False),
    "source of a Transpose that is read too": (
        "t = Transpose (w)  h = Conv (x, t)  y = Conv (h, w)",
        "w",
        False,
    ),
    "two Transposes of one source": (
        "t = Transpose (w)  r = Transpose (w)  h = Conv (x, t)  y = Conv (h, r)",
        "t",
        False,
    ),
    "Transpose of an alias": ("a = Identity (w)  t = Transpose (a)  y = Conv (x, t)", "t", True),
    "Transpose of an alias, and another alias": (
        "a = Identity (w)  b = Identity (w)  t = Transpose (a)  h = Conv (x, t)  y = Conv (h, b)",
        "t",
        False,
    ),
    "the source is an output": ("t = Transpose (w)  h = Conv (x, t)  y = Identity (w)", "t", False),
    "weight norm": (
        "n = ReduceL2 (v)  d = Div (v, n)  m = Mul (d, g)  y = Conv (x, m)",
        "m",
        True,
    ),
    "weight norm, all sources read more than once": (
        "q = Mul (v, v)  r = Sqrt (q)  d = Div (v, r)  p = Mul (d, g)  m = Mul (p, g)  y = Conv (x, m)",
        "m",
        True,
    ),
    "weight norm of aliases": (
        "a = Identity (v)  n = ReduceL2 (a)  d = Div (v, n)  m = Mul (d, g)  y = Conv (x, m)",
        "m",
        True,
    ),
    "weight norm, two layers share v": (
        "n = ReduceL2 (v)  d = Div (v, n)  m = Mul (d, g)  o = Mul (d, u)  h = Conv (x, m)  y = Conv (h, o)",
        "m",
        False,
    ),
    "weight norm, two layers share g": (
        "m = Mul (v, g)  m2 = Mul (u, g)  h = Conv (x, m)  y = Conv (h, m2)",
        "m",
        False,
    ),
    "two layers of the same kind": (
        "m = Mul (v, g)  m2 = Mul (u, w)  h = Conv (x, m)  y = Conv (h, m2)",
        "m",
        True,
    ),
    "an inner value is read outside": (
        "n = ReduceL2 (v)  d = Div (v, n)  h = Conv (x, d)  y = Mul (h, n)",
        "d",
        False,
    ),
    "a shared shape": ("a = Reshape (v, s)  b = Reshape (w, s)  h = Conv (x, a)  y = Conv (h, b)", "a", True),
    "a shared shape that a node reads": (
        "a = Reshape (v, s)  h = Conv (x, a)  y = Reshape (h, s)",
        "a",
        True,
    ),
    "filled with a number": ("c = ConstantOfShape (s)  h = Conv (x, c)  y = Reshape (h, s)", "c", True),
}
_TWO_WEIGHTS = "a = Reshape (v, z)  b = Reshape (w, z)  h = Conv (x, a)  y = Conv (h, b)"
READERS |= {
    "a shared shape, joined": (f"z = Concat <axis = 0> (s, s)  {_TWO_WEIGHTS}", "a", True),
    "a shared shape, of a tensor": (f"z = Shape (u)  {_TWO_WEIGHTS}", "a", True),
}


def of_readers(nodes: str) -> ModelProto:
    stored = ", ".join(f"float[1, 1] {name} = {{1}}" for name in "uvwg")
    return parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 17]>'
        f"g (float[1, 1] x, bool flag) => (float y) <{stored}, int64[1] s = {{1}}> {{ {nodes} }}"
    )


@pytest.mark.parametrize(("nodes", "name", "expected"), READERS.values(), ids=READERS.keys())
def test_has_one_reader(nodes: str, name: str, expected: bool) -> None:
    model = of_readers(nodes)
    assert find(model, name).has_one_reader(count_reads(model.graph)) is expected


IN_BODY: dict[str, tuple[str, bool]] = {
    "its own expression": ("t = Transpose (own)  e = Conv (x, t)", True),
    "its source is read as well": ("t = Transpose (own)  h = Conv (x, t)  e = Conv (h, own)", False),
    "its source lies outside": ("t = Transpose (w)  e = Conv (x, t)", True),
}


@pytest.mark.parametrize(("nodes", "expected"), IN_BODY.values(), ids=IN_BODY.keys())
def test_has_one_reader_in_a_body(nodes: str, expected: bool) -> None:
    branch = f"a () => (e) <float[1, 1] own = {{1}}> {{ {nodes} }}"
    model = of_readers(f"y = If (flag) <then_branch = {branch}, else_branch = b () => (x) {{}}>")
    found = find(model, "t", "/y[0]")
    assert found.has_one_reader(count_reads(found.home.holder)) is expected


# Errors and external data

INVALID: dict[str, tuple[str, list[Array | None], dict[str, Any]]] = {
    "sizes differ": ("Reshape", [W, int64(5, 5)], {}),
    "no such axis": ("Transpose", [W], {"perm": [0, 1, 5]}),
    "two free sizes": ("Reshape", [W, int64(-1, -1)], {}),
    "not to broadcast": ("Mul", [W, weight(5)], {}),
    "an index out of range": ("Gather", [W, int64(7)], {"axis": 0}),
    "types differ": ("Concat", [W, weight(2, 3, 4, 5)], {"axis": 0}),
    "a missing attribute": ("Cast", [W], {}),
}


@pytest.mark.parametrize(("op", "arrays", "given"), INVALID.values(), ids=INVALID.keys())
def test_invalid_expression(op: str, arrays: list[Array | None], given: dict[str, Any]) -> None:
    model = reading([])
    names = [f"i{i}" for i in range(len(arrays))]
    model.graph.initializer.extend(tensor(a, n) for a, n in zip(arrays, names, strict=True) if a is not None)
    model.graph.node.extend([node(op, names, ["wrong"], **given), node("Neg", ["wrong"], ["further"])])
    for name in ("wrong", "further"):
        found = find(model, name)
        for ask in (found.read, lambda found=found: found.shape, lambda found=found: found.data_type):
            with pytest.raises(ConstantError, match=r"^constant 'wrong' cannot be computed: .+") as error:
                ask()
            assert "\n" not in str(error.value)
            assert error.value.__cause__ is not None


def outside(folder: Path) -> ModelProto:
    """`c` is the Transpose of a weight that lies in w.bin."""
    model = computing([node("Transpose", ["w"], ["c"])], {"w": W})
    return onnx.load_model(stored_outside(folder, model), load_external_data=False)


def test_external_data(tmp_path: Path) -> None:
    (known,) = all_constants(outside(tmp_path), str(tmp_path))
    for name, expected in (("w", W), ("c", W.T)):
        found = known.find(name)
        assert found is not None
        np.testing.assert_array_equal(found.read(), expected)


def test_external_data_is_not_read_for_a_shape(tmp_path: Path) -> None:
    known = Constants(next(scopes(outside(tmp_path))), str(tmp_path))
    (tmp_path / "w.bin").unlink()
    stored = known.find("w")
    assert stored is not None
    assert (stored.shape, stored.data_type) == (W.shape, TensorProto.FLOAT)
    with pytest.raises((FileNotFoundError, onnx.checker.ValidationError)):
        stored.read()


def test_nothing_is_computed_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    evaluate = constants._evaluate

    def counting(made: NodeProto, *rest: Any) -> Array:
        calls.append(made.output[0])
        return evaluate(made, *rest)

    monkeypatch.setattr(constants, "_evaluate", counting)
    model = computing([node("Neg", ["w"], ["n"]), node("Transpose", ["n"], ["c"])], {"w": W})
    found = find(model)
    assert find(model, "w").shape == W.shape
    assert calls == []
    found.read()
    assert calls == ["n", "c"]
