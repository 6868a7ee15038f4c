"""infer_values: types from the inputs alone, through constant expressions, in bodies, of any size."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper

from passes import ValueType, infer_values
from tests.builders import conv_model, make_model, weight

node = helper.make_node


def test_types_and_dimensions() -> None:
    nodes = [node("Cast", ["x"], ["half"], to=TensorProto.FLOAT16), node("Shape", ["half"], ["y"])]
    values = infer_values(make_model(nodes, {"x": ["N", 3]}, ["y"], {}))
    assert values["", "half"] == ValueType(TensorProto.FLOAT16, (None, 3))
    assert values["", "y"] == ValueType(TensorProto.INT64, (2,))


def test_stored_tensors_small_and_large_have_their_type() -> None:
    values = infer_values(conv_model(weight(64, 8, 3, 3)))
    assert values["", "w"] == ValueType(TensorProto.FLOAT, (64, 8, 3, 3))
    assert values["", "b"] == ValueType(TensorProto.FLOAT, (64,))


def test_stale_value_info_is_not_trusted() -> None:
    model = make_model([node("Relu", ["x"], ["t"]), node("Neg", ["t"], ["y"])], {"x": [2, 3]}, ["y"], {})
    model.graph.value_info.append(helper.make_tensor_value_info("t", TensorProto.DOUBLE, [7]))
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 9
    values = infer_values(model)
    assert values["", "t"] == values["", "y"] == ValueType(TensorProto.FLOAT, (2, 3))


def test_symbolic_dimensions_stay_open_unless_they_are_given() -> None:
    model = conv_model(weight(8, 4, 3, 3), ("H", 9))
    assert infer_values(model)["", "y"].dims == (None, 8, None, 7)
    assert infer_values(model, input_dims={"x": (2, None, 5, None)})["", "y"].dims == (2, 8, 3, 7)


def test_a_value_of_unknown_rank_has_no_dimensions() -> None:
    model = make_model([node("Relu", ["x"], ["y"])], {"x": [1]}, ["y"], {})
    model.graph.input[0].type.tensor_type.ClearField("shape")
    assert infer_values(model)["", "x"] == ValueType(TensorProto.FLOAT, None)


def test_bodies_are_known_by_their_paths() -> None:
    value = helper.make_tensor_value_info
    body = helper.make_graph([node("Neg", ["x"], ["t"])], "b", [], [value("t", TensorProto.FLOAT, None)])
    model = make_model(
        [node("If", ["c"], ["y"], then_branch=body, else_branch=body)],
        {"x": [2, 3]},
        ["y"],
        {"c": np.array(True)},
    )
    assert infer_values(model)["/y[0]", "t"].dims == (2, 3)


def test_a_failing_inference_still_tells_the_inputs() -> None:
    model = make_model([node("Relu", ["x"], ["y"])], {"x": [2, 3]}, ["y"], {})
    model.graph.node[0].domain = "unheard.of"
    failures: list[Exception] = []
    values = infer_values(model, on_failure=failures.append)
    assert len(failures) == 1
    assert values == {("", "x"): ValueType(TensorProto.FLOAT, (2, 3))} == infer_values(model)


def test_a_large_constant_node_is_declared_and_not_copied() -> None:
    """Its bytes lie in a file that is not there, and are not missed."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[50000, 50000])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="missing.bin")
    model = make_model([node("Relu", ["x"], ["y"])], {"x": [3, 50000]}, ["y"], {})
    del model.graph.node[:]
    model.graph.node.extend([node("Constant", [], ["w"], value=tensor), node("MatMul", ["x", "w"], ["y"])])
    assert infer_values(model)["", "y"].dims == (3, 50000)


def test_the_model_is_left_alone() -> None:
    model = conv_model(weight(8, 4, 3, 3))
    model.graph.value_info.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, [1]))
    before = model.SerializeToString(deterministic=True)
    infer_values(model, input_dims={"x": (3, None, None, None)})
    assert model.SerializeToString(deterministic=True) == before


def test_constant_expressions_are_seen_through() -> None:
    nodes = [
        node("Cast", ["narrow"], ["pads"], to=TensorProto.INT64),
        node("Pad", ["x", "pads"], ["y"]),
    ]
    narrow = np.array([0, 1, 0, 2], np.int32)
    model = make_model(nodes, {"x": [2, 3]}, ["y"], {"narrow": narrow})
    assert infer_values(model)["", "y"].dims == (2, 6)
    assert infer_values(model)["", "pads"] == ValueType(TensorProto.INT64, (4,))
