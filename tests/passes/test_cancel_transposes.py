"""cancel_transposes: fewer Transposes and the same outputs, by every rule; what gains nothing stays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from passes import cancel_transposes, infer_values, remove_no_ops, remove_unused
from passes.agnostic import AGNOSTIC
from passes.orders import compose, inverse
from passes.views import Cost
from tests.builders import Array, initializers, make_model, run, serialized, weight
from tests.passes.random_layouts import FIRST, LAST, network

node = helper.make_node

SHAPE = (2, 4, 5, 6)
"""Of x, channels first."""
W = weight(4, 4, 1, 1)


def transpose(source: str, output: str, perm: Sequence[int] = LAST) -> NodeProto:
    return node("Transpose", [source], [output], f"T_{output}", perm=list(perm))


def conv(source: str, output: str) -> NodeProto:
    return node("Conv", [source, "w"], [output], f"C_{output}")


def model_of(
    *nodes: NodeProto,
    outputs: Sequence[str] = ("y",),
    weights: Mapping[str, Any] | None = None,
    opset: int = 17,
    shape: Sequence[int | str] = SHAPE,
) -> ModelProto:
    tensors = {"w": W} | {name: np.asarray(value) for name, value in (weights or {}).items()}
    return make_model(nodes, {"x": shape}, outputs, tensors, opset)


def between(*nodes: NodeProto, perm: Sequence[int] = FIRST, **given: Any) -> ModelProto:
    """Nodes that make b of a between two Convs that want channels first; a is channels last."""
    first, last = [conv("x", "c"), transpose("c", "a")], [transpose("b", "d", perm), conv("d", "y")]
    return model_of(*first, *nodes, *last, **given)


def cancelled(model: ModelProto, tolerance: float = 1e-6) -> ModelProto:
    """The clean result, after the checks that hold for every model."""
    before = model.SerializeToString(deterministic=True)
    result = cancel_transposes(model)
    assert model.SerializeToString(deterministic=True) == before
    assert cancel_transposes(result) is result
    cleaned = remove_unused(model, result)
    onnx.checker.check_model(cleaned, full_check=True)
    assert serialized(cleaned.graph.input) == serialized(model.graph.input)
    assert serialized(cleaned.graph.output) == serialized(model.graph.output)
    check_same(model, cleaned, tolerance)
    return cleaned


def check_same(before: ModelProto, after: ModelProto, tolerance: float = 1e-6) -> None:
    feeds = {}
    for value in before.graph.input:
        shape = [dim.dim_value or 2 for dim in value.type.tensor_type.shape.dim]
        feeds[value.name] = weight(*shape) if shape else np.float32(0.5)
    for expected, actual in zip(run(before, **feeds), run(after, **feeds), strict=True):
        assert expected.shape == actual.shape
        np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


def ops(model: ModelProto) -> list[str]:
    return [n.op_type for n in model.graph.node]


def count(model: ModelProto) -> int:
    return ops(model).count("Transpose")


def reads(model: ModelProto, output: str) -> list[str]:
    """What the node reads that computes a value."""
    (found,) = (n for n in model.graph.node if output in n.output)
    return list(found.input)


def unary(op: str, **attributes: Any) -> NodeProto:
    return node(op, ["a"], ["b"], "moved", **attributes)


def binary(op: str, *inputs: str) -> NodeProto:
    return node(op, inputs, ["b"], "moved")


VECTOR, CHANNELS = weight(4, 1)[:, 0], np.abs(weight(1, 1, 1, 4))
INT = np.int64

# nodes from a (channels last) to b (channels last), weights, opset
MOVED: dict[str, tuple[list[NodeProto], Mapping[str, Any], int]] = {
    **{
        op: ([unary(op)], {}, 22)
        for op in (
            "Abs",
            "Elu",
            "Erf",
            "HardSwish",
            "Identity",
            "LeakyRelu",
            "Neg",
            "Relu",
            "Sigmoid",
            "Tanh",
        )
    },
    "Cast": ([node("Cast", ["a"], ["h"], to=11), node("Cast", ["h"], ["b"], to=1)], {}, 17),
    "Clip by inputs": (
        [binary("Clip", "a", "low", "high")],
        {"low": np.float32(-1), "high": np.float32(1)},
        17,
    ),
    "Clip by attributes": ([unary("Clip", min=-1.0, max=1.0)], {}, 9),
    "Dropout": ([unary("Dropout")], {}, 17),
    "several": ([node("Relu", ["a"], ["r"]), node("Neg", ["r"], ["n"]), node("Tanh", ["n"], ["b"])], {}, 17),
    "Add of a vector": ([binary("Add", "a", "v")], {"v": VECTOR}, 17),
    "Sub from a vector": ([binary("Sub", "v", "a")], {"v": VECTOR}, 17),
    "Mul by all axes": ([binary("Mul", "a", "v")], {"v": CHANNELS}, 17),
    "Mul by some axes": ([binary("Mul", "a", "v")], {"v": weight(6, 4)}, 17),
    "Div by a scalar": ([binary("Div", "a", "v")], {"v": np.float32(3)}, 17),
    "Pow by one element": ([binary("Pow", "a", "v")], {"v": np.full((1, 1), 2, np.float32)}, 17),
    "PRelu": ([binary("PRelu", "a", "v")], {"v": VECTOR}, 17),
    "Max of three": ([binary("Max", "a", "v", "a")], {"v": VECTOR}, 17),
    "Where": ([node("Less", ["a", "v"], ["m"]), binary("Where", "m", "a", "v")], {"v": VECTOR}, 17),
    "Add of a computed constant": (
        [node("Reshape", ["flat", "shape"], ["v"]), binary("Add", "a", "v")],
        {"flat": VECTOR, "shape": np.array([1, 1, 4], INT)},
        17,
    ),
    "Concat with itself": (
        [
            node("Relu", ["a"], ["r"]),
            node("Concat", ["a", "r"], ["s"], axis=2),
            node("Slice", ["s", "i", "j", "k"], ["b"]),
        ],
        {"i": np.array([1], INT), "j": np.array([5], INT), "k": np.array([-2], INT)},
        17,
    ),
    "Concat with a constant": (
        [node("Concat", ["a", "v"], ["s"], axis=1), node("Relu", ["s"], ["b"])],
        {"v": weight(2, 1, 6, 4)},
        17,
    ),
    "Split": (
        [node("Split", ["a"], ["s", "t"], axis=-1), node("Concat", ["t", "s"], ["b"], axis=3)],
        {},
        17,
    ),
    "Split into given parts": (
        [node("Split", ["a", "parts"], ["s", "t"], axis=3), node("Concat", ["t", "s"], ["b"], axis=-1)],
        {"parts": np.array([1, 3], INT)},
        17,
    ),
    "Slice by attributes": ([unary("Slice", starts=[0, 1], ends=[2, 3])], {}, 9),
    "Slice by attributes along axes": ([unary("Slice", starts=[1, 0], ends=[5, 3], axes=[1, 2])], {}, 9),
    "Slice without axes": (
        [binary("Slice", "a", "i", "j")],
        {"i": np.array([0, 1], INT), "j": np.array([2, 4], INT)},
        17,
    ),
    "Slice with steps": (
        [binary("Slice", "a", "i", "j", "k", "l")],
        {
            "i": np.array([5], INT),
            "j": np.array([-99], INT),
            "k": np.array([2], INT),
            "l": np.array([-2], INT),
        },
        17,
    ),
    "Pad by attributes": ([unary("Pad", pads=[0, 1, 2, 0, 0, 3, 4, 0])], {}, 9),
    "Pad by an input": ([binary("Pad", "a", "p")], {"p": np.array([0, 1, 2, 0, 0, 3, 4, 0], INT)}, 17),
    "Pad with a value": (
        [binary("Pad", "a", "p", "v")],
        {"p": np.array([0, 1, 2, 0, 0, 3, 4, 0], INT), "v": np.float32(7)},
        17,
    ),
    "Pad along axes": (
        [binary("Pad", "a", "p", "", "k")],
        {"p": np.array([1, 2, 3, 4], INT), "k": np.array([-3, 2], INT)},
        18,
    ),
    "Pad by reflection": (
        [node("Pad", ["a", "p"], ["b"], mode="reflect")],
        {"p": np.array([0, 1, 2, 0, 0, 3, 4, 0], INT)},
        17,
    ),
    "ReduceMean by attributes": ([unary("ReduceMean", axes=[1, 2])], {}, 17),
    "ReduceMean by an input": ([binary("ReduceMean", "a", "k")], {"k": np.array([1, -2], INT)}, 18),
    "ReduceSum by an input": ([binary("ReduceSum", "a", "k")], {"k": np.array([1, 2], INT)}, 17),
    "ReduceMax of no axes, of none": ([unary("ReduceMax", noop_with_empty_axes=1)], {}, 18),
    "Softmax": ([unary("Softmax")], {}, 17),
    "LogSoftmax along an axis": ([unary("LogSoftmax", axis=1)], {}, 17),
    "ArgMax": ([node("ArgMax", ["a"], ["i"], axis=1), node("Cast", ["i"], ["b"], to=1)], {}, 17),
    "Squeeze and Unsqueeze": (
        [
            node("ReduceMean", ["a"], ["m"], axes=[1]),
            node("Squeeze", ["m", "k"], ["s"]),
            node("Unsqueeze", ["s", "k"], ["b"]),
        ],
        {"k": np.array([1], INT)},
        17,
    ),
    "Squeeze and Unsqueeze by attributes": (
        [
            node("ReduceMean", ["a"], ["m"], axes=[2], keepdims=0),
            node("Unsqueeze", ["m"], ["u"], axes=[0, 3]),
            node("Squeeze", ["u"], ["s"], axes=[0]),
            node("Identity", ["s"], ["b"]),
        ],
        {},
        11,
    ),
    "quantized by one scale": (
        [node("QuantizeLinear", ["a", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["b"])],
        {"s": np.float32(0.1), "z": np.uint8(128)},
        17,
    ),
    "quantized by a scale for each channel": (
        [
            node("QuantizeLinear", ["a", "s", "z"], ["q"], axis=-1),
            node("DequantizeLinear", ["q", "s", "z"], ["b"], axis=3),
        ],
        {"s": np.array([0.1, 0.2, 0.3, 0.4], np.float32), "z": np.full(4, 128, np.uint8)},
        17,
    ),
    "a Transpose that keeps the order": ([transpose("a", "b", range(4))], {}, 17),
    "Transposes in a row": ([transpose("a", "t", (3, 1, 0, 2)), transpose("t", "b", (2, 1, 3, 0))], {}, 17),
    "Shape": (
        [
            node("Shape", ["a"], ["s"]),
            node("Cast", ["s"], ["f"], to=1),
            node("ReduceSum", ["f"], ["n"], keepdims=0),
            binary("Mul", "a", "n"),
        ],
        {},
        17,
    ),
    "a part of the Shape": (
        [
            node("Shape", ["a"], ["s"], start=-2, end=9),
            node("Cast", ["s"], ["f"], to=1),
            node("ReduceSum", ["f"], ["n"], keepdims=0),
            binary("Mul", "a", "n"),
        ],
        {},
        17,
    ),
    "Size": ([node("Size", ["a"], ["s"]), node("Cast", ["s"], ["f"], to=1), binary("Mul", "a", "f")], {}, 17),
}


@pytest.mark.parametrize(("nodes", "weights", "opset"), MOVED.values(), ids=MOVED.keys())
def test_agnostic_nodes_move(nodes: list[NodeProto], weights: Mapping[str, Array], opset: int) -> None:
    assert count(cancelled(between(*nodes, weights=weights, opset=opset), 1e-5)) == 0


@pytest.mark.parametrize("op", sorted(set(AGNOSTIC) - {"BitShift", "BitwiseNot"}))
def test_every_rule_is_of_an_operator_of_onnx(op: str) -> None:
    assert onnx.defs.get_schema(op).name == op


# nodes from a to b that keep all their Transposes
STAYING: dict[str, tuple[list[NodeProto], Mapping[str, Any], int]] = {
    "Softmax of a matrix": ([unary("Softmax", axis=3)], {}, 11),
    "LayerNormalization": ([binary("LayerNormalization", "a", "v")], {"v": VECTOR}, 17),
    "MatMul": ([binary("MatMul", "a", "v")], {"v": weight(4, 4)}, 17),
    "Pad by what is computed": (
        [
            node("Identity", ["x"], ["z"]),
            node("Shape", ["z"], ["s"]),
            node("Sub", ["s", "s"], ["o"]),
            node("Concat", ["o", "o"], ["p"], axis=0),
            binary("Pad", "a", "p"),
        ],
        {},
        17,
    ),
    "Add of more axes": (
        [node("Add", ["a", "v"], ["s"]), node("Squeeze", ["s", "k"], ["b"])],
        {"v": weight(1, 2, 5, 6, 4), "k": np.array([0], INT)},
        17,
    ),
    "Dropout with a mode": (
        [binary("Dropout", "a", "r", "t")],
        {"r": np.float32(0.5), "t": np.array(False)},
        17,
    ),
    "Squeeze of all": ([node("Squeeze", ["a"], ["b"])], {}, 17),
    "before opset 7": ([unary("Relu")], {}, 6),
}


@pytest.mark.parametrize(("nodes", "weights", "opset"), STAYING.values(), ids=STAYING.keys())
def test_other_nodes_stay(nodes: list[NodeProto], weights: Mapping[str, Array], opset: int) -> None:
    model = between(*nodes, weights=weights, opset=opset)
    assert cancelled(model) is model


def test_nodes_keep_all_but_what_they_read() -> None:
    model = between(unary("Relu"))
    model.graph.node[2].doc_string = "why"
    model.graph.node[2].metadata_props.add(key="k", value="v")
    result = cancelled(model)
    assert ops(result) == ["Conv", "Relu", "Conv"]
    assert [n.name for n in result.graph.node] == ["C_c", "moved", "C_y"]
    assert (result.graph.node[1].doc_string, result.graph.node[1].metadata_props[0].value) == ("why", "v")


def test_values_whose_layout_changes_get_new_names() -> None:
    """Relu's result had the name b channels last, and the name d channels first; so it is d."""
    model = between(node("Neg", ["a"], ["n"]), node("Relu", ["n"], ["b"]))
    for name, dims in infer_values(model).items():
        if name[1] in "andb":
            model.graph.value_info.append(helper.make_tensor_value_info(name[1], 1, dims.dims))
    result = cancelled(model)
    assert [list(n.output) for n in result.graph.node] == [["c"], ["n_transposed"], ["d"], ["y"]]
    assert [value.name for value in result.graph.value_info] == ["d"]


def test_a_new_constant_is_stored_once_and_the_old_one_goes() -> None:
    nodes = [node("Add", ["a", "v"], ["s"]), node("Mul", ["s", "v"], ["b"])]
    result = cancelled(between(*nodes, weights={"v": VECTOR}))
    assert {name: t.shape for name, t in initializers(result).items()} == {
        "w": W.shape,
        "v_transposed": (1, 4, 1, 1),
    }


def test_a_residual_stream_of_channels_last() -> None:
    """x is channels last, too: one Transpose of it is left."""
    nodes = [transpose("x", "a", FIRST), conv("a", "b"), transpose("b", "c"), node("Add", ["c", "x"], ["d"])]
    nodes += [transpose("d", "e", FIRST), conv("e", "f"), transpose("f", "g"), node("Add", ["g", "d"], ["h"])]
    nodes += [node("ReduceMean", ["h"], ["y"], axes=[1, 2], keepdims=0)]
    result = cancelled(model_of(*nodes, shape=(2, 5, 6, 4)))
    assert count(result) == 1
    assert [list(n.input) for n in result.graph.node if n.op_type == "Add"] == [["b", "a"], ["f", "e"]]


def test_a_block_that_squeezes_and_excites() -> None:
    """The small operand is transposed, not the large one."""
    nodes = [
        node("ReduceMean", ["a"], ["m"], axes=[1, 2], keepdims=0),
        node("MatMul", ["m", "dense"], ["q"]),
        node("Sigmoid", ["q"], ["s"]),
        node("Reshape", ["s", "shape"], ["t"]),
        binary("Mul", "a", "t"),
    ]
    weights = {"dense": weight(4, 4), "shape": np.array([-1, 1, 1, 4], INT)}
    result = cancelled(between(*nodes, weights=weights))
    assert count(result) == 1
    assert reads(result, "d") == ["c", "t_transposed"]


def test_an_operand_in_another_order_is_transposed() -> None:
    nodes = [
        node("Reshape", ["x", "shape"], ["r"]),
        transpose("r", "s", (2, 0, 1, 3)),
        binary("Add", "s", "a"),
    ]
    result = cancelled(between(*nodes, weights={"shape": np.array([5, 6, 2, 4], INT)}))
    assert count(result) == 1


def test_readers_share_a_transpose() -> None:
    nodes = [
        transpose("x", "a"),
        transpose("x", "b"),
        node("MatMul", ["a", "m"], ["y"]),
        node("MatMul", ["b", "m"], ["z"]),
    ]
    result = cancelled(model_of(*nodes, outputs=("y", "z"), weights={"m": weight(4, 3)}))
    assert count(result) == 1
    assert reads(result, "z") == ["a", "m"]


def test_a_transpose_for_several_readers_is_not_multiplied() -> None:
    """Below it each branch would need its own."""
    nodes = [conv("x", "c"), transpose("c", "a")]
    for i, op in enumerate(["Relu", "Neg", "Tanh"]):
        nodes += [node(op, ["a"], [f"r{i}"]), node("MatMul", [f"r{i}", "m"], [f"y{i}"])]
    model = model_of(*nodes, outputs=("y0", "y1", "y2"), weights={"m": weight(4, 3)})
    assert cancelled(model) is model


def test_the_rest_of_a_network_stays_as_it_is() -> None:
    """Two branches gain nothing, the trunk does."""
    nodes = [node("Relu", ["a"], ["b"]), node("Neg", ["a"], ["n"]), node("MatMul", ["n", "m"], ["z"])]
    nodes += [node("Tanh", ["a"], ["t"]), node("MatMul", ["t", "m"], ["v"])]
    model = between(*nodes, outputs=("y", "z", "v"), weights={"m": weight(4, 3)})
    result = cancelled(model)
    assert ops(result) == ["Conv", "Transpose", "Relu", "Neg", "MatMul", "Tanh", "MatMul", "Conv"]
    assert reads(result, "n") == ["a"]


def attention(source: str, output: str) -> list[NodeProto]:
    """Of two heads, over tokens of four channels."""
    nodes = []
    for part, perm in (("q", (0, 2, 1, 3)), ("k", (0, 2, 3, 1)), ("v", (0, 2, 1, 3))):
        nodes += [
            node("MatMul", [source, "m"], [f"{part}0"]),
            node("Reshape", [f"{part}0", "heads"], [f"{part}1"]),
            transpose(f"{part}1", part, perm),
        ]
    return [
        *nodes,
        node("Mul", ["q", "scale"], ["q_scaled"]),
        node("MatMul", ["q_scaled", "k"], ["scores"]),
        node("Softmax", ["scores"], ["shares"], axis=-1),
        node("MatMul", ["shares", "v"], ["mixed"]),
        transpose("mixed", "joined", (0, 2, 1, 3)),
        node("Reshape", ["joined", "tokens"], [output]),
    ]


ATTENTION = {
    "m": weight(4, 4),
    "heads": np.array([0, 0, 2, 2], INT),
    "tokens": np.array([0, 0, 4], INT),
    "flat": np.array([0, 4, -1], INT),
    "scale": np.float32(0.5),
}


def patches(source: str, output: str) -> list[NodeProto]:
    """As a vision transformer begins."""
    return [conv(source, "p"), node("Reshape", ["p", "flat"], ["t"]), transpose("t", output, (0, 2, 1))]


def test_attention_stays_as_it_is() -> None:
    model = model_of(*patches("x", "z"), *attention("z", "y"), weights=ATTENTION)
    assert cancelled(model) is model


def test_attention_stays_beside_a_region_that_gains() -> None:
    convs = [conv("x", "c"), transpose("c", "a"), node("Relu", ["a"], ["b"]), transpose("b", "d", FIRST)]
    model = model_of(*convs, *patches("d", "z"), *attention("z", "y"), weights=ATTENTION)
    result = cancelled(model)
    assert count(model) - count(result) == 2
    assert serialized(result.graph.node)[-14:] == serialized(model.graph.node)[-14:]


def test_a_block_with_layer_normalization_stays() -> None:
    """As in ConvNeXt: two Transposes around what works along the last axis."""
    nodes = [
        transpose("x", "a"),
        node("LayerNormalization", ["a", "v"], ["n"]),
        node("MatMul", ["n", "m"], ["u"]),
        node("Erf", ["u"], ["g"]),
        node("Mul", ["g", "v"], ["s"]),
        transpose("s", "t", FIRST),
        node("Add", ["t", "x"], ["y"]),
    ]
    model = model_of(*nodes, weights={"m": weight(4, 4), "v": VECTOR})
    assert cancelled(model) is model


def test_flatten_and_reshape_of_one_pixel() -> None:
    for reader, weights in (
        (node("Flatten", ["a"], ["y"]), {}),
        (node("Flatten", ["a"], ["y"], axis=-3), {}),
        (node("Reshape", ["a", "s"], ["y"]), {"s": np.array([0, -1], INT)}),
        (node("Reshape", ["a", "s"], ["y"], allowzero=1), {"s": np.array([2, 4], INT)}),
    ):
        nodes = [node("GlobalAveragePool", ["x"], ["p"]), transpose("p", "a"), reader]
        assert count(cancelled(model_of(*nodes, weights=weights))) == 0


@pytest.mark.parametrize(
    ("reader", "weights"),
    [
        (node("Reshape", ["a", "s"], ["y"]), {"s": np.array([0, 0, -1], INT)}),
        (node("Flatten", ["a"], ["y"], axis=2), {}),
    ],
    ids=["Reshape", "Flatten"],
)
def test_a_size_that_is_taken_from_a_moved_axis(reader: NodeProto, weights: Mapping[str, Any]) -> None:
    nodes = [node("ReduceMean", ["x"], ["p"], axes=[1, 2]), transpose("p", "a", (0, 3, 1, 2)), reader]
    model = model_of(*nodes, weights=weights)
    assert cancelled(model) is model


def test_a_transpose_of_pixels_before_flatten_stays() -> None:
    model = model_of(conv("x", "c"), transpose("c", "a"), node("Flatten", ["a"], ["y"]))
    assert cancelled(model) is model


def test_no_more_elements_are_moved() -> None:
    """One large Transpose in place of two small ones would be a loss."""
    nodes = [transpose("x", "a"), transpose("z", "b"), node("Concat", ["a", "b"], ["s"], axis=0)]
    nodes += [node("Pad", ["s", "p"], ["y"])]
    model = make_model(
        nodes,
        {"x": (1, 2, 3, 4), "z": (1, 2, 3, 4)},
        ["y"],
        {"p": np.array([0, 50, 0, 0, 0, 0, 50, 0], INT)},
    )
    assert cancelled(model) is not model
    assert count(cancelled(model)) == 1
    shapes = {key[1]: value.dims for key, value in infer_values(cancelled(model)).items()}
    (last,) = (n for n in cancelled(model).graph.node if n.op_type == "Transpose")
    assert shapes[last.input[0]] == (2, 2, 3, 4)


def test_an_output_keeps_its_name_and_its_layout() -> None:
    result = cancelled(
        model_of(conv("x", "c"), transpose("c", "a"), node("Relu", ["a"], ["r"]), transpose("r", "y", FIRST))
    )
    assert [(n.op_type, n.output[0]) for n in result.graph.node] == [("Conv", "c"), ("Relu", "y")]


def test_an_output_that_became_another_value_is_an_identity_of_it() -> None:
    model = model_of(conv("x", "c"), transpose("c", "a"), transpose("a", "y", FIRST))
    result = cancelled(model)
    assert ops(result) == ["Conv", "Identity"]
    assert ops(remove_no_ops(result)) == ["Conv"]


def test_an_output_between_is_made_by_a_transpose() -> None:
    nodes = [node("Relu", ["a"], ["r"]), node("Neg", ["r"], ["b"])]
    model = between(*nodes, outputs=("y", "r"))
    result = cancelled(model)
    assert count(result) == 1
    assert [n.output[0] for n in result.graph.node if n.op_type == "Transpose"] == ["r"]


def test_two_names_of_one_output() -> None:
    nodes = [transpose("x", "y"), transpose("x", "z")]
    assert sorted(ops(cancelled(model_of(*nodes, outputs=("y", "z"))))) == ["Identity", "Transpose"]


def branch(source: str) -> onnx.GraphProto:
    value = helper.make_tensor_value_info("o", TensorProto.FLOAT, None)
    return helper.make_graph([node("Neg", [source], ["o"])], "b", [], [value])


def test_what_a_body_reads_keeps_its_name() -> None:
    choice = node("If", ["c0"], ["z"], then_branch=branch("r"), else_branch=branch("r"))
    nodes = [node("Relu", ["a"], ["r"]), choice, node("Neg", ["r"], ["b"])]
    result = cancelled(between(*nodes, outputs=("y", "z"), weights={"c0": np.array(True)}))
    assert [n.output[0] for n in result.graph.node if n.op_type == "Transpose"] == ["r"]


def test_transposes_in_bodies_stay() -> None:
    body = branch("x")
    body.node[0].CopyFrom(transpose("x", "t"))
    body.node.append(transpose("t", "o", FIRST))
    model = model_of(
        node("If", ["c"], ["y"], then_branch=body, else_branch=branch("x")), weights={"c": np.array(True)}
    )
    assert cancelled(model) is model


def test_what_training_refers_to_keeps_its_name_and_value() -> None:
    model = between(node("Add", ["a", "v"], ["r"]), node("Relu", ["r"], ["b"]), weights={"v": VECTOR})
    for name, left in (("r", 1), ("v", 2)):
        trained = ModelProto()
        trained.CopyFrom(model)
        trained.training_info.add().algorithm.node.append(node("Neg", [name], ["n"]))
        result = cancel_transposes(trained)
        assert count(result) == left
        check_same(model, result)


def test_an_unknown_rank_keeps_what_depends_on_it() -> None:
    nodes = [node("Transpose", ["x"], ["a"]), node("Relu", ["a"], ["b"]), node("Transpose", ["b"], ["y"])]
    model = model_of(*nodes)
    assert count(cancelled(model)) == 0
    model.graph.input[0].type.tensor_type.ClearField("shape")
    assert cancel_transposes(model) is model


def test_symbolic_sizes() -> None:
    nodes = [binary("Add", "a", "v")]
    assert count(cancelled(between(*nodes, weights={"v": VECTOR}, shape=["N", 4, "H", "W"]))) == 0


def test_up_to_ir_3_new_initializers_are_inputs() -> None:
    model = between(binary("Add", "a", "v"), weights={"v": VECTOR}, opset=8)
    model.ir_version = 3
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    result = remove_unused(model, cancel_transposes(model))
    assert {value.name for value in result.graph.input} == {"x", "w", "v_transposed"}
    onnx.checker.check_model(result, full_check=True)


def test_external_data_is_read_from_its_folder(tmp_path: Path) -> None:
    model = between(binary("Add", "a", "v"), weights={"v": VECTOR})
    path = tmp_path / "m.onnx"
    onnx.save_model(model, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    stored = onnx.load(path, load_external_data=False)
    result = cancel_transposes(stored, str(tmp_path))
    (new,) = (t for t in result.graph.initializer if t.name == "v_transposed")
    np.testing.assert_array_equal(numpy_helper.to_array(new).ravel(), VECTOR)


def test_dead_ends_do_not_count() -> None:
    model = model_of(conv("x", "y"), transpose("x", "unread"))
    assert cancelled(model) is model


perms = st.integers(0, 5).flatmap(lambda rank: st.permutations(range(rank)))


@given(perms.flatmap(lambda perm: st.tuples(st.just(tuple(perm)), st.permutations(perm))))
def test_orders_compose_as_transposes_do(pair: tuple[tuple[int, ...], list[int]]) -> None:
    first, second = pair[0], tuple(pair[1])
    array = np.zeros(range(2, 2 + len(first)))
    assert array.transpose(first).transpose(second).shape == array.transpose(compose(first, second)).shape
    assert array.transpose(first).transpose(inverse(first)).shape == array.shape


@pytest.mark.parametrize(
    ("cost", "other", "gains"),
    [
        (Cost(1, 1, 10), Cost(2, 2, 10), True),
        (Cost(1, 2, 10), Cost(2, 2, 20), True),
        (Cost(1, 1, float("nan")), Cost(2, 2, 1), True),
        (Cost(0, 1, 0), Cost(0, 1, 0), False),
        (Cost(1, 3, 10), Cost(2, 2, 20), False),
        (Cost(1, 1, 30), Cost(2, 2, 20), False),
    ],
)
def test_what_is_a_gain(cost: Cost, other: Cost, gains: bool) -> None:
    assert cost.gains_on(other) == gains


def test_a_wrong_order_is_seen() -> None:
    model = between(binary("Add", "a", "v"), weights={"v": VECTOR})
    result = cancelled(model)
    (new,) = (t for t in result.graph.initializer if t.name == "v_transposed")
    new.CopyFrom(numpy_helper.from_array(initializers(result)["v_transposed"][:, ::-1].copy(), new.name))
    with pytest.raises(AssertionError):
        check_same(model, result)


Change = Callable[[ModelProto], ModelProto]


@pytest.mark.parametrize("change", [cancel_transposes, lambda model: remove_no_ops(cancel_transposes(model))])
@settings(max_examples=100)
@given(data=st.data())
def test_any_network(change: Change, data: st.DataObject) -> None:
    model = network(data, data.draw(st.sampled_from([9, 12, 13, 17, 18, 21])), 16)
    result = change(model)
    assert count(result) <= count(model)
    cleaned = remove_unused(model, result)
    onnx.checker.check_model(cleaned, full_check=True)
    check_same(model, cleaned, 1e-5)


@given(data=st.data())
def test_twice_is_once(data: st.DataObject) -> None:
    result = cancel_transposes(network(data, 17, 16))
    assert cancel_transposes(result) is result
