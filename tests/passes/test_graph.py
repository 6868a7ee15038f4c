"""What passes ask of a model."""

from collections import Counter

import numpy as np
import pytest
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper, parser

from passes.graph import (
    Scope,
    add_initializers,
    all_tensors,
    attributes,
    copy_model,
    count_reads,
    drop,
    free_name,
    opset,
    reads_of,
    scopes,
    subgraphs,
    value_names,
)
from tests.builders import make_model, serialized, weight


def body(node: NodeProto, output: str, **tensors: np.ndarray) -> GraphProto:
    value = helper.make_tensor_value_info(output, TensorProto.FLOAT, None)
    stored = [numpy_helper.from_array(array, name) for name, array in tensors.items()]
    return helper.make_graph([node], "body", [], [value], stored)


def branches() -> NodeProto:
    """Two bodies: one reads x and w of the outer graph, the other has a body itself that reads x."""
    inner = helper.make_node(
        "If",
        ["flag"],
        ["i"],
        "inner",
        then_branch=body(helper.make_node("Neg", ["x"], ["t1"]), "t1"),
        else_branch=body(helper.make_node("Abs", ["own"], ["t2"]), "t2", own=np.ones(1, np.float32)),
    )
    return helper.make_node(
        "If",
        ["flag"],
        ["y"],
        "outer",
        then_branch=body(helper.make_node("Mul", ["x", "w"], ["t"], "mul"), "t"),
        else_branch=body(inner, "i"),
    )


def test_bodies_are_found() -> None:
    node = branches()
    assert sorted(graph.node[0].op_type for graph in subgraphs(node)) == ["If", "Mul"]
    assert list(subgraphs(helper.make_node("Relu", ["x"], ["y"]))) == []
    several = helper.make_node("Custom", ["x"], ["y"], domain="test")
    several.attribute.append(helper.make_attribute("graphs", [body(branches(), "y"), body(branches(), "y")]))
    assert len(list(subgraphs(several))) == 2


SCOPES = """
<ir_version: 10, opset_import: ["" : 17, "d" : 1]>
g (float[N] x, bool flag, int64 n) => (float[N] y)
{
    [choice] a = If (flag) <
        then_branch = left () => (float[N] t) {
            t = If (flag) <
                then_branch = inner () => (float[N] u) <float[1] own = {1}> { u = Mul (x, own) },
                else_branch = inner () => (float[N] u) { u = Abs (x) }>
        },
        else_branch = right () => (float[N] t) { t = Relu (x) }>
    b = Loop (n, flag, a) <
        body = step (int64 i, bool c, float[N] s) => (bool c1, float[N] s1) {
            c1 = Identity (c)
            s1 = d.f (s)
        }>
    y = d.f:twice (b)
}
<domain: "d", opset_import: ["" : 18]>
f (p) => (q) { q = Neg (p) }
<domain: "d", overload: "twice", opset_import: ["d" : 1]>
f (p) => (q) {
    flag = d.test (p)
    q = If (flag) <then_branch = once () => (r) { r = d.f (p) }, else_branch = no () => (s) { s = d.f (q) }>
}
<domain: "e", opset_import: ["" : 16]>
f (p) => (q) { q = Neg (p) }
"""

# path, place, opset, path of the outer scope, inputs
FOUND: list[tuple[str, str, int, str | None, list[str]]] = [
    ("", "main graph", 17, None, ["x", "flag", "n"]),
    ("/a[0]", "body of If 'choice'", 17, "", []),
    ("/a[0]/t[0]", "body of If 't'", 17, "/a[0]", []),
    ("/a[0]/t[1]", "body of If 't'", 17, "/a[0]", []),
    ("/a[1]", "body of If 'choice'", 17, "", []),
    ("/b[0]", "body of Loop 'b'", 17, "", ["i", "c", "s"]),
    ("function d:f", "function 'd:f'", 18, None, ["p"]),
    ("function d:f:twice", "function 'd:f:twice'", 0, None, ["p"]),
    ("function d:f:twice/q[0]", "body of If 'q'", 0, "function d:f:twice", []),
    ("function d:f:twice/q[1]", "body of If 'q'", 0, "function d:f:twice", []),
    ("function e:f", "function 'e:f'", 16, None, ["p"]),
]


def describe(scope: Scope) -> tuple[str, str, int, str | None, list[str]]:
    outer = None if scope.outer is None else scope.outer.path
    return scope.path, scope.place, scope.opset, outer, scope.input_names


def test_scopes() -> None:
    model = parser.parse_model(SCOPES)
    found = list(scopes(model))
    assert [describe(scope) for scope in found] == FOUND
    assert [scope.is_main for scope in found] == [True] + [False] * (len(FOUND) - 1)
    stored = {scope.path: [t.name for t in scope.initializers] for scope in found}
    assert {path: names for path, names in stored.items() if names} == {"/a[0]/t[0]": ["own"]}
    assert [len(scope.holder.node) for scope in found] == [3, 1, 1, 1, 1, 2, 1, 2, 1, 1, 1]


def test_a_scope_holds_the_model_itself() -> None:
    model = parser.parse_model(SCOPES)
    for scope in scopes(model):
        for node in scope.holder.node:
            node.doc_string = "seen"
    fresh = [node.doc_string for scope in scopes(model) for node in scope.holder.node]
    assert set(fresh) == {"seen"}


def paths(model: ModelProto) -> list[str]:
    return [scope.path for scope in scopes(model)]


def test_paths_do_not_depend_on_what_a_pass_may_change() -> None:
    """Positions and names of nodes, and functions in another order."""
    model = parser.parse_model(SCOPES)
    before = paths(model)
    for scope in list(scopes(model)):
        for node in scope.holder.node:
            node.name = f"{node.name}_renamed"
    nodes = [helper.make_node("Neg", ["x"], ["new"]), *model.graph.node]
    functions = [*model.functions][::-1]
    del model.graph.node[:], model.functions[:]
    model.graph.node.extend(nodes)
    model.functions.extend(functions)
    assert sorted(paths(model)) == sorted(before)


def holding(*nodes: NodeProto) -> ModelProto:
    """A model of nodes with bodies; nothing else of it matters."""
    return ModelProto(graph=GraphProto(node=nodes))


def with_bodies(outputs: list[str], name: str = "", count: int = 1) -> NodeProto:
    bodies = [body(helper.make_node("Neg", ["x"], ["t"]), "t") for _ in range(count)]
    return helper.make_node("Custom", ["x"], outputs, name, domain="test", graphs=bodies)


PATHS: dict[str, tuple[ModelProto, list[str]]] = {
    "first output without a name": (holding(with_bodies(["", "b"], "n")), ["/b[0]"]),
    "no output": (holding(with_bodies([], "n")), ["/n[0]"]),
    "a list of bodies": (holding(with_bodies(["a"], count=3)), ["/a[0]", "/a[1]", "/a[2]"]),
    "names in two nodes' bodies agree": (holding(with_bodies(["a"]), with_bodies(["b"])), ["/a[0]", "/b[0]"]),
}


@pytest.mark.parametrize(("model", "expected"), PATHS.values(), ids=PATHS.keys())
def test_paths(model: ModelProto, expected: list[str]) -> None:
    assert paths(model) == ["", *expected]


def functions(*identities: tuple[str, str, str]) -> ModelProto:
    made = [
        helper.make_function(domain, name, ["p"], ["p"], [], [], overload=overload)
        for domain, name, overload in identities
    ]
    return ModelProto(functions=made)


AMBIGUOUS: dict[str, ModelProto] = {
    "an output that looks like a path": holding(
        helper.make_node("If", ["f"], ["a"], then_branch=body(with_bodies(["b"]), "b")),
        with_bodies(["a[0]/b"]),
    ),
    "a colon in a function's name": functions(("d", "f", "o"), ("d", "f:o", "")),
    "a function of the default domain": functions(("", "d", "f"), ("d", "f", "")),
}


@pytest.mark.parametrize("model", AMBIGUOUS.values(), ids=AMBIGUOUS.keys())
def test_paths_are_unique(model: ModelProto) -> None:
    assert len(set(paths(model))) == len(paths(model))


OPSETS: dict[str, tuple[dict[str, int], int]] = {
    "default": ({"": 17}, 17),
    "alias of the default": ({"test": 1, "ai.onnx": 13}, 13),
    "only others": ({"test": 1}, 0),
    "none": ({}, 0),
}


@pytest.mark.parametrize(("imports", "expected"), OPSETS.values(), ids=OPSETS.keys())
def test_opset(imports: dict[str, int], expected: int) -> None:
    ids = [helper.make_opsetid(domain, version) for domain, version in imports.items()]
    model = ModelProto(opset_import=ids, functions=[helper.make_function("d", "f", [], [], [], ids)])
    assert opset(model) == expected
    assert [scope.opset for scope in scopes(model)] == [expected, expected]


READS = {
    "twice by one node": ([helper.make_node("Mul", ["x", "x"], ["y"])], {"x": 2, "y": 1}),
    "by two nodes": (
        [helper.make_node("Neg", ["x"], ["a"]), helper.make_node("Mul", ["a", "x"], ["y"])],
        {"x": 2, "a": 1, "y": 1},
    ),
    "an absent input is none": (
        [helper.make_node("Clip", ["x", "", "hi"], ["y"])],
        {"x": 1, "hi": 1, "y": 1},
    ),
    "by bodies and as their outputs": (
        [branches()],
        {"flag": 2, "x": 2, "w": 1, "own": 1, "t": 1, "i": 1, "y": 1},
    ),
}


@pytest.mark.parametrize(("nodes", "expected"), READS.values(), ids=READS.keys())
def test_reads(nodes: list[NodeProto], expected: dict[str, int]) -> None:
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    reads = count_reads(helper.make_graph(nodes, "g", [], [output]))
    assert {name: count for name, count in reads.items() if name not in ("t1", "t2")} == expected
    assert sum(map(reads_of, nodes), Counter({"y": 1})) == reads
    function = helper.make_function("d", "f", [], ["y"], nodes, [])
    assert count_reads(function) == reads


NAMES = {"x", "flag", "y", "w", "own", "outer", "inner", "mul", "t", "t1", "t2", "i"}


def test_every_name_is_taken() -> None:
    model = make_model([branches()], {"x": [1], "flag": []}, ["y"], {"w": weight(1)})
    assert value_names(model) - {""} == NAMES
    model.graph.sparse_initializer.add().values.name = "sparse"
    model.graph.value_info.add(name="ghost")
    inner = helper.make_node("If", ["p"], ["fi"], "f_if", then_branch=body(branches(), "fy"))
    function = helper.make_function("d", "f", ["p", "unread"], ["fi"], [inner], [helper.make_opsetid("", 17)])
    model.functions.append(function)
    assert value_names(model) - {""} == NAMES | {"sparse", "ghost", "p", "unread", "fi", "f_if", "fy"}


def test_names_of_training_are_taken() -> None:
    model = ModelProto()
    model.training_info.add().algorithm.node.append(helper.make_node("Neg", ["w"], ["step"]))
    assert "step" in value_names(model)


def test_free_name() -> None:
    taken = {"a", "a_2"}
    assert [free_name("a", taken), free_name("a", taken), free_name("b", taken)] == ["a_3", "a_4", "b"]
    assert taken == {"a", "a_2", "a_3", "a_4", "b"}


def every_place() -> ModelProto:
    """A model that stores a tensor in every place that ONNX has for one."""

    def tensor(i: int) -> TensorProto:
        return numpy_helper.from_array(np.array([i], np.float32), f"t{i}")

    def constant(i: int, name: str) -> NodeProto:
        return helper.make_node("Constant", [], [name], value=tensor(i))

    several = helper.make_node("Custom", [], ["z"], domain="test", tensors=[tensor(2), tensor(3)])
    model = make_model([constant(1, "c"), branches()], {"x": [1]}, ["y"], {})
    model.graph.node.append(several)
    model.graph.initializer.append(tensor(0))
    sparse = model.graph.sparse_initializer.add()
    sparse.values.CopyFrom(tensor(4))
    sparse.indices.CopyFrom(tensor(5))
    opsets = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("test", "f", [], ["o"], [constant(6, "o")], opsets))
    info = model.training_info.add()
    info.initialization.initializer.append(tensor(7))
    info.algorithm.node.append(constant(8, "a"))
    return model


def test_all_tensors() -> None:
    names = [tensor.name for tensor in all_tensors(every_place())]
    assert sorted(names) == ["own", *(f"t{i}" for i in range(9))]


@pytest.mark.parametrize("has_unknown_fields", [False, True])
def test_copy_without_initializers(has_unknown_fields: bool) -> None:
    """A field of a newer ONNX, which this one does not know, is copied as well."""
    model = every_place()
    model.graph.initializer.extend(numpy_helper.from_array(weight(2), name) for name in ("gone", "kept"))
    if has_unknown_fields:
        model.graph.MergeFromString(b"\xa2\x3f\x01x")  # field 1012: "x"
    stored = model.SerializeToString(deterministic=True)
    result = copy_model(model, without=["gone", "nowhere"])
    assert model.SerializeToString(deterministic=True) == stored
    expected = ModelProto.FromString(stored)
    drop(expected.graph.initializer, [tensor.name == "gone" for tensor in expected.graph.initializer])
    assert serialized([result]) == serialized([expected])
    assert [tensor.name for tensor in result.graph.initializer] == ["t0", "kept"]


@pytest.mark.parametrize("doomed", [[], [True], [False, True, True, False], [True, False, True]])
def test_drop(doomed: list[bool]) -> None:
    graph = GraphProto(node=[NodeProto(name=str(i)) for i in range(len(doomed))])
    drop(graph.node, doomed)
    assert [int(node.name) for node in graph.node] == [i for i, gone in enumerate(doomed) if not gone]


@pytest.mark.parametrize(("ir_version", "is_input"), [(3, True), (4, False), (8, False)])
def test_add_initializers(ir_version: int, is_input: bool) -> None:
    model = ModelProto(ir_version=ir_version)
    add_initializers(model, [numpy_helper.from_array(weight(2, 3), "w")])
    assert [tensor.name for tensor in model.graph.initializer] == ["w"]
    expected = [helper.make_tensor_value_info("w", TensorProto.FLOAT, [2, 3])] if is_input else []
    assert list(model.graph.input) == expected


def test_attributes_by_name() -> None:
    found = attributes(helper.make_node("Conv", ["x", "w"], ["y"], group=3, strides=[1, 2]))
    assert {name: helper.get_attribute_value(value) for name, value in found.items()} == {
        "group": 3,
        "strides": [1, 2],
    }
