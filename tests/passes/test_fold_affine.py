"""fold_affine: folds where its rules allow it, and nowhere else; outputs and everything else stay."""

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from passes import fold_affine, remove_unused
from tests.builders import (
    Array,
    constants,
    conv_bn_model,
    initializers,
    make_model,
    serialized,
    weight,
)
from tests.pass_checks import (
    applied,
    as_input,
    check_changed,
    check_equal,
    check_external,
    check_ir_3,
    read_in_body,
    with_output,
)

node = helper.make_node

CHANNELS = 6
BN = list(constants("bn", CHANNELS))


def normalized(
    first: NodeProto, weights: Mapping[str, Array], shape: list[int | str], **norm: Any
) -> ModelProto:
    """`y = BatchNormalization(first(x, …))` where `first` computes c."""
    nodes = [first, node("BatchNormalization", ["c", *BN], ["y"], "bn", **norm)]
    return make_model(nodes, {"x": shape}, ["y"], {**weights, **constants("bn", CHANNELS)})


def conv(*shape: int, bias: bool = True, **attributes: Any) -> ModelProto:
    weights = {"w": weight(*shape)} | ({"b": weight(shape[0], seed=3)} if bias else {})
    inputs = ["N", shape[1] * attributes.get("group", 1), *(9, 7, 8)[: len(shape) - 2]]
    return normalized(node("Conv", ["x", *weights], ["c"], "conv", **attributes), weights, inputs)


def gemm(bias: tuple[int, ...] | None = (CHANNELS,), **attributes: Any) -> ModelProto:
    shape = (CHANNELS, 5) if attributes.get("transB") else (5, CHANNELS)
    weights = {"w": weight(*shape)}
    if bias is not None:
        weights["b"] = np.asarray(np.random.default_rng(3).standard_normal(bias), np.float32)
    batch: list[int | str] = [5, 4] if attributes.get("transA") else [4, 5]
    return normalized(node("Gemm", ["x", *weights], ["c"], "gemm", **attributes), weights, batch)


def constant_nodes() -> ModelProto:
    """The weight is an Identity of a Constant node, a parameter of the normalization a Constant node."""
    model = conv(CHANNELS, 3, 3, 3)
    stored = initializers(model)
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in ("w", "bn_mean")]
    nodes = [
        node("Constant", [], ["w0"], value=numpy_helper.from_array(stored["w"])),
        node("Identity", ["w0"], ["w"]),
        node("Constant", [], ["bn_mean"], value=numpy_helper.from_array(stored["bn_mean"])),
        *model.graph.node,
    ]
    return replaced(model, nodes, kept)


def replaced(model: ModelProto, nodes: list[NodeProto], tensors: list[TensorProto]) -> ModelProto:
    nodes, tensors = copy.deepcopy(nodes), copy.deepcopy(tensors)
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(tensors)
    return model


def computed(model: ModelProto, *nodes: NodeProto, **sources: Array) -> ModelProto:
    """Values that were initializers so far are what these nodes compute from others."""
    names = {name for made in nodes for name in made.output}
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in names]
    added = [numpy_helper.from_array(array, source) for source, array in sources.items()]
    return replaced(model, [*nodes, *model.graph.node], kept + added)


def int64(*values: int) -> Array:
    return np.array(values, np.int64)


def transposed(bias: bool = True) -> ModelProto:
    """The weight is stored as `(kH, kW, C, M)`."""
    model = conv(CHANNELS, 3, 3, 3, bias=bias)
    return computed(model, node("Transpose", ["hwio"], ["w"], perm=[3, 2, 0, 1]), hwio=weight(3, 3, 3, 6))


NORM = [
    node("ReduceL2", ["v"], ["length"], axes=[1, 2, 3]),
    node("Div", ["v", "length"], ["direction"]),
    node("Mul", ["direction", "g"], ["w"]),
]
LONG_NORM = [
    node("Constant", [], ["two"], value_float=2.0),
    node("Pow", ["v", "two"], ["squared"]),
    node("ReduceSum", ["squared", "axes"], ["sum"]),
    node("Sqrt", ["sum"], ["length"]),
    *NORM[1:],
]
NORM_SOURCES = {"v": weight(CHANNELS, 3, 3, 3, seed=5), "g": weight(CHANNELS, 1, 1, 1, seed=6)}


def weight_norm(*nodes: NodeProto, **sources: Array) -> ModelProto:
    """`w = g v / ‖v‖`."""
    return computed(conv(CHANNELS, 3, 3, 3), *nodes, **NORM_SOURCES, **sources)


def filled(value: float) -> ModelProto:
    fill = numpy_helper.from_array(np.array([value], np.float32))
    nodes = node("ConstantOfShape", ["shape"], ["w"], value=fill)
    return computed(conv(CHANNELS, 3, 3, 3), nodes, shape=int64(CHANNELS, 3, 3, 3))


def computed_parameters() -> ModelProto:
    """Mean and bias are computed; those of the other parameters are as before."""
    model = computed(conv(CHANNELS, 3, 3, 3), node("Neg", ["minus"], ["bn_mean"]), minus=weight(CHANNELS))
    nodes = [node("Unsqueeze", ["half", "at"], ["b1"]), node("Squeeze", ["b1"], ["b0"])]
    to_float = node("Cast", ["b0"], ["b"], to=TensorProto.FLOAT)
    return computed(model, *nodes, to_float, half=weight(CHANNELS, dtype=np.float16), at=int64(0))


def with_arrays(model: ModelProto, **arrays: Array) -> ModelProto:
    for tensor in model.graph.initializer:
        if tensor.name in arrays:
            tensor.CopyFrom(numpy_helper.from_array(arrays[tensor.name], tensor.name))
    return model


def in_double(model: ModelProto) -> ModelProto:
    """A Conv would do as well, but ONNX Runtime has none for float64."""
    double = {name: array.astype(np.float64) for name, array in initializers(model).items()}
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.DOUBLE
    return with_arrays(model, **double)


FOLDED: dict[str, Callable[[], ModelProto]] = {
    "conv": lambda: conv(CHANNELS, 3, 3, 3),
    "conv without bias": lambda: conv(CHANNELS, 3, 3, 3, bias=False),
    "conv 1d": lambda: conv(CHANNELS, 3, 3),
    "conv 3d": lambda: conv(CHANNELS, 3, 3, 2, 3),
    "grouped conv": lambda: conv(CHANNELS, 2, 3, 3, group=3),
    "depthwise conv": lambda: conv(CHANNELS, 1, 3, 3, group=CHANNELS),
    "conv with attributes": lambda: conv(CHANNELS, 3, 3, 3, strides=[2, 1], pads=[1, 0, 1, 2]),
    "large epsilon": lambda: conv_bn_model(weight(CHANNELS, 3, 3, 3), epsilon=0.25),
    "zero gamma": lambda: with_arrays(conv(CHANNELS, 3, 3, 3), bn_scale=np.zeros(CHANNELS, np.float32)),
    "float64": lambda: in_double(gemm(beta=0.5)),
    "float16": lambda: conv_bn_model(weight(CHANNELS, 3, 3, 3, dtype=np.float16)),
    "constants are nodes": constant_nodes,
    "parameters and bias are computed": computed_parameters,
    "the weight is a Transpose": transposed,
    "the weight is a Transpose, no bias": lambda: transposed(bias=False),
    "the weight is filled with a number": lambda: filled(0.25),
    "the weight is filled with zeros": lambda: filled(0.0),
    "weight norm": lambda: weight_norm(*NORM),
    "weight norm, written out": lambda: weight_norm(*LONG_NORM, axes=int64(1, 2, 3)),
    "the weight is stored in float16": lambda: computed(
        conv(CHANNELS, 3, 3, 3),
        node("Cast", ["half"], ["w"], to=TensorProto.FLOAT),
        half=weight(CHANNELS, 3, 3, 3, dtype=np.float16),
    ),
    "gemm, the weight is a Transpose": lambda: computed(
        gemm(), node("Transpose", ["turned"], ["w"]), turned=weight(CHANNELS, 5)
    ),
    "gemm": gemm,
    "gemm transB": lambda: gemm(transB=1),
    "gemm transA": lambda: gemm(transA=1),
    "gemm alpha beta": lambda: gemm(alpha=0.5, beta=-1.5),
    "gemm alpha beta transA transB": lambda: gemm(alpha=0.5, beta=-1.5, transA=1, transB=1),
    "gemm scalar C": lambda: gemm((), beta=2.0),
    "gemm C (1,)": lambda: gemm((1,)),
    "gemm C (1, 1)": lambda: gemm((1, 1), beta=3.0),
    "gemm C (1, N)": lambda: gemm((1, CHANNELS)),
    "gemm without C": lambda: gemm(None),
    "gemm without C, with beta": lambda: gemm(None, beta=0.5, transB=1),
}


@pytest.mark.parametrize("build", FOLDED.values(), ids=FOLDED.keys())
def test_folded(build: Callable[[], ModelProto]) -> None:
    model = build()
    result = check_changed(fold_affine, model)
    assert [n.op_type for n in result.graph.node] == [model.graph.node[-2].op_type]


@pytest.mark.parametrize("build", FOLDED.values(), ids=FOLDED.keys())
def test_nothing_is_left_of_the_old_weights(build: Callable[[], ModelProto]) -> None:
    model = build()
    result = remove_unused(model, fold_affine(model))
    (linear,) = result.graph.node
    assert sorted(initializers(result)) == sorted(linear.input[1:]) != sorted(model.graph.node[0].input[1:])


def shared_weight() -> ModelProto:
    model = conv(CHANNELS, 3, 3, 3)
    model.graph.node.append(node("Conv", ["x", "w"], ["z"]))
    return with_output(model, "z")


def shared_by_identity() -> ModelProto:
    """Exporters store equal weights once and give them names by Identity nodes."""
    model = conv(CHANNELS, 3, 3, 3)
    nodes = [node("Identity", ["w"], ["w1"]), node("Identity", ["w"], ["w2"]), *model.graph.node]
    nodes[2].input[1] = "w1"
    nodes.append(node("Conv", ["x", "w2"], ["z"]))
    return with_output(replaced(model, nodes, list(model.graph.initializer)), "z")


def read_by_node() -> ModelProto:
    model = conv(CHANNELS, 3, 3, 3)
    model.graph.node.append(node("Neg", ["c"], ["z"]))
    return with_output(model, "z")


def with_node(model: ModelProto, index: int, change: Callable[[NodeProto], Any]) -> ModelProto:
    change(model.graph.node[index])
    return model


def shared_source(shared: str) -> ModelProto:
    """Another Conv's weight is computed from v or g as well, or is v."""
    model = weight_norm(*NORM, u=weight(CHANNELS, 3, 3, 3, seed=8))
    made = {
        "v": node("Mul", ["v", "g2"], ["w2"]),
        "g": node("Mul", ["u", "g"], ["w2"]),
        "w": node("Neg", ["w"], ["w2"]),
    }
    model.graph.initializer.append(numpy_helper.from_array(np.full(1, 2.0, np.float32), "g2"))
    model.graph.node.extend([made[shared], node("Conv", ["x", "w2"], ["z"])])
    return with_output(model, "z")


def computed_from_input(name: str) -> ModelProto:
    """A parameter or weight depends on what the caller gives."""
    model = conv(CHANNELS, 3, 3, 3)
    shape = initializers(model)[name].shape
    model = computed(model, node("Neg", ["given"], [name]))
    model.graph.input.append(helper.make_tensor_value_info("given", TensorProto.FLOAT, shape))
    return model


def not_computable(name: str) -> ModelProto:
    """The expression is not valid: sizes do not agree."""
    to_five = node("Reshape", ["source", "five"], [name])
    return computed(conv(CHANNELS, 3, 3, 3), to_five, source=weight(CHANNELS), five=int64(5))


def in_a_body() -> ModelProto:
    """Conv and BatchNormalization are in the branch of an If."""
    model = conv(CHANNELS, 3, 3, 3)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("y", "e")]
    branch = helper.make_graph(list(model.graph.node), "b", [], values[:1])
    other = helper.make_graph([node("Identity", ["x"], ["e"])], "o", [], values[1:])
    flag = numpy_helper.from_array(np.array(True), "flag")
    chosen = node("If", ["flag"], ["z"], then_branch=branch, else_branch=other)
    model = replaced(model, [chosen], [*model.graph.initializer, flag])
    model.graph.output[0].name = "z"
    return model


def in_a_function() -> ModelProto:
    """A function has them, with all of their constants."""
    model = conv(CHANNELS, 3, 3, 3)
    stored = [node("Constant", [], [t.name], value=t) for t in model.graph.initializer]
    inside = [*stored, *model.graph.node]
    function = helper.make_function("d", "f", ["x"], ["y"], inside, [helper.make_opsetid("", 17)])
    model = replaced(model, [node("f", ["x"], ["y"], domain="d")], [])
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("d", 1))
    return model


def training_mode() -> ModelProto:
    model = normalized(node("Conv", ["x", "w"], ["c"]), {"w": weight(CHANNELS, 3, 3, 3)}, [2, 3, 9, 7])
    model.graph.node[1].output.extend(["running_mean", "running_var"])
    model.graph.node[1].attribute.append(helper.make_attribute("training_mode", 1))
    return model


def opset(model: ModelProto, version: int) -> ModelProto:
    model.opset_import[0].version = version
    return model


def half_overflows() -> ModelProto:
    model = conv_bn_model(weight(CHANNELS, 3, 3, 3, dtype=np.float16))
    return with_arrays(
        model, bn_scale=np.full(CHANNELS, 6e4, np.float16), bn_var=np.full(CHANNELS, 1e-4, np.float16)
    )


LEFT_ALONE: dict[str, Callable[[], ModelProto]] = {
    "the conv's output is an output of the graph": lambda: with_output(conv(CHANNELS, 3, 3, 3), "c"),
    "a body reads the conv's output": lambda: read_in_body(conv(CHANNELS, 3, 3, 3), "c"),
    "another node reads the conv's output": read_by_node,
    "the weight is shared": shared_weight,
    "the weight is shared under two names": shared_by_identity,
    "training mode": training_mode,
    "the source of the weight is shared": lambda: shared_source("v"),
    "the other source of the weight is shared": lambda: shared_source("g"),
    "another weight is computed from the weight": lambda: shared_source("w"),
    "a parameter is computed from an input": lambda: computed_from_input("bn_mean"),
    "the weight is computed from an input": lambda: computed_from_input("w"),
    "the bias is computed from an input": lambda: computed_from_input("b"),
    "a parameter cannot be computed": lambda: not_computable("bn_var"),
    "the weight cannot be computed": lambda: not_computable("w"),
    "the bias cannot be computed": lambda: not_computable("b"),
    "the weight is computed in a wrong shape": lambda: computed(
        conv(CHANNELS, 3, 3, 3), node("Flatten", ["v"], ["w"]), v=weight(CHANNELS + 1, 3, 3, 3)
    ),
    "the weight is computed as integers": lambda: computed(
        gemm(), node("Cast", ["v"], ["w"], to=TensorProto.INT64), v=weight(5, CHANNELS)
    ),
    "in a body": in_a_body,
    "in a function": in_a_function,
    "a parameter is an input": lambda: as_input(conv(CHANNELS, 3, 3, 3), "bn_var"),
    "the weight is an input": lambda: as_input(conv(CHANNELS, 3, 3, 3), "w"),
    "the bias is an input": lambda: as_input(conv(CHANNELS, 3, 3, 3), "b"),
    "gemm's C differs by row": lambda: gemm((4, CHANNELS)),
    "gemm's C is a column": lambda: gemm((4, 1)),
    "gemm's C is an input": lambda: as_input(gemm(), "b"),
    "gemm without C before opset 11": lambda: opset(gemm(None), 10),
    "opset 6": lambda: opset(conv(CHANNELS, 3, 3, 3), 6),
    "spatial = 0 (opset 7)": lambda: opset(
        with_node(
            conv(CHANNELS, 3, 3, 3), 1, lambda n: n.attribute.append(helper.make_attribute("spatial", 0))
        ),
        7,
    ),
    "a node of another domain": lambda: with_node(
        conv(CHANNELS, 3, 3, 3), 0, lambda n: setattr(n, "domain", "com.microsoft")
    ),
    "the result overflows float16": half_overflows,
    "a negative variance": lambda: with_arrays(
        conv(CHANNELS, 3, 3, 3), bn_var=np.full(CHANNELS, -1.0, np.float32)
    ),
    "a parameter has a wrong size": lambda: with_arrays(
        conv(CHANNELS, 3, 3, 3), bn_mean=weight(CHANNELS + 1)
    ),
    "the bias has a wrong size": lambda: with_arrays(conv(CHANNELS, 3, 3, 3), b=weight(CHANNELS - 1)),
    "the weight is a scalar": lambda: with_arrays(conv(CHANNELS, 3, 3, 3), w=np.ones((), np.float32)),
    "no Conv before it": lambda: with_node(
        conv(CHANNELS, CHANNELS, 3, 3), 1, lambda n: n.input.__setitem__(0, "x")
    ),
}


@pytest.mark.parametrize("build", LEFT_ALONE.values(), ids=LEFT_ALONE.keys())
def test_left_alone(build: Callable[[], ModelProto]) -> None:
    model = build()
    assert applied(fold_affine, model) is model


def two_of(first: ModelProto, *nodes: NodeProto, **sources: Array) -> ModelProto:
    """A second Conv and BatchNormalization beside those of the model, with the weight w2."""
    second = [node("Conv", ["x", "w2", "b"], ["c2"]), node("BatchNormalization", ["c2", *BN], ["z"])]
    model = computed(first, *nodes, **sources)
    model.graph.node.extend(second)
    return with_output(model, "z")


def both_folded(model: ModelProto) -> None:
    result = remove_unused(model, applied(fold_affine, model))
    assert [(n.op_type, *n.output) for n in result.graph.node] == [("Conv", "y"), ("Conv", "z")]
    assert len(initializers(result)) == 4
    check_equal(model, result)


def reshaped(name: str, shape: str) -> NodeProto:
    return node("Reshape", [f"{name}_flat", shape], [name])


FLAT = {f"{name}_flat": weight(CHANNELS * 27, seed=i) for i, name in enumerate(("w", "w2"))}
SHAPE = int64(CHANNELS, 3, 3, 3)


def test_weights_of_one_stored_shape() -> None:
    both = reshaped("w", "shape"), reshaped("w2", "shape")
    both_folded(two_of(conv(CHANNELS, 3, 3, 3), *both, **FLAT, shape=SHAPE))


def test_weights_of_one_computed_shape() -> None:
    joined = node("Concat", ["shape", "rest"], ["all"], axis=0)
    both = reshaped("w", "all"), reshaped("w2", "all")
    model = two_of(conv(CHANNELS, 3, 3, 3), joined, *both, **FLAT, shape=SHAPE[:1], rest=SHAPE[1:])
    both_folded(model)


def test_bfloat16() -> None:
    """ONNX Runtime has no Conv for it on the CPU: the formula, in float64, rounded once."""
    model = conv_bn_model(weight(CHANNELS, 3, 3, 3, dtype=ml_dtypes.bfloat16))
    given = {name: array.astype(np.float64) for name, array in initializers(model).items()}
    f = given["bn_scale"] / np.sqrt(given["bn_var"] + np.float64(np.float32(1e-5)))
    result = initializers(fold_affine(model))
    expected = {
        "w_folded": given["w"] * f[:, None, None, None],
        "b_folded": given["b"] * f + given["bn_bias"] - given["bn_mean"] * f,
    }
    for name, array in expected.items():
        assert result[name].dtype == ml_dtypes.bfloat16
        np.testing.assert_allclose(result[name].astype(np.float64), array, rtol=2**-8, atol=1e-12)


def test_external_source_of_a_computed_weight(tmp_path: Path) -> None:
    check_external(fold_affine, transposed(), tmp_path)


def test_one_overflow_leaves_the_other_to_be_folded() -> None:
    model = conv_bn_model(weight(CHANNELS, 3, 3, 3, dtype=np.float16))
    huge = {
        name: np.full(CHANNELS, 6e4 if name == "q_scale" else 1e-4, np.float16) for name in constants("q", 1)
    }
    model.graph.initializer.extend(
        numpy_helper.from_array(a, n) for n, a in {**huge, "v": weight(6, 3, 1, 1, dtype=np.float16)}.items()
    )
    model.graph.node.extend(
        [node("Conv", ["x", "v"], ["d"]), node("BatchNormalization", ["d", *huge], ["z"], "kept")]
    )
    result = applied(fold_affine, model)
    assert [n.output[0] for n in result.graph.node] == ["y", "d", "z"]
    assert serialized(result.graph.node[1:]) == serialized(model.graph.node[2:])


def test_derived_names_that_exist_are_not_taken() -> None:
    model = conv(CHANNELS, 3, 3, 3)
    model.graph.node[0].name = "b_folded"
    model.graph.node.append(node("Relu", ["y"], ["w_folded"]))
    model.graph.node.append(node("Relu", ["w_folded"], ["w_folded_2"]))
    with_output(model, "w_folded_2")
    result = fold_affine(model)
    assert list(result.graph.node[0].input) == ["x", "w_folded_3", "b_folded_2"]
    check_equal(model, result)


def test_shared_bias_and_parameters() -> None:
    model = conv(CHANNELS, 3, 3, 3)
    model.graph.initializer.append(numpy_helper.from_array(weight(CHANNELS, 3, 3, 3, seed=8), "v"))
    model.graph.node.extend(
        [node("Conv", ["x", "v", "b"], ["d"]), node("BatchNormalization", ["d", *BN], ["z"], epsilon=0.1)]
    )
    both_folded(with_output(model, "z"))


def test_ir_3() -> None:
    check_ir_3(fold_affine, conv(CHANNELS, 3, 3, 3))


def test_external_weights(tmp_path: Path) -> None:
    check_external(fold_affine, conv(CHANNELS, 3, 3, 3), tmp_path)


def test_untouched_parts_keep_every_byte() -> None:
    model = conv(CHANNELS, 3, 3, 3)
    model.graph.node.append(node("Relu", ["y"], ["r"], "relu", doc_string="stays"))
    model.graph.node[-1].metadata_props.add(key="node", value="prop")
    model.doc_string, model.producer_name = "a model", "test"
    model.metadata_props.add(key="k", value="v")
    model.graph.value_info.append(helper.make_tensor_value_info("c", TensorProto.FLOAT, None))
    model.graph.quantization_annotation.add(tensor_name="c")
    model.graph.quantization_annotation.add(tensor_name="r")
    model.graph.initializer.append(numpy_helper.from_array(weight(2), "idle"))
    with_output(model, "r")
    result = remove_unused(model, applied(fold_affine, model))
    assert result.graph.node[-1].SerializeToString() == model.graph.node[-1].SerializeToString()
    assert [tensor.name for tensor in result.graph.initializer] == ["idle", "w_folded", "b_folded"]
    assert [a.tensor_name for a in result.graph.quantization_annotation] == ["r"]
    assert [value.name for value in result.graph.value_info] == []
    expected = copy.deepcopy(model)
    for proto in (expected, result):
        for name in ("node", "initializer", "value_info", "quantization_annotation"):
            proto.graph.ClearField(name)
    assert result.SerializeToString(deterministic=True) == expected.SerializeToString(deterministic=True)
