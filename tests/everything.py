"""One model that uses every field of the ONNX format, around one Conv that can be rewritten."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import numpy as np
from onnx import (
    AttributeProto,
    FunctionProto,
    GraphProto,
    ModelProto,
    NodeProto,
    SparseTensorProto,
    TensorProto,
    TrainingInfoProto,
    TypeProto,
    ValueInfoProto,
    helper,
    numpy_helper,
)

from tests.builders import weight

__all__ = ["branch", "everything"]

IR_VERSION, OPSET = 11, 23
CUSTOM = "com.example.custom"
LOCAL = "com.example.local"
OPSETS = {"": OPSET, CUSTOM: 7, LOCAL: 1, "ai.onnx.ml": 5}

Noted = TypeVar("Noted", ModelProto, GraphProto, NodeProto, ValueInfoProto, TensorProto, FunctionProto)


def noted(message: Noted) -> Noted:
    """The message with a doc string and two metadata_props."""
    label = f"{type(message).__name__} {getattr(message, 'name', '')}"
    message.doc_string = f"Doc of {label}\nin two lines, with ‖σ‖."
    message.metadata_props.add(key="namespace", value=label)
    message.metadata_props.add(key="empty", value="")
    return message


def node(op: str, inputs: Iterable[str], outputs: Iterable[str], name: str = "", **more: Any) -> NodeProto:
    return noted(helper.make_node(op, [*inputs], [*outputs], name, **more))


def value(
    name: str, shape: Sequence[int | str] = ("N", 8, 9, "W"), dtype: int = TensorProto.FLOAT
) -> ValueInfoProto:
    return noted(helper.make_tensor_value_info(name, dtype, shape))


def dense(name: str, *shape: int) -> TensorProto:
    return noted(numpy_helper.from_array(weight(*shape, seed=len(name)), name))


def sparse(name: str) -> SparseTensorProto:
    """Three entries of a 4 × 5 matrix."""
    return helper.make_sparse_tensor(
        dense(name, 3), numpy_helper.from_array(np.array([1, 8, 19]), f"{name}_indices"), [4, 5]
    )


def tensors() -> list[TensorProto]:
    """Every type of elements: in its typed field and, but for strings, as raw bytes."""
    found = []
    for name, data_type in TensorProto.DataType.items():
        if name == "UNDEFINED":
            continue
        data: list[Any] = [b"a", b"", b"\xff\x00"] if name == "STRING" else [1, 0, 1]
        found.append(noted(helper.make_tensor(f"typed_{name}", data_type, [3], data)))
        if name != "STRING":
            array = np.array(data).astype(helper.tensor_dtype_to_np_dtype(data_type))
            found.append(noted(numpy_helper.from_array(array, f"raw_{name}")))
    return found


def odd_tensor() -> TensorProto:
    """What hardly any file has: a part of a larger tensor, with the default location spelled out."""
    tensor = noted(helper.make_tensor("idle_weight", TensorProto.FLOAT, [5], range(5)))
    tensor.segment.begin, tensor.segment.end = 0, 5
    tensor.data_location = TensorProto.DEFAULT
    return tensor


def kinds() -> list[ValueInfoProto]:
    """Values of every kind of type; the last one is of a value that is nowhere."""
    tensor = helper.make_tensor_type_proto(TensorProto.FLOAT, ["N", 3, None])
    tensor.tensor_type.shape.dim[0].denotation = "DATA_BATCH"
    tensor.tensor_type.shape.dim[1].denotation = "DATA_CHANNEL"
    tensor.denotation = "IMAGE"
    opaque = TypeProto(opaque_type=TypeProto.Opaque(domain=CUSTOM, name="Handle"))
    types = {
        "tensor": tensor,
        "sequence": helper.make_sequence_type_proto(tensor),
        "optional": helper.make_optional_type_proto(helper.make_sequence_type_proto(tensor)),
        "map": helper.make_map_type_proto(TensorProto.INT64, tensor),
        "sparse": helper.make_sparse_tensor_type_proto(TensorProto.FLOAT, [4, "M"]),
        "opaque": opaque,
        "unknown": TypeProto(),
        "ghost": helper.make_tensor_type_proto(TensorProto.INT4, [77]),
    }
    return [noted(helper.make_value_info(name, kind)) for name, kind in types.items()]


def attributes() -> list[AttributeProto]:
    """Every kind of attribute."""
    kind = helper.make_tensor_type_proto(TensorProto.FLOAT, [1])
    values: dict[str, Any] = {
        "f": 0.1,
        "i": -3,
        "s": b"bytes \xff",
        "t": dense("attribute_tensor", 3),
        "g": branch("attribute_body"),
        "sparse_tensor": sparse("attribute_sparse"),
        "tp": kind,
        "floats": [0.1, 0.2],
        "ints": [1, 2],
        "strings": [b"a", b""],
        "tensors": [dense("first", 2), dense("second", 2)],
        "graphs": [branch("first_body"), branch("second_body")],
        "sparse_tensors": [sparse("sparse_1"), sparse("sparse_2")],
        "type_protos": [kind, TypeProto()],
    }
    return [helper.make_attribute(name, value, f"Doc of {name}") for name, value in values.items()]


def branch(name: str) -> GraphProto:
    """A body with initializers of its own, that reads the outer `r` as well."""
    nodes = [
        node("Mul", ["r", f"{name}_w"], [f"{name}_h"], "same"),
        node("Identity", [f"{name}_h"], [f"{name}_y"]),
    ]
    graph = helper.make_graph(
        nodes,
        name,
        [],
        [value(f"{name}_y")],
        [dense(f"{name}_w", 1), dense(f"{name}_idle", 2)],
        value_info=[value(f"{name}_h", [9])],
        sparse_initializer=[sparse(f"{name}_sparse")],
    )
    annotate(graph, f"{name}_h")
    return noted(graph)


def annotate(graph: GraphProto, name: str) -> None:
    entry = graph.quantization_annotation.add(tensor_name=name)
    entry.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value=f"{name}_scale")


def function(overload: str) -> FunctionProto:
    """`F(x)` of one overload: an attribute without a default, one with, a stored tensor and a body."""
    op = {"halves": "Mul", "adds": "Add"}[overload]
    constant = node("Constant", [], ["c"], "same")
    constant.attribute.append(helper.make_attribute("value", dense("function_constant", 1)))
    scaled = node("Elu", ["p"], ["q"], "")
    scaled.attribute.append(AttributeProto(name="alpha", ref_attr_name="alpha", type=AttributeProto.FLOAT))
    made = helper.make_function(
        LOCAL,
        "F",
        ["x"],
        ["q"],
        [constant, node(op, ["x", "c"], ["p"], "same"), scaled],
        [helper.make_opsetid("", OPSET)],
        ["required"],
        [helper.make_attribute("alpha", 0.5)],
        overload=overload,
        value_info=[value("p", ["N"])],
    )
    return noted(made)


def training() -> TrainingInfoProto:
    """Steps that set and update the initializer `w2`."""
    info = TrainingInfoProto()
    start = helper.make_graph([node("Identity", ["start"], ["w2_0"])], "start", [], [value("w2_0")])
    start.initializer.append(dense("start", 8, 8, 1, 1))
    step = helper.make_graph([node("Neg", ["w2"], ["w2_1"])], "step", [], [value("w2_1")])
    info.initialization.CopyFrom(noted(start))
    info.algorithm.CopyFrom(noted(step))
    info.initialization_binding.add(key="w2", value="w2_0")
    info.update_binding.add(key="w2", value="w2_1")
    return info


def place(target: NodeProto, name: str) -> None:
    """Say on which device a node runs, and how its value `name` is split."""
    placed = target.device_configurations.add(configuration_id="two", pipeline_stage=1)
    spec = placed.sharding_spec.add(tensor_name=name, device=[0, -1])
    spec.index_to_device_group_map.add(key=-1, value=[0, 1])
    for size in ({"dim_value": 8}, {"dim_param": "N"}):
        spec.sharded_dim.add(axis=0).simple_sharding.add(num_shards=2, **size)


def nodes() -> list[NodeProto]:
    conv = node("Conv", ["x", "w", "b"], ["c"], "conv", pads=[1, 1, 1, 1])
    relu = node("Relu", ["c"], ["r"], "same")
    for placed, name in ((conv, "w"), (relu, "c")):
        place(placed, name)
    mystery = node("Mystery", ["r", "", "raw_INT4"], ["m", "", "m2"], "mystery", domain=CUSTOM)
    mystery.attribute.extend(attributes())
    bodies = {"then_branch": branch("then"), "else_branch": branch("else")}
    calls = [
        node("F", ["r"], [f"f_{name}"], "same", domain=LOCAL, overload=name, required=1)
        for name in ("halves", "adds")
    ]
    return [
        node("Constant", [], ["never_read"], "", value_floats=[0.5]),
        conv,
        relu,
        mystery,
        *calls,
        node("If", ["flag"], ["i"], "", **bodies),
        node("SequenceConstruct", ["r", "c"], ["seq"]),
        node("Optional", ["seq"], ["maybe"]),
        node("Conv", ["r", "w2"], ["y"], "left alone"),
    ]


def graph() -> GraphProto:
    image = value("x", ["N", 16, 9, "W"])
    image.type.denotation = "IMAGE"
    for dim, name in zip(image.type.tensor_type.shape.dim, ("BATCH", "CHANNEL"), strict=False):
        dim.denotation = f"DATA_{name}"
    made = helper.make_graph(
        nodes(),
        "everything",
        [image, value("flag", [], TensorProto.BOOL), value("idle", [3]), *kinds()[:4]],
        [value("y"), value("i"), value("f_halves"), value("f_adds"), value("m")],
        [
            odd_tensor(),
            dense("w", 8, 16, 3, 3),
            *tensors(),
            dense("b", 8),
            dense("w2", 8, 8, 1, 1),
        ],
        value_info=[value("w", [8, 16, 3, 3]), value("c", ["N", 8, 99, 99]), *kinds()[4:]],
        sparse_initializer=[sparse("sparse_weight")],
    )
    for name in ("c", "w", "r"):
        annotate(made, name)
    return noted(made)


def everything() -> ModelProto:
    """The model; only its node `conv` has a name that `^conv$` finds."""
    model = helper.make_model(
        graph(),
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid(domain, version) for domain, version in OPSETS.items()],
        producer_name="nobody",
        producer_version="0.0.1-α",
        domain="com.example",
        model_version=-7,
        functions=[function("halves"), function("adds")],
    )
    model.training_info.append(training())
    model.configuration.add(name="two", num_devices=2, device=["first", "second"])
    return noted(model)
