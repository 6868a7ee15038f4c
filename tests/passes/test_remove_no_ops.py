"""remove_no_ops: takes what its rules allow, and nothing else; inputs and outputs keep their names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper

from passes import remove_no_ops, remove_unused
from tests.builders import Array, make_model, run, serialized, weight
from tests.passes.random_layouts import network

node = helper.make_node
X = weight(2, 3, 4)
TRUE, FALSE = np.array(True), np.array(False)


def model_of(
    *nodes: NodeProto,
    outputs: Sequence[str] = ("y",),
    weights: Mapping[str, Array] | None = None,
    opset: int = 17,
) -> ModelProto:
    return make_model(nodes, {"x": X.shape}, outputs, weights or {}, opset)


def removed(model: ModelProto) -> ModelProto:
    """The cleaned model, after the checks that hold for every model."""
    before = model.SerializeToString(deterministic=True)
    result = remove_no_ops(model)
    assert model.SerializeToString(deterministic=True) == before
    assert remove_no_ops(result) is result
    cleaned = remove_unused(model, result)
    onnx.checker.check_model(cleaned, full_check=True)
    assert serialized(cleaned.graph.input) == serialized(model.graph.input)
    assert serialized(cleaned.graph.output) == serialized(model.graph.output)
    for expected, actual in zip(run(model, x=X), run(cleaned, x=X), strict=True):
        np.testing.assert_array_equal(actual, expected)
    return cleaned


def ops(model: ModelProto) -> list[str]:
    return [n.op_type for n in model.graph.node]


def relu(source: str, output: str = "y") -> NodeProto:
    return node("Relu", [source], [output], "relu")


NO_OPS: dict[str, tuple[list[NodeProto], dict[str, Array], int]] = {
    "Identity": ([node("Identity", ["x"], ["t"])], {}, 17),
    "Cast to the same type": ([node("Cast", ["x"], ["t"], to=TensorProto.FLOAT)], {}, 17),
    "Transpose that keeps the order": ([node("Transpose", ["x"], ["t"], perm=[0, 1, 2])], {}, 17),
    "Dropout": ([node("Dropout", ["x"], ["t"])], {}, 17),
    "Dropout with a mask": ([node("Dropout", ["x"], ["t", "mask"])], {}, 17),
    "Dropout before opset 12": ([node("Dropout", ["x"], ["t"], ratio=0.3)], {}, 9),
    "Dropout not in training": (
        [node("Dropout", ["x", "ratio", "training"], ["t"])],
        {"ratio": np.float32(0.5), "training": FALSE},
        17,
    ),
    "several in a row": (
        [node("Identity", ["x"], ["a"]), node("Cast", ["a"], ["b"], to=1), node("Dropout", ["b"], ["t"])],
        {},
        17,
    ),
}


@pytest.mark.parametrize(("nodes", "weights", "opset"), NO_OPS.values(), ids=NO_OPS.keys())
def test_no_ops_go(nodes: list[NodeProto], weights: dict[str, Array], opset: int) -> None:
    result = removed(model_of(*nodes, relu("t"), weights=weights, opset=opset))
    assert [(n.op_type, list(n.input)) for n in result.graph.node] == [("Relu", ["x"])]
    assert not result.graph.initializer


REAL: dict[str, tuple[list[NodeProto], dict[str, Array]]] = {
    "Cast to another type": (
        [node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16), node("Cast", ["h"], ["t"], to=1)],
        {},
    ),
    "Transpose": ([node("Transpose", ["x"], ["t"], perm=[0, 2, 1])], {}),
    "Transpose without an order": ([node("Transpose", ["x"], ["t"])], {}),
    "Dropout whose mask is read": (
        [node("Dropout", ["x"], ["d", "mask"]), node("Where", ["mask", "d", "d"], ["t"])],
        {},
    ),
}


@pytest.mark.parametrize(("nodes", "weights"), REAL.values(), ids=REAL.keys())
def test_what_does_something_stays(nodes: list[NodeProto], weights: dict[str, Array]) -> None:
    model = model_of(*nodes, relu("t"), weights=weights)
    assert removed(model) is model


def test_a_dropout_in_training_stays() -> None:
    weights = {"ratio": np.float32(0.5), "training": TRUE}
    model = model_of(node("Dropout", ["x", "ratio", "training"], ["t"]), relu("t"), weights=weights)
    assert remove_no_ops(model) is model


@pytest.mark.parametrize(("attributes", "goes"), [({}, False), ({"is_test": 1}, True)])
def test_a_dropout_of_opset_6_says_whether_it_trains(attributes: dict[str, int], goes: bool) -> None:
    model = model_of(node("Dropout", ["x"], ["t"], **attributes), relu("t"), opset=6)
    assert (remove_no_ops(model) is not model) == goes


def test_an_operator_of_another_domain_stays() -> None:
    model = model_of(relu("x", "t"), relu("t"))
    model.graph.node[0].op_type, model.graph.node[0].domain = "Identity", "mine"
    model.opset_import.append(helper.make_opsetid("mine", 1))
    assert remove_no_ops(model) is model


def test_what_nothing_reads_stays() -> None:
    model = model_of(node("Identity", ["x"], ["t"]), relu("x"))
    assert removed(model) is model


def test_an_output_gives_its_name_to_what_computes_it() -> None:
    result = removed(
        model_of(
            relu("x", "t"), node("Neg", ["t"], ["z"]), node("Identity", ["t"], ["y"]), outputs=("y", "z")
        )
    )
    assert [(list(n.input), list(n.output)) for n in result.graph.node] == [(["x"], ["y"]), (["y"], ["z"])]


def test_an_output_behind_several() -> None:
    nodes = [relu("x", "t"), node("Identity", ["t"], ["u"]), node("Cast", ["u"], ["y"], to=1)]
    assert ops(removed(model_of(*nodes))) == ["Relu"]


OUTPUTS: dict[str, tuple[list[NodeProto], Sequence[str]]] = {
    "of an input": ([node("Identity", ["x"], ["y"])], ["y"]),
    "of an initializer": ([node("Identity", ["w"], ["y"])], ["y"]),
    "of another output": ([relu("x"), node("Identity", ["y"], ["z"])], ["y", "z"]),
}


@pytest.mark.parametrize(("nodes", "outputs"), OUTPUTS.values(), ids=OUTPUTS.keys())
def test_an_output_that_must_keep_its_name_stays(nodes: list[NodeProto], outputs: Sequence[str]) -> None:
    model = model_of(*nodes, outputs=outputs, weights={"w": weight(3)})
    assert removed(model) is model


def test_of_two_outputs_of_one_value_one_stays() -> None:
    nodes = [relu("x", "t"), node("Identity", ["t"], ["y"]), node("Identity", ["t"], ["z"])]
    result = removed(model_of(*nodes, outputs=("y", "z")))
    assert [(n.op_type, list(n.input)) for n in result.graph.node] == [("Relu", ["x"]), ("Identity", ["y"])]


def test_a_constant_under_another_name_is_read_under_its_own() -> None:
    result = removed(
        model_of(node("Identity", ["w"], ["v"]), node("Add", ["x", "v"], ["y"]), weights={"w": weight(4)})
    )
    assert list(result.graph.node[0].input) == ["x", "w"]


def test_value_info_of_a_lost_name_goes_with_it() -> None:
    model = model_of(node("Identity", ["x"], ["t"]), relu("t"))
    model.graph.value_info.append(helper.make_tensor_value_info("t", TensorProto.FLOAT, X.shape))
    assert not removed(model).graph.value_info


def branch(*nodes: NodeProto, output: str = "o") -> onnx.GraphProto:
    return helper.make_graph(nodes, "b", [], [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)])


def if_model(body: onnx.GraphProto, *first: NodeProto) -> ModelProto:
    """`y` by a body; the other one gives out -x."""
    other = branch(node("Neg", ["x"], ["p"]), output="p")
    nodes = [*first, node("If", ["c"], ["y"], then_branch=body, else_branch=other)]
    return model_of(*nodes, weights={"c": TRUE})


def then_body(model: ModelProto) -> list[tuple[str, list[str], list[str]]]:
    """Nodes of the body that is run."""
    (found,) = (a.g for n in model.graph.node for a in n.attribute if a.name == "then_branch")
    return [(n.op_type, list(n.input), list(n.output)) for n in found.node]


def test_what_a_body_reads_is_renamed_in_it() -> None:
    result = removed(if_model(branch(relu("t", "o")), node("Identity", ["x"], ["t"])))
    assert then_body(result) == [("Relu", ["x"], ["o"])]


def test_a_body_is_treated_as_the_main_graph_is() -> None:
    body = branch(node("Identity", ["x"], ["a"]), relu("a", "b"), node("Cast", ["b"], ["o"], to=1))
    assert then_body(removed(if_model(body))) == [("Relu", ["x"], ["o"])]


def test_the_output_of_a_body_that_is_an_outer_value_stays() -> None:
    model = if_model(branch(node("Identity", ["x"], ["o"])))
    assert removed(model) is model


def test_renames_inside_and_around_meet() -> None:
    body = branch(node("Identity", ["t"], ["a"]), relu("a", "o"))
    result = removed(if_model(body, node("Neg", ["x"], ["n"]), node("Identity", ["n"], ["t"])))
    assert then_body(result) == [("Relu", ["n"], ["o"])]


def test_a_name_that_a_body_uses_for_something_else_stays() -> None:
    """ONNX forbids that, files have it all the same."""
    body = branch(relu("t", "s"), relu("s", "o"))
    model = if_model(body, node("Neg", ["x"], ["s"]), node("Identity", ["s"], ["t"]))
    assert remove_no_ops(model) is model


def test_an_output_computed_by_a_node_with_bodies_stays() -> None:
    model = if_model(branch(relu("x", "o")))
    model.graph.node[0].output[0] = "t"
    model.graph.node.append(node("Identity", ["t"], ["y"]))
    assert removed(model) is model


def function_model(*nodes: NodeProto) -> ModelProto:
    """`y = F(x)`; a function's names mean nothing outside."""
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
    function = helper.make_function("mine", "F", ["x"], ["o"], nodes, imports[:1], ["kind"])
    model = model_of(relu("x"))
    model.functions.append(function)
    model.opset_import.append(imports[1])
    model.graph.node[0].CopyFrom(node("F", ["x"], ["y"], domain="mine", kind=1))
    return model


def test_a_local_function_is_treated_as_the_main_graph_is() -> None:
    result = removed(function_model(node("Identity", ["x"], ["t"]), relu("t", "o")))
    assert [(n.op_type, list(n.input)) for n in result.functions[0].node] == [("Relu", ["x"])]


def test_an_attribute_that_the_caller_gives_is_unknown() -> None:
    cast = node("Cast", ["x"], ["t"])
    cast.attribute.append(AttributeProto(name="to", type=AttributeProto.INT, ref_attr_name="kind"))
    model = function_model(cast, relu("t", "o"))
    assert remove_no_ops(model) is model


def train(model: ModelProto, name: str) -> ModelProto:
    info = model.training_info.add()
    info.algorithm.node.append(node("Neg", [name], ["n"]))
    return model


def annotate(model: ModelProto, name: str) -> ModelProto:
    model.graph.quantization_annotation.add(tensor_name=name)
    return model


@pytest.mark.parametrize("refer", [train, annotate])
@pytest.mark.parametrize("name", ["t", "u"])
def test_names_that_are_referred_to_stay(refer: Callable[[ModelProto, str], ModelProto], name: str) -> None:
    model = refer(model_of(relu("x", "t"), node("Identity", ["t"], ["u"]), relu("u")), name)
    assert remove_no_ops(model) is model


@given(data=st.data())
def test_any_network(data: st.DataObject) -> None:
    model = network(data, data.draw(st.sampled_from([9, 13, 18])), 12)
    result = remove_no_ops(model)
    assert remove_no_ops(result) is result
    cleaned = remove_unused(model, result)
    onnx.checker.check_model(cleaned, full_check=True)
    check_same(model, cleaned)


def check_same(before: ModelProto, after: ModelProto, tolerance: float = 0.0) -> None:
    shape = [dim.dim_value for dim in before.graph.input[0].type.tensor_type.shape.dim]
    x = weight(*shape)
    results: list[Any] = [run(model, x=x) for model in (before, after)]
    for expected, actual in zip(*results, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)
