"""Exports of one network: the same function, the same optimum; and every fault is found where it is."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxlr
from onnxlr.comparing.walking import Walk
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
