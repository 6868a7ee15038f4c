"""merge_groups: Convs of the parts of a tensor become one, where its rules allow it, and nowhere else."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto, TensorProto, helper

from passes import fold_affine, merge_groups, remove_unused
from passes.graph import attributes
from tests.builders import Array, initializers, make_model, relative_error, serialized, weight
from tests.pass_checks import (
    applied,
    as_input,
    check_changed,
    check_equal,
    check_external,
    check_ir_3,
    edited,
    feed,
    outputs,
    read_in_body,
    trained,
    with_output,
    with_tensors,
)

node = helper.make_node


def split_node(count: int, opset: int, axis: int, sizes: list[int] | None) -> NodeProto:
    """`x0, x1, … = Split(x)`, as its versions ask to say how many parts there are."""
    parts = [f"x{i}" for i in range(count)]
    if sizes is not None and opset < 13:
        return node("Split", ["x"], parts, "split", axis=axis, split=sizes)
    if sizes is not None:
        return node("Split", ["x", "sizes"], parts, "split", axis=axis)
    counted: dict[str, Any] = {"num_outputs": count} if opset >= 18 else {}
    return node("Split", ["x"], parts, "split", axis=axis, **counted)


def split(
    count: int = 2,
    shape: tuple[int, ...] = (4, 3, 3, 3),
    bias: bool = False,
    opset: int = 17,
    axis: int = 1,
    sizes: list[int] | None = None,
    dtype: Any = np.float32,
    **more: Any,
) -> ModelProto:
    """`y = Concat(Conv(x0, w0[, b0]), …)`; `shape` is that of one weight, `axis` that of Split and Concat."""
    weights: dict[str, Array] = {"sizes": np.array(sizes)} if sizes is not None and opset >= 13 else {}
    nodes = [split_node(count, opset, axis, sizes)]
    for i in range(count):
        own = {f"w{i}": weight(*shape, seed=i, dtype=dtype)}
        own |= {f"b{i}": weight(shape[0], seed=9 + i, dtype=dtype)} if bias else {}
        nodes.append(node("Conv", [f"x{i}", *own], [f"y{i}"], f"conv{i}", **more))
        weights |= own
    nodes.append(node("Concat", [f"y{i}" for i in range(count)], ["y"], "concat", axis=axis))
    channels = count * shape[1] * more.get("group", 1)
    size = [2, channels, *(9, 7, 8)[: len(shape) - 2]]
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return make_model(nodes, {"x": size}, ["y"], weights, opset, kind)


def convs(model: ModelProto) -> list[NodeProto]:
    return [n for n in model.graph.node if n.op_type == "Conv"]


def reordered(model: ModelProto, *order: int) -> ModelProto:
    nodes = [copy.deepcopy(model.graph.node[i]) for i in order]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def computed_weight() -> ModelProto:
    """One of the weights is a Transpose, as a node just before its Conv."""
    model = split()
    hwio = np.ascontiguousarray(initializers(model)["w1"].transpose(2, 3, 1, 0))
    model.graph.node.insert(2, node("Transpose", ["hwio"], ["w1"], perm=[3, 2, 0, 1]))
    return without(with_tensors(model, hwio=hwio), "w1")


def without(model: ModelProto, name: str) -> ModelProto:
    (tensor,) = (t for t in model.graph.initializer if t.name == name)
    model.graph.initializer.remove(tensor)
    return model


# builder, group afterwards
MERGED: dict[str, tuple[Callable[[], ModelProto], int]] = {
    "two": (split, 2),
    "three": (lambda: split(3), 3),
    "biases": (lambda: split(bias=True), 2),
    "of groups": (lambda: split(3, (4, 1, 3, 3), group=2, bias=True), 6),
    "group 1": (lambda: split(group=1), 2),
    "depthwise": (lambda: split(8, (1, 1, 3, 3), bias=True), 8),
    "depthwise, two outputs per channel": (lambda: split(5, (2, 1, 3, 3)), 5),
    "pointwise": (lambda: split(shape=(4, 3, 1, 1)), 2),
    "attributes": (
        lambda: split(strides=[2, 1], pads=[1, 0, 2, 1], dilations=[1, 2], kernel_shape=[3, 3]),
        2,
    ),
    "auto_pad": (lambda: split(auto_pad="SAME_UPPER", strides=[2, 2]), 2),
    "1-D": (lambda: split(shape=(4, 3, 3), bias=True), 2),
    "3-D": (lambda: split(shape=(4, 3, 2, 3, 3)), 2),
    "negative axis": (lambda: split(axis=-3), 2),
    "negative axis, 1-D": (lambda: split(shape=(4, 3, 3), axis=-2), 2),
    "sizes": (lambda: split(3, sizes=[3, 3, 3]), 3),
    "sizes, opset 11": (lambda: split(opset=11, sizes=[3, 3]), 2),
    "opset 11": (lambda: split(opset=11), 2),
    "opset 18": (lambda: split(opset=18), 2),
    "nodes in another order": (lambda: reordered(split(3, bias=True), 0, 3, 2, 1, 4), 3),
    "a weight is computed": (computed_weight, 2),
    "float16": (lambda: split(bias=True, dtype=np.float16), 2),
    "float64": (lambda: split(bias=True, dtype=np.float64), 2),
}


@pytest.mark.parametrize(("build", "group"), MERGED.values(), ids=MERGED.keys())
def test_merged(build: Callable[[], ModelProto], group: int) -> None:
    model = build()
    result = check_changed(merge_groups, model)
    (conv,) = result.graph.node
    expected = copy.deepcopy(model.graph.node[1] if model.graph.node[1].name == "conv0" else convs(model)[-1])
    assert attributes(conv)["group"].i == group
    assert {name for name in attributes(conv) if name != "group"} == {
        name for name in attributes(expected) if name != "group"
    }
    assert conv.output == ["y"]
    assert len(conv.input) == len(expected.input)
    assert set(initializers(result)) == set(conv.input[1:])


@pytest.mark.parametrize(("build", "group"), MERGED.values(), ids=MERGED.keys())
def test_numbers_are_only_moved(build: Callable[[], ModelProto], group: int) -> None:  # noqa: ARG001
    before, after = initializers(build()), initializers(merge_groups(build()))
    count = sum(array.size for name, array in before.items() if name != "sizes")
    merged = [array for name, array in after.items() if name.endswith("_merged")]
    assert sum(array.size for array in merged) == count
    assert {array.dtype for array in merged} == {a.dtype for name, a in before.items() if name != "sizes"}


def with_node(model: ModelProto, added: NodeProto, at: int | None = None) -> ModelProto:
    model.graph.node.insert(len(model.graph.node) if at is None else at, added)
    return model


def reader(name: str) -> ModelProto:
    """Another node reads a value."""
    return with_output(with_node(split(bias=True), node("Neg", [name], ["z"])), "z")


def between(position: int) -> ModelProto:
    """A Relu after the node at this position."""
    model = split()
    made = model.graph.node[position].output[0]
    model.graph.node[position].output[0] = "before"
    return with_node(model, node("Relu", ["before"], [made]), position + 1)


def set_input(model: ModelProto, position: int, index: int, name: str) -> ModelProto:
    model.graph.node[position].input[index] = name
    return model


def set_attribute(model: ModelProto, position: int, **values: Any) -> ModelProto:
    for name, value in values.items():
        found = attributes(model.graph.node[position]).get(name)
        made = helper.make_attribute(name, value)
        if found is None:
            model.graph.node[position].attribute.append(made)
        else:
            found.CopyFrom(made)
    return model


def two_splits() -> ModelProto:
    """Of two tensors that have nothing to do with each other."""
    model = split()
    model.graph.node.insert(0, node("Neg", ["x"], ["n"]))
    model.graph.node.insert(2, node("Split", ["n"], ["n0", "n1"], axis=1))
    return set_input(model, 4, 0, "n1")


def one_part_left() -> ModelProto:
    """The Split has three parts, only two of which go through Convs."""
    model = edited(split(3), lambda m: m.graph.node[-1].input.__setitem__(2, "x2"))
    del model.graph.node[3]
    return model


def in_a_body() -> ModelProto:
    model = split()
    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * 4)
    body = helper.make_graph(list(model.graph.node), "body", [], [value])
    chosen = node("If", ["flag"], ["z"], then_branch=body, else_branch=body)
    del model.graph.node[:], model.graph.output[:]
    model.graph.node.append(chosen)
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [None] * 4))
    return with_tensors(model, flag=np.array(True))


def renamed(name: str) -> ModelProto:
    """A weight has two names, and two readers by them."""
    model = with_node(split(), node("Identity", [name], ["other"]), 1)
    return with_output(with_node(model, node("Neg", ["other"], ["z"])), "z")


LEFT_ALONE: dict[str, Callable[[], ModelProto]] = {
    "the parts lie along another axis": lambda: split(axis=2),
    "only the Concat has another axis": lambda: set_attribute(split(), 3, axis=2),
    "only the Split has another axis": lambda: set_attribute(split(), 0, axis=2),
    "the Split has no axis": lambda: edited(split(), lambda m: m.graph.node[0].ClearField("attribute")),
    "a single part": lambda: split(1),
    "an operator between Split and Conv": lambda: between(0),
    "an operator between Conv and Concat": lambda: between(1),
    "one part has no Conv": one_part_left,
    "another node reads a Conv's output": lambda: reader("y1"),
    "another node reads a part": lambda: reader("x1"),
    "another node reads a weight": lambda: reader("w1"),
    "another node reads a weight by another name": lambda: renamed("w0"),
    "a body reads a Conv's output": lambda: read_in_body(split(), "y0"),
    "a body reads a part": lambda: read_in_body(split(), "x0"),
    "a body reads a weight": lambda: read_in_body(split(), "w0"),
    "a Conv's output is one of the graph": lambda: with_output(split(), "y0"),
    "a part is an output of the graph": lambda: with_output(split(), "x1"),
    "training reads a Conv's output": lambda: trained(split(), "y0"),
    "training changes a weight": lambda: trained(split(), "w1"),
    "training changes a bias": lambda: trained(split(bias=True), "b1"),
    "the parts change places": lambda: set_input(set_input(split(), 1, 0, "x1"), 2, 0, "x0"),
    "the outputs change places": lambda: set_input(set_input(split(), 3, 0, "y1"), 3, 1, "y0"),
    "a part twice": lambda: set_input(split(), 2, 0, "x0"),
    "an output twice": lambda: set_input(split(), 3, 1, "y0"),
    "parts of two tensors": two_splits,
    "other strides": lambda: set_attribute(split(strides=[1, 1]), 2, strides=[2, 2]),
    "an attribute more": lambda: set_attribute(split(), 2, pads=[0, 0, 0, 0]),
    "other groups": lambda: set_attribute(split(group=1), 2, group=3),
    "weights of several shapes": lambda: with_tensors(split(), w1=weight(2, 3, 3, 3)),
    "parts of several sizes": lambda: with_tensors(split(sizes=[3, 3]), w1=weight(4, 2, 3, 3)),
    "weights of several types": lambda: with_tensors(split(), w1=weight(4, 3, 3, 3, dtype=np.float16)),
    "one weight for both": lambda: set_input(split(), 2, 1, "w0"),
    "a weight is an input": lambda: as_input(split(), "w1"),
    "a bias is an input": lambda: as_input(split(bias=True), "b0"),
    "one bias": lambda: edited(split(bias=True), lambda m: m.graph.node[2].input.pop()),
    "one bias, the other left out": lambda: set_input(split(bias=True), 2, 2, ""),
    "a bias of a wrong size": lambda: with_tensors(split(bias=True), b0=weight(1)),
    "a bias of another type": lambda: with_tensors(split(bias=True), b0=weight(4, dtype=np.float16)),
    "weights without an axis": lambda: with_tensors(split(), w0=weight(4, 3), w1=weight(4, 3)),
    "another domain": lambda: edited(split(), lambda m: setattr(m.graph.node[2], "domain", "test")),
    "a ConvTranspose": lambda: edited(
        split(), lambda m: setattr(m.graph.node[2], "op_type", "ConvTranspose")
    ),
    "no Concat": lambda: edited(split(), lambda m: setattr(m.graph.node[3], "op_type", "Sum")),
    "no Split": lambda: edited(split(), lambda m: setattr(m.graph.node[0], "op_type", "Unknown")),
    "in a body": in_a_body,
}


@pytest.mark.parametrize("build", LEFT_ALONE.values(), ids=LEFT_ALONE.keys())
def test_left_alone(build: Callable[[], ModelProto]) -> None:
    model = build()
    assert applied(merge_groups, model) is model


def test_biases_may_be_shared() -> None:
    result = check_changed(merge_groups, set_input(split(bias=True), 2, 2, "b0"))
    assert sorted(initializers(result)) == ["b0_merged", "b1", "w0_merged"]  # b1 was unused from the start


def in_four() -> ModelProto:
    """Each part of a Split is split again."""
    weights = {f"w{i}": weight(2, 3, 3, 3, seed=i) for i in range(4)}
    nodes = [node("Split", ["x"], ["x0", "x1"], axis=1)]
    for i in range(2):
        nodes.append(node("Split", [f"x{i}"], [f"p{2 * i}", f"p{2 * i + 1}"], axis=1))
        for j in (2 * i, 2 * i + 1):
            nodes.append(node("Conv", [f"p{j}", f"w{j}"], [f"q{j}"]))
        nodes.append(node("Concat", [f"q{2 * i}", f"q{2 * i + 1}"], [f"y{i}"], axis=1))
    nodes.append(node("Concat", ["y0", "y1"], ["y"], axis=1))
    return make_model(nodes, {"x": [2, 12, 9, 7]}, ["y"], weights)


def test_parts_of_parts() -> None:
    result = check_changed(merge_groups, in_four())
    assert [attributes(n)["group"].i for n in result.graph.node] == [4]


def two_layers() -> ModelProto:
    """One such Conv after the other."""
    first, second = split(bias=True), split(shape=(3, 4, 3, 3))
    for made in second.graph.node:
        names = {name: f"s_{name}" for name in (*made.input, *made.output) if name != "x"} | {"x": "y"}
        made.input[:] = [names[name] for name in made.input]
        made.output[:] = [names[name] for name in made.output]
        made.name = f"s_{made.name}"
    weights = {f"s_{name}": array for name, array in initializers(second).items()}
    nodes = [*first.graph.node, *second.graph.node]
    return make_model(nodes, {"x": [2, 6, 9, 7]}, ["s_y"], weights | initializers(first))


def test_several() -> None:
    result = check_changed(merge_groups, two_layers())
    assert [(n.op_type, *n.output) for n in result.graph.node] == [("Conv", "y"), ("Conv", "s_y")]


def test_one_is_merged_and_another_is_not() -> None:
    model = set_input(two_layers(), 6, 1, "s_w0")
    result = check_changed(merge_groups, model)
    assert [n.op_type for n in result.graph.node] == ["Conv", "Split", "Conv", "Conv", "Concat"]
    assert serialized(result.graph.node[1:]) == serialized(model.graph.node[4:])


def as_tf2onnx_writes_it() -> ModelProto:
    """A bias of every part as an Add, and the normalization of all after the Concat."""
    model = split()
    *nodes, concat = copy.deepcopy(list(model.graph.node))
    nodes += [node("Add", [f"y{i}", f"c{i}"], [f"a{i}"]) for i in range(2)]
    concat.input[:], concat.output[0] = ["a0", "a1"], "joined"
    nodes += [concat, node("Mul", ["joined", "scale"], ["m"]), node("Add", ["m", "shift"], ["y"])]
    per_part = {f"c{i}": weight(4, 1, 1, seed=20 + i) for i in range(2)}
    both = {name: weight(8, 1, 1, seed=i) for i, name in enumerate(("scale", "shift"), 30)}
    return make_model(nodes, {"x": [2, 6, 9, 7]}, ["y"], initializers(model) | per_part | both)


def test_folding_before_and_after() -> None:
    model = as_tf2onnx_writes_it()
    assert applied(merge_groups, model) is model
    result = model
    for change in (fold_affine, merge_groups, fold_affine):
        result = remove_unused(result, applied(change, result))
    assert [n.op_type for n in result.graph.node] == ["Conv"]
    assert len(initializers(result)) == 2
    check_equal(model, result)


def test_old_weights_are_not_copied() -> None:
    assert sorted(initializers(merge_groups(split(bias=True)))) == ["b0_merged", "w0_merged"]


def test_derived_names_that_exist_are_not_taken() -> None:
    model = edited(split(), lambda m: setattr(m.graph.node[1], "name", "w0_merged"))
    assert list(check_changed(merge_groups, model).graph.node[0].input) == ["x", "w0_merged_2"]


@pytest.mark.parametrize("bias", [True, False])
def test_external_data(tmp_path: Path, bias: bool) -> None:
    check_external(merge_groups, split(bias=bias), tmp_path)


@pytest.mark.parametrize("bias", [True, False])
def test_ir_3(bias: bool) -> None:
    check_ir_3(merge_groups, split(bias=bias, opset=8))


def test_wrong_orders_are_seen() -> None:
    model = split()
    result = applied(merge_groups, model)
    right = initializers(result)["w0_merged"]
    (expected,) = outputs(model, feed(model))
    for order in ([*range(4, 8), *range(4)], [0, 4, 1, 5, 2, 6, 3, 7]):
        (actual,) = outputs(with_tensors(result, w0_merged=right[order]), feed(model))
        assert relative_error(expected, actual) > 0.1


def test_untouched_parts_keep_every_byte() -> None:
    model = split()
    model.graph.node[1].doc_string, model.doc_string = "a conv", "a model"
    model.graph.node[1].metadata_props.add(key="node", value="prop")
    model.graph.node.append(node("Relu", ["y"], ["z"], "relu"))
    model = with_output(with_tensors(model, idle=weight(3)), "z")
    result = remove_unused(model, merge_groups(model))
    expected = copy.deepcopy(model)
    del expected.graph.node[2:4], expected.graph.node[0], expected.graph.initializer[:]
    expected.graph.node[0].input[:] = ["x", "w0_merged"]
    expected.graph.node[0].output[0] = "y"
    expected.graph.node[0].attribute.append(helper.make_attribute("group", 2))
    expected.graph.initializer.extend(result.graph.initializer)
    assert [tensor.name for tensor in result.graph.initializer] == ["idle", "w0_merged"]
    assert serialized([result]) == serialized([expected])


def test_many_parts_take_linear_time() -> None:
    model = split(1000, (1, 1, 1, 1))
    (conv,) = applied(merge_groups, model).graph.node
    assert attributes(conv)["group"].i == 1000


@given(data=st.data())
def test_any_parts(data: st.DataObject) -> None:
    draw = data.draw
    spatial, group = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    shape = (group * draw(st.integers(1, 3)), draw(st.integers(1, 3)), *(3, 2, 3)[:spatial])
    steps = st.lists(st.integers(1, 2), min_size=spatial, max_size=spatial)
    pads = draw(st.lists(st.integers(0, 2), min_size=2 * spatial, max_size=2 * spatial))
    more: dict[str, Any] = {"strides": draw(steps), "dilations": draw(steps), "pads": pads, "group": group}
    model = split(draw(st.integers(2, 5)), shape, draw(st.booleans()), **more)
    result = remove_unused(model, applied(merge_groups, model))
    assert [n.op_type for n in result.graph.node] == ["Conv"]
    check_equal(model, result)
