"""Layers in bodies of If, Loop and Scan and in local functions are rewritten there, and nothing moves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

import onnxlr
from passes.graph import scopes
from tests.builders import Array, make_model, relative_error, run, weight

node = helper.make_node
W = weight(8, 8, 3, 3)
PADS = [1, 1, 1, 1]


def graph(
    nodes: Sequence[NodeProto],
    output: str,
    stored: Mapping[str, Array] | None = None,
    inputs: Sequence[Any] = (),
    outputs: Sequence[Any] = (),
) -> GraphProto:
    declared = [*outputs, helper.make_tensor_value_info(output, TensorProto.FLOAT, None)]
    tensors = [numpy_helper.from_array(array, name) for name, array in (stored or {}).items()]
    return helper.make_graph(nodes, "body", inputs, declared, tensors)


def conv(x: str, w: str, y: str, name: str = "") -> NodeProto:
    return node("Conv", [x, w], [y], name, pads=PADS)


def constant(name: str, array: Array) -> NodeProto:
    return node("Constant", [], [name], value=numpy_helper.from_array(array))


def branches(then_branch: GraphProto, else_branch: GraphProto, y: str = "y") -> NodeProto:
    return node("If", ["flag"], [y], "if", then_branch=then_branch, else_branch=else_branch)


def main(nodes: Sequence[NodeProto], stored: Mapping[str, Array] | None = None) -> ModelProto:
    made = make_model(nodes, {"x": [1, 8, 7, 7]}, ["y"], {"flag": np.array(True), **(stored or {})})
    made.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8, 7, 7]))
    return made


def shared_outer_weight() -> ModelProto:
    """Both branches read one weight of the main graph."""
    body = graph([conv("x", "w", "t1", "conv1")], "t1")
    other = graph([node("Neg", ["x"], ["n"]), conv("n", "w", "t2", "conv2")], "t2")
    return main([branches(body, other)], {"w": W})


def own_initializers() -> ModelProto:
    body = graph([conv("x", "w", "t1", "conv1")], "t1", {"w": W})
    other = graph([conv("x", "w", "t2", "conv2")], "t2", {"w": weight(8, 8, 3, 3, seed=3)})
    return main([branches(body, other)])


def own_constants() -> ModelProto:
    body = graph([constant("w", W), conv("x", "w", "t1", "conv1")], "t1")
    other = graph([node("Relu", ["x"], ["t2"], "relu")], "t2")
    return main([branches(body, other)])


def nested() -> ModelProto:
    """A weight of the outer body, turned there, is read in the inner one."""
    inner = branches(
        graph([conv("x", "w", "t1", "conv1")], "t1"), graph([node("Neg", ["x"], ["t2"])], "t2"), "i"
    )
    body = graph([node("Transpose", ["a"], ["w"], perm=[1, 0, 2, 3]), inner], "i", {"a": W})
    return main([branches(body, graph([node("Abs", ["x"], ["t3"])], "t3"))])


def loop() -> ModelProto:
    """y = x, then three times y = Conv(y)."""
    values = [
        helper.make_tensor_value_info("i", TensorProto.INT64, []),
        helper.make_tensor_value_info("on", TensorProto.BOOL, []),
        helper.make_tensor_value_info("v", TensorProto.FLOAT, [1, 8, 7, 7]),
    ]
    on = helper.make_tensor_value_info("still", TensorProto.BOOL, [])
    nodes = [node("Identity", ["on"], ["still"]), conv("v", "w", "next", "conv1")]
    body = graph(nodes, "next", inputs=values, outputs=[on])
    body.output[1].CopyFrom(helper.make_tensor_value_info("next", TensorProto.FLOAT, [1, 8, 7, 7]))
    return main([node("Loop", ["n", "flag", "x"], ["y"], "loop", body=body)], {"n": np.array(3), "w": W})


def scan() -> ModelProto:
    """A MatMul for each row of x."""
    value = helper.make_tensor_value_info("row", TensorProto.FLOAT, [8, 7, 7])
    nodes = [node("MatMul", ["row", "w"], ["out"], "conv1")]
    body = graph(nodes, "out", inputs=[value])
    return main([node("Scan", ["x"], ["y"], "scan", body=body, num_scan_inputs=1)], {"w": weight(7, 7)})


def function(nodes: Sequence[NodeProto], overload: str = "") -> ModelProto:
    """A local function that is called twice."""
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("test", 1)]
    made = helper.make_function("test", "f", ["a"], ["b"], nodes, imports[:1], overload=overload)
    calls = [node("f", ["x"], ["h"], "call1", domain="test"), node("f", ["h"], ["y"], "call2", domain="test")]
    for call in calls:
        call.overload = overload
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 8, 7, 7]) for name in "xy"]
    main_graph = helper.make_graph(calls, "test", values[:1], values[1:])
    ir_version = 10 if overload else 8
    return helper.make_model(main_graph, ir_version=ir_version, opset_imports=imports, functions=[made])


def body_in_function() -> ModelProto:
    body = graph([conv("a", "w", "t1", "conv1")], "t1")
    other = graph([node("Neg", ["a"], ["t2"])], "t2")
    flag = constant("flag", np.array(True))
    return function([flag, constant("w", W), branches(body, other, "b")])


IN_FUNCTION = [constant("w", W), conv("a", "w", "b", "conv1")]

MODELS: dict[str, tuple[Callable[[], ModelProto], int]] = {
    "branches that share a weight": (shared_outer_weight, 2),
    "branches with initializers": (own_initializers, 2),
    "branch with a Constant node": (own_constants, 1),
    "nested branches": (nested, 1),
    "Loop": (loop, 1),
    "Scan": (scan, 1),
    "function": (lambda: function([constant("w", W), conv("a", "w", "b", "conv1")]), 1),
    "function with an overload": (
        lambda: function([constant("w", W), conv("a", "w", "b", "conv1")], "v2"),
        1,
    ),
    "branch in a function": (body_in_function, 1),
}


@pytest.mark.parametrize("case", MODELS)
def test_rewritten_where_it_is(case: str) -> None:
    build, layers = MODELS[case]
    model = build()
    before = model.SerializeToString()
    result = onnxlr.optimize(model, energy=1.0, gate="none", checks=None)
    assert model.SerializeToString() == before
    assert len(result.plan.layers) == layers
    assert result.plan.skipped == ()
    onnx.checker.check_model(result.model, full_check=True)
    assert _ops(result.model) != _ops(model)
    x = np.random.default_rng(0).standard_normal((1, 8, 7, 7)).astype(np.float32)
    for flag in (True, False):
        with_flag = [_set_flag(m, flag) for m in (model, result.model)]
        expected, actual = (run(m, x=x)[0] for m in with_flag)
        assert relative_error(expected, actual) < 1e-5


def _set_flag(model: ModelProto, flag: bool) -> ModelProto:
    changed = ModelProto()
    changed.CopyFrom(model)
    for tensor in changed.graph.initializer:
        if tensor.name == "flag":
            tensor.CopyFrom(numpy_helper.from_array(np.array(flag), "flag"))
    return changed


def _ops(model: ModelProto) -> dict[str, list[str]]:
    return {scope.path: [n.op_type for n in scope.holder.node] for scope in scopes(model)}


def _stored(model: ModelProto) -> dict[str, list[str]]:
    return {scope.path: sorted(tensor.name for tensor in scope.initializers) for scope in scopes(model)}


def _optimized(model: ModelProto) -> ModelProto:
    return onnxlr.optimize(model, energy=1.0, gate="none", schemes=["channel-in"], checks=None).model


def test_new_weights_lie_where_the_old_one_was() -> None:
    shared = _optimized(shared_outer_weight())
    assert _stored(shared) == {"": ["conv1_lr0_weight", "conv1_lr1_weight", "flag"], "/y[0]": [], "/y[1]": []}
    own = _optimized(own_initializers())
    assert _stored(own) == {
        "": ["flag"],
        "/y[0]": ["conv2_lr0_weight", "conv2_lr1_weight"],
        "/y[1]": ["conv1_lr0_weight", "conv1_lr1_weight"],
    }
    assert _ops(_optimized(function(IN_FUNCTION))) == {
        "": ["f", "f"],
        "function test:f": ["Constant", "Constant", "Conv", "Conv"],
    }
    inner = _optimized(nested())
    assert _ops(inner)["/y[1]"] == ["If"]  # the Transpose has fallen
    assert _stored(inner)["/y[1]"] == ["conv1_lr0_weight", "conv1_lr1_weight"]


def test_a_body_up_to_ir_3_has_no_initializers() -> None:
    model = own_constants()
    model.ir_version, model.opset_import[0].version = 3, 8
    flag = helper.make_tensor_value_info("flag", TensorProto.BOOL, [])
    model.graph.input.append(flag)
    result = _optimized(model)
    path = next(path for path, ops in _ops(result).items() if "Conv" in ops)
    assert _ops(result)[path] == ["Constant", "Constant", "Conv", "Conv"]
    x = np.random.default_rng(0).standard_normal((1, 8, 7, 7)).astype(np.float32)
    assert relative_error(run(model, x=x)[0], run(result, x=x)[0]) < 1e-5


def test_names_and_sizes_in_bodies() -> None:
    inspection = onnxlr.inspect(loop(), align=1)
    assert [(layer.name, layer.macs) for layer in inspection.layers] == [("conv1", 8 * 8 * 9 * 49)]
    twins = own_initializers()
    for body in (attribute.g for attribute in twins.graph.node[0].attribute):
        body.node[0].name = "conv"
    plan = onnxlr.plan(twins, energy=1.0, gate="none")
    assert [layer.name for layer in plan.layers] == ["t2", "t1"]
    assert len(onnxlr.apply(twins, plan).plan.layers) == 2


def test_what_is_around_the_layer_keeps_every_byte() -> None:
    model = own_constants()
    model.graph.node[0].doc_string = "if doc"
    model.graph.node[0].metadata_props.add(key="k", value="v")
    result = _optimized(model)
    before, after = model.graph.node[0], result.graph.node[0]
    assert (before.doc_string, list(before.metadata_props)) == (after.doc_string, list(after.metadata_props))
    bodies = [{a.name: a.g for a in n.attribute} for n in (before, after)]
    assert bodies[0]["else_branch"].SerializeToString() == bodies[1]["else_branch"].SerializeToString()
    assert list(bodies[0]["then_branch"].output) == list(bodies[1]["then_branch"].output)
