"""matmul_to_gemm: merges where its rules allow it, and nowhere else; outputs stay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper

from passes import remove_unused
from passes.matmul_to_gemm import matmul_to_gemm
from tests.builders import Array, make_model, relative_error, run, serialized, weight

node = helper.make_node

W = weight(6, 4)
ADDED = [node("MatMul", ["x", "w"], ["p"], "dense"), node("Add", ["p", "b"], ["y"], "bias")]


def dense(
    nodes: Sequence[NodeProto] = ADDED,
    size: Sequence[int | str] = ("N", 6),
    bias: Array | None = None,
    w: Array = W,
    opset: int = 17,
    dtype: int = TensorProto.FLOAT,
) -> ModelProto:
    """`y = x w + b`."""
    weights = {"w": w, "b": weight(4, seed=1) if bias is None else bias}
    return make_model(nodes, {"x": size}, ["y"], weights, opset, dtype)


def half() -> ModelProto:
    bias = weight(4, seed=1, dtype=np.float16)
    return dense(bias=bias, w=W.astype(np.float16), dtype=TensorProto.FLOAT16)


def behind_another() -> ModelProto:
    """The bias is computed from constants behind the product."""
    nodes = [ADDED[0], node("Neg", ["b"], ["c"]), node("Add", ["c", "p"], ["y"])]
    return dense(nodes)


TAKEN = {
    "as Keras writes it": dense(),
    "the bias first": dense([ADDED[0], node("Add", ["b", "p"], ["y"])]),
    "a row": dense(bias=weight(1, 4, seed=1)),
    "half precision": half(),
    "the first opset that can": dense(opset=7),
    "a computed bias": behind_another(),
}


@pytest.mark.parametrize("name", TAKEN)
def test_taken(name: str) -> None:
    model = TAKEN[name]
    before = serialized(model.graph.node)
    result = remove_unused(model, matmul_to_gemm(model))
    assert serialized(model.graph.node) == before
    assert [n.op_type for n in result.graph.node if n.op_type != "Neg"] == ["Gemm"]
    gemm = next(n for n in result.graph.node if n.op_type == "Gemm")
    assert (gemm.name, list(gemm.output)) == ("dense", ["y"])
    onnx.checker.check_model(result, full_check=True)
    dtype = np.float16 if model.graph.initializer[0].data_type == TensorProto.FLOAT16 else np.float32
    x = {"x": np.random.default_rng(0).standard_normal((5, 6)).astype(dtype)}
    assert relative_error(run(model, **x)[0], run(result, **x)[0]) < (2e-3 if dtype == np.float16 else 1e-6)
    assert matmul_to_gemm(result) is result


def read_twice() -> ModelProto:
    return dense([ADDED[0], node("Add", ["p", "b"], ["z"]), node("Mul", ["z", "p"], ["y"])])


def an_output() -> ModelProto:
    model = dense()
    model.graph.output.append(helper.make_tensor_value_info("p", TensorProto.FLOAT, ["N", 4]))
    return model


def trained() -> ModelProto:
    model = dense()
    info = model.training_info.add()
    info.update_binding.add(key="b", value="b")
    return model


REFUSED: dict[str, Any] = {
    "1: three axes": dense(size=("N", 3, 6)),
    "1: W is not constant": make_model(ADDED, {"x": ("N", 6), "w": (6, 4)}, ["y"], {"b": weight(4)}),
    "1: W has three axes": dense(w=weight(1, 6, 4), size=("N", 6)),
    "2: read twice": read_twice(),
    "2: an output": an_output(),
    "3: one number": dense(bias=weight(1)),
    "3: more rows": dense(bias=weight(3, 4), size=(3, 6)),
    "3: not constant": make_model(ADDED, {"x": ("N", 6), "b": (4,)}, ["y"], {"w": W}),
    "5: trained": trained(),
    "another operator": dense([ADDED[0], node("Sub", ["p", "b"], ["y"])]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    assert matmul_to_gemm(REFUSED[name]) is REFUSED[name]


def test_in_a_body() -> None:
    """Where x's axes are known there, too."""
    body = helper.make_graph(
        [node("Relu", ["x"], ["r"]), node("MatMul", ["r", "w"], ["p"]), node("Add", ["p", "b"], ["z"])],
        "body",
        [],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", 4])],
    )
    chosen = node("If", ["c"], ["y"], then_branch=body, else_branch=body)
    model = make_model(
        [
            node("ReduceSum", ["x"], ["s"], keepdims=0),
            node("Cast", ["s"], ["c"], to=TensorProto.BOOL),
            chosen,
        ],
        {"x": ("N", 6)},
        ["y"],
        {"w": W, "b": weight(4, seed=1)},
    )
    result = matmul_to_gemm(model)
    for attribute in result.graph.node[-1].attribute:
        assert [n.op_type for n in attribute.g.node] == ["Relu", "Gemm"]
    x = {"x": np.random.default_rng(0).standard_normal((5, 6)).astype(np.float32)}
    assert relative_error(run(model, **x)[0], run(result, **x)[0]) < 1e-6
