"""merge_pads: merges where its rules allow it, and nowhere else; outputs and everything else stay."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from passes import merge_pads, remove_unused
from passes.graph import attributes, scopes
from tests.builders import Array, initializers, make_model, relative_error, run, serialized, weight

node = helper.make_node

TOLERANCE = {np.float32: 1e-6, np.float16: 2e-3}
SHAPE = (4, 3, 3, 3)
ONES = (0, 0, 1, 1, 0, 0, 1, 1)
"""One zero on every side of an image."""


def pad_node(opset: int, given: Mapping[str, Array], mode: str | None = None) -> NodeProto:
    """`p = Pad(x)`; what it is given are attributes before opset 11, inputs of the same names since."""
    modes = {} if mode is None else {"mode": mode}
    if opset < 11:
        values = {name: array.tolist() for name, array in given.items()}
        return node("Pad", ["x"], ["p"], "pad", **modes, **values)
    inputs = ["x", *(name if name in given else "" for name in ("pads", "value", "axes"))]
    return node("Pad", inputs if "axes" in given else inputs[:3], ["p"], "pad", **modes)


def padded(
    around: Sequence[int] = ONES,
    shape: tuple[int, ...] = SHAPE,
    opset: int = 17,
    value: Any = None,
    axes: Sequence[int] | None = None,
    mode: str | None = None,
    dtype: Any = np.float32,
    **attributes: Any,
) -> ModelProto:
    """`y = Conv(p, w), p = Pad(x)`; `around` are the Pad's pads, `shape` is the weight's."""
    given = {"pads": np.asarray(around, np.int64)}
    given |= {} if value is None else {"value": np.asarray(value, dtype)}
    given |= {} if axes is None else {"axes": np.asarray(axes, np.int64)}
    nodes = [pad_node(opset, given, mode), node("Conv", ["p", "w"], ["y"], "conv", **attributes)]
    size = [2, shape[1] * attributes.get("group", 1), *(9, 7, 8)[: len(shape) - 2]]
    weights = {"w": weight(*shape, dtype=dtype), **(given if opset >= 11 else {})}
    data_type = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return make_model(nodes, {"x": size}, ["y"], weights, opset, data_type)


def edited(model: ModelProto, change: Callable[[ModelProto], Any]) -> ModelProto:
    change(model)
    return model


def constant(name: str, value: Any) -> NodeProto:
    return node("Constant", [], [name], value=numpy_helper.from_array(np.asarray(value, np.int64)))


def computed(model: ModelProto, *first: NodeProto) -> ModelProto:
    """The model with these nodes in place of the initializers whose names they compute."""
    names = {name for n in first for name in n.output}
    nodes, tensors = [*first, *model.graph.node], list(model.graph.initializer)
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(tensor for tensor in tensors if tensor.name not in names)
    return model


def as_torch_writes_it() -> ModelProto:
    """PyTorch counts pads from the last axis; Keras on PyTorch adds a Cast."""
    zeros = numpy_helper.from_array(np.zeros(1, np.int64))
    numbers = {"count": [4], "last_first": [0, 1, 1, 0], "pairs": [-1, 2], "flat": [-1]}
    numbers |= {"at": [0], "back": [-1], "end": [-(2**63) + 1]}
    return computed(
        padded((0, 0, 1, 0, 0, 0, 0, 1), mode="constant"),
        *(constant(name, value) for name, value in numbers.items()),
        node("ConstantOfShape", ["count"], ["rest"], value=zeros),
        node("Concat", ["last_first", "rest"], ["all"], axis=0),
        node("Reshape", ["all", "pairs"], ["by_axis"], allowzero=0),
        node("Slice", ["by_axis", "back", "end", "at", "back"], ["first_first"]),
        node("Transpose", ["first_first"], ["begins_ends"], perm=[1, 0]),
        node("Reshape", ["begins_ends", "flat"], ["list"], allowzero=0),
        node("Cast", ["list"], ["pads"], to=TensorProto.INT64),
    )


def awkward() -> ModelProto:
    """VALID, no kernel_shape, a weight that is a Transpose of an initializer, nodes without names."""
    model = padded(auto_pad="VALID", strides=[2, 2])
    hwio = np.ascontiguousarray(initializers(model)["w"].transpose(2, 3, 1, 0))
    model.graph.initializer.append(numpy_helper.from_array(hwio, "hwio"))
    for unnamed in model.graph.node:
        unnamed.ClearField("name")
    return computed(model, constant("pads", ONES), node("Transpose", ["hwio"], ["w"], perm=[3, 2, 0, 1]))


def in_a_row(*more: NodeProto, **arguments: Any) -> ModelProto:
    """`padded` with nodes between Pad and Conv; the first reads p."""
    model = padded(**arguments)
    pad, conv = model.graph.node
    conv.input[0] = more[-1].output[0]
    size = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    return make_model([pad, *more, conv], {"x": size}, ["y"], initializers(model))


def some(name: str, rank: int = 4, data_type: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    """A value of any size."""
    return helper.make_tensor_value_info(name, data_type, [None] * rank)


def add_output(model: ModelProto, name: str, rank: int = 4) -> ModelProto:
    model.graph.output.append(some(name, rank))
    return model


def as_input(model: ModelProto, name: str) -> ModelProto:
    """A value that the caller gives in place of an initializer."""
    (tensor,) = (t for t in model.graph.initializer if t.name == name)
    model.graph.input.append(helper.make_tensor_value_info(name, tensor.data_type, tensor.dims))
    model.graph.initializer.remove(tensor)
    return model


def initializers_as_inputs(model: ModelProto) -> ModelProto:
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return model


PAD_AGAIN = node("Pad", ["p", "pads"], ["q"])

# builder, pads of the Conv afterwards
MERGED: dict[str, tuple[Callable[[], ModelProto], list[int]]] = {
    "opset 6": (lambda: padded(opset=6), [1, 1, 1, 1]),
    "opset 6, value": (lambda: padded(opset=6, value=0.0, mode="constant"), [1, 1, 1, 1]),
    "opset 10": (lambda: padded(opset=10), [1, 1, 1, 1]),
    "opset 10, value": (lambda: padded(opset=10, value=-0.0, mode="constant"), [1, 1, 1, 1]),
    "opset 10, 1-D": (lambda: padded((0, 0, 2, 0, 0, 1), (4, 3, 3), opset=10), [2, 1]),
    "opset 11": (lambda: padded(opset=11), [1, 1, 1, 1]),
    "opset 11, value": (lambda: padded(opset=11, value=0.0, mode="constant"), [1, 1, 1, 1]),
    "opset 13": (lambda: padded(opset=13, value=-0.0), [1, 1, 1, 1]),
    "opset 18": (lambda: padded(opset=18), [1, 1, 1, 1]),
    "opset 18, axes": (lambda: padded((1, 2, 3, 4), opset=18, axes=[2, 3]), [1, 2, 3, 4]),
    "opset 18, one axis": (lambda: padded((2, 1), opset=18, value=0.0, axes=[3]), [0, 2, 0, 1]),
    "opset 18, negative axes": (lambda: padded((1, 2, 3, 4), opset=18, axes=[-1, -2]), [2, 1, 4, 3]),
    "opset 18, all axes": (lambda: padded(opset=18, axes=[0, 1, 2, 3]), [1, 1, 1, 1]),
    "opset 22": (lambda: padded(opset=22, value=0.0), [1, 1, 1, 1]),
    "opset 22, axes": (lambda: padded((0, 2, 0, 1), opset=22, axes=[1, -2]), [2, 0, 1, 0]),
    "a value of shape (1,)": (lambda: padded(value=[0.0]), [1, 1, 1, 1]),
    "float16": (lambda: padded(value=-0.0, dtype=np.float16), [1, 1, 1, 1]),
    "nothing is padded": (lambda: padded([0] * 8), [0, 0, 0, 0]),
    "asymmetric": (lambda: padded((0, 0, 3, 0, 0, 0, 1, 2)), [3, 0, 1, 2]),
    "more than the kernel": (lambda: padded((0, 0, 5, 4, 0, 0, 6, 7)), [5, 4, 6, 7]),
    "1-D": (lambda: padded((0, 0, 2, 0, 0, 1), (4, 3, 3)), [2, 1]),
    "3-D": (lambda: padded((0, 0, 1, 2, 3, 0, 0, 3, 0, 1), (4, 3, 3, 2, 3)), [1, 2, 3, 3, 0, 1]),
    "own pads": (lambda: padded((0, 0, 1, 2, 0, 0, 3, 4), pads=[2, 0, 1, 3]), [3, 2, 4, 7]),
    "own pads, 1-D": (lambda: padded((0, 0, 2, 0, 0, 1), (4, 3, 3), pads=[1, 0]), [3, 1]),
    "strided": (lambda: padded((0, 0, 0, 0, 0, 0, 1, 1), strides=[2, 2]), [0, 0, 1, 1]),
    "dilated": (lambda: padded(dilations=[2, 3], pads=[1, 2, 1, 2]), [2, 3, 2, 3]),
    "grouped": (lambda: padded(shape=(6, 2, 3, 3), group=3), [1, 1, 1, 1]),
    "depthwise": (lambda: padded(shape=(6, 1, 3, 3), group=6, strides=[2, 1]), [1, 1, 1, 1]),
    "kernel_shape": (lambda: padded(kernel_shape=[3, 3]), [1, 1, 1, 1]),
    "kernel_shape, but no weight": (lambda: as_input(padded(kernel_shape=[3, 3]), "w"), [1, 1, 1, 1]),
    "own pads, but no weight": (lambda: as_input(padded(pads=[0, 0, 0, 0]), "w"), [1, 1, 1, 1]),
    "NOTSET": (lambda: padded(auto_pad="NOTSET", pads=[0, 1, 0, 1]), [1, 2, 1, 2]),
    "VALID": (lambda: padded(auto_pad="VALID"), [1, 1, 1, 1]),
    "VALID, kernel_shape": (lambda: padded(auto_pad="VALID", kernel_shape=[3, 3]), [1, 1, 1, 1]),
    "constant operands are inputs as well": (lambda: initializers_as_inputs(padded(value=0.0)), [1, 1, 1, 1]),
    "computed pads": (as_torch_writes_it, [1, 0, 0, 1]),
    "awkward": (awkward, [1, 1, 1, 1]),
    "two in a row": (lambda: in_a_row(PAD_AGAIN, pads=[0, 1, 2, 3]), [2, 3, 4, 5]),
    "three in a row": (lambda: in_a_row(PAD_AGAIN, node("Pad", ["q", "pads"], ["r"])), [3, 3, 3, 3]),
}


def feed(model: ModelProto) -> dict[str, Array]:
    """Seeded numbers for what the caller has to give."""
    stored = initializers(model)
    inputs = {v.name: v.type.tensor_type for v in model.graph.input if v.name not in stored}
    sizes = {name: [d.dim_value for d in value.shape.dim] for name, value in inputs.items()}
    types = {name: helper.tensor_dtype_to_np_dtype(value.elem_type) for name, value in inputs.items()}
    return {name: weight(*sizes[name], seed=7).astype(types[name]) for name in inputs}


def check_equal(model: ModelProto, result: ModelProto) -> None:
    given = feed(model)
    for expected, actual in zip(run(model, **given), run(result, **given), strict=True):
        assert actual.dtype == expected.dtype == given["x"].dtype
        assert relative_error(expected, actual) < TOLERANCE[expected.dtype.type]


def merged(model: ModelProto) -> ModelProto:
    """What the pass makes of a model, which stays as it was."""
    stored = model.SerializeToString()
    result = merge_pads(model)
    assert model.SerializeToString() == stored
    return result


@pytest.mark.parametrize(("build", "pads"), MERGED.values(), ids=MERGED.keys())
def test_merged(build: Callable[[], ModelProto], pads: list[int]) -> None:
    model = build()
    result = merged(model)
    onnx.checker.check_model(result, full_check=True)
    *others, conv = result.graph.node
    assert list(conv.input) == ["x", "w"]
    assert list(attributes(conv)["pads"].ints) == pads
    assert attributes(conv).get("auto_pad", AttributeProto(s=b"NOTSET")).s == b"NOTSET"
    assert serialized(others) == serialized(model.graph.node[:-1])
    check_equal(model, result)


@pytest.mark.parametrize(("build", "pads"), MERGED.values(), ids=MERGED.keys())
def test_nothing_is_left_of_the_pad(build: Callable[[], ModelProto], pads: list[int]) -> None:
    model = build()
    result = remove_unused(model, merged(model))
    onnx.checker.check_model(result, full_check=True)
    conv = result.graph.node[-1]
    assert list(attributes(conv)["pads"].ints) == pads
    assert {n.op_type for n in result.graph.node} <= {"Conv", "Transpose"}  # which computes a weight
    assert set(initializers(result)) <= {"w", "hwio"}
    check_equal(model, result)


def reference(index: int, name: str, kind: Any, **arguments: Any) -> ModelProto:
    """`padded` as a function whose caller gives an attribute of one of its nodes."""
    model = padded(opset=10, kernel_shape=[3, 3], **arguments)
    nodes = copy.deepcopy(model.graph.node)
    attribute = attributes(nodes[index])[name]
    value = helper.get_attribute_value(attribute)
    attribute.CopyFrom(AttributeProto(name=name, type=kind, ref_attr_name="given"))
    return in_function(model, nodes, ["given"], given=value)


def in_function(
    model: ModelProto, nodes: Sequence[NodeProto], names: Sequence[str] = (), **given: Any
) -> ModelProto:
    """The model with a call of a function of these nodes, which compute y of x and w."""
    function = helper.make_function("test", "f", ["x", "w"], ["y"], nodes, model.opset_import, names)
    del model.graph.node[:]
    model.graph.node.append(node("f", ["x", "w"], ["y"], "call", domain="test", **given))
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("test", 1))
    return model


def body_of(nodes: Sequence[NodeProto], *outputs: onnx.ValueInfoProto) -> onnx.GraphProto:
    return helper.make_graph(nodes, "body", [], outputs)


def in_body(model: ModelProto, start: int = 0) -> ModelProto:
    """The model with its nodes from `start` on in both bodies of an If, whose output is z."""
    nodes = list(model.graph.node)
    body = body_of(nodes[start:], some("y"))
    branch = node("If", ["flag"], ["z"], "if", then_branch=body, else_branch=body)
    del model.graph.node[:], model.graph.output[:]
    model.graph.node.extend([*nodes[:start], branch])
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "flag"))
    return add_output(model, "z")


def in_loop() -> ModelProto:
    """Everything that its nodes read lies outside."""
    model = padded()
    go, more = (some(name, 0, TensorProto.BOOL) for name in ("go", "more"))
    body = body_of([*model.graph.node, node("Identity", ["go"], ["more"])], more, some("y"))
    body.input.extend([some("step", 0, TensorProto.INT64), go])
    del model.graph.node[:], model.graph.output[:]
    model.graph.node.append(node("Loop", ["trips", ""], ["z"], "loop", body=body))
    model.graph.initializer.append(numpy_helper.from_array(np.array(2), "trips"))
    return add_output(model, "z", rank=5)


def in_body_in_body() -> ModelProto:
    """The pads lie in the outer body."""
    model = in_body(computed(padded(), constant("pads", ONES)), start=1)
    pads, inner = model.graph.node
    inner.output[0] = "u"
    outer = body_of([pads, inner], some("u"))
    del model.graph.node[:]
    model.graph.node.append(node("If", ["flag"], ["z"], "outer", then_branch=outer, else_branch=outer))
    return model


def with_constant_pads() -> ModelProto:
    """`padded` such that its nodes alone tell pads and kernel: what a function needs."""
    return computed(padded(kernel_shape=[3, 3]), constant("pads", ONES))


def function_with_body() -> ModelProto:
    model = with_constant_pads()
    pads, *nodes = copy.deepcopy(model.graph.node)
    nodes[-1].output[0] = "t"
    body = body_of(nodes, some("t"))
    flag = node("Constant", [], ["flag"], value=numpy_helper.from_array(np.array(True)))
    branch = node("If", ["flag"], ["y"], "if", then_branch=body, else_branch=body)
    return in_function(model, [pads, flag, branch])


def function(model: ModelProto) -> ModelProto:
    return in_function(model, copy.deepcopy(model.graph.node))


# builder, how many Convs are there to be merged into
INSIDE: dict[str, tuple[Callable[[], ModelProto], int]] = {
    "body": (lambda: in_body(padded()), 2),
    "body, the pads too": (lambda: in_body(with_constant_pads()), 2),
    "body of a body": (in_body_in_body, 4),
    "body of a loop": (in_loop, 1),
    "function": (lambda: function(with_constant_pads()), 1),
    "function, opset 10": (lambda: function(padded(opset=10, pads=[0, 0, 0, 0])), 1),
    "body in a function": (function_with_body, 2),
}


def everywhere(model: ModelProto, op: str) -> list[NodeProto]:
    return [n for scope in scopes(model) for n in scope.holder.node if n.op_type == op]


@pytest.mark.parametrize(("build", "count"), INSIDE.values(), ids=INSIDE.keys())
def test_inside(build: Callable[[], ModelProto], count: int) -> None:
    model = build()
    result = merged(model)
    assert [list(n.input) for n in everywhere(result, "Conv")] == [["x", "w"]] * count
    assert serialized(everywhere(result, "Pad")) == serialized(everywhere(model, "Pad"))
    check_equal(model, result)
    cleaned = remove_unused(model, result)
    onnx.checker.check_model(cleaned, full_check=True)
    assert not everywhere(cleaned, "Pad")
    assert "pads" not in {name for n in everywhere(cleaned, "Constant") for name in n.output}
    assert "pads" not in initializers(cleaned)
    check_equal(model, cleaned)


def pad_of(model: ModelProto) -> NodeProto:
    return model.graph.node[0]


def conv_of(model: ModelProto) -> NodeProto:
    return model.graph.node[-1]


def pooled(op: str) -> ModelProto:
    model = padded()
    model.graph.node[-1].CopyFrom(node(op, ["p"], ["y"], kernel_shape=[3, 3]))
    return model


def padded_weight() -> ModelProto:
    model = padded()
    model.graph.node[-1].input[:] = ["w", "p"]
    return model


def reflected_last() -> ModelProto:
    return in_a_row(node("Pad", ["p", "pads"], ["q"], mode="reflect"))


LEFT_ALONE: dict[str, Callable[[], ModelProto]] = {
    "mode reflect, opset 10": lambda: padded(opset=10, mode="reflect"),
    "mode edge": lambda: padded(mode="edge"),
    "mode wrap": lambda: padded(opset=19, mode="wrap"),
    "a value, opset 10": lambda: padded(opset=10, value=1.0),
    "a value": lambda: padded(value=1e-30),
    "NaN, opset 10": lambda: padded(opset=10, value=np.nan),
    "NaN": lambda: padded(value=np.nan),
    "the value is an input": lambda: as_input(padded(value=0.0), "value"),
    "the pads are an input": lambda: as_input(padded(), "pads"),
    "the axes are an input": lambda: as_input(padded((1, 1), opset=18, axes=[2]), "axes"),
    "the pads depend on an input": lambda: computed(padded(), node("Shape", ["x"], ["pads"])),
    "the pads cannot be computed": lambda: computed(
        padded(), constant("five", [5]), constant("c", ONES), node("Reshape", ["c", "five"], ["pads"])
    ),
    "the value cannot be computed": lambda: computed(
        padded(value=0.0),
        constant("five", [5]),
        constant("c", [0]),
        node("Reshape", ["c", "five"], ["value"]),
    ),
    "a negative pad": lambda: padded((0, 0, 1, -1, 0, 0, 1, 1)),
    "a negative pad, opset 10": lambda: padded((0, 0, 1, 1, 0, 0, -1, 1), opset=10),
    "the batch is padded": lambda: padded((0, 0, 1, 1, 1, 0, 1, 1)),
    "channels are padded": lambda: padded((0, 1, 1, 1, 0, 1, 1, 1), (4, 5, 3, 3)),
    "channels are padded, axes": lambda: padded((1, 1, 1, 1), opset=18, axes=[-3, 2]),
    "an axis twice": lambda: padded((1, 1, 1, 1), opset=18, axes=[2, -2]),
    "no such axis": lambda: padded((1, 1, 1, 1), opset=18, axes=[3, 4]),
    "no such negative axis": lambda: padded((1, 1, 1, 1), opset=18, axes=[-5, 2]),
    "too few pads": lambda: padded((0, 0, 1, 0, 0, 1)),
    "too many pads for the axes": lambda: padded(opset=18, axes=[2, 3]),
    "no pads": lambda: edited(padded(), lambda m: pad_of(m).input.__setitem__(1, "")),
    "no pads, opset 10": lambda: edited(padded(opset=10), lambda m: pad_of(m).ClearField("attribute")),
    "opset 1": lambda: edited(
        padded(opset=10), lambda m: setattr(pad_of(m).attribute[0], "name", "paddings")
    ),
    "SAME_UPPER": lambda: padded(auto_pad="SAME_UPPER"),
    "SAME_LOWER": lambda: padded([0] * 8, auto_pad="SAME_LOWER"),
    "VALID and pads": lambda: padded(auto_pad="VALID", pads=[1, 1, 1, 1]),
    "the Conv's pads do not fit": lambda: padded(pads=[1, 1, 1]),
    "the number of axes is unknown": lambda: as_input(padded(), "w"),
    "the weight cannot be computed": lambda: computed(
        padded(), constant("five", [5]), constant("c", ONES), node("Reshape", ["c", "five"], ["w"])
    ),
    "the weight is a scalar": lambda: edited(
        padded(),
        lambda m: m.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones((), np.float32), "w")),
    ),
    "a Pad of another domain": lambda: edited(
        padded(), lambda m: setattr(pad_of(m), "domain", "com.microsoft")
    ),
    "a Conv of another domain": lambda: edited(
        padded(), lambda m: setattr(conv_of(m), "domain", "com.microsoft")
    ),
    "ConvTranspose": lambda: edited(padded(), lambda m: setattr(conv_of(m), "op_type", "ConvTranspose")),
    "MaxPool": lambda: pooled("MaxPool"),
    "AveragePool": lambda: pooled("AveragePool"),
    "the weight is padded": padded_weight,
    "a node between": lambda: in_a_row(node("Relu", ["p"], ["q"])),
    "a Pad to keep between": reflected_last,
    "the Conv is in a body": lambda: in_body(padded(), start=1),
    "the caller gives the mode": lambda: reference(0, "mode", AttributeProto.STRING, mode="constant"),
    "the caller gives the value": lambda: reference(0, "value", AttributeProto.FLOAT, value=0.0),
    "the caller gives the pads": lambda: reference(0, "pads", AttributeProto.INTS),
    "the caller gives the Conv's pads": lambda: reference(1, "pads", AttributeProto.INTS, pads=[1] * 4),
    "the caller gives auto_pad": lambda: reference(1, "auto_pad", AttributeProto.STRING, auto_pad="VALID"),
}


@pytest.mark.parametrize("build", LEFT_ALONE.values(), ids=LEFT_ALONE.keys())
def test_left_alone(build: Callable[[], ModelProto]) -> None:
    model = build()
    assert merged(model) is model


def two_convs(**second: Any) -> ModelProto:
    model = padded()
    model.graph.node.append(node("Conv", ["p", "w"], ["z"], "second", **second))
    return add_output(model, "z")


def test_a_pad_of_two_convs_is_merged_into_both() -> None:
    model = two_convs(pads=[0, 1, 0, 1], strides=[2, 2])
    result = remove_unused(model, merged(model))
    assert [list(attributes(n)["pads"].ints) for n in result.graph.node] == [[1, 1, 1, 1], [1, 2, 1, 2]]
    check_equal(model, result)


def also_read() -> ModelProto:
    model = padded()
    model.graph.node.insert(1, node("Relu", ["p"], ["z"]))
    return add_output(model, "z")


def read_by_body() -> ModelProto:
    model = padded()
    body = body_of([node("Neg", ["p"], ["t"])], some("t"))
    model.graph.node.append(node("If", ["flag"], ["z"], then_branch=body, else_branch=body))
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "flag"))
    return add_output(model, "z")


STILL_READ: dict[str, Callable[[], ModelProto]] = {
    "by a Conv that cannot take it": lambda: two_convs(auto_pad="SAME_UPPER"),
    "by another node": also_read,
    "by a body": read_by_body,
    "as an output": lambda: add_output(padded(), "p"),
}


@pytest.mark.parametrize("build", STILL_READ.values(), ids=STILL_READ.keys())
def test_a_pad_that_is_still_read_stays(build: Callable[[], ModelProto]) -> None:
    model = build()
    result = merged(model)
    reads = [list(n.input) for n in result.graph.node if "y" in n.output]
    assert reads == [["x", "w"]]
    assert remove_unused(model, result) is result
    assert pad_of(result) == pad_of(model)
    check_equal(model, result)


def test_pads_in_a_row_are_merged_up_to_one_to_keep() -> None:
    model = in_a_row(node("Pad", ["p", "pads"], ["q"]), mode="edge")
    result = remove_unused(model, merged(model))
    assert [n.op_type for n in result.graph.node] == ["Pad", "Conv"]
    assert list(conv_of(result).input) == ["p", "w"]
    check_equal(model, result)


def test_the_default_domain_may_be_spelled_out() -> None:
    """ONNX Runtime takes it, ONNX's checker does not."""
    model = padded()
    pad_of(model).domain = conv_of(model).domain = model.opset_import[0].domain = "ai.onnx"
    result = merged(model)
    assert list(conv_of(result).input) == ["x", "w"]
    check_equal(model, result)


def test_bfloat16() -> None:
    """ONNX Runtime has no Conv of this type for the CPU."""
    model = padded(value=0.0)
    for tensor in (*model.graph.input, *model.graph.output):
        tensor.type.tensor_type.elem_type = TensorProto.BFLOAT16
    for i, dims in ((0, SHAPE), (2, ())):
        zeros = np.zeros(2 * int(np.prod(dims)), np.uint8).tobytes()
        name = model.graph.initializer[i].name
        zero = TensorProto(name=name, dims=dims, data_type=TensorProto.BFLOAT16, raw_data=zeros)
        model.graph.initializer[i].CopyFrom(zero)
    assert list(attributes(conv_of(merged(model)))["pads"].ints) == [1, 1, 1, 1]


def test_external_pads(tmp_path: Path) -> None:
    model = padded(value=0.0)
    path = tmp_path / "m.onnx"
    saved = copy.deepcopy(model)
    onnx.save_model(saved, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    outside = onnx.load_model(path, load_external_data=False)
    result = merge_pads(outside, str(tmp_path))
    assert conv_of(result) == conv_of(merge_pads(model))


def test_untouched_parts_keep_every_byte() -> None:
    model = padded(pads=[0, 1, 0, 1])
    conv = conv_of(model)
    conv.doc_string, model.doc_string, model.producer_name = "a conv", "a model", "test"
    conv.metadata_props.add(key="node", value="prop")
    model.metadata_props.add(key="k", value="v")
    model.graph.value_info.append(helper.make_tensor_value_info("p", TensorProto.FLOAT, None))
    model.graph.initializer.append(numpy_helper.from_array(weight(2), "idle"))
    result = merged(model)
    expected = copy.deepcopy(model)
    conv_of(expected).input[0] = "x"
    conv_of(expected).attribute[0].ints[:] = [1, 2, 1, 2]
    assert result.SerializeToString(deterministic=True) == expected.SerializeToString(deterministic=True)


def test_wrong_pads_are_seen() -> None:
    model = padded((0, 0, 2, 0, 0, 0, 1, 3))
    right = merged(model)
    assert list(attributes(conv_of(right))["pads"].ints) == [2, 0, 1, 3]
    given = feed(model)
    for pads in ([1, 3, 2, 0], [0, 2, 3, 1], [2, 1, 0, 3]):
        attributes(conv_of(right))["pads"].ints[:] = pads
        (expected,), (actual,) = run(model, **given), run(right, **given)
        assert expected.shape != actual.shape or relative_error(expected, actual) > 1e-1


@given(data=st.data())
def test_any_pads_along_any_axes(data: st.DataObject) -> None:
    spatial = data.draw(st.integers(1, 3))
    amounts = st.integers(0, 3)
    axes = data.draw(st.lists(st.integers(2, spatial + 1), min_size=1, unique=True))
    signs = data.draw(st.lists(st.booleans(), min_size=len(axes), max_size=len(axes)))
    pads = data.draw(st.lists(amounts, min_size=2 * len(axes), max_size=2 * len(axes)))
    own = data.draw(st.lists(amounts, min_size=2 * spatial, max_size=2 * spatial))
    steps = st.lists(st.integers(1, 2), min_size=spatial, max_size=spatial)
    signed = [axis - 2 - spatial if sign else axis for axis, sign in zip(axes, signs, strict=True)]
    model = padded(
        pads,
        (2, 1, *(3, 2, 3)[:spatial]),
        opset=18,
        axes=signed,
        pads=own,
        strides=data.draw(steps),
        dilations=data.draw(steps),
        group=2,
    )
    result = remove_unused(model, merged(model))
    assert [n.op_type for n in result.graph.node] == ["Conv"]
    check_equal(model, result)
