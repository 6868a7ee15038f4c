"""matmul_to_conv: Convs only where Transposes go, and the same outputs to rounding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto, TensorProto, helper

from passes import cancel_transposes, matmul_to_conv, remove_unused
from passes.graph import attributes
from tests.builders import Array, initializers, make_model, relative_error, run, serialized, weight
from tests.passes.random_layouts import CHANNELS_LAST, FIRST, LAST, network

node = helper.make_node

SHAPES = {3: (2, 4, 5), 4: (2, 4, 5, 6), 5: (2, 4, 5, 6, 3)}
"""Of x by rank, channels first."""
M = weight(4, 3)
BIAS = weight(3, 1)[:, 0]


def last(rank: int) -> list[int]:
    """The order that has channels last."""
    return [0, *range(2, rank), 1]


def first(rank: int) -> list[int]:
    return [0, rank - 1, *range(1, rank - 1)]


def dense(
    *nodes: NodeProto,
    rank: int = 4,
    weights: Mapping[str, Array] | None = None,
    dtype: Any = np.float32,
    back: Sequence[int] | None = None,
) -> ModelProto:
    """`y`, channels first, of nodes that make b of a, both channels last."""
    around = [
        node("Transpose", ["x"], ["a"], perm=last(rank)),
        *nodes,
        node("Transpose", ["b"], ["y"], perm=back or first(rank)),
    ]
    tensors = {"m": M} if weights is None else dict(weights)
    tensors = {name: np.asarray(array) for name, array in tensors.items()}
    tensors = {name: a.astype(dtype) if a.dtype == np.float32 else a for name, a in tensors.items()}
    data_type = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return make_model(around, {"x": SHAPES[rank]}, ["y"], tensors, dtype=data_type)


def matmul(source: str = "a", output: str = "b", by: str = "m") -> NodeProto:
    return node("MatMul", [source, by], [output], f"dense_{output}")


def converted(model: ModelProto, tolerance: float = 1e-6) -> ModelProto:
    """The clean result, after the checks that hold for every model."""
    before = model.SerializeToString(deterministic=True)
    result = matmul_to_conv(model)
    assert model.SerializeToString(deterministic=True) == before
    assert matmul_to_conv(result) is result
    cleaned = remove_unused(model, result)
    onnx.checker.check_model(cleaned, full_check=True)
    assert serialized(cleaned.graph.output) == serialized(model.graph.output)
    (value,) = model.graph.input
    x = weight(*(dim.dim_value for dim in value.type.tensor_type.shape.dim))
    x = x.astype(helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))
    for expected, actual in zip(run(model, x=x), run(cleaned, x=x), strict=True):
        assert relative_error(expected, actual) < tolerance
    return cleaned


def ops(model: ModelProto) -> list[str]:
    return [n.op_type for n in model.graph.node]


@pytest.mark.parametrize("rank", SHAPES)
def test_a_matmul_between_transposes(rank: int) -> None:
    model = dense(matmul(), rank=rank)
    model.graph.node[1].doc_string = "why"
    result = converted(model)
    (made,) = result.graph.node
    assert (made.op_type, made.name, made.doc_string) == ("Conv", "dense_b", "why")
    assert list(attributes(made)["kernel_shape"].ints) == [1] * (rank - 2)
    assert {name: t.shape for name, t in initializers(result).items()} == {
        "m_conv": (3, 4, *[1] * (rank - 2))
    }
    assert cancel_transposes(model) is model


def test_half_precision() -> None:
    assert ops(converted(dense(matmul(), dtype=np.float16), 2e-3)) == ["Conv"]


def test_doubles_stay() -> None:
    """ONNX Runtime has no Conv for them."""
    model = dense(matmul(), dtype=np.float64)
    assert converted(model) is model


def test_a_bias_and_what_follows() -> None:
    nodes = [matmul("a", "p"), node("Add", ["p", "v"], ["q"]), node("Relu", ["q"], ["b"])]
    result = converted(dense(*nodes, weights={"m": M, "v": BIAS}))
    assert ops(result) == ["Conv", "Add", "Relu"]
    assert initializers(result)["v_transposed"].shape == (1, 3, 1, 1)


def test_several_in_a_row_share_a_weight() -> None:
    nodes = [matmul("a", "p", "s"), node("Erf", ["p"], ["q"]), matmul("q", "b", "s")]
    result = converted(dense(*nodes, weights={"s": weight(4, 4)}))
    assert ops(result) == ["Conv", "Erf", "Conv"]
    assert len(initializers(result)) == 1


def test_a_computed_weight() -> None:
    nodes = [node("Transpose", ["n"], ["m"], perm=[1, 0]), matmul()]
    assert ops(converted(dense(*nodes, weights={"n": M.T.copy()}))) == ["Conv"]


STAYING: dict[str, ModelProto] = {
    "a weight of three axes": dense(matmul(), weights={"m": weight(2, 6, 4)[:1][..., None][:, :4, :, 0]}),
    "a vector": dense(
        matmul("a", "p"), node("Unsqueeze", ["p", "k"], ["b"]), weights={"m": M[:, 0], "k": np.array([3])}
    ),
    "the weight on the left": dense(node("MatMul", ["m", "a"], ["b"]), weights={"m": weight(3, 6)}),
    "a weight that is no constant": make_model(
        [
            node("Transpose", ["x"], ["a"], perm=LAST),
            node("ReduceMean", ["x"], ["r"], axes=[0, 3], keepdims=0),
            matmul("a", "b", "r"),
            node("Transpose", ["b"], ["y"], perm=FIRST),
        ],
        {"x": (2, 4, 5, 6)},
        ["y"],
        {},
    ),
    "channels that are not last": make_model(
        [
            node("Transpose", ["x"], ["a"], perm=[0, 1, 3, 2]),
            matmul(),
            node("Transpose", ["b"], ["y"], perm=[0, 1, 3, 2]),
        ],
        {"x": (2, 3, 4, 5)},
        ["y"],
        {"m": M},
    ),
    "a matrix": make_model(
        [
            node("Transpose", ["x"], ["a"], perm=[1, 0]),
            matmul(),
            node("Transpose", ["b"], ["y"], perm=[1, 0]),
        ],
        {"x": (4, 5)},
        ["y"],
        {"m": M},
    ),
    "LayerNormalization before it": dense(
        node("LayerNormalization", ["a", "v"], ["n"]), matmul("n"), weights={"m": M, "v": weight(4, 1)[:, 0]}
    ),
    "nothing to gain behind it": make_model(
        [node("Transpose", ["x"], ["a"], perm=LAST), matmul("a", "p"), node("Relu", ["p"], ["y"])],
        {"x": (2, 4, 5, 6)},
        ["y"],
        {"m": M},
    ),
    "a head of tokens": make_model(
        [
            node("Reshape", ["x", "s"], ["t"]),
            node("Transpose", ["t"], ["a"], perm=[0, 2, 1]),
            matmul("a", "p"),
            node("Softmax", ["p"], ["y"]),
        ],
        {"x": (2, 4, 5, 6)},
        ["y"],
        {"m": M, "s": np.array([0, 0, -1])},
    ),
}


@pytest.mark.parametrize("model", STAYING.values(), ids=STAYING.keys())
def test_other_matmuls_stay(model: ModelProto) -> None:
    assert converted(model) is model


def test_integers_stay() -> None:
    model = dense(matmul(), weights={"m": np.ones((4, 3), np.int32)})
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.INT32
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT32
    assert matmul_to_conv(model) is model


def test_a_trained_weight_stays() -> None:
    model = dense(matmul())
    model.training_info.add().algorithm.node.append(node("Neg", ["m"], ["n"]))
    assert matmul_to_conv(model) is model


def test_only_those_that_gain() -> None:
    """The second head keeps its MatMul, and reads what it read."""
    model = dense(matmul())
    model.graph.node.append(matmul("a", "z"))
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [2, 5, 6, 3]))
    result = converted(model)
    assert sorted(ops(result)) == ["Conv", "MatMul", "Transpose"]


@given(data=st.data())
def test_any_network(data: st.DataObject) -> None:
    model = network(data, data.draw(st.sampled_from([12, 17, 21])), 12, CHANNELS_LAST)
    result = matmul_to_conv(model)
    assert matmul_to_conv(result) is result
    cleaned = remove_unused(model, result)
    onnx.checker.check_model(cleaned, full_check=True)
    x = weight(*(dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim))
    for expected, actual in zip(run(model, x=x), run(cleaned, x=x), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)
