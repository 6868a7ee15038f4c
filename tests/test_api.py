"""Whole runs: plan, apply, optimize on networks with everything that makes rewriting hard."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper

import onnxlr
from onnxlr.plan import PlannedLayer
from onnxlr.report import to_json
from tests.builders import conv_model, initializers, make_model, one_line, relative_error, run, weight

ROOT = Path(__file__).parent.parent
DIGITS = ROOT / "models/digits/digits.onnx"

QUICK = onnxlr.Checks(latency_seconds=0, device="cpu")


def network() -> ModelProto:
    """Conv-BN-Relu, two Convs that share a weight, a Conv that is an output and is read, BN after Gemm."""
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c1"], "conv1", pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c1", "g", "b", "m", "v"], ["n1"], "bn"),
        helper.make_node("Relu", ["n1"], ["r1"], "relu"),
        helper.make_node("Conv", ["r1", "shared"], ["c2"], "conv2", pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["c2", "shared", "bias"], ["c3"], "conv3", pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["c3"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "w4", "b4"], ["y"], "gemm", transB=1),
    ]
    rng = np.random.default_rng(5)
    weights = {
        "w1": weight(24, 3, 3, 3),
        "g": rng.uniform(0.01, 9, 24).astype(np.float32),
        "b": weight(24, 1)[:, 0],
        "m": weight(24, 1, seed=2)[:, 0],
        "v": rng.uniform(0.1, 4, 24).astype(np.float32),
        "shared": weight(24, 24, 3, 3, seed=3),
        "bias": weight(24, 1, seed=4)[:, 0],
        "w4": weight(10, 24, seed=6),
        "b4": weight(10, 1, seed=7)[:, 0],
        "never_used": weight(2, 2),
    }
    return make_model(nodes, {"x": ["N", 3, 12, 12]}, ["y", "c3"], weights)


FEED = {"x": np.random.default_rng(0).standard_normal((2, 3, 12, 12)).astype(np.float32)}


@pytest.mark.parametrize("scheme", [[], ["spatial"], ["tucker2"], ["channel-in"], ["channel-out"]])
def test_full_rank_is_the_same_network(scheme: list[str]) -> None:
    model = network()
    result = onnxlr.optimize(model, energy=1.0, gate="none", schemes=scheme, checks=QUICK)
    assert result.report.validation is not None
    assert all(output.rel_l2 < 1e-5 for output in result.report.validation.outputs)
    for expected, actual in zip(run(model, **FEED), run(result.model, **FEED), strict=True):
        assert relative_error(expected, actual) < 1e-5
    onnx.checker.check_model(result.model, full_check=True)


def test_what_is_shared_stays_shared_and_what_is_unused_stays() -> None:
    result = onnxlr.optimize(network(), energy=0.9, gate="none", schemes=["spatial"], checks=None)
    stored = initializers(result.model)
    by_node = {node.name: node.input[1] for node in result.model.graph.node if node.op_type == "Conv"}
    assert by_node["conv2_lr0"] == by_node["conv3_lr0"]
    assert by_node["conv2_lr1"] == by_node["conv3_lr1"]
    assert "never_used" in stored
    assert "shared" not in stored
    assert "w1" not in stored
    assert not any(node.op_type == "BatchNormalization" for node in result.model.graph.node)
    assert [o.name for o in result.model.graph.output] == ["y", "c3"]


def test_every_output_channel_counts_alike_whatever_batchnorm_makes_of_it() -> None:
    model = network()
    (layer,) = onnxlr.plan(
        model, energy=0.8, include="conv1", schemes=["channel-out"], align=1, gate="none"
    ).layers
    rows = weight(24, 3, 3, 3).reshape(24, -1).astype(np.float64)
    sigma = np.linalg.svd(rows / np.linalg.norm(rows, axis=1, keepdims=True), compute_uv=False)
    (rank,) = layer.rank
    assert layer.error**2 == pytest.approx(np.square(sigma[rank:]).sum() / np.square(sigma).sum(), rel=1e-4)


def test_dead_channels_of_a_folded_batchnorm_do_no_harm() -> None:
    model = network()
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    gamma = initializers(model)["g"].copy()
    gamma[:4] = 0
    tensors["g"].CopyFrom(onnx.numpy_helper.from_array(gamma, "g"))
    result = onnxlr.optimize(model, energy=1.0, gate="none", checks=None)
    for expected, actual in zip(run(model, **FEED), run(result.model, **FEED), strict=True):
        assert relative_error(expected, actual) < 1e-5


def test_report_counts_the_graph() -> None:
    model = network()
    result = onnxlr.optimize(model, energy=0.9, gate="none", schemes=["channel-in"], checks=None)
    totals = result.report.totals
    assert totals.params.before == sum(array.size for array in initializers(model).values())
    assert totals.params.after == sum(array.size for array in initializers(result.model).values())
    assert totals.bytes.after == len(result.model.SerializeToString())
    by_name = {layer.name: layer for layer in result.plan.layers}
    assert set(by_name) == {"conv1", "conv2", "conv3", "gemm"}
    assert totals.macs.after == sum(layer.macs.after or 0 for layer in by_name.values())


def test_plan_and_apply_are_optimize() -> None:
    model = network()
    plan = onnxlr.plan(model, energy=0.9)
    applied = onnxlr.apply(model, onnxlr.Plan.from_dict(plan.to_dict()))
    optimized = onnxlr.optimize(model, energy=0.9, checks=None)
    assert optimized.plan == plan
    assert applied.model.SerializeToString() == optimized.model.SerializeToString()
    assert applied.report.totals == optimized.report.totals


def test_the_original_is_left_alone() -> None:
    model = network()
    before = model.SerializeToString()
    onnxlr.optimize(model, energy=0.8, checks=QUICK)
    assert model.SerializeToString() == before


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_the_number_of_workers_changes_nothing(workers: int) -> None:
    model = network()
    expected = onnxlr.optimize(model, energy=0.9, gate="none", checks=None, workers=1)
    actual = onnxlr.optimize(model, energy=0.9, gate="none", checks=None, workers=workers)
    assert actual.model.SerializeToString() == expected.model.SerializeToString()


def _edit(**changes: Any) -> Any:
    return lambda layer: dataclasses.replace(layer, **changes)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (_edit(name="nowhere"), "'nowhere', which is no layer"),
        (_edit(scheme="svd"), "no scheme named 'svd'"),
        (_edit(rank=(0,)), r"rank \[0\] is not within 1 to \[9\]"),
        (_edit(rank=(10,)), r"rank \[10\] is not within 1 to \[9\]"),
        (_edit(rank=(2, 2)), r"rank \[2, 2\]"),
        (_edit(scheme="tucker2", rank=(2,)), r"rank \[2\]"),
        (_edit(name="gemm", scheme="spatial"), "spatial cannot factorize it"),
        (_edit(name="conv2"), "names a layer twice"),
    ],
)
def test_plans_that_cannot_be_applied(edit: Any, message: str) -> None:
    model = network()
    plan = onnxlr.plan(model, energy=0.5, schemes=["spatial"], gate="none")
    layers: tuple[PlannedLayer, ...] = (edit(plan.layers[0]), *plan.layers[1:])
    with pytest.raises(onnxlr.PlanError, match=message):
        onnxlr.apply(model, dataclasses.replace(plan, layers=layers))


def test_a_plan_is_for_one_model() -> None:
    plan = onnxlr.plan(network())
    with pytest.raises(onnxlr.PlanError, match="make a new plan"):
        onnxlr.apply(conv_model(weight(8, 8, 3, 3)), plan)


def test_a_rank_that_a_person_chose() -> None:
    model = network()
    plan = onnxlr.plan(model, energy=0.9, schemes=["spatial"], gate="none")
    layers = tuple(dataclasses.replace(layer, rank=(3,)) for layer in plan.layers)
    result = onnxlr.apply(model, dataclasses.replace(plan, layers=layers))
    assert initializers(result.model)["conv2_lr0_weight"].shape == (3, 24, 3, 1)


def test_nothing_to_do_is_the_original_byte_for_byte() -> None:
    model = conv_model(weight(8, 8, 1, 1))
    result = onnxlr.optimize(model, checks=QUICK)
    assert result.plan.layers == ()
    assert result.model.SerializeToString() == model.SerializeToString()


def test_what_no_pass_touched_is_byte_identical() -> None:
    model = network()
    model.doc_string, model.domain, model.model_version = "doc", "test", 3
    model.metadata_props.add(key="k", value="v")
    model.graph.metadata_props.add(key="gk", value="gv")
    model.graph.node[2].doc_string = "relu doc"
    model.graph.node[2].metadata_props.add(key="nk", value="nv")
    result = onnxlr.optimize(model, energy=0.9, gate="none", include="conv2", checks=None).model
    for field in ("doc_string", "domain", "model_version", "metadata_props", "opset_import", "ir_version"):
        assert getattr(result, field) == getattr(model, field)
    assert result.graph.metadata_props == model.graph.metadata_props
    untouched = {"relu", "conv3", "pool", "flatten", "gemm"}
    before = [node.SerializeToString() for node in model.graph.node if node.name in untouched]
    after = [node.SerializeToString() for node in result.graph.node if node.name in untouched]
    assert before == after
    kept = {"shared", "bias", "w4", "b4", "never_used"}
    tensors = [
        {t.name: t.SerializeToString() for t in m.graph.initializer if t.name in kept}
        for m in (model, result)
    ]
    assert tensors[0] == tensors[1]
    assert list(result.graph.input) == list(model.graph.input)
    assert list(result.graph.output) == list(model.graph.output)


def test_a_model_is_prepared_where_anything_is_replaced() -> None:
    model = network()
    pads = onnx.numpy_helper.from_array(np.array([0, 0, 1, 1] * 2), "pads")
    model.graph.initializer.append(pads)
    model.graph.node[0].input[0] = "padded"
    model.graph.node.insert(0, helper.make_node("Pad", ["x", "pads"], ["padded"], "pad"))
    stays = onnxlr.optimize(model, energy=0.9, gate="none", exclude="", checks=None).model
    assert stays.SerializeToString(deterministic=True) == model.SerializeToString(deterministic=True)
    others = onnxlr.optimize(model, energy=1.0, gate="none", exclude="conv1", checks=None).model
    assert [n.op_type for n in others.graph.node[:2]] == ["Conv", "Relu"]
    goes = onnxlr.optimize(model, energy=1.0, gate="none", include="conv1", checks=None)
    assert not {"Pad", "BatchNormalization"} & {n.op_type for n in goes.model.graph.node}
    assert not {"pads", "w1", "g", "b", "m", "v"} & initializers(goes.model).keys()
    (layer,) = goes.plan.layers
    assert layer.name == "conv1"
    for result in (others, goes.model):
        for expected, actual in zip(run(model, **FEED), run(result, **FEED), strict=True):
            assert relative_error(expected, actual) < 1e-5


def test_external_data(tmp_path: Path) -> None:
    path, out = tmp_path / "m.onnx", tmp_path / "out" / "o.onnx"
    out.parent.mkdir()
    onnx.save(network(), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    result = onnxlr.optimize(path, energy=1.0, gate="none", checks=QUICK)
    result.save(out)
    assert {file.name for file in out.parent.iterdir()} == {"o.onnx", "o.onnx.data"}
    onnx.checker.check_model(out, full_check=True)
    for expected, actual in zip(run(network(), **FEED), run(onnx.load(out), **FEED), strict=True):
        assert relative_error(expected, actual) < 1e-5


def test_limits_are_judged() -> None:
    limits = onnxlr.Limits(max_rel_l2=1e-3, min_agreement=1.0)
    checks = dataclasses.replace(QUICK, limits=limits)
    exact = onnxlr.optimize(network(), energy=1.0, gate="none", checks=checks).report.validation
    rough = onnxlr.optimize(network(), energy=0.3, gate="none", align=1, checks=checks).report.validation
    assert exact is not None
    assert rough is not None
    assert exact.passed
    assert not rough.passed
    assert "relative L2" in rough.violations[0]


def test_the_shipped_model(tmp_path: Path) -> None:
    from models.digits.data import load  # noqa: PLC0415 - needs scikit-learn, which only tests and demo install

    _, test = load()
    np.savez(tmp_path / "test.npz", image=test.images)
    np.save(tmp_path / "labels.npy", test.labels)
    checks = onnxlr.Checks(
        str(tmp_path / "test.npz"), str(tmp_path / "labels.npy"), latency_seconds=0, device="cpu"
    )
    report = onnxlr.optimize(DIGITS, energy=0.9, checks=checks).report
    assert report.validation is not None
    (output,) = report.validation.outputs
    assert output.top1_before is not None
    assert output.top1_after is not None
    assert output.top1_after > output.top1_before - 0.01
    assert report.totals.macs.before is not None
    assert report.totals.macs.after is not None
    assert report.totals.macs.after < 0.35 * report.totals.macs.before


def test_sizes_of_symbolic_inputs_reach_planning_and_validation() -> None:
    model = conv_model(weight(16, 16, 3, 3), ("H", "W"))
    report = onnxlr.optimize(
        model, energy=0.6, input_shapes={"x": [2, 16, 10, 12]}, gate="none", checks=QUICK
    ).report
    assert report.totals.macs.before == 2 * 16 * 16 * 9 * 8 * 10
    assert report.validation is not None
    assert report.validation.samples == 2
    assert "assumed" not in report.validation.inputs
    unknown = onnxlr.optimize(model, energy=0.6, gate="none", checks=QUICK).report
    assert unknown.totals.macs.before is None
    assert unknown.validation is not None
    assert "size assumed: x as 8×16×224×224" in unknown.validation.inputs


def with_custom_operator() -> ModelProto:
    model = conv_model(weight(16, 16, 3, 3))
    model.opset_import.append(helper.make_opsetid("acme", 1))
    model.graph.node[0].output[0] = "h"
    model.graph.node.append(helper.make_node("Sharpen", ["h"], ["y"], domain="acme"))
    return model


def test_a_model_that_cannot_be_run_is_optimized_and_says_so() -> None:
    result = onnxlr.optimize(with_custom_operator(), energy=0.5, gate="none", checks=QUICK)
    assert [layer.name for layer in result.plan.layers] == ["conv"]
    assert (result.report.validation, result.report.latency) == (None, None)
    unprotected, note = result.report.notes
    assert unprotected.startswith("accuracy is not protected")
    assert note.startswith("not validated: ONNX Runtime has no operators acme:Sharpen")


@pytest.mark.parametrize(
    "run_it",
    [
        lambda model: onnxlr.optimize(
            model, checks=dataclasses.replace(QUICK, limits=onnxlr.Limits(max_rel_l2=0.1))
        ),
        lambda model: onnxlr.validate(model, model, QUICK),
    ],
    ids=["limits", "validate"],
)
def test_what_only_a_run_can_tell_is_then_an_error(run_it: Any) -> None:
    with pytest.raises(onnxlr.ModelError, match="ONNX Runtime"):
        run_it(with_custom_operator())


def test_paths_are_data(tmp_path: Path) -> None:
    """As well as texts: to calibrate on, to check on, and in the report."""
    model = conv_model(weight(16, 16, 3, 3), bias=False)
    path = tmp_path / "x.npz"
    np.savez(path, x=np.random.default_rng(0).standard_normal((8, 16, 11, 13)).astype(np.float32))
    checks = onnxlr.Checks(path, latency_seconds=0)
    result = onnxlr.optimize(model, energy=0.5, align=1, calibration=path, checks=checks)
    assert json.loads(to_json(result.report.to_dict()))["settings"]["checks"]["inputs"] == str(path)
    assert (
        onnxlr.plan(model, energy=0.5, align=1, calibration=onnxlr.Calibration(path)).layers
        == result.plan.layers
    )


@pytest.mark.parametrize("reversed_order", [False, True])
def test_a_candidate_that_fixes_the_batch(tmp_path: Path, reversed_order: bool) -> None:
    """Data are cut to what both take, whichever comes first."""
    w = weight(16, 16, 3, 3)
    models = [conv_model(w), conv_model(w)]
    for value in (*models[1].graph.input, *models[1].graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    path = tmp_path / "x.npz"
    np.savez(path, x=np.random.default_rng(0).standard_normal((5, 16, 11, 13)).astype(np.float32))
    first, second = models[::-1] if reversed_order else models
    for checks in (onnxlr.Checks(path, latency_seconds=0.01), onnxlr.Checks(latency_seconds=0)):
        validation = onnxlr.validate(first, second, checks).validation
        assert validation is not None
        assert validation.outputs[0].rel_l2 == 0
        assert validation.samples == (5 if checks.inputs else 1)


@pytest.mark.parametrize(
    "make",
    [
        lambda: onnxlr.inspect(network(), energies=[2.0]),
        lambda: onnxlr.inspect(network(), energies=[0.5, -1.0]),
        lambda: onnxlr.Checks(device="tpu"),
        lambda: onnxlr.Checks(threads=-1),
        lambda: onnxlr.Checks(latency_seconds=-1),
        lambda: onnxlr.Calibration("x.npz", device="tpu"),
        lambda: onnxlr.Limits(max_rel_l2=-0.1),
        lambda: onnxlr.Limits(min_agreement=1.1),
        lambda: onnxlr.Limits(max_drop=1.1),
    ],
)
def test_numbers_out_of_range(make: Callable[[], object]) -> None:
    with pytest.raises(onnxlr.UsageError) as error:
        make()
    one_line(error)
