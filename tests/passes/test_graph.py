"""What passes ask of a graph."""

from collections import Counter

import numpy as np
import pytest
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from passes.graph import (
    add_initializers,
    all_tensors,
    attributes,
    constant_tensors,
    count_reads,
    free_name,
    reads_of,
    subgraphs,
    value_names,
)
from tests.builders import make_model, weight


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


def test_constants() -> None:
    w = weight(3)
    nodes = [
        helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(w)),
        helper.make_node("Constant", [], ["number"], value_float=1.0),
        helper.make_node("Identity", ["w"], ["w1"]),
        helper.make_node("Identity", ["w1"], ["w2"]),
        helper.make_node("Identity", ["x"], ["x1"]),
        helper.make_node("Neg", ["w"], ["n"]),
        helper.make_node("Sum", ["c", "w2", "x1", "n", "number"], ["y"]),
    ]
    model = make_model(nodes, {"x": [3]}, ["y"], {"w": w})
    found = constant_tensors(model.graph)
    assert set(found) == {"w", "w1", "w2", "c"}
    assert all(np.array_equal(numpy_helper.to_array(tensor), w) for tensor in found.values())
    assert found["w2"] is found["w"]


def test_every_name_is_taken() -> None:
    graph = make_model([branches()], {"x": [1], "flag": []}, ["y"], {"w": weight(1)}).graph
    graph.sparse_initializer.add().values.name = "sparse"
    graph.value_info.add(name="ghost")
    expected = {
        "x",
        "flag",
        "y",
        "w",
        "sparse",
        "ghost",
        "own",
        "outer",
        "inner",
        "mul",
        "t",
        "t1",
        "t2",
        "i",
    }
    assert value_names(graph) - {""} == expected


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
