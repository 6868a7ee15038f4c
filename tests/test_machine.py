"""Times of layers and chains, and what is planned by them: `Clock`, `Machine`, target-latency, the gate."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import helper

import onnxlr
from onnxlr.analysis import analyse
from onnxlr.cli import cli
from onnxlr.clock import Clock
from onnxlr.cost_model import CostModel
from onnxlr.errors import DataError, UsageError
from onnxlr.layer import Layer, Skipped
from onnxlr.offers import Prospect, aligned_ranks, find_prospects
from onnxlr.schemes import all_schemes
from tests.builders import conv_model, make_model, weight
from tests.classifier import Data, classifier, write_data

BY_WEIGHTS = CostModel({"provider": "elsewhere"}, 2, 1, 4, {"weights": 1e-9, "gemm weights": 1e-9}, 0.05)
"""A machine on which a layer takes a nanosecond a byte of its weights."""

BY_ALL = replace(
    BY_WEIGHTS,
    block=8,
    coefficients={"constant": 3e-6, "input": 1e-10, "output": 2e-10, "weights": 1e-9, "window 1": 1e-11,
                  "pointwise 1": 2e-11, "planar": 4e-11, "unrolled": 1e-11, "gemm": 1e-11},
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return write_data(tmp_path_factory.mktemp("data"), classifier())


@pytest.fixture
def elsewhere(tmp_path: Path) -> str:
    """A file with a cost model of another machine."""
    return str(onnxlr.write_cost_model(BY_WEIGHTS, tmp_path / "elsewhere.json"))


def layers_of(model: onnx.ModelProto) -> list[Layer]:
    return [item for item in analyse(model) if isinstance(item, Layer)]


@pytest.mark.parametrize("scheme", list(all_schemes()))
@pytest.mark.parametrize("align", [1, 3, 8])
def test_the_time_of_a_chain_is_that_of_its_links(scheme: str, align: int) -> None:
    model = conv_model(weight(24, 20, 3, 3), (11, 13), strides=[2, 1], pads=[1, 1, 0, 0])
    (layer,) = layers_of(model)
    ranks = aligned_ranks(all_schemes()[scheme].max_rank(layer.conv), align)
    times = Clock(BY_ALL, [layer], batch=3).chain_times(layer, all_schemes()[scheme], ranks)
    for time, rank in zip(times, ranks, strict=True):
        total, spatial = 0.0, (11, 13)
        for link in all_schemes()[scheme].chain(layer.conv, rank):
            total += BY_ALL.seconds(link, spatial, 3)
            spatial = link.output_spatial(spatial)
        assert time == pytest.approx(total / BY_ALL.seconds(layer.conv, (11, 13), 3), rel=1e-12)


def test_what_was_measured_goes_before_what_was_predicted() -> None:
    conv1, conv2, fc = layers_of(classifier())
    params = {layer.name: layer.conv.params for layer in (conv1, conv2, fc)}
    measured = {conv1.key: params["conv1"] * 8e-9, conv2.key: params["conv2"] * 8e-9}  # twice as long
    clock = Clock(BY_WEIGHTS, [conv1, conv2, fc], 1, measured, 1.0)
    assert clock.seconds(conv1) == measured[conv1.key]
    assert clock.seconds(fc) == pytest.approx(params["fc"] * 8e-9)
    assert clock.whole == 1.0
    assert Clock(BY_WEIGHTS, [conv1, conv2, fc], 1, measured, 1e-9).whole == pytest.approx(
        sum(params.values()) * 8e-9
    )


def test_a_cost_model_of_another_machine_tells_all_times() -> None:
    conv1, conv2, fc = layers_of(classifier())
    own = [layer.conv.params * 4e-9 for layer in (conv1, conv2, fc)]
    measured = {conv1.key: own[0] * 10, conv2.key: own[1] * 10}
    clock = Clock(BY_WEIGHTS, [conv1, conv2, fc], 1, measured, 1.0, elsewhere=True)
    assert [clock.seconds(layer) for layer in (conv1, conv2, fc)] == pytest.approx(own)
    assert clock.whole == pytest.approx(0.1)


def test_layers_of_unknown_size_are_left_alone() -> None:
    model = conv_model(weight(32, 32, 3, 3), ("H", "W"))
    (layer,) = layers_of(model)
    (found,) = find_prospects([layer], all_schemes().values(), 8, "latency", Clock(BY_ALL, [layer]))
    assert found == Skipped(layer.name, "its sizes are unknown, and so is its time")


def test_the_gate_goes_by_time() -> None:
    """What a chain saves in MACs it loses in time, where each Conv takes a constant."""
    (layer,) = layers_of(conv_model(weight(64, 64, 3, 3), (4, 4)))
    costly = replace(BY_WEIGHTS, coefficients={"constant": 1.0, "weights": 1e-12})
    (found,) = find_prospects([layer], all_schemes().values(), 8, "latency", Clock(costly, [layer]))
    assert isinstance(found, Skipped)
    assert found.reason.startswith("too small to gain: at the lowest rank a chain costs 2.00 of the layer")
    (found,) = find_prospects([layer], all_schemes().values(), 8, "macs", Clock(costly, [layer]))
    assert isinstance(found, Prospect)


def test_half_the_latency(elsewhere: str) -> None:
    machine = onnxlr.Machine(elsewhere, "cpu", 1)
    plan = onnxlr.plan(classifier(), target_latency=0.5, machine=machine)
    assert plan.latency is not None
    assert plan.layers
    assert plan.latency.after <= 0.5 * plan.latency.before
    saved = 0.0
    for layer in plan.layers:
        assert layer.latency is not None
        # a nanosecond a byte
        assert layer.latency.before == pytest.approx(layer.params.before * 4e-6)
        assert layer.latency.after == pytest.approx(layer.params.after * 4e-6)
        saved += layer.latency.before - layer.latency.after
    assert plan.latency.before - plan.latency.after == pytest.approx(saved)
    assert {name: plan.settings[name] for name in ("target-latency", "align", "gate")} == {
        "target-latency": 0.5,
        "align": 2,
        "gate": "latency",
    }
    assert plan.settings["machine"]["cost_model"] == {"provider": "elsewhere"}


def test_what_is_said_counts_more_than_what_was_learned(elsewhere: str) -> None:
    machine = onnxlr.Machine(elsewhere, "cpu", 1)
    plan = onnxlr.plan(classifier(), target_latency=0.9, align=4, gate="none", machine=machine)
    assert (plan.settings["align"], plan.settings["gate"]) == (4, "none")
    assert all(rank % 4 == 0 for layer in plan.layers for rank in layer.rank)


def test_energy_with_the_gate_of_time(elsewhere: str) -> None:
    machine = onnxlr.Machine(elsewhere, "cpu", 1)
    plan = onnxlr.plan(classifier(), energy=0.9, gate="latency", machine=machine)
    assert plan.layers
    for layer in plan.layers:
        assert layer.latency is not None
        assert layer.latency.after < 0.95 * layer.latency.before


def test_plans_keep_their_times(tmp_path: Path, elsewhere: str) -> None:
    plan = onnxlr.plan(classifier(), target_latency=0.8, machine=onnxlr.Machine(elsewhere, "cpu", 1))
    onnxlr.write_plan(plan, tmp_path / "plan.json")
    read = onnxlr.read_plan(tmp_path / "plan.json")
    assert (read.latency, read.layers) == (plan.latency, plan.layers)


def test_no_times_unless_they_are_asked_for() -> None:
    plan = onnxlr.plan(classifier(), energy=0.9)
    assert plan.latency is None
    assert "machine" not in plan.settings
    assert all(layer.latency is None for layer in plan.layers)


@pytest.mark.parametrize(
    ("cost_model", "told"),
    [
        (None, r"by the default cost model for .*, which was not measured on this machine; run onnxlr calib"),
        ("elsewhere", r"by the cost model of elsewhere \(held-out error 5\.0%\)"),
    ],
)
def test_the_report_says_by_what_times_were_predicted(
    data: Data, elsewhere: str, cost_model: str | None, told: str
) -> None:
    machine = onnxlr.Machine(cost_model and elsewhere, "cpu", 1)
    result = onnxlr.optimize(
        classifier(), target_latency=0.95, machine=machine, calibration=data.calibration, checks=None
    )
    (note,) = (note for note in result.report.notes if "times were predicted" in note)
    assert re.search(told, note)


def test_a_sweep_over_latency(elsewhere: str) -> None:
    curve = onnxlr.sweep(
        classifier(),
        points=3,
        lowest=0.4,
        unit="latency",
        machine=onnxlr.Machine(elsewhere, "cpu", 1),
        checks=None,
    )
    assert [point.target for point in curve.points] == [0.8, 0.6, 0.4]
    for point in curve.points:
        assert point.plan.latency is not None
        assert point.plan.latency.after <= point.target * point.plan.latency.before


def test_the_machine_is_that_of_the_checks(data: Data) -> None:
    checks = replace(data.checks, threads=2, batches=(4, 1))
    result = onnxlr.optimize(classifier(), target_latency=0.95, checks=checks)
    machine = result.report.settings["machine"]
    assert (machine["device"], machine["threads"], machine["batch"]) == ("cpu", 2, 4)


def test_a_model_that_cannot_be_run(elsewhere: str) -> None:
    """Only its layers count then."""
    model = conv_model(weight(64, 64, 3, 3))
    model.opset_import.append(helper.make_opsetid("acme", 1))
    model.graph.node[0].output[0] = "h"
    model.graph.node.append(helper.make_node("Sharpen", ["h"], ["y"], domain="acme"))
    plan = onnxlr.plan(model, target_latency=0.5, machine=onnxlr.Machine(elsewhere, "cpu", 1))
    assert plan.latency is not None
    assert plan.latency.before == pytest.approx(64 * 64 * 9 * 4e-6)


def test_a_model_with_no_layers(elsewhere: str) -> None:
    model = make_model([helper.make_node("Relu", ["x"], ["y"])], {"x": [1, 4]}, ["y"], {})
    with pytest.raises(UsageError, match="the lowest that can be reached is 1 of the predicted latency"):
        onnxlr.plan(model, target_latency=0.5, machine=onnxlr.Machine(elsewhere, "cpu", 1))


def test_sizes_that_are_unknown() -> None:
    model = classifier(("H", "W"))
    with pytest.raises(UsageError, match=r"times cannot be predicted.*give --input-shape"):
        onnxlr.plan(model, target_latency=0.5)
    plan = onnxlr.plan(model, target_latency=0.95, input_shapes={"x": (1, 8, 6, 8)})
    assert plan.latency is not None


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"device": "tpu"}, "device must be one of auto, cpu"),
        ({"threads": -1}, "threads must not be negative"),
        ({"batch": 0}, "batch at least 1"),
    ],
)
def test_wrong_machines(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        onnxlr.Machine(**wrong)


def test_no_such_cost_model(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.json"):
        onnxlr.plan(classifier(), target_latency=0.5, machine=onnxlr.Machine(str(tmp_path / "none.json")))


def test_the_command_line(tmp_path: Path, elsewhere: str) -> None:
    model, output = tmp_path / "model.onnx", tmp_path / "plan.json"
    onnx.save(classifier(), model)
    arguments = ["plan", str(model), "-o", str(output), "--target-latency", "0.7", "--threads", "1"]
    found = CliRunner().invoke(cli, [*arguments, "--cost-model", elsewhere, "--device", "cpu"])
    assert found.exit_code == 0, found.output
    plan = json.loads(output.read_text())
    assert plan["latency"]["after"] <= 0.7 * plan["latency"]["before"]
    assert plan["settings"]["machine"]["cost_model"] == {"provider": "elsewhere"}
    assert np.isfinite(plan["latency"]["after"])
