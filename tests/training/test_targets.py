"""Weights of planned layers are found: their chain computes the nearest weight of its rank, first to last."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra onnxlr[train]")

from onnx import ModelProto, NodeProto, helper, numpy_helper

import onnxlr
from onnxlr.errors import ModelError
from onnxlr.factorization import compose, nearest
from onnxlr.job import Job
from onnxlr.model_file import load
from onnxlr.parallel import no_progress
from onnxlr.plan import BeforeAfter, PlannedLayer
from onnxlr.replacement import Replacement
from onnxlr.schemes import Rank, all_schemes
from onnxlr.training import GraphModule
from onnxlr.training.methods import Target
from onnxlr.training.targets import find_targets
from tests.builders import (
    Array,
    constants,
    conv_model,
    gemm_model,
    left_gemm_model,
    make_model,
    matmul_model,
    one_line,
    relative_error,
    weight,
)

W = weight(16, 12, 3, 3)


def planned(name: str, scheme: str, rank: Rank) -> PlannedLayer:
    nothing = BeforeAfter(None, None)
    return PlannedLayer(name, "", (), scheme, rank, nothing, nothing, 0.0, 0.0)


def plan_of(job: Job, *layers: PlannedLayer) -> onnxlr.Plan:
    return onnxlr.Plan(job.identity, {}, layers, ())


def prepared(
    model: ModelProto, *layers: PlannedLayer
) -> tuple[ModelProto, ModelProto, Sequence[Replacement]]:
    """The model as layers are found in it, the plan applied, and what it replaces."""
    job = Job(load(model), {}, 1, no_progress)
    plan = plan_of(job, *layers)
    return job.prepared.proto, job.apply(plan).proto, job.replacements(plan)


def with_normalization(model: ModelProto, channels: int) -> ModelProto:
    """A BatchNormalization behind all, which gives the output in its place."""
    result, norm = ModelProto(), constants("bn", channels)
    result.CopyFrom(model)
    (last,) = (node for node in result.graph.node if node.output[0] == "y")
    last.output[0] = "before"
    result.graph.node.append(helper.make_node("BatchNormalization", ["before", *norm], ["y"], "bn"))
    result.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in norm.items())
    return result


CASES: dict[str, tuple[ModelProto, str, Rank]] = {
    "spatial": (conv_model(W, pads=[1] * 4), "spatial", (7,)),
    "channel-out": (conv_model(W, strides=[2, 2]), "channel-out", (5,)),
    "channel-in": (conv_model(W), "channel-in", (5,)),
    "group-2": (conv_model(W), "group-2", (3,)),
    "tucker2": (conv_model(W, pads=[1] * 4), "tucker2", (5, 7)),
    "grouped": (conv_model(weight(16, 6, 3, 3), group=2), "tucker2", (3, 5)),
    "grouped pair": (conv_model(weight(16, 6, 3, 3), group=2), "spatial", (3,)),
    "three axes": (conv_model(weight(6, 5, 3, 3, 3), size=(5, 6, 7)), "spatial", (4, 5)),
    "up": (conv_model(weight(12, 16, 3, 3), op="ConvTranspose", strides=[2, 2]), "channel-out", (5,)),
    "up, grouped": (conv_model(weight(12, 8, 3, 3), op="ConvTranspose", group=2), "tucker2", (3, 5)),
    "gemm": (gemm_model(weight(24, 16), weight(16)), "channel-out", (5,)),
    "gemm, turned": (gemm_model(weight(16, 24), weight(16), transB=1), "channel-out", (5,)),
    "gemm, left": (left_gemm_model(weight(16, 24)), "channel-out", (5,)),
    "matmul": (matmul_model(["x", "w"], ["N", 3, 24], weight(24, 16)), "channel-out", (5,)),
    "matmul, left": (matmul_model(["w", "x"], [24, 3], weight(16, 24)), "channel-out", (5,)),
}


def composed(target: Target) -> Array:
    """The one weight that a chain computes."""
    factors = [weight.read() for weight in target.weights]
    links = [weight.conv for weight in target.weights]
    return compose(factors, links, target.conv.group).reshape(target.conv.weight_shape)


@pytest.mark.parametrize("is_normalized", [False, True], ids=["alone", "normalized"])
@pytest.mark.parametrize("case", CASES)
def test_a_chain_is_found(case: str, is_normalized: bool) -> None:
    model, scheme, rank = CASES[case]
    _, factorized, replacements = prepared(model, planned(node_name(model), scheme, rank))
    if is_normalized:
        factorized = with_normalization(factorized, channels_of(model))
    student = GraphModule(factorized)
    (target,) = find_targets(student, replacements, is_factorized=True)
    (item,) = replacements
    assert (target.name, target.rank, target.conv) == (item.layer.name, rank, item.layer.conv)
    assert target.scheme is all_schemes()[scheme]
    assert [weight.conv.weight_shape for weight in target.weights] == [x.weight_shape for x in item.links]
    expected, error = nearest(item.layer.conv, item.layer.read_weight(), target.scheme, rank)
    assert relative_error(expected, composed(target)) < 1e-6
    assert error > 1e-3  # else any weight would do
    of_student = {id(parameter) for parameter in student.parameters()}
    assert all(id(weight.parameter) in of_student for weight in target.weights)


def node_name(model: ModelProto) -> str:
    return str(model.graph.node[0].name)


def channels_of(model: ModelProto) -> int:
    return int(model.graph.output[0].type.tensor_type.shape.dim[1].dim_value)


@pytest.mark.parametrize("is_normalized", [False, True], ids=["alone", "normalized"])
@pytest.mark.parametrize("case", CASES)
def test_a_whole_layer_is_found(case: str, is_normalized: bool) -> None:
    model, scheme, rank = CASES[case]
    whole, _, replacements = prepared(model, planned(node_name(model), scheme, rank))
    student = GraphModule(with_normalization(whole, channels_of(model)) if is_normalized else whole)
    (target,) = find_targets(student, replacements, is_factorized=False)
    (found,) = target.weights
    (item,) = replacements
    assert found.parameter is max(student.parameters(), key=lambda parameter: parameter.numel())
    assert np.array_equal(found.read(), item.layer.read_weight())
    assert found.tensor.shape == item.layer.conv.weight_shape


@pytest.mark.parametrize("case", CASES)
def test_writing_is_the_inverse_of_reading(case: str) -> None:
    model, scheme, rank = CASES[case]
    whole, _, replacements = prepared(model, planned(node_name(model), scheme, rank))
    (target,) = find_targets(GraphModule(whole), replacements, is_factorized=False)
    (found,) = target.weights
    stored = found.parameter.detach().numpy().copy()
    array = weight(*found.conv.weight_shape, seed=5)
    found.write(array)
    assert np.array_equal(found.read(), array)
    found.write(2 * found.layout.load(stored, found.conv))
    assert np.array_equal(found.parameter.detach().numpy(), 2 * stored)


def test_gradients_reach_the_parameter() -> None:
    model, scheme, rank = CASES["up, grouped"]
    whole, _, replacements = prepared(model, planned(node_name(model), scheme, rank))
    (target,) = find_targets(GraphModule(whole), replacements, is_factorized=False)
    (found,) = target.weights
    (found.tensor**3).sum().backward()
    stored = found.parameter.detach().numpy()
    np.testing.assert_allclose(found.parameter.grad, 3 * stored**2, rtol=1e-6)


def twice() -> ModelProto:
    """Two Convs of one weight, and one of its own."""

    def conv(i: int, x: str, w: str, y: str) -> NodeProto:
        return helper.make_node("Conv", [x, w], [y], f"conv{i}", pads=[1] * 4)

    nodes = [conv(0, "x", "w", "a"), conv(1, "a", "w", "b"), conv(2, "b", "v", "y")]
    weights = {"w": weight(12, 12, 3, 3), "v": weight(12, 12, 3, 3, seed=1)}
    return make_model(nodes, {"x": ["N", 12, 9, 9]}, ["y"], weights)


@pytest.mark.parametrize("is_factorized", [False, True])
def test_a_shared_weight_counts_once(is_factorized: bool) -> None:
    layers = [planned(f"conv{i}", "spatial", (5,)) for i in range(3)]
    whole, factorized, replacements = prepared(twice(), *layers)
    targets = find_targets(GraphModule(factorized if is_factorized else whole), replacements, is_factorized)
    assert [target.name for target in targets] == ["conv0", "conv2"]


def test_no_layers() -> None:
    assert find_targets(GraphModule(twice()), [], is_factorized=True) == []


def renamed(model: ModelProto) -> ModelProto:
    result = ModelProto()
    result.CopyFrom(model)
    for node in result.graph.node:
        node.output[:] = [f"other_{name}" for name in node.output]
    result.graph.output[0].name = "other_y"
    return result


def constant_weight() -> ModelProto:
    """The weight is not finite, so it cannot be trained."""
    w = W.copy()
    w[0, 0, 0, 0] = np.inf
    return conv_model(w)


@pytest.mark.parametrize(
    ("student", "is_factorized"),
    [(renamed(conv_model(W)), False), (constant_weight(), False), (conv_model(W), True)],
    ids=["no such layer", "not trained", "no chain"],
)
def test_what_is_not_there(student: ModelProto, is_factorized: bool) -> None:
    _, _, replacements = prepared(conv_model(W), planned("conv", "spatial", (5,)))
    with pytest.raises(ModelError) as raised:
        find_targets(GraphModule(student), replacements, is_factorized)
    one_line(raised, "layer 'conv' cannot be trained", "not in the main graph")
