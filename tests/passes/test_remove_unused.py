"""What fell out of use goes, what was unused from the start stays, the rest keeps every byte."""

from collections.abc import Callable, Sequence

import numpy as np
import onnx
import pytest
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, parser

from passes import remove_unused
from passes.graph import Scope, drop, scopes
from tests.builders import make_model, run, serialized, weight

node = helper.make_node


def without(model: ModelProto, *outputs: str) -> ModelProto:
    """The model without the nodes that compute these values."""
    after = ModelProto()
    after.CopyFrom(model)
    del after.graph.node[:]
    after.graph.node.extend(n for n in model.graph.node if n.output[0] not in outputs)
    return after


def relu(*more: NodeProto) -> list[NodeProto]:
    return [*more, node("Relu", ["x"], ["y"], "relu")]


BRANCH = helper.make_graph(
    [node("Neg", ["w"], ["t"])], "b", [], [helper.make_tensor_value_info("t", TensorProto.FLOAT, None)]
)

# nodes, the output of the node that is taken out, outputs of the nodes that are left, initializers left
CASES: dict[str, tuple[Sequence[NodeProto], str, list[str], list[str]]] = {
    "its weight goes": (relu(node("Neg", ["w"], ["z"])), "z", ["y"], ["unused"]),
    "its weight is read elsewhere": (
        relu(node("Neg", ["w"], ["z"]), node("Abs", ["w"], ["a"])),
        "z",
        ["a", "y"],
        ["w", "unused"],
    ),
    "its weight is read by a body": (
        relu(node("Neg", ["w"], ["z"]), node("If", ["x"], ["i"], then_branch=BRANCH, else_branch=BRANCH)),
        "z",
        ["i", "y"],
        ["w", "unused"],
    ),
    "a chain of nodes falls": (
        relu(node("Neg", ["w"], ["a"]), node("Abs", ["a"], ["b"]), node("Exp", ["b"], ["z"])),
        "z",
        ["y"],
        ["unused"],
    ),
    "a node with a body falls": (
        relu(node("If", ["x"], ["i"], then_branch=BRANCH, else_branch=BRANCH), node("Exp", ["i"], ["z"])),
        "z",
        ["y"],
        ["unused"],
    ),
    "one output is still read": (
        relu(node("Split", ["w"], ["a", "b"]), node("Exp", ["a"], ["z"]), node("Neg", ["b"], ["c"])),
        "z",
        ["a", "c", "y"],
        ["w", "unused"],
    ),
    "one output was never read": (
        relu(node("Split", ["w"], ["a", "b"]), node("Exp", ["a"], ["z"])),
        "z",
        ["y"],
        ["unused"],
    ),
    "an optional output has no name": (
        relu(node("Split", ["w"], ["a", ""]), node("Exp", ["a"], ["z"])),
        "z",
        ["y"],
        ["unused"],
    ),
    "a node unused from the start stays": (
        relu(node("Neg", ["w"], ["z"]), node("Abs", ["other"], ["idle"])),
        "z",
        ["idle", "y"],
        ["other", "unused"],
    ),
}


@pytest.mark.parametrize(("nodes", "taken", "nodes_left", "weights_left"), CASES.values(), ids=CASES.keys())
def test_remove(
    nodes: Sequence[NodeProto], taken: str, nodes_left: list[str], weights_left: list[str]
) -> None:
    names = ["w", "other", "unused"] if any("other" in n.input for n in nodes) else ["w", "unused"]
    before = make_model(nodes, {"x": [4]}, ["y"], {name: weight(4) for name in names})
    after = without(before, taken)
    bytes_before, bytes_after = before.SerializeToString(), after.SerializeToString()
    result = remove_unused(before, after)
    assert [n.output[0] for n in result.graph.node] == nodes_left
    assert [t.name for t in result.graph.initializer] == weights_left
    assert (before.SerializeToString(), after.SerializeToString()) == (bytes_before, bytes_after)
    kept = {n.output[0]: n.SerializeToString() for n in before.graph.node}
    assert serialized(result.graph.node) == [kept[name] for name in nodes_left]


def test_nothing_to_remove_returns_the_argument() -> None:
    model = make_model(relu(node("Neg", ["w"], ["idle"])), {"x": [4]}, ["y"], {"w": weight(4)})
    copy = ModelProto()
    copy.CopyFrom(model)
    assert remove_unused(model, copy) is copy


def annotate(model: ModelProto, name: str) -> None:
    model.graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]))
    model.graph.quantization_annotation.add(tensor_name=name)


def full_model() -> ModelProto:
    """w and z fall out of use; everything else of the model must stay as it is."""
    nodes = relu(node("Neg", ["w"], ["z"], "neg"), node("Abs", ["v"], ["a"], "abs", doc_string="a node"))
    model = make_model(nodes, {"x": [4]}, ["y", "a"], {"w": weight(4), "v": weight(4), "unused": weight(4)})
    for name in ("w", "z", "v", "y", "elsewhere"):
        annotate(model, name)
    model.doc_string, model.graph.doc_string, model.producer_name = "a model", "a graph", "test"
    model.metadata_props.add(key="k", value="v")
    model.graph.sparse_initializer.add().values.name = "sparse"
    function = helper.make_function(
        "test", "f", ["p"], ["q"], [node("Relu", ["p"], ["q"])], model.opset_import
    )
    model.functions.append(function)
    model.training_info.add().algorithm.node.append(node("Relu", ["g"], ["h"]))
    return model


def test_what_is_gone_leaves_no_trace_and_the_rest_every_byte() -> None:
    before = full_model()
    result = remove_unused(before, without(before, "z"))
    expected = without(before, "z")
    graph = expected.graph
    for field, name_of in (
        (graph.initializer, lambda t: t.name),
        (graph.value_info, lambda t: t.name),
        (graph.quantization_annotation, lambda t: t.tensor_name),
    ):
        kept = [item for item in field if name_of(item) not in ("w", "z")]
        assert len(kept) < len(field)
        copies = [type(item).FromString(item.SerializeToString()) for item in kept]
        del field[:]
        field.extend(copies)
    assert result.SerializeToString(deterministic=True) == expected.SerializeToString(deterministic=True)


INPUTS: dict[str, tuple[Callable[[ModelProto], None], list[str]]] = {
    "IR 3: the initializer is an input as well": (lambda _: None, ["x", "unused"]),
    "a true input stays": (
        lambda model: model.graph.initializer.remove(model.graph.initializer[0]),
        ["x", "w", "unused"],
    ),
}


@pytest.mark.parametrize(("change", "expected"), INPUTS.values(), ids=INPUTS.keys())
def test_inputs(change: Callable[[ModelProto], None], expected: list[str]) -> None:
    nodes = relu(node("Neg", ["w"], ["z"]))
    weights = {"w": weight(4), "unused": weight(4)}
    before = make_model(nodes, {"x": [4], "w": [4], "unused": [4]}, ["y"], weights)
    before.ir_version = 3
    change(before)
    result = remove_unused(before, without(before, "z"))
    assert [value.name for value in result.graph.input] == expected


# Bodies and functions


def parsed(nodes: str, functions: str = "") -> ModelProto:
    """A model with the weights w and unused that computes y from x, a flag and a count."""
    model = parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 17, "d" : 1]>'
        "g (float[4] x, bool flag, int64 n) => (float[4] y)"
        f"<float[4] w = {{1, 2, 3, 4}}, float[4] unused = {{1, 2, 3, 4}}> {{ {nodes} }} {functions}"
    )
    onnx.checker.check_model(model)
    return model


def without_z(model: ModelProto) -> ModelProto:
    """The model without the nodes that compute a value z, in whatever scope."""
    after = ModelProto()
    after.CopyFrom(model)
    for scope in list(scopes(after)):
        drop(scope.holder.node, [node.output[0] == "z" for node in scope.holder.node])
    return after


def choose(then: str, otherwise: str = "e = Neg (x)", to: str = "y", flag: str = "flag") -> str:
    """An If; the first branch stores own and idle and computes t, the other one computes e."""
    stored = "<float[4] own = {5, 6, 7, 8}, float[4] idle = {5, 6, 7, 8}>"
    first, second = f"a () => (t) {stored} {{ {then} }}", f"b () => (e) {{ {otherwise} }}"
    return f"{to} = If ({flag}) <then_branch = {first}, else_branch = {second}>"


def loop(nodes: str) -> str:
    """A Loop over x that stores own; the nodes compute r of s."""
    step = "step (int64 i, bool c, float[4] s) => (bool d, float[4] r) <float[4] own = {5, 6, 7, 8}>"
    return f"y = Loop (n, flag, x) <body = {step} {{ d = Identity (c) {nodes} }}>"


def function(nodes: str) -> str:
    return f'<domain: "d", opset_import: ["" : 17]> f (p, g) => (q) {{ {nodes} }}'


CALL = "y = d.f (x, flag)"
K = "k = Constant <value_floats = [1.0, 2.0, 3.0, 4.0]> ()"
J = "j = Constant <value_floats = [1.0, 2.0, 3.0, 4.0]> ()"
MAIN = ["w", "unused", "y"]
BRANCH_E = {"/y[1]": ["e"]}

# nodes, functions; scope -> initializers and values of nodes that are left
BODIES: dict[str, tuple[str, str, dict[str, list[str]]]] = {
    "its own weight goes": (
        choose("z = Neg (own) t = Abs (x)"),
        "",
        {"": MAIN, "/y[0]": ["idle", "t"], **BRANCH_E},
    ),
    "its own weight is read elsewhere": (
        choose("z = Neg (own) t = Abs (own)"),
        "",
        {"": MAIN, "/y[0]": ["own", "idle", "t"], **BRANCH_E},
    ),
    "a chain of nodes falls": (
        choose(f"{K} a = Add (own, k) b = Abs (a) z = Exp (b) t = Abs (x)"),
        "",
        {"": MAIN, "/y[0]": ["idle", "t"], **BRANCH_E},
    ),
    "nodes unused from the start stay": (
        choose(f"{K} {J} z = Exp (k) never = Neg (own) t = Abs (x)"),
        "",
        {"": MAIN, "/y[0]": ["own", "idle", "j", "never", "t"], **BRANCH_E},
    ),
    "an outer weight goes": (
        choose("z = Neg (w) t = Abs (x)"),
        "",
        {"": ["unused", "y"], "/y[0]": ["own", "idle", "t"], **BRANCH_E},
    ),
    "an outer weight that a chain read goes": (
        choose("a = Neg (w) z = Exp (a) t = Abs (x)"),
        "",
        {"": ["unused", "y"], "/y[0]": ["own", "idle", "t"], **BRANCH_E},
    ),
    "an outer chain of nodes falls": (
        f"{K} a = Mul (w, k)" + choose("b = Neg (a) z = Exp (b) t = Abs (x)"),
        "",
        {"": ["unused", "y"], "/y[0]": ["own", "idle", "t"], **BRANCH_E},
    ),
    "an outer weight that the other branch reads stays": (
        choose("z = Neg (w) t = Abs (x)", "e = Add (x, w)"),
        "",
        {"": MAIN, "/y[0]": ["own", "idle", "t"], **BRANCH_E},
    ),
    "an outer weight that both branches read goes": (
        choose("z = Neg (w) t = Abs (x)", "z = Neg (w) e = Abs (x)"),
        "",
        {"": ["unused", "y"], "/y[0]": ["own", "idle", "t"], **BRANCH_E},
    ),
    "an outer weight that the main graph reads stays": (
        "a = Add (w, x)" + choose("z = Neg (w) t = Abs (a)"),
        "",
        {"": ["w", "unused", "a", "y"], "/y[0]": ["own", "idle", "t"], **BRANCH_E},
    ),
    "weights of two scopes around go": (
        choose(
            choose("a = Add (w, own) z = Neg (a) t = Abs (x)", to="m").replace("own =", "deep =")
            + "t = Abs (m)"
        ),
        "",
        {
            "": ["unused", "y"],
            "/y[0]": ["idle", "m", "t"],
            "/y[0]/m[0]": ["deep", "idle", "t"],
            "/y[0]/m[1]": ["e"],
            **BRANCH_E,
        },
    ),
    "a node with bodies falls in a body": (
        choose(
            choose("t = Add (w, own)", "e = Neg (own)", to="m").replace("own =", "deep =")
            + "z = Abs (m) t = Abs (x)"
        ),
        "",
        {"": ["unused", "y"], "/y[0]": ["idle", "t"], **BRANCH_E},
    ),
    "Loop": (
        loop("a = Mul (s, own) z = Add (a, w) r = Neg (x)"),
        "",
        {"": ["unused", "y"], "/y[0]": ["d", "r"]},
    ),
    "a function": (
        CALL,
        function(f"{K} {J} a = Neg (k) z = Exp (a) q = Abs (p)"),
        {"": MAIN, "function d:f": ["j", "q"]},
    ),
    "a body in a function": (
        CALL,
        function(f"{K} {J}" + choose("a = Add (k, own) z = Exp (a) t = Neg (p)", "e = Abs (p)", "q", "g")),
        {
            "": MAIN,
            "function d:f": ["j", "q"],
            "function d:f/q[0]": ["idle", "t"],
            "function d:f/q[1]": ["e"],
        },
    ),
    "the same name in a function and in the main graph": (
        f"w2 = Neg (w) {CALL}",
        function("w = Constant <value_float = 1.0> () z = Neg (w) q = Abs (p)"),
        {"": ["w", "unused", "w2", "y"], "function d:f": ["q"]},
    ),
}


def left(scope: Scope) -> list[str]:
    return [*(t.name for t in scope.initializers), *(node.output[0] for node in scope.holder.node)]


@pytest.mark.parametrize(("nodes", "functions", "expected"), BODIES.values(), ids=BODIES.keys())
def test_bodies_and_functions(nodes: str, functions: str, expected: dict[str, list[str]]) -> None:
    before = parsed(nodes, functions)
    after = without_z(before)
    messages = before.SerializeToString(), after.SerializeToString()
    result = remove_unused(before, after)
    assert (before.SerializeToString(), after.SerializeToString()) == messages
    assert {scope.path: left(scope) for scope in scopes(result)} == expected
    inputs = {scope.path: scope.input_names for scope in scopes(before)}
    assert all(scope.input_names == inputs[scope.path] for scope in scopes(result))
    onnx.checker.check_model(result)
    for flag in (True, False):
        feed = {"x": weight(4), "flag": np.array(flag), "n": np.array(2, np.int64)}
        np.testing.assert_array_equal(run(result, **feed)[0], run(before, **feed)[0])


@pytest.mark.parametrize(("nodes", "functions"), [case[:2] for case in BODIES.values()], ids=BODIES.keys())
def test_nothing_to_remove_in_bodies_and_functions(nodes: str, functions: str) -> None:
    before = parsed(nodes, functions)
    after = ModelProto.FromString(before.SerializeToString())
    assert remove_unused(before, after) is after


@pytest.mark.parametrize("place", ["/y[0]", "function d:f"])
def test_notes_in_bodies_and_functions(place: str) -> None:
    """value_info and quantization annotations of values that are gone go, others stay."""
    before = parsed(
        "h = d.f (x, flag)" + choose("a = Neg (own) z = Exp (a) t = Abs (h)"),
        function(f"{K} a = Neg (k) z = Exp (a) t = Abs (p) q = Neg (t)"),
    )
    holder = {scope.path: scope.holder for scope in scopes(before)}[place]
    values = ["a", "z", "t", "elsewhere"]
    holder.value_info.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in values)
    if isinstance(holder, GraphProto):
        for name in ("a", "own", "t"):
            holder.quantization_annotation.add(tensor_name=name)
    result = remove_unused(before, without_z(before))
    cleaned = {scope.path: scope.holder for scope in scopes(result)}[place]
    assert [value.name for value in cleaned.value_info] == ["t", "elsewhere"]
    if isinstance(cleaned, GraphProto):
        assert [annotation.tensor_name for annotation in cleaned.quantization_annotation] == ["t"]


def test_a_body_that_is_new() -> None:
    before = parsed("z = Neg (w) y = Abs (x)")
    after = parsed(choose("t = Abs (x)"))
    result = remove_unused(before, after)
    assert [left(scope) for scope in scopes(result)] == [["unused", "y"], ["own", "idle", "t"], ["e"]]
