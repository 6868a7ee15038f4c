"""`GraphModule`: names, modes, types, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra onnxlr[train]")

from onnx import ModelProto, TensorProto, helper

from onnxlr.errors import DataError, ModelError, UsageError
from onnxlr.model_file import Model, load
from onnxlr.training import GraphModule
from tests.builders import constants, conv_bn_model, conv_model, make_model, one_line, run, weight
from tests.training.checks import ROOT, evaluate, largest_error, random_feed, train_step

TRAP = ROOT / "models/exports/trap"


def names(module: GraphModule) -> set[str]:
    return {name for name, _ in module.named_parameters()}


def test_parameters_have_the_names_of_initializers() -> None:
    module = GraphModule(conv_bn_model(weight(4, 3, 3, 3)))
    assert names(module) == {"w", "b", "bn_scale", "bn_bias"}
    assert set(module.statistics) == {"bn_mean", "bn_var"}
    assert module.input_names == ["x"]
    assert module.output_names == ["y"]


def test_any_name_can_be_a_parameter() -> None:
    model = conv_model(weight(4, 3, 3, 3))
    for old, new in (("w", "a.b%2E/c:0"), ("b", "training")):
        (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == old)
        tensor.name = new
        model.graph.node[0].input[:] = [new if name == old else name for name in model.graph.node[0].input]
    module = GraphModule(model)
    assert names(module) == {"a.b%2E/c:0", "training"}
    other = GraphModule(model)
    train_step(module, random_feed(model))
    other.load_state_dict(module.state_dict())
    feed = random_feed(model)
    np.testing.assert_array_equal(evaluate(module, feed), evaluate(other, feed))


def test_weights_of_constant_nodes_have_their_outputs_name() -> None:
    module = GraphModule(load(TRAP / "paddle_noopt.onnx"))
    assert not module.model.proto.graph.initializer
    assert len(names(module)) == 25
    assert len(module.statistics) == 14


def arithmetic(*nodes: tuple[str, list[str], str], **stored: np.ndarray) -> ModelProto:
    made = [helper.make_node(op, inputs, [output]) for op, inputs, output in nodes]
    return make_model(made, {"x": ["N", 4]}, ["y"], stored)


NUMBERS = {
    "single": arithmetic(("Mul", ["x", "c"], "y"), c=np.full(1, 2, np.float32)),
    "infinite": arithmetic(("Add", ["x", "c"], "y"), c=np.array([0, 0, 0, -np.inf], np.float32)),
    "compared": arithmetic(
        ("Greater", ["x", "c"], "t"), ("Where", ["t", "x", "z"], "y"),
        c=np.zeros(4, np.float32), z=np.zeros((), np.float32),
    ),
    "shape": arithmetic(
        ("Shape", ["c"], "t"), ("Reshape", ["x", "t"], "y"), c=np.ones((1, 4), np.float32)
    ),
    "integers": arithmetic(
        ("Cast", ["c"], "t"), ("Reshape", ["x", "t"], "y"), c=np.array([-1, 2], np.float32)
    ),
}  # fmt: skip
NUMBERS["integers"].graph.node[0].attribute.append(helper.make_attribute("to", TensorProto.INT64))


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_are_not_parameters(name: str) -> None:
    assert not names(GraphModule(NUMBERS[name]))


def test_the_scales_of_a_resize_behind_an_identity_are_not_parameters() -> None:
    nodes = [
        helper.make_node("Identity", ["s"], ["t"]),
        helper.make_node("Resize", ["x", "", "t"], ["y"]),
    ]
    scales = {"s": np.array([1, 1, 2, 2], np.float32)}
    assert not names(GraphModule(make_model(nodes, {"x": [1, 3, 4, 4]}, ["y"], scales)))


def test_a_single_number_is_a_parameter_where_it_is_a_bias() -> None:
    assert names(GraphModule(conv_model(weight(1, 3, 1, 1)))) == {"w", "b"}


def test_computed_weights_are_differentiated_through() -> None:
    nodes = [
        helper.make_node("ReduceL2", ["v"], ["n"], axes=[1, 2, 3], keepdims=1),
        helper.make_node("Div", ["v", "n"], ["d"]),
        helper.make_node("Mul", ["d", "g"], ["w"]),
        helper.make_node("Conv", ["x", "w"], ["y"]),
    ]
    stored = {"v": weight(4, 3, 3, 3), "g": weight(4, 1, 1, 1)}
    model = make_model(nodes, {"x": ["N", 3, 8, 8]}, ["y"], stored)
    module = GraphModule(model)
    assert names(module) == {"v", "g"}
    before = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    train_step(module, random_feed(model), rate=1.0)
    assert all((parameter != before[name]).any() for name, parameter in module.named_parameters())
    assert largest_error(module, module.write_back(), random_feed(model)) < 1e-5


def test_any_value_of_the_graph_can_be_asked_for() -> None:
    model = conv_bn_model(weight(4, 3, 3, 3))
    feed = random_feed(model)
    values = GraphModule(model).eval()(feed, ["c", "w"])
    assert list(values) == ["c", "w"]
    assert values["c"].shape == (2, 4, 7, 5)


def test_dropout_drops_in_training_only() -> None:
    node = helper.make_node("Dropout", ["x", "r"], ["y"])
    model = make_model([node], {"x": ["N", 10000]}, ["y"], {"r": np.array(0.25, np.float32)}, opset=13)
    x = np.ones((1, 10000), np.float32)
    module = GraphModule(model)
    torch.manual_seed(0)
    y = module.train()({"x": x})["y"].numpy()
    assert set(np.unique(y)) == {np.float32(0), np.float32(1) / np.float32(0.75)}
    assert abs((y == 0).mean() - 0.25) < 0.02
    np.testing.assert_array_equal(evaluate(module, {"x": x})[0], x)


@pytest.mark.parametrize("dtype", [np.float16, "bfloat16", np.float64])
def test_half_precision_is_float32_here(dtype: str) -> None:
    kind = helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16) if dtype == "bfloat16" else np.dtype(dtype)
    module = GraphModule(conv_model(weight(4, 3, 3, 3, dtype=kind)))
    expected = torch.float64 if dtype == np.float64 else torch.float32
    assert {parameter.dtype for parameter in module.parameters()} == {expected}
    x = np.zeros((1, 3, 11, 13), kind)
    assert module({"x": x})["y"].dtype == expected


def test_known_values_can_be_used_after_a_run_in_inference_mode() -> None:
    model = arithmetic(("Mul", ["x", "c"], "t"), ("Mul", ["t", "v"], "y"),
        c=np.full(1, 2, np.float32), v=weight(4))  # fmt: skip
    module = GraphModule(model)
    with torch.inference_mode():
        module(random_feed(model))
    train_step(module, random_feed(model))


def test_autocast_is_refused_on_the_cpu() -> None:
    module = GraphModule(conv_model(weight(4, 3, 3, 3)), autocast="float16")
    with pytest.raises(UsageError) as error:
        module({"x": np.zeros((1, 3, 11, 13), np.float32)})
    one_line(error, "autocast to float16", "CPU")


def test_autocast_types() -> None:
    with pytest.raises(UsageError) as error:
        GraphModule(conv_model(weight(4, 3, 3, 3)), autocast="int8")
    one_line(error, "float16, bfloat16", "'int8'")


def test_all_missing_operators_are_named_at_once() -> None:
    nodes = [
        *(helper.make_node("NonMaxSuppression", ["x"], [f"n{i}"], f"nms{i}") for i in range(5)),
        helper.make_node("FusedConv", ["x"], ["f"], domain="com.microsoft"),
        helper.make_node("Relu", ["x"], ["y"]),
    ]
    model = arithmetic(("Relu", ["x"], "y"))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    with pytest.raises(ModelError) as error:
        GraphModule(Model(model, name="m.onnx"))
    one_line(error, "m.onnx: 2 operators cannot be trained through", "com.microsoft:FusedConv (node 'f')",
        "NonMaxSuppression (nodes 'nms0', 'nms1', 'nms2' and 2 more)", "cut them off")  # fmt: skip


def test_old_opsets_are_refused() -> None:
    model = conv_model(weight(4, 3, 3, 3))
    model.opset_import[0].version = 6
    with pytest.raises(ModelError) as error:
        GraphModule(model)
    one_line(error, "opset 6", "7 or later", "version_converter")


def test_a_node_that_cannot_be_run_is_named() -> None:
    module = GraphModule(conv_model(weight(4, 3, 3, 3)))
    with pytest.raises(ModelError) as error:
        module({"x": np.zeros((1, 5, 11, 13), np.float32)})
    one_line(error, "Conv 'conv'", "channels")


def test_a_value_that_nothing_computes() -> None:
    model = conv_model(weight(4, 3, 3, 3))
    model.graph.node[0].input[2] = "lost"
    with pytest.raises(ModelError) as error:
        GraphModule(model)({"x": np.zeros((1, 3, 11, 13), np.float32)})
    one_line(error, "Conv 'conv'", "reads 'lost', which is neither stored nor computed")


@pytest.mark.parametrize(
    ("feed", "message"), [({}, "input 'x' is missing"), ({"z": 0}, "has no input 'z', but x")]
)
def test_feeds_have_to_fit(feed: dict[str, int], message: str) -> None:
    with pytest.raises(DataError) as error:
        GraphModule(conv_model(weight(4, 3, 3, 3)))(feed)
    one_line(error, message)


def test_unknown_values() -> None:
    with pytest.raises(DataError) as error:
        GraphModule(conv_model(weight(4, 3, 3, 3)))({"x": np.zeros((1, 3, 11, 13), np.float32)}, ["q"])
    one_line(error, "no value 'q'")


def test_inputs_that_are_no_tensors() -> None:
    model = conv_model(weight(4, 3, 3, 3))
    model.graph.input.append(helper.make_tensor_value_info("s", TensorProto.STRING, [1]))
    with pytest.raises(ModelError) as error:
        GraphModule(model)
    one_line(error, "STRING")


def test_integers_of_indices_stay_integers() -> None:
    node = helper.make_node("Gather", ["table", "x"], ["y"])
    model = make_model([node], {"x": ["N"]}, ["y"], {"table": weight(5, 3)}, dtype=TensorProto.INT64)
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT
    x = np.array([3, -1, 0])
    np.testing.assert_array_equal(evaluate(GraphModule(model), {"x": x})[0], run(model, x=x)[0])


def test_statistics_that_are_computed_stay_as_they_are() -> None:
    norm = constants("bn", 4)
    nodes = [
        helper.make_node("Abs", ["bn_var"], ["v"]),
        helper.make_node("BatchNormalization", ["x", "bn_scale", "bn_bias", "bn_mean", "v"], ["y"]),
    ]
    model = make_model(nodes, {"x": ["N", 4]}, ["y"], norm)
    module = GraphModule(model)
    feed = random_feed(model)
    trained = module.train()(feed)["y"].detach().numpy()
    np.testing.assert_array_equal(trained, evaluate(module, feed)[0])
    assert not module.statistics
