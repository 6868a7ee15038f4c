"""What fell out of use goes, what was unused from the start stays, the rest keeps every byte."""

from collections.abc import Callable, Sequence

import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper

from passes import remove_unused
from tests.builders import make_model, serialized, weight

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
