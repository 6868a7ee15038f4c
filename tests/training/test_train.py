"""Low-rank training from end to end: what comes out has the plan's ranks and does what was asked."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from click.testing import Result as Done
from onnx import ModelProto, helper

pytest.importorskip("torch", reason="needs the extra onnxlr[train]")

import onnxlr
from models.digits.data import Digits, load
from onnxlr.cli import cli
from onnxlr.result import Result
from onnxlr.training import Epoch, TrainingData, TrainingOptions, all_methods, train
from tests.builders import constants, initializers, make_model, one_line, weight

WIDTHS, STRIDES = (32, 64, 64, 64), (1, 2, 1, 1)
SOUND = TrainingOptions(epochs=30, learning_rate=3e-3, batch_size=32, crop=1, held_out=0)
QUICK = TrainingOptions(epochs=3, learning_rate=3e-3, batch_size=32)


def network() -> ModelProto:
    """Four Convs with BatchNormalization on digits of 8×8 pixels; 94 k parameters, which are random."""
    nodes, weights, before, channels = [], {}, "x", 1
    for i, (width, stride) in enumerate(zip(WIDTHS, STRIDES, strict=True)):
        weights[f"w{i}"] = weight(width, channels, 3, 3, seed=i)
        norm = constants(f"bn{i}", width)
        weights |= norm
        window = {"pads": [1] * 4, "strides": [stride] * 2}
        nodes += [
            helper.make_node("Conv", [before, f"w{i}"], [f"c{i}"], f"conv{i}", **window),
            helper.make_node("BatchNormalization", [f"c{i}", *norm], [f"n{i}"], f"bn{i}"),
            helper.make_node("Relu", [f"n{i}"], [f"r{i}"], f"relu{i}"),
        ]
        before, channels = f"r{i}", width
    nodes += [
        helper.make_node("GlobalAveragePool", [before], ["pooled"], "pool"),
        helper.make_node("Flatten", ["pooled"], ["flat"], "flatten"),
        helper.make_node("Gemm", ["flat", "fc_w", "fc_b"], ["logits"], "fc", transB=1),
    ]
    weights |= {"fc_w": weight(10, channels, seed=20), "fc_b": np.zeros(10, np.float32)}
    model = make_model(nodes, {"x": ["N", 1, 8, 8]}, ["logits"], weights)
    helper.set_model_props(model, {"author": "us"})
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network with random weights, and trained at full rank; 1,000 digits to train on, 797 to test on."""
    path = tmp_path_factory.mktemp("train")
    onnx.save(network(), path / "random.onnx")
    parts: dict[str, Digits] = dict(zip(("train", "test"), load(), strict=True))
    for name, digits in parts.items():
        small = digits.images.reshape(-1, 1, 8, 4, 8, 4).mean((3, 5))
        np.savez(path / f"{name}.npz", x=small)
        np.save(path / f"{name}_labels.npy", digits.labels)
    trained(path, "full", replace(SOUND, epochs=8)).save(path / "full.onnx")
    return path


def checks(folder: Path) -> onnxlr.Checks:
    inputs, labels = str(folder / "test.npz"), str(folder / "test_labels.npy")
    return onnxlr.Checks(inputs, labels, device="cpu", threads=1, latency_seconds=0)


def trained(folder: Path, method: str, options: TrainingOptions = QUICK, **given: Any) -> Result:
    """Of the network with random weights, towards labels, unless something else is given."""
    model = folder / given.pop("model", "random.onnx")
    schemes = all_methods()[method].schemes
    plan = given.pop("plan", None)
    if plan is None and schemes:
        plan = onnxlr.plan(model, target_params=given.pop("target", 0.4), schemes=schemes)
    labels = given.pop("labels", str(folder / "train_labels.npy"))
    given = {"device": "cpu", "threads": 1, "workers": 1, "checks": checks(folder), **given}
    return train(model, method, plan, TrainingData(str(folder / "train.npz"), labels), options, **given)


def accuracy(result: Result) -> float:
    assert result.report.validation is not None
    found = result.report.validation.outputs[0].top1_after
    assert found is not None
    return found


def test_low_rank_from_scratch_is_as_good_as_full_rank(folder: Path) -> None:
    """Tai and elrt at 40 % of the parameters, within half a point; the mean of two seeds, as one is noise."""
    means = {}
    for method in ("full", "tai", "elrt"):
        results = [trained(folder, method, replace(SOUND, seed=seed)) for seed in (0, 1)]
        means[method] = np.mean([accuracy(result) for result in results])
        kept = results[0].report.totals.params
        assert kept.before is not None
        assert kept.after is not None
        assert (kept.after <= 0.4 * kept.before) == (method != "full")
    assert means["full"] > 0.98
    assert min(means.values()) >= means["full"] - 0.005


@pytest.mark.parametrize("method", ["tai", "elrt"])
def test_the_result_has_the_chains_of_the_plan(folder: Path, method: str) -> None:
    result = trained(folder, method, replace(QUICK, epochs=1))
    applied = onnxlr.apply(folder / "random.onnx", result.plan)
    assert structure(result.model) == structure(applied.model)
    report = result.report.to_dict()
    assert {layer["scheme"] for layer in report["layers"]} == set(all_methods()[method].schemes)
    assert report["training"]["method"] == method
    assert report["training"]["start"] == "scratch"
    assert len(report["training"]["history"]) == 1
    assert report["training"]["cut"] is None
    assert {prop.key: prop.value for prop in result.model.metadata_props} == {"author": "us"}


def structure(model: ModelProto) -> list[tuple[str, str, list[str], list[int]]]:
    """Operators, names, outputs and shapes of weights, in order."""
    shapes = {name: list(array.shape) for name, array in initializers(model).items()}
    return [
        (n.op_type, n.name, list(n.output), shapes.get(n.input[1], []))
        for n in model.graph.node
        if len(n.input) > 1
    ]


def test_from_the_closed_form(folder: Path) -> None:
    """What starts with given weights is good after an epoch, and better than the plain cut."""
    given = {"model": "full.onnx", "start": "weights", "target": 0.3}
    result = trained(folder, "tai", replace(QUICK, epochs=1, learning_rate=1e-3), **given)
    plain = onnxlr.apply(folder / "full.onnx", result.plan).model
    cut = onnxlr.validate(folder / "full.onnx", plain, checks(folder)).validation
    assert cut is not None
    assert accuracy(result) > max(0.9, cut.outputs[0].top1_after or 0)


def test_a_cut_that_costs_nothing(folder: Path) -> None:
    """Adaptive-rank, towards the network itself without labels."""
    options = replace(QUICK, epochs=10, learning_rate=1e-3)
    given = {"model": "full.onnx", "teacher": folder / "full.onnx", "labels": None, "target": 0.3}
    result = trained(folder, "adaptive-rank", options, **given)
    training = result.report.training
    assert training is not None
    (cut,) = training["cut"]["outputs"]
    plain = onnxlr.apply(folder / "full.onnx", result.plan)
    before = onnxlr.validate(folder / "full.onnx", plain.model, checks(folder)).validation
    assert before is not None
    assert before.outputs[0].rel_l2 > 0.2
    assert cut["rel_l2"] < 0.01
    assert abs(cut["top1_before"] - cut["top1_after"]) <= 0.002
    assert accuracy(result) > 0.97
    assert training["start"] == "weights"
    violations = [epoch["violation"] for epoch in training["history"]]
    assert violations[-1] < 1e-4 < violations[0]
    assert structure(result.model) == structure(plain.model)


def as_bytes(result: Result) -> bytes:
    return result.model.SerializeToString(deterministic=True)


class InterruptError(Exception):
    """What stops a training in a test."""


def interrupt(epoch: Epoch) -> None:
    if epoch.number == 2:
        raise InterruptError


@pytest.mark.parametrize("method", ["tai", "adaptive-rank", "elrt"])
def test_an_interrupted_training_goes_on(folder: Path, tmp_path: Path, method: str) -> None:
    """It ends with the same model, byte for byte, as one that was not interrupted."""
    given = {"checks": None, "checkpoint": tmp_path / "state"}
    with pytest.raises(InterruptError):
        trained(folder, method, **given, on_epoch=interrupt)
    heard: list[Epoch] = []
    resumed = trained(folder, method, **given, on_epoch=heard.append)
    assert [epoch.number for epoch in heard] == [3]
    whole = trained(folder, method, checks=None)
    assert resumed.model.SerializeToString(deterministic=True) == whole.model.SerializeToString(
        deterministic=True
    )


def test_seeds(folder: Path) -> None:
    def model(seed: int) -> bytes:
        return trained(
            folder, "tai", replace(QUICK, epochs=1, seed=seed), checks=None
        ).model.SerializeToString()

    assert model(0) == model(0)
    assert model(0) != model(1)


@pytest.mark.parametrize(
    ("message", "method", "given"),
    [
        ("method must be one of", "cp", {}),
        ("start must be one of scratch, weights", "tai", {"start": "random"}),
        ("give a teacher, labels, or both", "full", {"labels": None}),
        ("replaces nothing, so it takes no plan", "full", {"plan": "spatial"}),
        ("does not train the scheme spatial", "elrt", {"plan": "spatial"}),
        ("needs a plan that replaces a layer", "tai", {"plan": "empty"}),
    ],
)
def test_what_is_refused(folder: Path, message: str, method: str, given: dict[str, Any]) -> None:
    plan = onnxlr.plan(folder / "random.onnx", target_params=0.5, schemes=("spatial",))
    plans = {None: None, "spatial": plan, "empty": replace(plan, layers=())}
    labels = given.get("labels", str(folder / "train_labels.npy"))
    data = TrainingData(str(folder / "train.npz"), labels)
    with pytest.raises(onnxlr.UsageError) as raised:
        train(folder / "random.onnx", method, plans[given.get("plan")], data, start=given.get("start"))
    one_line(raised, message)


def test_a_plan_for_another_model(folder: Path) -> None:
    plan = onnxlr.plan(folder / "full.onnx", target_params=0.5, schemes=("spatial",))
    with pytest.raises(onnxlr.PlanError) as raised:
        trained(folder, "tai", plan=plan)
    one_line(raised, "make a new plan")


def invoke(folder: Path, out: Path, *arguments: object) -> Done:
    data = ["--data", folder / "train.npz", "--labels", folder / "train_labels.npy"]
    options = ["--epochs", 2, "--device", "cpu", "--threads", 1, "--latency-seconds", 0]
    command = ["train", folder / "random.onnx", "-o", out, *data, *options, *arguments]
    return CliRunner().invoke(cli, list(map(str, command)))


def test_the_command(folder: Path, tmp_path: Path) -> None:
    out, reports = tmp_path / "o.onnx", [tmp_path / f"r.{kind}" for kind in ("json", "html")]
    test = ["--inputs", folder / "test.npz", "--input-labels", folder / "test_labels.npy"]
    done = invoke(
        folder,
        out,
        "--method",
        "elrt",
        "--target-params",
        0.5,
        *test,
        *(x for r in reports for x in ("--report", r)),
    )
    assert done.exit_code == 0, done.output
    assert [line.split(",")[0] for line in done.stderr.splitlines()] == ["epoch 1", "epoch 2"]
    assert "method elrt, started from scratch" in done.stdout
    assert "top-1 accuracy:" in done.stdout
    data = json.loads(reports[0].read_text())
    assert data["training"]["settings"]["epochs"] == 2
    assert data["settings"]["target-params"] == 0.5
    onnx.checker.check_model(onnx.load(out), full_check=True)
    assert {path.name for path in tmp_path.iterdir()} == {"o.onnx", "r.json", "r.html"}


def test_a_plan_file_and_a_limit(folder: Path, tmp_path: Path) -> None:
    """A network from scratch is unlike the random one: it is not written, and the training is not lost."""
    plan, out = tmp_path / "plan.json", tmp_path / "o.onnx"
    onnxlr.write_plan(onnxlr.plan(folder / "random.onnx", target_params=0.5, schemes=("spatial",)), plan)
    arguments = ["--method", "tai", "--plan", plan, "--max-rel-l2", 1e-3]
    done = invoke(folder, out, *arguments)
    assert done.exit_code == 1, done.output
    assert "was not written" in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"plan.json", "o.onnx.checkpoint"}
    done = invoke(folder, out, *arguments, "--force", "--json")
    assert "epoch" not in done.stderr
    assert json.loads(done.stdout)["validation"]["passed"] is False
    assert out.is_file()


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("--plan says what is replaced", ["--method", "tai", "--plan", "p.json", "--energy", 0.9]),
        ("--method full replaces nothing", ["--method", "full", "--target-params", 0.5]),
        ("Invalid value for '--method'", ["--method", "cp"]),
    ],
)
def test_wrong_commands(folder: Path, tmp_path: Path, message: str, arguments: list[Any]) -> None:
    done = invoke(folder, tmp_path / "o.onnx", *arguments)
    assert done.exit_code == 2, done.output
    assert message in done.stderr
    assert not list(tmp_path.iterdir())
