"""Limits without a rule: the result keeps them, the next lower budget does not, and work is not repeated."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

import onnxlr
from onnxlr.calibration import Calibrator
from onnxlr.checking import Reference
from onnxlr.runtime import Session
from onnxlr.searching import BRACKET
from tests.builders import conv_model, one_line
from tests.classifier import Data, classifier, decaying, write_data

STEP = 1 / 64

MODEL = classifier()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return write_data(tmp_path_factory.mktemp("data"), MODEL)


def limited(data: Data, **limits: float) -> onnxlr.Checks:
    return dataclasses.replace(data.checks, limits=onnxlr.Limits(**limits))


def passes(result: onnxlr.Result) -> bool:
    assert result.report.validation is not None
    return result.report.validation.passed


def fails_at(budget: float, checks: onnxlr.Checks, unit: str = "macs", **options: Any) -> bool:
    """Whether the plan for a budget breaks the limits, or there is none."""
    try:
        return not passes(onnxlr.optimize(MODEL, checks=checks, **{f"target_{unit}": budget}, **options))
    except onnxlr.UsageError as error:
        assert "the lowest that can be reached" in str(error)  # noqa: PT017 - not always raised
        return True


def test_the_bracket() -> None:
    assert STEP <= BRACKET < 2 * STEP


LIMITS = {
    "loose error": {"max_rel_l2": 0.3},
    "tight error": {"max_rel_l2": 0.03},
    "agreement": {"min_agreement": 0.9},
    "drop": {"max_drop": 0.05},
    "all": {"max_rel_l2": 0.2, "min_agreement": 0.9, "max_drop": 0.1},
}


@pytest.mark.parametrize(
    ("limits", "calibrated"),
    [*((limits, False) for limits in LIMITS.values()), (LIMITS["all"], True)],
    ids=[*LIMITS, "all, calibrated"],
)
def test_the_cheapest_plan_within_the_limits(data: Data, limits: dict[str, float], calibrated: bool) -> None:
    checks = limited(data, **limits)
    options: dict[str, Any] = {"align": 2, "calibration": data.calibration if calibrated else None}
    found = onnxlr.optimize(MODEL, checks=checks, **options)
    budget = found.plan.settings["target-macs"]
    assert passes(found)
    assert 0 < budget < 1
    assert budget / STEP == round(budget / STEP)
    assert fails_at(budget - STEP, checks, **options)
    again = onnxlr.optimize(MODEL, checks=checks, target_macs=budget, **options)
    assert found.plan == again.plan
    assert found.model.SerializeToString() == again.model.SerializeToString()
    assert found.report.validation == again.report.validation
    assert found.report.notes[-1] == (
        f"searched 6 budgets: {budget:.2g} of the MACs is the lowest that keeps the limits"
    )


def test_a_looser_limit_is_no_dearer(data: Data) -> None:
    budgets = [
        onnxlr.optimize(MODEL, checks=limited(data, max_rel_l2=limit), align=2).plan.settings["target-macs"]
        for limit in (0.02, 0.1, 0.5)
    ]
    assert budgets == sorted(budgets, reverse=True)
    assert budgets[0] > budgets[-1]


def test_a_rule_makes_limits_mere_checks(data: Data) -> None:
    tight = limited(data, max_rel_l2=1e-9)
    for rule in ({"energy": 0.6}, {"target_macs": 0.5}, {"target_params": 0.5}, {"evbmf": True}):
        options: dict[str, Any] = {**rule, "align": 2}
        checked = onnxlr.optimize(MODEL, checks=tight, **options)
        assert not passes(checked)
        assert checked.plan == onnxlr.plan(MODEL, **options)
        assert not any("searched" in note for note in checked.report.notes)


def test_no_limit_is_no_search(data: Data) -> None:
    result = onnxlr.optimize(MODEL, checks=data.checks)
    assert result.plan.settings["energy"] == 0.95
    assert onnxlr.optimize(MODEL, checks=None).plan == result.plan


@pytest.mark.parametrize("calibrated", [False, True])
def test_nothing_is_replaced_where_nothing_passes(data: Data, calibrated: bool) -> None:
    calibration = data.calibration if calibrated else None
    result = onnxlr.optimize(MODEL, checks=limited(data, max_rel_l2=0.0), calibration=calibration)
    assert result.plan.layers == ()
    reasons = {skipped.name: skipped.reason for skipped in result.plan.skipped}
    assert list(reasons) == ["conv1", "conv2", "fc"]
    assert reasons["conv2"] == "no budget keeps the limits"
    assert result.model.SerializeToString() == MODEL.SerializeToString()
    assert passes(result)
    assert result.report.notes[-1] == ("searched 6 budgets: none keeps the limits, so nothing was replaced")


def test_a_budget_that_cannot_be_reached_is_the_lower_end(data: Data) -> None:
    """conv1 alone cannot make the model as small as the limit would allow."""
    checks = limited(data, max_rel_l2=100.0)
    found = onnxlr.optimize(MODEL, checks=checks, include="conv1")
    budget = found.plan.settings["target-macs"]
    assert passes(found)
    assert [layer.name for layer in found.plan.layers] == ["conv1"]
    onnxlr.plan(MODEL, target_macs=budget, include="conv1")
    with pytest.raises(onnxlr.UsageError, match="the lowest that can be reached"):
        onnxlr.plan(MODEL, target_macs=budget - STEP, include="conv1")


def test_parameters_are_budgeted_where_macs_are_unknown(data: Data) -> None:
    model = classifier(("H", "W"))
    checks = limited(data, max_rel_l2=0.2)
    found = onnxlr.optimize(model, checks=checks, align=2)
    budget = found.plan.settings["target-params"]
    assert passes(found)
    assert fails_at(budget - STEP, checks, unit="params", align=2)
    assert found.report.notes[-1].endswith("of the parameters is the lowest that keeps the limits")


IMPOSSIBLE: dict[str, tuple[Callable[[], ModelProto], dict[str, float], str]] = {
    "no classes": (
        lambda: conv_model(decaying(16, 8, 3, 3)),
        {"min_agreement": 0.9},
        "no output is class-like",
    ),
    "NaN": (classifier, {"max_rel_l2": float("nan")}, "relative L2 0 > nan"),
}


@pytest.mark.parametrize(("build", "limits", "reason"), IMPOSSIBLE.values(), ids=IMPOSSIBLE.keys())
def test_limits_that_the_original_breaks(
    build: Callable[[], ModelProto], limits: dict[str, float], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are found before long work."""
    monkeypatch.setattr("onnxlr.job.judge_weights", lambda *_: pytest.fail("planned"))
    checks = onnxlr.Checks(limits=onnxlr.Limits(**limits), device="cpu", latency_seconds=0)
    with pytest.raises(onnxlr.UsageError) as error:
        onnxlr.optimize(build(), checks=checks)
    one_line(error, "not even by the original", reason)


def test_a_drop_needs_labels(data: Data) -> None:
    with pytest.raises(onnxlr.UsageError) as error:
        onnxlr.Checks(data.inputs, limits=onnxlr.Limits(max_drop=0.01))
    assert str(error.value) == "max-drop needs labels: give --labels with --inputs"


def test_a_drop_needs_inputs(data: Data) -> None:
    checks = onnxlr.Checks(None, data.labels, limits=onnxlr.Limits(max_drop=0.01), device="cpu")
    with pytest.raises(onnxlr.DataError, match="give both"):
        onnxlr.optimize(MODEL, checks=checks)


def test_a_drop_needs_classes(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.zeros((4, 8, 11, 13), np.float32))
    np.save(tmp_path / "labels.npy", np.zeros(4, np.int64))
    limits = onnxlr.Limits(max_drop=0.01)
    checks = onnxlr.Checks(str(tmp_path / "x.npz"), str(tmp_path / "labels.npy"), limits=limits, device="cpu")
    with pytest.raises(onnxlr.DataError, match="no output is class-like"):
        onnxlr.optimize(conv_model(decaying(16, 8, 3, 3)), checks=checks)


def test_a_drop_is_checked_by_validate(data: Data) -> None:
    rough = onnxlr.optimize(MODEL, energy=0.2, gate="none", align=1, checks=None).model
    for allowed, expected in ((0.0, False), (1.0, True)):
        checked = onnxlr.validate(MODEL, rough, limited(data, max_drop=allowed))
        assert checked.validation is not None
        assert checked.validation.passed is expected


def counted(monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> list[Any]:
    """The objects that a method was called on."""
    calls: list[Any] = []
    original = getattr(owner, name)

    def call(self: Any, *arguments: Any, **options: Any) -> Any:
        calls.append(self)
        return original(self, *arguments, **options)

    monkeypatch.setattr(owner, name, call)
    return calls


def test_what_all_steps_share_is_computed_once(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    surveys = counted(monkeypatch, Calibrator, "survey")
    runs = counted(monkeypatch, Session, "run")
    references = counted(monkeypatch, Reference, "__init__")
    onnxlr.optimize(MODEL, checks=limited(data, max_rel_l2=0.2), calibration=data.calibration, align=2)
    assert (len(surveys), len(references)) == (1, 1)
    original = references[0]._session
    assert sum(session is original for session in runs) == 3  # batches of 80 samples


def test_equal_plans_are_tried_once(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    """One layer with two ranks: whatever the budget, there are few plans."""
    checks = counted(monkeypatch, Reference, "check")
    onnxlr.optimize(MODEL, checks=limited(data, max_rel_l2=100.0), include="conv2", align=12)
    assert len(checks) - 1 < 6


def test_only_the_result_is_timed(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    checks = dataclasses.replace(limited(data, max_rel_l2=0.2), latency_seconds=0.01)
    timed: list[Any] = []
    measure = onnxlr.timing.measure_latency
    monkeypatch.setattr(
        onnxlr.timing, "measure_latency", lambda *arguments: timed.append(1) or measure(*arguments)
    )
    report = onnxlr.optimize(MODEL, checks=checks, align=2, keep_slower=True).report
    assert report.latency is not None
    assert len(timed) == 1


def test_data_to_compare_on_that_were_fitted_to_are_told(data: Data) -> None:
    checks = onnxlr.Checks(limits=onnxlr.Limits(max_rel_l2=0.2), device="cpu", latency_seconds=0)
    report = onnxlr.optimize(MODEL, checks=checks, calibration=data.calibration, align=2).report
    assert report.validation is not None
    assert report.validation.inputs == data.calibration
    assert any(note.startswith("outputs were compared on the data that factors") for note in report.notes)
