"""replace_with_chain: the chain is where the node was, under free names; everything else keeps every byte."""

import copy
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper, parser

from passes import Chain, ChainNode, remove_unused, replace_with_chain
from passes.constants import Constant, all_constants
from passes.graph import Key, Scope, scopes
from tests.builders import (
    Array,
    conv_model,
    gemm_model,
    initializers,
    left_gemm_model,
    make_model,
    matmul_model,
    relative_error,
    run,
    serialized,
    weight,
)

TOLERANCE = 1e-6
TRANS_B: dict[str, Any] = {"transB": 1}

tensor = numpy_helper.from_array


def link(op: str, role: str, array: Array, position: int = 1, **attributes: Any) -> ChainNode:
    return ChainNode(op, role, tensor(array), position, attributes)


def replace(model: ModelProto, *nodes: ChainNode, output: str = "y") -> ModelProto:
    """The model with a chain in place of one node of its main graph."""
    return replace_with_chain(model, {("", output): Chain(nodes)})


def halves(w: Array, rank: int = 4) -> tuple[Array, Array]:
    """Factors `(r, C, ...)` and `(M, r)` of a weight of that rank."""
    u, s, v = np.linalg.svd(w.reshape(len(w), -1).astype(np.float64), full_matrices=False)
    first = (s[:rank, None] * v[:rank]).reshape(rank, *w.shape[1:])
    return first.astype(w.dtype), u[:, :rank].astype(w.dtype)


def low_rank(*shape: int, rank: int = 4) -> Array:
    """A weight of exactly this rank."""
    a, b = weight(shape[0], rank, seed=1), weight(rank, int(np.prod(shape[1:])), seed=2)
    return (a @ b).reshape(shape)


def conv_chain(w: Array, **attributes: Any) -> list[ChainNode]:
    first, last = halves(w)
    return [link("Conv", "a", first, **attributes), link("Conv", "b", last[..., None, None])]


def gemm_chain(w: Array, rank: int = 4) -> list[ChainNode]:
    first, last = halves(w, rank)
    return [link("Gemm", "a", first, **TRANS_B), link("Gemm", "b", last, **TRANS_B)]


def test_conv() -> None:
    w = low_rank(12, 5, 3, 3)
    model = conv_model(w, strides=[2, 1], pads=[1, 1, 0, 0])
    stored = model.SerializeToString()
    result = replace(model, *conv_chain(w, strides=[2, 1], pads=[1, 1, 0, 0]))
    assert model.SerializeToString() == stored
    onnx.checker.check_model(result, full_check=True)
    assert [(n.op_type, n.name, list(n.input), list(n.output)) for n in result.graph.node] == [
        ("Conv", "conv_a", ["x", "conv_a_weight"], ["conv_a_output"]),
        ("Conv", "conv_b", ["conv_a_output", "conv_b_weight", "b"], ["y"]),
    ]
    x = weight(2, 5, 11, 13)
    (expected,), (actual,) = run(model, x=x), run(result, x=x)
    assert relative_error(expected, actual) < TOLERANCE


def test_a_wrong_factor_is_seen() -> None:
    w = low_rank(12, 5, 3, 3)
    first, last = halves(w)
    last[3, 2] += 0.1
    chain = link("Conv", "a", first), link("Conv", "b", last[..., None, None])
    model, x = conv_model(w), weight(2, 5, 11, 13)
    (expected,), (actual,) = run(model, x=x), run(replace(model, *chain), x=x)
    assert relative_error(expected, actual) > 1e-3


def test_gemm_attributes_and_c() -> None:
    w = low_rank(12, 9)
    first, last = halves(w)
    model = gemm_model(w, weight(12, seed=5), transB=1, alpha=0.5, beta=2.0)
    rest: dict[str, Any] = {**TRANS_B, "alpha": 0.5, "beta": 2.0}
    result = replace(model, link("Gemm", "a", first, **TRANS_B), link("Gemm", "b", last, **rest))
    found = [{a.name: helper.get_attribute_value(a) for a in n.attribute} for n in result.graph.node]
    assert found == [TRANS_B, rest]
    assert list(result.graph.node[1].input)[2:] == ["b"]
    x = weight(3, 9)
    (expected,), (actual,) = run(model, x=x), run(result, x=x)
    assert relative_error(expected, actual) < TOLERANCE


@pytest.mark.parametrize("length", [1, 2, 3, 5])
def test_chains_of_any_length(length: int) -> None:
    w = weight(8, 8)
    model = make_model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": ["N", 8]}, ["y"], {"w": w})
    identity = [link("MatMul", f"i{i}", np.eye(8, dtype=np.float32)) for i in range(length - 1)]
    result = replace(model, *identity, link("MatMul", "w", w))
    assert len(result.graph.node) == length
    assert result.graph.node[-1].name == "y_w"  # a node without a name goes by its output's
    x = weight(3, 8)
    np.testing.assert_array_equal(run(result, x=x)[0], run(model, x=x)[0])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int8])
def test_weights_are_stored_as_given(dtype: Any) -> None:
    array = np.arange(6, dtype=dtype).reshape(2, 3)
    model = gemm_model(weight(3, 3))
    result = replace(model, link("Gemm", "a", array))
    stored = initializers(result)["gemm_a_weight"]
    assert stored.dtype == dtype
    np.testing.assert_array_equal(stored, array)


def test_external_weights_are_not_read() -> None:
    """A factor may lie in a file; only its name is set."""
    outside = TensorProto(dims=[3, 3], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    outside.external_data.add(key="location", value="nowhere.bin")
    expected = copy.deepcopy(outside)
    expected.name = "gemm_a_weight"
    result = replace(gemm_model(weight(3, 3)), ChainNode("Gemm", "a", outside))
    assert result.graph.initializer[-1] == expected


def test_names_never_collide() -> None:
    """Derived names exist as a node, a value, an initializer, an input, within a body and a function."""
    w = low_rank(6, 6, rank=2)
    inner = helper.make_node("Neg", ["n_b_weight"], ["n_b_weight_2"], "n_a_weight_2")
    value = helper.make_tensor_value_info("n_b_weight_2", TensorProto.FLOAT, None)
    body = helper.make_graph([inner], "body", [], [value])
    nodes = [
        helper.make_node("Relu", ["x"], ["n_a_output"], "n_a"),
        helper.make_node("Gemm", ["n_a_output", "w"], ["y"], "n", transB=1),
        helper.make_node("If", ["flag"], ["z"], then_branch=body, else_branch=body),
    ]
    weights = {"w": w, "n_a_weight": w, "n_b_weight": w}
    model = make_model(nodes, {"x": ["N", 6]}, ["y", "z"], weights | {"flag": np.array(True)})
    function = parser.parse_function("""
        <domain: "d", opset_import: ["" : 17]>
        f (n_b_output) => (q) { [n_b_2] n_a_weight_3 = Neg (n_b_output)  q = Neg (n_a_weight_3) }""")
    model.functions.append(function)
    result = replace(model, *gemm_chain(w, 2))
    names = [n.name for n in result.graph.node if n.name]
    values = [*initializers(result), *(o for n in result.graph.node for o in n.output), "x"]
    assert len(names) == len(set(names))
    assert len(values) == len(set(values))
    others = {"n_b_weight_2", "n_a_weight_2", "n_b_output", "n_b_2", "n_a_weight_3"}
    assert others.isdisjoint([*initializers(result), *names, *values])
    onnx.checker.check_model(result, full_check=True)
    x = weight(3, 6)
    for expected, actual in zip(run(model, x=x), run(result, x=x), strict=True):
        assert relative_error(expected, actual) < TOLERANCE


def two_layers(name: str, w: Array) -> ModelProto:
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["h"], name, transB=1),
        helper.make_node("Relu", ["h"], ["r"], "relu", doc_string="stays"),
        helper.make_node("Gemm", ["r", "w"], ["y"], name, transB=1),
    ]
    return make_model(nodes, {"x": ["N", 6]}, ["y"], {"w": w, "idle": weight(2)})


def test_shared_tensors_become_one_initializer_also_where_nodes_share_a_name() -> None:
    w = low_rank(6, 6, rank=2)
    model = two_layers("same", w)
    nodes = gemm_chain(w, 2)
    chains = {("", output): Chain(nodes) for output in ("h", "y")}
    result = remove_unused(model, replace_with_chain(model, chains))
    assert sorted(initializers(result)) == ["idle", "same_a_weight", "same_b_weight"]
    names = [n.name for n in result.graph.node]
    assert len(set(names)) == len(names) == 5
    model.graph.node[0].name = "other"  # the original does not run with a name twice, the result does
    x = weight(3, 6)
    assert relative_error(run(model, x=x)[0], run(result, x=x)[0]) < TOLERANCE


def test_equal_tensors_that_are_not_the_same_stay_apart() -> None:
    w = weight(6, 6)
    model = two_layers("", w)
    chains = {("", output): Chain([link("Gemm", "a", w, **TRANS_B)]) for output in ("h", "y")}
    result = replace_with_chain(model, chains)
    assert set(initializers(result)) == {"idle", "h_a_weight", "y_a_weight"}  # w is not copied


def test_untouched_parts_keep_every_byte() -> None:
    model = two_layers("n", weight(6, 6))
    model.doc_string, model.graph.doc_string, model.producer_version = "a model", "a graph", "3"
    model.metadata_props.add(key="k", value="v")
    model.graph.value_info.append(helper.make_tensor_value_info("h", TensorProto.FLOAT, None))
    model.graph.quantization_annotation.add(tensor_name="h")
    relu = helper.make_node("Relu", ["p"], ["q"])
    model.functions.append(helper.make_function("test", "f", ["p"], ["q"], [relu], model.opset_import))
    model.graph.node[1].metadata_props.add(key="node", value="prop")
    result = replace(model, link("Gemm", "a", weight(6, 6)))
    assert serialized(result.graph.node[:2]) == serialized(model.graph.node[:2])
    assert serialized(result.graph.initializer[:2]) == serialized(model.graph.initializer)
    expected = copy.deepcopy(model)
    for proto in (expected, result):
        proto.graph.ClearField("node")
        proto.graph.ClearField("initializer")
    assert result.SerializeToString(deterministic=True) == expected.SerializeToString(deterministic=True)


# Both operands


def test_a_constant_to_the_left() -> None:
    """`y = w x + b` -> `y = w1 (w2 x) + b`; the freed weight is not copied."""
    w = low_rank(7, 9)
    model = left_gemm_model(w)
    last, first = halves(w)
    chain = [link("MatMul", "a", last, position=0), link("Gemm", "b", first, position=0)]
    result = replace_with_chain(model, {("", "y"): Chain(chain, value=1)})
    assert [(n.op_type, list(n.input), list(n.output)) for n in result.graph.node] == [
        ("MatMul", ["gemm_a_weight", "x"], ["gemm_a_output"]),
        ("Gemm", ["gemm_b_weight", "gemm_a_output", "b"], ["y"]),
    ]
    assert sorted(initializers(result)) == ["b", "gemm_a_weight", "gemm_b_weight"]
    onnx.checker.check_model(result, full_check=True)
    x = weight(9, 5)
    assert relative_error(run(model, x=x)[0], run(result, x=x)[0]) < TOLERANCE


def test_a_matmul_with_constants_on_both_sides_of_the_chain() -> None:
    w = weight(6, 6)
    model = matmul_model(["w", "x"], [6, 5], w)
    chain = [link("MatMul", "a", w, position=0), link("MatMul", "b", np.eye(5, dtype=np.float32))]
    result = replace_with_chain(model, {("", "y"): Chain(chain, value=1)})
    assert [list(n.input) for n in result.graph.node] == [
        ["matmul_a_weight", "x"],
        ["matmul_a_output", "matmul_b_weight"],
    ]
    x = weight(6, 5)
    np.testing.assert_array_equal(run(result, x=x)[0], run(model, x=x)[0])


def test_a_node_without_a_weight() -> None:
    """`y = xᵀ w + b` -> `y = (xᵀ w2) w1 + b`: a MatMul cannot transpose."""
    w = low_rank(9, 12)
    second, first = halves(w)[::-1]
    model = gemm_model(w, weight(12, seed=5), transA=1)
    transpose = ChainNode("Transpose", "t", attributes={"perm": [1, 0]})
    result = replace(model, transpose, link("MatMul", "a", second), link("Gemm", "b", first))
    assert [(n.op_type, n.name, list(n.input)) for n in result.graph.node] == [
        ("Transpose", "gemm_t", ["x"]),
        ("MatMul", "gemm_a", ["gemm_t_output", "gemm_a_weight"]),
        ("Gemm", "gemm_b", ["gemm_a_output", "gemm_b_weight", "b"]),
    ]
    assert sorted(initializers(result)) == ["b", "gemm_a_weight", "gemm_b_weight"]
    onnx.checker.check_model(result, full_check=True)
    x = weight(9, 3)
    assert relative_error(run(model, x=x)[0], run(result, x=x)[0]) < TOLERANCE


def test_notes_on_the_node_go_to_the_last_one() -> None:
    w = low_rank(12, 9)
    model = gemm_model(w, transB=1)
    (old,) = model.graph.node
    old.doc_string = "what it is for"
    old.metadata_props.add(key="k", value="v")
    old.metadata_props.add(key="empty", value="")
    first, last = replace(model, *gemm_chain(w)).graph.node
    assert (first.doc_string, list(first.metadata_props)) == ("", [])
    assert (last.doc_string, last.metadata_props) == (old.doc_string, old.metadata_props)


# Bodies and functions

HEAD = '<ir_version: {ir}, opset_import: ["" : 17, "d" : 1]> g (float[3, 6] x, bool flag, int64 n)'


def parsed(nodes: str, ir: int = 10) -> ModelProto:
    """A model that computes y from x, a flag, a count and perhaps a weight w; functions may follow."""
    graph, *functions = nodes.split("<domain", 1)
    rest = "".join(f"<domain{function}" for function in functions)
    model = parser.parse_model(f"{HEAD.format(ir=ir)} => (float[3, 6] y) {{ {graph} }} {rest}")
    if ", w)" in nodes:
        model.graph.initializer.append(tensor(V, "w"))
        if ir < 4:
            model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, V.shape))
    onnx.checker.check_model(model)
    return model


RANK = 2
V, W = (low_rank(6, 6, rank=RANK) * scale for scale in (1.0, -0.5))
NUMBERS = f"{{{', '.join(map(str, W.reshape(-1)))}}}"


def own(name: str) -> str:
    """An initializer of a body."""
    return f"<float[6, 6] {name} = {NUMBERS}>"


def constant(name: str) -> str:
    """A Constant node."""
    return f"{name} = Constant <value = float[6, 6] {NUMBERS}> ()"


def choose(
    then: str, otherwise: str = "e = Neg (x)", own: str = "", flag: str = "flag", to: str = "y"
) -> str:
    """An If; `then` computes t and may use initializers, `otherwise` computes e."""
    value = "() => (float[3, 6]"
    first, second = f"a {value} t) {own} {{ {then} }}", f"b {value} e) {{ {otherwise} }}"
    return f"{to} = If ({flag}) <then_branch = {first}, else_branch = {second}>"


def function(nodes: str, signature: str = "f (p) => (q)", overload: str = "") -> str:
    """A local function."""
    given = f'overload: "{overload}", ' if overload else ""
    return f'<domain: "d", {given}opset_import: ["" : 17]> {signature} {{ {nodes} }}'


def loop(nodes: str, own: str = "") -> str:
    """A Loop over x; the nodes compute r of s."""
    step = "step (int64 i, bool c, float[3, 6] s) => (bool d, float[3, 6] r)"
    return f"y = Loop (n, flag, x) <body = {step} {own} {{ d = Identity (c) {nodes} }}>"


def scan(nodes: str, own: str = "") -> str:
    """A Scan over the rows of x; the nodes compute the state t and the row u of s and r."""
    step = "step (float[6] s, float[6] r) => (float[6] t, float[6] u)"
    zeros = "zeros = Constant <value_floats = [0.0, 0.0, 0.0, 0.0, 0.0, 0.0]> ()"
    return f"{zeros} last, y = Scan <num_scan_inputs = 1, body = {step} {own} {{ {nodes} }}> (zeros, x)"


def factorized(model: ModelProto) -> ModelProto:
    """Every MatMul by a constant in any scope becomes two; those that share a weight share its factors."""
    chains: dict[Key, Chain] = {}
    factors: dict[Constant, list[TensorProto]] = {}
    for known in all_constants(model):
        for node in known.scope.holder.node:
            found = known.find(node.input[1]) if node.op_type == "MatMul" else None
            if found is None:
                continue
            if found not in factors:
                factors[found] = [tensor(part) for part in halves(found.read(), RANK)[::-1]]
            links = [ChainNode("MatMul", role, part) for role, part in zip("ab", factors[found], strict=True)]
            chains[known.scope.path, node.output[0]] = Chain(links, found.home.path)
    return remove_unused(model, replace_with_chain(model, chains))


def stored(scope: Scope) -> tuple[list[str], list[str]]:
    """Names of the initializers and of new Constant nodes; all Constant nodes come first."""
    constants = [node.output[0] for node in scope.holder.node if node.op_type == "Constant"]
    assert constants == [node.output[0] for node in scope.holder.node[: len(constants)]]
    return [t.name for t in scope.initializers], [name for name in constants if name.endswith("_weight")]


K, OWN = constant("k"), own("o")

# nodes, IR version; the scopes that store the weights: as initializers, as Constants; stems of the names
PLACES: dict[str, tuple[str, int, dict[str, str], dict[str, str]]] = {
    "two branches share an outer weight": (
        choose("[l] t = MatMul (x, w)", "[r] e = MatMul (x, w)"),
        10,
        {"": "r"},
        {},
    ),
    "the main graph and a body share a weight": (
        "[m] h = MatMul (x, w)" + choose("[l] t = MatMul (h, w)"),
        10,
        {"": "l"},
        {},
    ),
    "IR 3, two branches share an outer weight": (
        choose("[l] t = MatMul (x, w)", "[r] e = MatMul (x, w)"),
        3,
        {"": "r"},
        {},
    ),
    "a Constant of the main graph": (K + choose("[l] t = MatMul (x, k)"), 10, {"": "l"}, {}),
    "a weight of the body": (choose("[l] t = MatMul (x, o)", own=OWN), 10, {"/y[0]": "l"}, {}),
    "a Constant of the body": (choose(K + "[l] t = MatMul (x, k)"), 10, {"/y[0]": "l"}, {}),
    "IR 3, a Constant of the body": (choose(K + "[l] t = MatMul (x, k)"), 3, {}, {"/y[0]": "l"}),
    "each branch has its own": (
        choose("[l] t = MatMul (x, o)", K + "[r] e = MatMul (x, k)", OWN),
        10,
        {"/y[0]": "l", "/y[1]": "r"},
        {},
    ),
    "a body in a body, weights of both and an outer one": (
        choose(
            choose("[i] h = MatMul (x, o) [j] k = MatMul (h, q) [l] t = MatMul (k, w)", own=own("q"), to="u")
            + "t = Neg (u)",
            own=OWN,
        ),
        10,
        {"": "l", "/y[0]": "i", "/y[0]/u[0]": "j"},
        {},
    ),
    "Loop": (loop("[l] h = MatMul (s, o) [r] r = MatMul (h, w)", OWN), 10, {"": "r", "/y[0]": "l"}, {}),
    "IR 3, Loop": (loop(K + "[l] h = MatMul (s, k) [r] r = MatMul (h, w)"), 3, {"": "r"}, {"/y[0]": "l"}),
    "Scan": (
        scan("sum = Add (s, r) [l] t = MatMul (sum, o) [r] u = MatMul (r, w)", OWN),
        10,
        {"": "r", "/last[0]": "l"},
        {},
    ),
    "a function": (
        "h = d.f (x) y = d.f (h)" + function(K + "[l] q = MatMul (p, k)"),
        10,
        {},
        {"function d:f": "l"},
    ),
    "two functions": (
        "h = d.f (x) y = d.f:twice (h)"
        + function(K + "[l] q = MatMul (p, k)")
        + function(K + "[l] h = MatMul (p, k) [r] q = MatMul (h, k)", overload="twice"),
        10,
        {},
        {"function d:f": "l_a_2 l_b_2", "function d:f:twice": "l"},
    ),
    "a body in a function": (
        "y = d.f (x, flag)"
        + function(K + choose("[l] t = MatMul (p, k)", "e = Neg (p)", "", "g", "q"), "f (p, g) => (q)"),
        10,
        {},
        {"function d:f": "l"},
    ),
    "the main graph and a body": (
        "[m] h = MatMul (x, w)" + choose("[l] t = MatMul (h, o)", own=OWN),
        10,
        {"": "m", "/y[0]": "l"},
        {},
    ),
    "IR 3, the main graph and a body": (
        "[m] h = MatMul (x, w)" + choose(K + "[l] t = MatMul (h, k)"),
        3,
        {"": "m"},
        {"/y[0]": "l"},
    ),
    "a body and one in it": (
        choose(
            "[m] h = MatMul (x, o)"
            + choose("[l] t = MatMul (h, q)", "e = Neg (h)", own("q"), to="u")
            + "t = Neg (u)",
            own=OWN,
        ),
        10,
        {"/y[0]": "m", "/y[0]/u[0]": "l"},
        {},
    ),
    "a body in a function, its own weight": (
        "y = d.f (x, flag)"
        + function(choose("[l] t = MatMul (p, o)", "e = Neg (p)", OWN, "g", "q"), "f (p, g) => (q)"),
        10,
        {"function d:f/q[0]": "l"},
        {},
    ),
    "a function and a body in it": (
        "y = d.f (x, flag)"
        + function(
            K + "[m] h = MatMul (p, k)" + choose("[l] t = MatMul (h, o)", "e = Neg (p)", OWN, "g", "q"),
            "f (p, g) => (q)",
        ),
        10,
        {"function d:f/q[0]": "l"},
        {"function d:f": "m"},
    ),
}


def names_of(stems: str) -> list[str]:
    """`l`: of the chain of node l; two stems: of the weights."""
    parts = stems.split() if " " in stems else [f"{stems}_a", f"{stems}_b"]
    return [f"{part}_weight" for part in parts]


def check_places(nodes: str, ir: int, initializers: dict[str, str], constants: dict[str, str]) -> None:
    model = parsed(nodes, ir)
    before = model.SerializeToString()
    result = factorized(model)
    assert model.SerializeToString() == before
    onnx.checker.check_model(result, full_check=ir > 3)
    found = {scope.path: stored(scope) for scope in scopes(result)}
    for kind, expected in enumerate((initializers, constants)):
        names = {path: lists[kind] for path, lists in found.items() if lists[kind]}
        assert names == {path: names_of(stems) for path, stems in expected.items()}
    for feed in feeds():
        (wanted,), (actual,) = run(model, **feed), run(result, **feed)
        assert relative_error(wanted, actual) < TOLERANCE


def feeds() -> list[dict[str, Array]]:
    count = np.array(3, np.int64)
    return [{"x": weight(3, 6), "flag": np.array(flag), "n": count} for flag in (True, False)]


@pytest.mark.parametrize(("nodes", "ir", "initializers", "constants"), PLACES.values(), ids=PLACES.keys())
def test_new_weights_lie_where_the_old_ones_were(
    nodes: str, ir: int, initializers: dict[str, str], constants: dict[str, str]
) -> None:
    check_places(nodes, ir, initializers, constants)


def test_a_wrong_factor_in_a_body_is_seen() -> None:
    model = parsed(PLACES["Loop"][0])
    result = factorized(model)
    (body,) = list(scopes(result))[1:]
    body.initializers[0].CopyFrom(tensor(weight(6, RANK), body.initializers[0].name))
    feed, _ = feeds()
    assert relative_error(run(model, **feed)[0], run(result, **feed)[0]) > 1e-3


def test_bodies_and_functions_that_have_no_part_in_it_keep_every_byte() -> None:
    model = parsed("[m] r = MatMul (x, w)" + PLACES["a body in a body, weights of both and an outer one"][0])
    model.functions.extend(parsed(PLACES["a body in a function"][0]).functions)
    result = replace(model, link("MatMul", "a", W), output="r")
    assert serialized(result.graph.node[1:]) == serialized(model.graph.node[1:])
    assert serialized(result.functions) == serialized(model.functions)
    assert list(initializers(result)) == ["w", "m_a_weight"]


def test_names_of_new_constant_nodes_never_collide() -> None:
    inside = f"{K} [l] h = MatMul (p, k) [l_a_weight_constant] q = Neg (h)"
    result = factorized(parsed("y = d.f (x)" + function(inside)))
    names = [node.name for scope in scopes(result) for node in scope.holder.node if node.name]
    assert len(names) == len(set(names))


def test_a_tensor_in_two_homes() -> None:
    model = parsed(PLACES["two functions"][0])
    shared = ChainNode("MatMul", "w", tensor(W))
    keys = [("function d:f", "q"), ("function d:f:twice", "q")]
    result = replace_with_chain(model, {key: Chain([shared], key[0]) for key in keys})
    for feed in feeds():
        np.testing.assert_array_equal(run(model, **feed)[0], run(result, **feed)[0])


def test_a_home_that_does_not_exist_is_refused() -> None:
    chain = Chain([link("MatMul", "w", W)], "nowhere")
    with pytest.raises(KeyError, match="nowhere"):
        replace_with_chain(matmul_model(["x", "w"], [3, 6], W), {("", "y"): chain})


REFUSED: list[Key] = [
    *(("", name) for name in ("x", "w", "nowhere", "t", "")),
    ("/y[0]", "y"),
    ("/y[0]", "nowhere"),
    ("/y[1]", "t"),
    ("/y[2]", "t"),
    ("function d:f", "p"),
    ("function d:g", "q"),
]


@pytest.mark.parametrize("key", REFUSED, ids=str)
def test_what_is_no_output_of_a_node_is_refused(key: Key) -> None:
    model = parsed(choose("t = Neg (x)") + function("q = Neg (p)"))
    chain = Chain([link("Neg", "a", weight(3))])
    with pytest.raises(KeyError, match=f"no node has the output .*{key[1]}"):
        replace_with_chain(model, {key: chain})


def test_ir_3() -> None:
    w = low_rank(12, 9)
    model = gemm_model(w, weight(12), transB=1)
    model.ir_version, model.opset_import[0].version = 3, 8
    for stored in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(stored.name, stored.data_type, stored.dims))
    onnx.checker.check_model(model)
    chain_model = replace(model, *gemm_chain(w))
    zero = tensor(np.zeros(4, np.float32), "c0")  # C is no option before opset 11
    chain_model.graph.node[0].input.append("c0")
    chain_model.graph.initializer.append(zero)
    chain_model.graph.input.append(helper.make_tensor_value_info("c0", TensorProto.FLOAT, [4]))
    result = remove_unused(model, chain_model)
    onnx.checker.check_model(result)
    assert {v.name for v in result.graph.input} == {"x", "b", "c0", "gemm_a_weight", "gemm_b_weight"}
    x = weight(3, 9)
    assert relative_error(run(model, x=x)[0], run(result, x=x)[0]) < TOLERANCE


def test_what_the_model_says_of_a_replaced_weight_goes_with_it() -> None:
    model = gemm_model(weight(6, 6))
    for name in ("w", "x"):
        model.graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
        model.graph.quantization_annotation.add(tensor_name=name)
    result = remove_unused(model, replace(model, link("Gemm", "a", weight(6, 6)))).graph
    assert [stored.name for stored in result.initializer] == ["gemm_a_weight"]
    assert [value.name for value in result.value_info] == ["x"]
    assert [annotation.tensor_name for annotation in result.quantization_annotation] == ["x"]
