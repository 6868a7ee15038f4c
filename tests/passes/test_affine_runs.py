"""fold_affine: what arithmetic after a layer is folded into it; BatchNormalization is in test_fold_affine."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from passes import fold_affine, remove_unused
from passes.graph import attributes
from tests.builders import Array, constants, initializers, make_model, serialized, weight
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

M = 6
Link = tuple[str, Array | None, bool]
"""Operator, constant, whether that is the right operand. A BatchNormalization has none."""

BN: Link = ("BatchNormalization", None, True)


def numbers(*shape: int, seed: int = 5) -> Array:
    """Between 0.5 and 2, with either sign."""
    rng = np.random.default_rng(seed)
    return np.asarray(rng.uniform(0.5, 2, shape) * rng.choice([-1, 1], shape), np.float32)


def link(op: str, *shape: int, right: bool = True, seed: int = 5) -> Link:
    return op, numbers(*shape, seed=seed), right


def chain(layer: NodeProto, shapes: dict[str, tuple[int, ...]], *links: Link, opset: int = 17) -> ModelProto:
    """`y` is computed from the layer's v0 by links with constants c1, c2, …; `shapes` are of x, w and b."""
    nodes, weights = [layer], {name: weight(*shapes[name]) for name in layer.input[1:]}
    for i, (op, constant, is_right) in enumerate(links, 1):
        value, result = f"v{i - 1}", "y" if i == len(links) else f"v{i}"
        if constant is None:
            weights |= constants(f"n{i}", M, seed=i)
            nodes.append(node(op, [value, *constants(f"n{i}", M)], [result], f"link{i}"))
        else:
            weights[f"c{i}"] = constant
            operands = [value, f"c{i}"] if is_right else [f"c{i}", value]
            nodes.append(node(op, operands, [result], f"link{i}"))
    return make_model(nodes, {"x": shapes["x"]}, ["y"], weights, opset)


def layer(op: str, bias: bool, **attributes: Any) -> NodeProto:
    return node(op, ["x", "w", "b"] if bias else ["x", "w"], ["v0"], "layer", **attributes)


def conv(*links: Link, bias: bool = True, **more: Any) -> ModelProto:
    shapes = {"x": (2, 3, 9, 7), "w": (M, 3, 3, 3), "b": (M,)}
    return chain(layer("Conv", bias, pads=[1, 0, 1, 2]), shapes, *links, **more)


def gemm(*links: Link, bias: bool = True, **more: Any) -> ModelProto:
    shapes = {"x": (4, 5), "w": (5, M), "b": (M,)}
    return chain(layer("Gemm", bias, alpha=0.5, beta=-1.5), shapes, *links, **more)


def matmul(*links: Link, shape: tuple[int, ...] = (2, 4, 5)) -> ModelProto:
    return chain(layer("MatMul", False), {"x": shape, "w": (5, M)}, *links)


def transposed(*links: Link, groups: int = 2, bias: bool = True) -> ModelProto:
    shapes = {"x": (2, 4, 5, 4), "w": (4, M // groups, 3, 3), "b": (M,)}
    made = layer(
        "ConvTranspose", bias, group=groups, strides=[2, 1], output_padding=[1, 0], pads=[1, 0, 1, 2]
    )
    return chain(made, shapes, *links)


PADDLE = (link("Add", 1, M, 1, 1), BN)
KERAS = (link("Sub", 1, M, 1, 1), link("Mul", 1, M, 1, 1, seed=6), link("Add", 1, M, 1, 1, seed=7))
TF = (link("Add", M, 1, 1), link("Mul", 1, M, 1, 1, seed=6), link("Add", 1, M, 1, 1, seed=7))

# builder, whether the weight changes, whether there is a bias afterwards
FOLDED: dict[str, tuple[Callable[[], ModelProto], bool, bool]] = {
    "as Paddle writes it": (lambda: conv(*PADDLE, bias=False), True, True),
    "as Keras on PyTorch writes it": (lambda: conv(*KERAS, bias=False), True, True),
    "as tf2onnx writes it": (lambda: conv(*TF), True, True),
    "Add becomes the bias": (lambda: conv(link("Add", M, 1, 1), bias=False), False, True),
    "Add to a bias": (lambda: conv(link("Add", 1, M, 1, 1)), False, True),
    "Add, constant first": (lambda: conv(link("Add", M, 1, 1, right=False), bias=False), False, True),
    "Sub": (lambda: conv(link("Sub", M, 1, 1), bias=False), False, True),
    "Sub from a constant": (lambda: conv(link("Sub", M, 1, 1, right=False)), True, True),
    "Sub from a number, no bias": (lambda: conv(link("Sub", right=False), bias=False), True, True),
    "Mul": (lambda: conv(link("Mul", M, 1, 1)), True, True),
    "Mul, no bias": (lambda: conv(link("Mul", 1, M, 1, 1), bias=False), True, False),
    "Mul, constant first": (lambda: conv(link("Mul", M, 1, 1, right=False)), True, True),
    "Div": (lambda: conv(link("Div", M, 1, 1)), True, True),
    "Div, no bias": (lambda: conv(link("Div"), bias=False), True, False),
    "a number": (lambda: conv(link("Mul"), link("Add")), True, True),
    "a number of shape (1,)": (lambda: conv(link("Mul", 1), link("Add", 1)), True, True),
    "a number of shape (1, 1, 1, 1)": (lambda: conv(link("Mul", 1, 1, 1, 1)), True, True),
    "two BatchNormalizations": (lambda: conv(BN, BN), True, True),
    "arithmetic around a BatchNormalization": (lambda: conv(*TF, BN, *KERAS), True, True),
    "opset 7": (lambda: conv(*TF, opset=7), True, True),
    "Gemm, (M,)": (lambda: gemm(link("Mul", M), link("Add", M)), True, True),
    "Gemm, (1, M)": (lambda: gemm(link("Sub", 1, M, right=False), link("Div", 1, M)), True, True),
    "Gemm without C": (lambda: gemm(link("Mul", M), bias=False), True, False),
    "Gemm gets a C": (lambda: gemm(link("Add", M), bias=False), False, True),
    "Gemm, a number": (lambda: gemm(link("Add", 1, 1), link("Mul")), True, True),
    "Gemm, BatchNormalization": (lambda: gemm(link("Add", M), BN, link("Mul", M)), True, True),
    "MatMul": (lambda: matmul(link("Mul", M)), True, False),
    "MatMul, a number": (lambda: matmul(link("Div", right=True), link("Mul", 1, right=False)), True, False),
    "MatMul of matrices": (lambda: matmul(link("Mul", M, right=False), shape=(4, 5)), True, False),
    "MatMul of a vector": (lambda: matmul(link("Div", M), shape=(5,)), True, False),
    "ConvTranspose, BatchNormalization": (lambda: transposed(BN, groups=1), True, True),
    "ConvTranspose with groups": (lambda: transposed(BN), True, True),
    "ConvTranspose, no bias": (lambda: transposed(BN, bias=False), True, True),
    "ConvTranspose, arithmetic": (lambda: transposed(*TF, BN, *KERAS), True, True),
    "ConvTranspose, Add": (lambda: transposed(link("Add", M, 1, 1), bias=False), False, True),
    "ConvTranspose, Mul": (lambda: transposed(link("Mul", M, 1, 1), bias=False), True, False),
}


@pytest.mark.parametrize(("build", "scales", "has_bias"), FOLDED.values(), ids=FOLDED.keys())
def test_folded(build: Callable[[], ModelProto], scales: bool, has_bias: bool) -> None:
    model = build()
    result = check_changed(fold_affine, model)
    (folded,) = result.graph.node
    assert (folded.input[1] != "w") == scales
    assert len(folded.input) == 2 + has_bias
    assert set(initializers(result)) == set(folded.input[1:])
    assert folded.output == ["y"]


@pytest.mark.parametrize("build", [item[0] for item in FOLDED.values()], ids=FOLDED.keys())
def test_float64(build: Callable[[], ModelProto]) -> None:
    model = build()
    if getattr(attributes(model.graph.node[0]).get("group"), "i", 1) > 1:
        pytest.skip("ONNX's reference cannot compute a ConvTranspose with groups")
    check_changed(fold_affine, retyped(model, np.float64))


@pytest.mark.parametrize("build", [item[0] for item in FOLDED.values()], ids=FOLDED.keys())
def test_float16(build: Callable[[], ModelProto]) -> None:
    result = check_changed(fold_affine, retyped(build(), np.float16))
    assert {tensor.data_type for tensor in result.graph.initializer} == {TensorProto.FLOAT16}


def retyped(model: ModelProto, dtype: Any) -> ModelProto:
    """The model in another type."""
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return with_tensors(model, **{name: array.astype(dtype) for name, array in initializers(model).items()})


def shared_weight(*links: Link) -> ModelProto:
    """Another Conv reads the weight."""
    model = conv(*links, bias=False)
    model.graph.node.append(node("Conv", ["x", "w"], ["z"]))
    return with_output(model, "z")


def read_again(model: ModelProto, name: str) -> ModelProto:
    model.graph.node.append(node("Neg", [name], ["z"]))
    return with_output(model, "z")


def half_constant() -> ModelProto:
    """A constant of another type: no valid model, but one that a pass may meet."""
    return with_tensors(conv(link("Mul", M, 1, 1)), c1=numbers(M, 1, 1).astype(np.float16))


def both_computed() -> ModelProto:
    """Both operands of the Add come from Convs."""
    model = conv(link("Add", M, 1, 1))
    model.graph.node.insert(0, node("Conv", ["x", "w2"], ["c1"], pads=[1, 0, 1, 2]))
    return with_tensors(without_tensor(model, "c1"), w2=weight(M, 3, 3, 3, seed=8))


def without_tensor(model: ModelProto, name: str) -> ModelProto:
    (tensor,) = (t for t in model.graph.initializer if t.name == name)
    model.graph.initializer.remove(tensor)
    return model


def as_parameter() -> ModelProto:
    """The Conv computes the scale of a BatchNormalization."""
    model = conv(link("Mul", M, 1, 1))
    names = ["x", "v0", *list(constants("n", M))[1:]]
    model.graph.node[1].CopyFrom(node("BatchNormalization", names, ["y"]))
    return with_tensors(model, **constants("n", M))


MUL, ADD = link("Mul", M, 1, 1), link("Add", M, 1, 1)
ZERO: Link = ("Div", np.zeros((), np.float32), True)

LEFT_ALONE: dict[str, Callable[[], ModelProto]] = {
    "another operator": lambda: edited(conv(MUL), lambda m: setattr(m.graph.node[1], "op_type", "Pow")),
    "another domain": lambda: edited(conv(MUL), lambda m: setattr(m.graph.node[1], "domain", "test")),
    "Div of a constant": lambda: conv(link("Div", M, 1, 1, right=False)),
    "Div by zero": lambda: conv(ZERO),
    "not finite": lambda: conv(("Mul", np.full((), np.inf, np.float32), True)),
    "a constant along the width": lambda: conv(link("Mul", 7)),
    "one number per position": lambda: conv(link("Add", 1, M, 9, 7)),
    "one number per sample": lambda: conv(link("Add", 2, M, 1, 1)),
    "more axes than the output": lambda: conv(link("Add", 1, 1, M, 1, 1)),
    "more axes than the output, a number": lambda: conv(link("Add", 1, 1, 1, 1, 1)),
    "a constant of another type": half_constant,
    "the constant is an input": lambda: as_input(conv(MUL), "c1"),
    "both operands are computed": both_computed,
    "the value twice": lambda: edited(conv(MUL), lambda m: m.graph.node[1].input.__setitem__(1, "v0")),
    "the value is a parameter": as_parameter,
    "another node reads the output": lambda: read_again(conv(MUL), "v0"),
    "a body reads the output": lambda: read_in_body(conv(MUL), "v0"),
    "the output is one of the graph": lambda: with_output(conv(MUL), "v0"),
    "training reads the output": lambda: trained(conv(MUL), "v0"),
    "training changes the weight": lambda: trained(conv(MUL), "w"),
    "training changes the bias": lambda: trained(conv(ADD), "b"),
    "training changes the constant": lambda: trained(conv(ADD), "c1"),
    "Mul and a shared weight": lambda: shared_weight(MUL),
    "Sub from a constant and a shared weight": lambda: shared_weight(link("Sub", M, 1, 1, right=False)),
    "the weight is an input": lambda: as_input(conv(ADD), "w"),
    "the bias is an input": lambda: as_input(conv(MUL), "b"),
    "the bias has a wrong size": lambda: with_tensors(conv(MUL), b=numbers(M + 1)),
    "the bias is a number": lambda: with_tensors(conv(MUL), b=numbers(1)),
    "the bias has another type": lambda: with_tensors(conv(MUL), b=numbers(M).astype(np.float16)),
    "opset 6": lambda: edited(conv(MUL), lambda m: setattr(m.opset_import[0], "version", 6)),
    "Gemm, a column": lambda: gemm(link("Mul", 4, 1)),
    "Gemm, three axes": lambda: gemm(link("Mul", 1, 1, M)),
    "Gemm, C is a column": lambda: with_tensors(gemm(link("Mul", M)), b=numbers(4, 1)),
    "Gemm, the weight is on the left": lambda: edited(
        as_input(gemm(link("Mul", M)), "w"), lambda m: m.graph.node[0].input.__setitem__(0, "b")
    ),
    "MatMul, Add": lambda: matmul(link("Add", M)),
    "MatMul, Sub from a constant": lambda: matmul(link("Sub", M, right=False)),
    "MatMul, (1, M)": lambda: matmul(link("Mul", 1, M), shape=(5,)),
    "MatMul, (1, 1)": lambda: matmul(link("Mul", 1, 1), shape=(5,)),
    "MatMul, BatchNormalization": lambda: matmul(BN, shape=(2, M, 5)),
    "MatMul of many matrices": lambda: with_tensors(matmul(link("Mul", M)), w=weight(2, 5, M)),
    "ConvTranspose, groups do not fit": lambda: edited(
        transposed(MUL), lambda m: setattr(attributes(m.graph.node[0])["group"], "i", 3)
    ),
    "ConvTranspose, no groups": lambda: edited(
        transposed(MUL), lambda m: setattr(attributes(m.graph.node[0])["group"], "i", 0)
    ),
}


@pytest.mark.parametrize("build", LEFT_ALONE.values(), ids=LEFT_ALONE.keys())
def test_left_alone(build: Callable[[], ModelProto]) -> None:
    model = build()
    assert applied(fold_affine, model) is model


# builder, operators afterwards
STOPPED: dict[str, tuple[Callable[[], ModelProto], list[str]]] = {
    "another node reads": (lambda: read_again(conv(MUL, ADD, MUL), "v2"), ["Conv", "Mul", "Neg"]),
    "a body reads": (lambda: read_in_body(conv(MUL, ADD), "v1"), ["Conv", "Add", "If"]),
    "an output": (lambda: with_output(conv(MUL, ADD), "v1"), ["Conv", "Add"]),
    "no constant per channel": (lambda: conv(MUL, link("Add", 7), MUL), ["Conv", "Add", "Mul"]),
    "scaling, and a shared weight": (lambda: shared_weight(ADD, ADD, MUL), ["Conv", "Mul", "Conv"]),
    "MatMul, a bias": (lambda: matmul(link("Mul", M), link("Add", M)), ["MatMul", "Add"]),
}


@pytest.mark.parametrize(("build", "operators"), STOPPED.values(), ids=STOPPED.keys())
def test_a_run_ends_at_what_is_no_link(build: Callable[[], ModelProto], operators: list[str]) -> None:
    result = check_changed(fold_affine, build())
    assert [n.op_type for n in result.graph.node] == operators


def test_a_run_ends_before_a_division_by_zero() -> None:
    result = applied(fold_affine, conv(MUL, ZERO))
    assert [n.op_type for n in result.graph.node] == ["Conv", "Div"]


def test_a_circle_has_an_end() -> None:
    """No valid model: two links, each after the other."""
    model = conv(MUL, MUL)
    model.graph.node[2].output[0] = "v0"
    applied(fold_affine, model)


def test_a_shared_weight_stays_where_links_only_add() -> None:
    result = check_changed(fold_affine, shared_weight(ADD))
    assert [n.input[1] for n in result.graph.node] == ["w", "w"]


def test_what_overflows_in_between_does_not_matter() -> None:
    """Only the result is rounded to the weight's type."""
    huge: Link = ("Mul", np.full((), 6e4, np.float32), True)
    model = retyped(conv(huge, ("Div", huge[1], True)), np.float16)
    result = applied(fold_affine, model)
    given = initializers(model)
    assert [n.op_type for n in result.graph.node] == ["Conv"]
    for name in ("w", "b"):
        np.testing.assert_array_equal(initializers(result)[f"{name}_folded"], given[name])


def test_what_overflows_in_the_end_is_left_alone() -> None:
    huge: Link = ("Mul", np.full((), 6e4, np.float32), True)
    model = retyped(conv(huge, huge), np.float16)
    assert applied(fold_affine, model) is model
    small_weight = with_tensors(model, w=np.zeros((M, 3, 3, 3), np.float16))
    assert applied(fold_affine, small_weight) is small_weight  # the bias overflows


def test_it_is_rounded_once() -> None:
    """The exact result, from float64, in float16."""
    model = retyped(conv(*TF, BN), np.float16)
    parts = {name: array.astype(np.float64) for name, array in initializers(model).items()}
    f = parts["n4_scale"] / np.sqrt(parts["n4_var"] + np.float64(np.float32(1e-5)))
    scale = parts["c2"].reshape(M) * f
    shift = (parts["b"] + parts["c1"].reshape(M)) * scale + parts["c3"].reshape(M) * f
    shift += parts["n4_bias"] - parts["n4_mean"] * f
    result = initializers(applied(fold_affine, model))
    half = np.float16
    np.testing.assert_array_equal(result["w_folded"], (parts["w"] * scale[:, None, None, None]).astype(half))
    np.testing.assert_allclose(result["b_folded"], shift, rtol=2**-11)


def test_constants_after_the_layer() -> None:
    """Exporters write a constant right before the node that reads it, and give it another shape by a node."""
    model = without_tensor(conv(ADD), "c1")
    flat = numpy_helper.from_array(numbers(M))
    shape = numpy_helper.from_array(np.array([1, M, 1, 1]))
    made = [
        node("Constant", [], ["flat"], value=flat),
        node("Constant", [], ["shape"], value=shape),
        node("Reshape", ["flat", "shape"], ["c1"]),
    ]
    nodes = copy.deepcopy([model.graph.node[0], *made, model.graph.node[1]])
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    result = check_changed(fold_affine, model)
    assert [n.op_type for n in result.graph.node] == ["Conv"]


def test_shared_constants() -> None:
    """Two runs read one bias and one constant; of both there is an own new bias."""
    model = conv(ADD)
    model.graph.node.extend(
        [node("Conv", ["x", "w2", "b"], ["u"], pads=[1, 0, 1, 2]), node("Add", ["u", "c1"], ["z"])]
    )
    model = with_output(with_tensors(model, w2=weight(M, 3, 3, 3, seed=8)), "z")
    result = check_changed(fold_affine, model)
    assert [n.op_type for n in result.graph.node] == ["Conv", "Conv"]
    assert sorted(initializers(result)) == ["b_folded", "b_folded_2", "w", "w2"]


def test_old_weights_are_not_copied() -> None:
    """Those that nothing reads any more; what the links read stays for remove_unused."""
    assert sorted(initializers(fold_affine(conv(MUL)))) == ["b_folded", "c1", "w_folded"]
    shared = read_again(conv(MUL), "b")
    assert sorted(initializers(fold_affine(shared))) == ["b", "b_folded", "c1", "w_folded"]


def test_external_data(tmp_path: Path) -> None:
    check_external(fold_affine, conv(*TF, BN), tmp_path)


@pytest.mark.parametrize("build", [lambda: conv(*TF, opset=8), lambda: gemm(link("Mul", M), opset=8)])
def test_ir_3(build: Callable[[], ModelProto]) -> None:
    check_ir_3(fold_affine, build())


def test_a_wrong_scale_is_seen() -> None:
    """Of a ConvTranspose with groups, whose channels are easily mixed up."""
    model = transposed(*TF)
    result = applied(fold_affine, model)
    right = initializers(result)["w_folded"]
    mixed = with_tensors(result, w_folded=right[:, ::-1])
    (expected,), (actual,) = outputs(model, feed(model)), outputs(mixed, feed(model))
    assert np.abs(expected - actual).max() > 0.1


def test_untouched_parts_keep_every_byte() -> None:
    model = conv(*TF)
    model.graph.node[0].doc_string, model.doc_string = "a conv", "a model"
    model.graph.node[0].metadata_props.add(key="node", value="prop")
    model.graph.node.append(node("Relu", ["y"], ["z"], "relu"))
    model = with_output(with_tensors(model, idle=numbers(3)), "z")
    result = remove_unused(model, fold_affine(model))
    expected = copy.deepcopy(model)
    del expected.graph.node[1:4], expected.graph.initializer[:]
    expected.graph.node[0].input[:] = ["x", "w_folded", "b_folded"]
    expected.graph.node[0].output[0] = "y"
    expected.graph.initializer.extend(
        t for name in ("idle", "w_folded", "b_folded") for t in result.graph.initializer if t.name == name
    )
    assert serialized([result]) == serialized([expected])


def test_many_layers_take_linear_time() -> None:
    """A thousand Convs with their links: a quadratic search would take minutes."""
    nodes, weights = [], {"c": numbers(1, 1, 1), "w": weight(1, 1, 1, 1)}
    for i in range(1000):
        weights[f"w{i}"] = weights["w"]
        nodes.append(node("Conv", [f"x{i}", f"w{i}"], [f"a{i}"]))
        nodes.append(node("Mul", [f"a{i}", "c"], [f"m{i}"]))
        nodes.append(node("Add", [f"m{i}", "c"], [f"x{i + 1}"]))
    model = make_model(nodes, {"x0": [1, 1, 2, 2]}, ["x1000"], weights)
    assert len(applied(fold_affine, model).graph.node) == 1000


LAYERS: Sequence[Callable[..., ModelProto]] = (conv, gemm, matmul, transposed)


@given(data=st.data())
def test_any_run(data: st.DataObject) -> None:
    build = data.draw(st.sampled_from(LAYERS))
    spatial = {conv: (1, 1), transposed: (1, 1)}.get(build, ())
    kinds = ["Mul", "Div"] if build is matmul else ["Mul", "Div", "Add", "Sub", "BatchNormalization"]
    shapes = [(), (1,), (M, *spatial)] + ([] if build is matmul else [(1, M, *spatial)])
    links: list[Link] = []
    for kind in data.draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=5)):
        right = kind == "Div" or data.draw(st.booleans())
        shape = data.draw(st.sampled_from(shapes))
        links.append(BN if kind == "BatchNormalization" else link(kind, *shape, right=right, seed=len(links)))
    bias = {} if build is matmul else {"bias": data.draw(st.booleans())}
    model = build(*links, **bias)
    result = remove_unused(model, applied(fold_affine, model))
    assert len(result.graph.node) == 1
    check_equal(model, result)
