"""The trade-off curve: points keep their budgets, files agree with each other, nothing is computed twice."""

from __future__ import annotations

import csv
import dataclasses
import json
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest
from onnx import helper

import onnxlr
from onnxlr.calibration import Calibrator
from onnxlr.checking import Reference
from onnxlr.report import read_curve, to_json
from onnxlr.report.plot import Line, Panel, draw
from onnxlr.report.points import SweepPoint
from onnxlr.sweeping import find_targets
from onnxlr.validation import OutputDifference, Validation
from tests.blocks import ROOT
from tests.builders import conv_model, one_line, weight
from tests.classifier import Data, classifier, decaying, write_data

MODEL = classifier()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return write_data(tmp_path_factory.mktemp("data"), MODEL)


@pytest.fixture(scope="module", params=["weights", "calibrated"])
def calibration(request: pytest.FixtureRequest, data: Data) -> str | None:
    return data.calibration if request.param == "calibrated" else None


@pytest.fixture(scope="module")
def curve(data: Data, calibration: str | None) -> onnxlr.Sweep:
    checks = dataclasses.replace(data.checks, latency_seconds=0.005)
    return onnxlr.sweep(MODEL, points=5, align=2, checks=checks, calibration=calibration)


@pytest.fixture
def folder(curve: onnxlr.Sweep, tmp_path: Path) -> Path:
    curve.save(tmp_path / "curve")
    return tmp_path / "curve"


@pytest.mark.parametrize(
    ("points", "lowest", "targets"),
    [
        (10, 0.2, [0.92, 0.84, 0.76, 0.68, 0.6, 0.52, 0.44, 0.36, 0.28, 0.2]),
        (1, 0.5, [0.5]),
        (2, 0.9999, None),
        (3, 0.5, [0.8333, 0.6667, 0.5]),
        (1, 0.00001, None),
        (0, 0.5, None),
        (-1, 0.5, None),
        (10_000, 0.5, None),
        (4, 0.0, None),
        (4, 1.0, None),
        (4, float("nan"), None),
    ],
)
def test_targets(points: int, lowest: float, targets: list[float] | None) -> None:
    if targets is not None:
        assert find_targets(points, lowest, "params") == targets
        return
    with pytest.raises(onnxlr.UsageError) as error:
        onnxlr.sweep("nowhere.onnx", points=points, lowest=lowest)
    one_line(error)


def test_a_unit_that_is_none() -> None:
    with pytest.raises(onnxlr.UsageError, match="unit must be one of macs, params, latency; got 'bytes'"):
        onnxlr.sweep(MODEL, unit="bytes")


def test_points_keep_their_budgets(curve: onnxlr.Sweep) -> None:
    assert [point.target for point in curve.points] == [0.84, 0.68, 0.52, 0.36, 0.2]
    assert curve.unreachable == ()
    for point in curve.points:
        macs = point.totals.macs
        assert macs.before is not None
        assert macs.after is not None
        assert macs.after <= point.target * macs.before
        assert point.plan.settings["target-macs"] == point.target
        assert point.validation is not None
        assert point.validation.samples == 80
        assert point.latency is not None
    errors = [point.rel_l2 or 0 for point in curve.points]
    assert errors[0] < errors[-1]
    assert {point.totals.macs.before for point in curve.points} == {curve.points[0].totals.macs.before}


def test_a_point_is_what_optimize_makes_of_its_budget(
    curve: onnxlr.Sweep, data: Data, calibration: str | None
) -> None:
    point = curve.points[2]
    result = onnxlr.optimize(
        MODEL, target_macs=point.target, align=2, checks=data.checks, calibration=calibration
    )
    assert (result.plan, result.report.totals) == (point.plan, point.totals)
    assert result.report.validation == point.validation


def test_parameters_as_the_unit(data: Data) -> None:
    curve = onnxlr.sweep(MODEL, points=2, lowest=0.4, unit="params", align=2, checks=data.checks)
    for point in curve.points:
        params = point.totals.params
        assert (params.after or 0) <= point.target * (params.before or 0)
        assert point.plan.settings["target-params"] == point.target
    assert curve.to_dict()["unit"] == "params"


def test_files(folder: Path, curve: onnxlr.Sweep) -> None:
    plans = {f"plan-{target}.json" for target in ("0.84", "0.68", "0.52", "0.36", "0.2")}
    assert {path.name for path in folder.iterdir()} == plans | {"sweep.csv", "sweep.json", "sweep.svg"}
    data = json.loads((folder / "sweep.json").read_text())
    assert data["schema_version"] == 1
    assert set(data) == {
        "schema_version", "model", "settings", "unit", "inputs", "samples", "curve", "points", "unreachable",
        "notes", "versions",
    }  # fmt: skip
    assert [point["plan"] for point in data["points"]] == [point.plan_file for point in curve.points]
    with (folder / "sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(data["points"]) == len(curve.points)
    for row, point, original in zip(rows, data["points"], curve.points, strict=True):
        assert set(point) == {
            "target", "macs", "params", "bytes", "predicted_rel_l2", "outputs", "violations", "latency",
            "latencies", "plan",
        }  # fmt: skip
        assert float(row["target"]) == point["target"]
        for name in ("macs", "params", "bytes"):
            assert int(row[name]) == point[name]["after"]
            assert float(row[f"{name}_kept"]) == point[name]["after"] / point[name]["before"]
        (output,) = point["outputs"]
        assert set(output) == {
            "name", "max_abs", "rel_l2", "cosine", "top1_agreement", "top1_before", "top1_after"
        }  # fmt: skip
        for name in ("rel_l2", "top1_agreement", "top1_before", "top1_after"):
            assert float(row[name]) == output[name]
        for name, key in (("ms_before", "before"), ("ms_after", "after"), ("speedup", "speedup")):
            assert float(row[name]) == point["latency"][key]
        assert [float(row["speedup_low"]), float(row["speedup_high"])] == point["latency"]["interval"]
        assert row["predicted_rel_l2"] == str(point["predicted_rel_l2"] or "")
        assert row["plan"] == point["plan"]
        written = onnxlr.read_plan(folder / point["plan"])
        assert to_json(written.to_dict()) == to_json(original.plan.to_dict())


def test_the_curve_has_the_numbers_of_the_points(folder: Path, curve: onnxlr.Sweep) -> None:
    data = json.loads((folder / "sweep.json").read_text())
    with (folder / "sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    drawn = data["curve"]
    assert (drawn["unit"], drawn["inputs"], drawn["top1_before"]) == (
        *("macs", data["inputs"], data["points"][0]["outputs"][0]["top1_before"]),
    )
    names = {"kept": "macs_kept", "top1": "top1_after"}
    for point, row in zip(drawn["points"], rows, strict=True):
        told = {key: "" if value is None else str(value) for key, value in point.items()}
        assert told == {key: row[names.get(key, key)] for key in point}
    assert read_curve(folder, data["model"]) == curve.curve


def test_a_curve_over_time_is_saved(tmp_path: Path) -> None:
    """Its points lie where times are predicted to be, as budgets of time are."""
    model = ROOT / "models/digits/digits.onnx"
    swept = onnxlr.sweep(model, points=2, lowest=0.6, unit="latency", checks=None)
    swept.save(tmp_path / "curve")
    for point, drawn in zip(swept.points, swept.curve.points, strict=True):
        assert point.plan.latency is not None
        assert drawn.kept == point.plan.latency.after / point.plan.latency.before
        assert drawn.kept <= point.target
    assert read_curve(tmp_path / "curve", swept.model) == swept.curve


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda _: "{", "cannot be read"),
        (lambda _: [], "is not what"),
        (lambda data: {**data, "curve": None}, "is not what"),
        (lambda data: {**data, "curve": {**data["curve"], "points": [{"kept": "much"}]}}, "is not what"),
        (lambda data: {**data, "curve": {**data["curve"], "unit": 1}}, "is not what"),
        (lambda data: {**data, "curve": {**data["curve"], "color": "red"}}, "is not what"),
        (lambda data: {key: value for key, value in data.items() if key != "curve"}, "is not what"),
        (lambda data: {**data, "model": {"name": "other", "hash": "sha256:00"}}, "sweep this model"),
    ],
)
def test_what_is_no_curve(folder: Path, change: Callable[[Any], Any], message: str) -> None:
    path = folder / "sweep.json"
    data = json.loads(path.read_text())
    changed = change(data)
    path.write_text(changed if isinstance(changed, str) else json.dumps(changed))
    with pytest.raises(onnxlr.DataError, match=message) as error:
        read_curve(folder, data["model"])
    one_line(error, "sweep.json")
    with pytest.raises(onnxlr.DataError, match="cannot be read"):
        read_curve(folder / "nowhere", data["model"])


def test_settings(folder: Path, calibration: str | None) -> None:
    settings = json.loads((folder / "sweep.json").read_text())["settings"]
    assert (settings["points"], settings["lowest"], settings["align"]) == (5, 0.2, 2)
    assert settings["checks"]["latency_seconds"] == 0.005
    assert (settings["calibration"] or {}).get("inputs") == calibration
    assert not {"energy", "target-macs"} & set(settings)


def test_plans_can_be_applied(folder: Path, curve: onnxlr.Sweep, calibration: str | None) -> None:
    point = curve.points[-1]
    plan = onnxlr.read_plan(folder / point.plan_file)
    assert onnxlr.apply(MODEL, plan, calibration=calibration).report.totals == point.totals


def texts(svg: bytes) -> set[str]:
    return {element.text or "" for element in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")}  # noqa: S314 - our own


def test_the_plot_shows_what_was_measured(folder: Path, calibration: str | None) -> None:
    shown = texts((folder / "sweep.svg").read_bytes())
    assert {"relative L2 error", "top-1 accuracy", "speed-up", "MACs kept", "model in memory"} <= shown
    assert ("predicted by the layers' errors" in shown) == (calibration is not None)


def test_the_plot_leaves_out_what_was_not(data: Data, tmp_path: Path) -> None:
    checks = dataclasses.replace(data.checks, labels=None)
    onnxlr.sweep(MODEL, points=1, lowest=0.5, align=2, checks=checks).save(tmp_path)
    shown = texts((tmp_path / "sweep.svg").read_bytes())
    assert "relative L2 error" in shown
    assert not {"top-1 accuracy", "speed-up"} & shown


def test_ten_points_look_at_the_layers_once(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    for owner, name in ((Calibrator, "survey"), (Reference, "__init__")):
        monkeypatch.setattr(owner, name, _counting(getattr(owner, name), calls))
    checks = dataclasses.replace(data.checks, labels=None)
    curve = onnxlr.sweep(MODEL, align=2, checks=checks, calibration=data.calibration, lowest=0.3)
    assert len(curve.points) == 10
    assert sorted(calls) == ["__init__", "survey"]


def _counting(function: Any, calls: list[str]) -> Any:
    def call(*arguments: Any, **options: Any) -> Any:
        calls.append(function.__name__)
        return function(*arguments, **options)

    return call


def test_budgets_that_cannot_be_reached_are_listed(data: Data, tmp_path: Path) -> None:
    curve = onnxlr.sweep(MODEL, points=5, align=2, include="conv2", checks=data.checks)
    reached, beyond = [p.target for p in curve.points], [item.target for item in curve.unreachable]
    assert reached
    assert [*reached, *beyond] == [0.84, 0.68, 0.52, 0.36, 0.2]
    assert all("the lowest that can be reached is" in item.reason for item in curve.unreachable)
    curve.save(tmp_path)
    listed = json.loads((tmp_path / "sweep.json").read_text())["unreachable"]
    assert [item["target"] for item in listed] == beyond
    assert len(list(tmp_path.glob("plan-*.json"))) == len(reached)


def test_no_budget_that_can_be_reached_is_an_error(data: Data) -> None:
    with pytest.raises(onnxlr.UsageError) as error:
        onnxlr.sweep(MODEL, points=3, exclude="", checks=data.checks)
    one_line(error, "no point can be reached", "the lowest that can be reached is 1 of the MACs")


def test_macs_that_are_unknown() -> None:
    model = classifier(("H", "W"))
    with pytest.raises(onnxlr.UsageError) as error:
        onnxlr.sweep(model, checks=None)
    one_line(error, "give --input-shape, or --unit params")
    assert onnxlr.sweep(model, points=1, lowest=0.5, unit="params", checks=None).points


@pytest.fixture
def no_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)


@pytest.mark.usefixtures("no_matplotlib")
def test_without_matplotlib_there_is_a_note_instead_of_a_plot(data: Data, tmp_path: Path) -> None:
    curve = onnxlr.sweep(MODEL, points=1, lowest=0.5, align=2, checks=data.checks)
    assert curve.notes[-1] == "there is no plot, as matplotlib is missing: pip install 'onnxlr[plot]'"
    (tmp_path / "sweep.svg").write_text("of another sweep")
    written = curve.save(tmp_path)
    assert [path.name for path in written] == ["plan-0.5.json", "sweep.csv", "sweep.json"]
    assert sorted(written) == sorted(tmp_path.iterdir())
    assert json.loads((tmp_path / "sweep.json").read_text())["notes"] == list(curve.notes)


PANELS = [Panel("error", [Line("a", [0.2, 0.5], [0.3, 0.1], [(0.2, 0.4), (0.1, 0.1)])], ("b", 1.0))]


def test_a_plot_is_the_same_bytes_whatever_the_settings() -> None:
    first = draw("title", "x", PANELS)
    with mpl.rc_context({"font.size": 20, "svg.fonttype": "path", "lines.linewidth": 9}):
        assert draw("title", "x", PANELS) == first
        assert mpl.rcParams["font.size"] == 20
    assert b"<dc:date>" not in first


@pytest.mark.parametrize("title", ["a $x$ b", "$x", "100%", "<b>&", "ünïcode"])
def test_a_title_is_shown_as_it_is(title: str) -> None:
    assert title in texts(draw(title, "x", PANELS))


def test_limits_mark_points(data: Data) -> None:
    checks = dataclasses.replace(data.checks, limits=onnxlr.Limits(max_rel_l2=0.1))
    curve = onnxlr.sweep(MODEL, points=3, lowest=0.1, align=1, checks=checks)
    counts = [len(point["violations"]) for point in curve.to_dict()["points"]]
    assert counts == sorted(counts)
    assert counts[-1] == 1


def test_a_model_that_cannot_be_run(tmp_path: Path) -> None:
    model = conv_model(decaying(16, 16, 3, 3))
    model.opset_import.append(helper.make_opsetid("acme", 1))
    model.graph.node[0].output[0] = "h"
    model.graph.node.append(helper.make_node("Sharpen", ["h"], ["y"], domain="acme"))
    curve = onnxlr.sweep(model, points=2, lowest=0.5, align=1, checks=onnxlr.Checks(device="cpu"))
    assert [note.partition(":")[0] for note in curve.notes] == ["accuracy is not protected", "not validated"]
    assert [(point.validation, point.latency) for point in curve.points] == [(None, None)] * 2
    curve.save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "plan-0.75.json", "plan-0.5.json", "sweep.csv", "sweep.json"
    }  # fmt: skip


@pytest.mark.parametrize(("name", "reason"), [("no/curve", "no does not exist"), ("file", "name a folder")])
def test_folders_that_cannot_be_made(curve: onnxlr.Sweep, tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(onnxlr.UsageError, match=reason):
        curve.save(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_model_with_nothing_to_find() -> None:
    """Noise has no low rank, and a plan within the budget all the same."""
    curve = onnxlr.sweep(conv_model(weight(16, 16, 3, 3)), points=1, lowest=0.5, checks=None)
    (point,) = curve.points
    assert (point.rel_l2, point.agreement, point.top1, point.speedup) == (None, None, None, None)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("errors", "worst"),
    [([0.1, 0.3, 0.2], "0.3"), ([0.1, NAN, 0.2], "nan"), ([INF, 1.0], "inf"), ([], "None")],
)
def test_the_worst_output_counts(curve: onnxlr.Sweep, errors: list[float], worst: str) -> None:
    outputs = tuple(OutputDifference(f"y{i}", 1.0, error, 1.0, None) for i, error in enumerate(errors))
    point: SweepPoint = dataclasses.replace(curve.points[0], validation=Validation(outputs, "", 1, ()))
    assert str(point.rel_l2) == worst


def test_accuracy_is_that_of_the_output_that_has_one(curve: onnxlr.Sweep) -> None:
    outputs = (
        OutputDifference("features", 1.0, 0.1, 1.0, 0.5, 0.02, 0.03),
        OutputDifference("logits", 1.0, 0.1, 1.0, 0.9, 0.92, 0.9),
        OutputDifference("other", 1.0, 0.1, 1.0, None),
    )
    point = dataclasses.replace(curve.points[0], validation=Validation(outputs, "", 1, ()))
    assert (point.top1, point.agreement) == (0.9, 0.5)
