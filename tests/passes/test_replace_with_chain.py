"""replace_with_chain: the chain is where the node was, under free names; everything else keeps every byte."""

import copy
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from passes import ChainNode, remove_unused, replace_with_chain
from tests.builders import (
    Array,
    conv_model,
    gemm_model,
    initializers,
    make_model,
    relative_error,
    run,
    serialized,
    weight,
)

TOLERANCE = 1e-6


def halves(w: Array, rank: int = 4) -> tuple[Array, Array]:
    """Factors `(r, C, ...)` and `(M, r)` of a weight of that rank."""
    u, s, v = np.linalg.svd(w.reshape(len(w), -1).astype(np.float64), full_matrices=False)
    first = (s[:rank, None] * v[:rank]).reshape(rank, *w.shape[1:])
    return first.astype(w.dtype), u[:, :rank].astype(w.dtype)


def low_rank(*shape: int, rank: int = 4) -> Array:
    """A weight of exactly this rank."""
    a, b = weight(shape[0], rank, seed=1), weight(rank, int(np.prod(shape[1:])), seed=2)
    return (a @ b).reshape(shape)


def conv_chain(w: Array, **attributes: Any) -> list[ChainNode]:
    first, last = halves(w)
    return [ChainNode("Conv", first, "a", attributes), ChainNode("Conv", last[..., None, None], "b")]


def test_conv() -> None:
    w = low_rank(12, 5, 3, 3)
    model = conv_model(w, strides=[2, 1], pads=[1, 1, 0, 0])
    stored = model.SerializeToString()
    result = replace_with_chain(model, {"y": conv_chain(w, strides=[2, 1], pads=[1, 1, 0, 0])})
    assert model.SerializeToString() == stored
    onnx.checker.check_model(result, full_check=True)
    assert [(n.op_type, n.name, list(n.input), list(n.output)) for n in result.graph.node] == [
        ("Conv", "conv_a", ["x", "conv_a_weight"], ["conv_a_output"]),
        ("Conv", "conv_b", ["conv_a_output", "conv_b_weight", "b"], ["y"]),
    ]
    x = weight(2, 5, 11, 13)
    (expected,), (actual,) = run(model, x=x), run(result, x=x)
    assert relative_error(expected, actual) < TOLERANCE


def test_a_wrong_factor_is_seen() -> None:
    w = low_rank(12, 5, 3, 3)
    chain = conv_chain(w)
    chain[1].weight[3, 2] += 0.1
    model, x = conv_model(w), weight(2, 5, 11, 13)
    (expected,), (actual,) = run(model, x=x), run(replace_with_chain(model, {"y": chain}), x=x)
    assert relative_error(expected, actual) > 1e-3


def test_gemm_attributes_and_c() -> None:
    w = low_rank(12, 9)
    first, last = halves(w)
    model = gemm_model(w, weight(12, seed=5), transB=1, alpha=0.5, beta=2.0)
    rest = {"transB": 1, "alpha": 0.5, "beta": 2.0}
    chain = [ChainNode("Gemm", first, "a", {"transB": 1}), ChainNode("Gemm", last, "b", rest)]
    result = replace_with_chain(model, {"y": chain})
    found = [{a.name: helper.get_attribute_value(a) for a in n.attribute} for n in result.graph.node]
    assert found == [{"transB": 1}, rest]
    assert list(result.graph.node[1].input)[2:] == ["b"]
    x = weight(3, 9)
    (expected,), (actual,) = run(model, x=x), run(result, x=x)
    assert relative_error(expected, actual) < TOLERANCE


@pytest.mark.parametrize("length", [1, 2, 3, 5])
def test_chains_of_any_length(length: int) -> None:
    w = weight(8, 8)
    model = make_model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": ["N", 8]}, ["y"], {"w": w})
    identity = [ChainNode("MatMul", np.eye(8, dtype=np.float32), f"i{i}") for i in range(length - 1)]
    result = replace_with_chain(model, {"y": [*identity, ChainNode("MatMul", w, "w")]})
    assert len(result.graph.node) == length
    assert result.graph.node[-1].name == "y_w"  # a node without a name goes by its output's
    x = weight(3, 8)
    np.testing.assert_array_equal(run(result, x=x)[0], run(model, x=x)[0])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int8])
def test_weights_are_stored_as_given(dtype: Any) -> None:
    array = np.arange(6, dtype=dtype).reshape(2, 3)
    model = gemm_model(weight(3, 3))
    result = replace_with_chain(model, {"y": [ChainNode("Gemm", array, "a")]})
    stored = initializers(result)["gemm_a_weight"]
    assert stored.dtype == dtype
    np.testing.assert_array_equal(stored, array)


def test_names_never_collide() -> None:
    """Derived names exist as a node, a value, an initializer, an input, and within a body."""
    w = low_rank(6, 6, rank=2)
    inner = helper.make_node("Neg", ["n_b_weight"], ["n_b_weight_2"], "n_a_weight_2")
    value = helper.make_tensor_value_info("n_b_weight_2", TensorProto.FLOAT, None)
    body = helper.make_graph([inner], "body", [], [value])
    nodes = [
        helper.make_node("Relu", ["x"], ["n_a_output"], "n_a"),
        helper.make_node("Gemm", ["n_a_output", "w"], ["y"], "n", transB=1),
        helper.make_node("If", ["flag"], ["z"], then_branch=body, else_branch=body),
    ]
    weights = {"w": w, "n_a_weight": w, "n_b_weight": w}
    model = make_model(nodes, {"x": ["N", 6]}, ["y", "z"], weights | {"flag": np.array(True)})
    first, last = halves(w, 2)
    chain = [ChainNode("Gemm", first, "a", {"transB": 1}), ChainNode("Gemm", last, "b", {"transB": 1})]
    result = replace_with_chain(model, {"y": chain})
    names = [n.name for n in result.graph.node if n.name]
    values = [*initializers(result), *(o for n in result.graph.node for o in n.output), "x"]
    assert len(names) == len(set(names))
    assert len(values) == len(set(values))
    assert not {"n_b_weight_2", "n_a_weight_2"} & {t.name for t in result.graph.initializer}
    onnx.checker.check_model(result, full_check=True)
    x = weight(3, 6)
    for expected, actual in zip(run(model, x=x), run(result, x=x), strict=True):
        assert relative_error(expected, actual) < TOLERANCE


def two_layers(name: str, w: Array) -> ModelProto:
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["h"], name, transB=1),
        helper.make_node("Relu", ["h"], ["r"], "relu", doc_string="stays"),
        helper.make_node("Gemm", ["r", "w"], ["y"], name, transB=1),
    ]
    return make_model(nodes, {"x": ["N", 6]}, ["y"], {"w": w, "idle": weight(2)})


def test_shared_arrays_become_one_initializer_also_where_nodes_share_a_name() -> None:
    w = low_rank(6, 6, rank=2)
    first, last = halves(w, 2)
    model = two_layers("same", w)
    chains = {
        output: [
            ChainNode("Gemm", first, "a", {"transB": 1}),
            ChainNode("Gemm", last, "b", {"transB": 1}),
        ]
        for output in ("h", "y")
    }
    result = remove_unused(model, replace_with_chain(model, chains))
    assert sorted(initializers(result)) == ["idle", "same_a_weight", "same_b_weight"]
    names = [n.name for n in result.graph.node]
    assert len(set(names)) == len(names) == 5
    model.graph.node[0].name = "other"  # the original does not run with a name twice, the result does
    x = weight(3, 6)
    assert relative_error(run(model, x=x)[0], run(result, x=x)[0]) < TOLERANCE


def test_equal_arrays_that_are_not_the_same_stay_apart() -> None:
    w = weight(6, 6)
    model = two_layers("", w)
    chains = {output: [ChainNode("Gemm", w.copy(), "a", {"transB": 1})] for output in ("h", "y")}
    result = replace_with_chain(model, chains)
    assert set(initializers(result)) == {"idle", "h_a_weight", "y_a_weight"}  # w is not copied


def test_untouched_parts_keep_every_byte() -> None:
    model = two_layers("n", weight(6, 6))
    model.doc_string, model.graph.doc_string, model.producer_version = "a model", "a graph", "3"
    model.metadata_props.add(key="k", value="v")
    model.graph.value_info.append(helper.make_tensor_value_info("h", TensorProto.FLOAT, None))
    model.graph.quantization_annotation.add(tensor_name="h")
    relu = helper.make_node("Relu", ["p"], ["q"])
    model.functions.append(helper.make_function("test", "f", ["p"], ["q"], [relu], model.opset_import))
    model.graph.node[1].metadata_props.add(key="node", value="prop")
    result = replace_with_chain(model, {"y": [ChainNode("Gemm", weight(6, 6), "a")]})
    assert serialized(result.graph.node[:2]) == serialized(model.graph.node[:2])
    assert serialized(result.graph.initializer[:2]) == serialized(model.graph.initializer)
    expected = copy.deepcopy(model)
    for proto in (expected, result):
        proto.graph.ClearField("node")
        proto.graph.ClearField("initializer")
    assert result.SerializeToString(deterministic=True) == expected.SerializeToString(deterministic=True)


@pytest.mark.parametrize("name", ["x", "w", "nowhere", "inner", ""])
def test_what_is_no_output_of_a_node_is_refused(name: str) -> None:
    body = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["inner"])],
        "body",
        [],
        [helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)],
    )
    branch = helper.make_node("If", ["flag"], ["y"], then_branch=body, else_branch=body)
    model = make_model([branch], {"x": [3]}, ["y"], {"w": weight(3), "flag": np.array(True)})
    with pytest.raises(KeyError, match="no node of the main graph"):
        replace_with_chain(model, {name: [ChainNode("Neg", weight(3), "a")]})


def test_ir_3() -> None:
    w = low_rank(12, 9)
    first, last = halves(w)
    model = gemm_model(w, weight(12), transB=1)
    model.ir_version, model.opset_import[0].version = 3, 8
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    onnx.checker.check_model(model)
    trans = {"transB": 1}
    chain = [ChainNode("Gemm", first, "a", trans), ChainNode("Gemm", last, "b", trans)]
    chain_model = replace_with_chain(model, {"y": chain})
    zero = numpy_helper.from_array(np.zeros(4, np.float32), "c0")  # C is no option before opset 11
    chain_model.graph.node[0].input.append("c0")
    chain_model.graph.initializer.append(zero)
    chain_model.graph.input.append(helper.make_tensor_value_info("c0", TensorProto.FLOAT, [4]))
    result = remove_unused(model, chain_model)
    onnx.checker.check_model(result)
    assert {v.name for v in result.graph.input} == {"x", "b", "c0", "gemm_a_weight", "gemm_b_weight"}
    x = weight(3, 9)
    assert relative_error(run(model, x=x)[0], run(result, x=x)[0]) < TOLERANCE


def test_what_the_model_says_of_a_replaced_weight_goes_with_it() -> None:
    model = gemm_model(weight(6, 6))
    for name in ("w", "x"):
        model.graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
        model.graph.quantization_annotation.add(tensor_name=name)
    chain = [ChainNode("Gemm", weight(6, 6), "a")]
    result = remove_unused(model, replace_with_chain(model, {"y": chain})).graph
    assert [tensor.name for tensor in result.initializer] == ["gemm_a_weight"]
    assert [value.name for value in result.value_info] == ["x"]
    assert [annotation.tensor_name for annotation in result.quantization_annotation] == ["x"]
