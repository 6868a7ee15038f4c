"""Exports of one network: the same function, the same optimum; and every fault is found where it is."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import onnxlr
from onnxlr.comparing.walking import Walk
from tests.builders import make_model, weight
from tests.comparing.exports import (
    LAYERS,
    NAMES,
    Fault,
    drop_batchnorm,
    export,
    perturb,
    swap_pads,
)

REFERENCE = "torch_dynamo"


@cache
def whole() -> onnxlr.Comparison:
    """All exports, untouched, and optimized."""
    options = onnxlr.CompareOptions(latency_seconds=0)
    names = [REFERENCE, *(name for name in NAMES if name != REFERENCE)]
    return onnxlr.compare([export(name) for name in names], options, optimized={"energy": 0.9})


def test_every_exporter_is_there() -> None:
    assert len(NAMES) >= 6
    assert {"jax2onnx", "keras_torch", "tf2onnx", "torch_dynamo", "torch_ts"} <= set(NAMES)


def test_all_are_the_same_function() -> None:
    found = whole()
    assert found.same
    assert len(found.groups) == 1
    assert len(found.pairs) == len(NAMES) * (len(NAMES) - 1) // 2
    assert all(output.rel_l2 <= 1e-4 for pair in found.pairs for output in pair.outputs)


def test_every_layer_is_matched_by_its_weights() -> None:
    for walk in whole().walks:
        assert [layer.matched_by for layer in walk.layers] == ["weights"] * len(LAYERS)
        assert not walk.first_left + walk.other_left
        assert walk.divergence is None
        assert all(layer.rel_l2 is not None and layer.rel_l2 < 1e-5 for layer in walk.layers)
        assert all(layer.weight_error < 1e-5 for layer in walk.layers)


def test_all_are_optimized_alike() -> None:
    optimized = whole().optimized
    assert optimized is not None
    first = optimized[0]
    assert len(first.layers) >= 3
    for item in optimized:
        assert item.same_as_first, item.differences
        assert [(layer.scheme, layer.rank) for layer in item.layers] == [
            (layer.scheme, layer.rank) for layer in first.layers
        ]
        for size in ("params", "macs"):
            after, expected = getattr(item.totals, size).after, getattr(first.totals, size).after
            assert after == pytest.approx(expected, rel=0.01)
        assert item.rel_l2 == pytest.approx(first.rel_l2, rel=1e-3)
        assert item.differences == ()


def located(walk: Walk) -> str | None:
    """The layer behind which a walk finds the first difference, as the network calls it."""
    names = [layer.name for layer in walk.layers]
    return None if walk.divergence is None else LAYERS[names.index(walk.divergence.name)]


PADS = "pads 0,0,1,1 against 1,1,0,0"
SHARED = "torch_ts_preserve"
"""Has one constant for both Pads."""

FAULTS: list[tuple[str, Fault, int, str, str]] = [
    *((name, perturb, 4096, "conv6", "weights differ by") for name in NAMES),
    *((name, perturb, 36864, "conv7", "weights differ by") for name in NAMES),
    *((name, swap_pads, 0, "conv2", PADS) for name in NAMES if name != "keras_torch"),  # computed there
    *((name, swap_pads, 1, "conv7", PADS) for name in NAMES if name not in ("keras_torch", SHARED)),
    *(
        (name, drop_batchnorm, i, f"conv{i + 1}", "a BatchNormalization is missing")
        for name in ("jax2onnx", "paddle", "torch_ts_preserve")
        for i in (0, 2, 5)
    ),
]


@pytest.mark.parametrize(
    ("name", "fault", "where", "layer", "reason"),
    FAULTS,
    ids=[f"{name}-{fault.__name__}-{layer}" for name, fault, _, layer, _ in FAULTS],
)
def test_faults_are_located(name: str, fault: Fault, where: int, layer: str, reason: str) -> None:
    broken = export(name)
    fault(broken, where)
    found = onnxlr.compare([export(REFERENCE), broken])
    assert not found.same
    (walk,) = found.walks
    assert located(walk) == layer
    assert walk.divergence is not None
    assert any(line.startswith(reason) or reason in line for line in walk.divergence.reasons)
    assert walk.divergence.input_rel_l2 is not None
    assert walk.divergence.input_rel_l2 < 1e-4


def test_the_fault_is_found_from_either_side() -> None:
    broken = export("jax2onnx")
    drop_batchnorm(broken, 3)
    walks = onnxlr.compare([broken, export("tf2onnx"), export("paddle")]).walks
    assert [located(walk) for walk in walks] == ["conv4", "conv4"]


def test_original_and_optimized() -> None:
    """A chain is matched to the layer that it replaced, whichever of the two comes first."""
    original = export("tf2onnx")
    result = onnxlr.optimize(original, energy=0.9, checks=None)
    replaced = {layer.name for layer in result.plan.layers}
    forth = onnxlr.compare([original, result.model], onnxlr.CompareOptions(tolerance=0.9))
    assert forth.same
    (walk,) = forth.walks
    assert not walk.first_left + walk.other_left
    assert {layer.name for layer in walk.layers if layer.matched_by == "chain"} == replaced
    for layer in walk.layers:
        if layer.matched_by == "chain":
            assert len(layer.others) >= 2
            assert all(other.startswith(f"{layer.name}_lr") for other in layer.others)
            assert layer.weight_error < 0.5
    (back,) = onnxlr.compare([result.model, original], onnxlr.CompareOptions(tolerance=0.9)).walks
    assert not back.first_left + back.other_left
    assert {layer.others[0] for layer in back.layers if layer.matched_by == "chain"} == replaced


def test_half_precision_and_a_fixed_batch() -> None:
    """Inputs are cast and cut; the tolerance is wider."""
    half = export("torch_ts")
    for tensor in half.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            array = numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    for value in (*half.graph.input, *half.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
        value.type.tensor_type.shape.dim[0].dim_value = 3
    found = onnxlr.compare([export("jax2onnx"), half])
    assert found.same
    assert found.pairs[0].tolerance == pytest.approx(2e-2)
    assert 1e-6 < found.pairs[0].outputs[0].rel_l2 < 1e-2
    assert [layer.matched_by for layer in found.walks[0].layers] == ["weights"] * len(LAYERS)
    back = onnxlr.compare([half, export("jax2onnx")])
    assert back.same
    assert back.samples == 3


def test_channels_in_another_order() -> None:
    """Output channels of one layer permuted, and the inputs of the next one with them."""
    model = export("torch_dynamo")
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    order = np.random.default_rng(0).permutation(16)
    for name, axis in (("conv1.weight", 0), ("conv1.weight_bias", 0), ("conv2.weight", 1)):
        array = np.take(numpy_helper.to_array(tensors[name]), order, axis)
        tensors[name].CopyFrom(numpy_helper.from_array(array, name))
    found = onnxlr.compare([export(REFERENCE), model])
    assert found.same
    (walk,) = found.walks
    assert walk.divergence is None
    assert [layer.matched_by for layer in walk.layers] == ["weights"] * len(LAYERS)


def test_a_difference_behind_the_last_layer() -> None:
    model = export("torch_ts")
    model.graph.node[-1].output[0] = "before"
    model.graph.node.append(helper.make_node("Softmax", ["before"], ["logits"]))
    found = onnxlr.compare([export(REFERENCE), model])
    assert not found.same
    assert found.walks[0].divergence is None


def test_inputs_without_samples() -> None:
    """A number and a matrix beside the images: they are never cut."""
    nodes = [
        helper.make_node("Mul", ["x", "factor"], ["scaled"]),
        helper.make_node("MatMul", ["scaled", "matrix"], ["y"]),
    ]
    inputs = {"x": ("N", 5), "factor": (), "matrix": (5, 4)}
    models = [make_model(nodes, inputs, ["y"], {}) for _ in range(2)]
    models[1].graph.input[0].type.tensor_type.shape.dim[0].dim_value = 3
    for pair in (models, models[::-1]):
        assert onnxlr.compare(pair).same


def test_weights_that_are_not_finite() -> None:
    broken = export("torch_ts")
    (tensor,) = [tensor for tensor in broken.graph.initializer if list(tensor.dims) == [64, 1, 3, 3]]
    array = numpy_helper.to_array(tensor).copy()
    array[5] = np.nan
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    found = onnxlr.compare([export(REFERENCE), broken])
    assert not found.same
    assert located(found.walks[0]) == "conv5"
    assert found.walks[0].divergence is not None
    assert found.walks[0].divergence.reasons == ("weights are not finite",)
    assert onnxlr.compare([broken, broken]).same


def test_a_dense_layer_as_a_conv() -> None:
    gemm = make_model(
        [helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)], {"x": ("N", 6)}, ["y"], {"w": weight(4, 6)}
    )
    nodes = [
        helper.make_node("Reshape", ["x", "s"], ["r"]),
        helper.make_node("Conv", ["r", "w"], ["c"]),
        helper.make_node("Flatten", ["c"], ["y"]),
    ]
    stored = {"w": weight(4, 6).reshape(4, 6, 1, 1), "s": np.array([-1, 6, 1, 1])}
    conv = make_model(nodes, {"x": ("N", 6)}, ["y"], stored)
    (walk,) = onnxlr.compare([gemm, conv]).walks
    assert [
        (layer.matched_by, layer.rel_l2 is not None and layer.rel_l2 < 1e-6) for layer in walk.layers
    ] == [("weights", True)]


def segmenter(last: bool) -> ModelProto:
    """Two outputs, images and classes of their pixels; with the channels last there are Transposes."""
    first, back = {"perm": [0, 3, 1, 2]}, {"perm": [0, 2, 3, 1]}
    nodes = [
        *([helper.make_node("Transpose", ["x"], ["t"], **first)] if last else []),
        helper.make_node("Conv", ["t" if last else "x", "w"], ["c"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["c", "v"], ["scores" if last else "map"], "head"),
        *([helper.make_node("Transpose", ["scores"], ["map"], **back)] if last else []),
        helper.make_node("ArgMax", ["map"], ["class"], axis=3 if last else 1, keepdims=0),
    ]
    shape = ("N", 12, 16, 3) if last else ("N", 3, 12, 16)
    weights = {"w": weight(8, 3, 3, 3), "v": weight(5, 8, 1, 1)}
    model = make_model(nodes, {"x": shape}, ["map"], weights)
    info = helper.make_tensor_value_info("class", TensorProto.INT64, ["N", 12, 16])
    model.graph.output.append(info)
    return model


def test_outputs_with_channels_last_and_whole_numbers() -> None:
    found = onnxlr.compare([segmenter(False), segmenter(True)])
    assert found.same
    assert [port.perms[1] for port in found.ports] == [(0, 2, 3, 1), (0, 2, 3, 1), None]
    assert {output.name for output in found.pairs[0].outputs} == {"map", "class"}
    assert [layer.matched_by for layer in found.walks[0].layers] == ["weights", "weights"]
