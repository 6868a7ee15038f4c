"""Low-rank training on handwritten digits: from scratch as good as full rank, and cuts that lose nothing."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from click.testing import Result as Done
from onnx import ModelProto, NodeProto, helper

pytest.importorskip("torch", reason="needs the extra onnxlr[train]")

import onnxlr
from models.digits.data import load
from onnxlr.cli import app, cli
from onnxlr.model_file import load as load_model
from onnxlr.result import Result
from onnxlr.schemes import all_schemes
from onnxlr.training import Epoch, TrainingData, TrainingOptions, all_methods, train
from tests.builders import Array, constants, initializers, make_model, one_line, run, weight

SIZE = 16
LAYERS = ((32, 2), (64, 1), (64, 2), (64, 1))
"""Output channels and stride of each 3×3 Conv."""

KEPT = 0.4
POINTS = 0.005

THOROUGH = TrainingOptions(
    epochs=25, learning_rate=5e-3, weight_decay=0.05, batch_size=64, crop=1, held_out=0
)
"""With these three methods are at 99 % of 797 test images, 4 to 7 wrong, whatever the seed."""

CUT = TrainingOptions(epochs=8, batch_size=32, crop=1, held_out=0)
QUICK = TrainingOptions(epochs=1, batch_size=64)


def network() -> ModelProto:
    """Convs with BatchNormalization and Relu, global pooling, a Gemm; weights are random."""
    nodes: list[NodeProto] = []
    weights: dict[str, Array] = {}
    before, channels = "x", 1
    for i, (width, stride) in enumerate(LAYERS):
        norm = constants(f"bn{i}", width)
        weights |= {f"w{i}": weight(width, channels, 3, 3, seed=i), **norm}
        conv = helper.make_node(
            "Conv", [before, f"w{i}"], [f"c{i}"], f"conv{i}", pads=[1] * 4, strides=[stride] * 2
        )
        nodes += [
            conv,
            helper.make_node("BatchNormalization", [f"c{i}", *norm], [f"n{i}"], f"bn{i}"),
            helper.make_node("Relu", [f"n{i}"], [f"r{i}"], f"relu{i}"),
        ]
        before, channels = f"r{i}", width
    nodes += [
        helper.make_node("GlobalAveragePool", [before], ["pooled"], "pool"),
        helper.make_node("Flatten", ["pooled"], ["flat"], "flatten"),
        helper.make_node("Gemm", ["flat", "fc_w", "fc_b"], ["logits"], "fc", transB=1),
    ]
    weights |= {"fc_w": weight(10, channels, seed=20), "fc_b": weight(10, seed=21)}
    model = make_model(nodes, {"x": ["N", 1, SIZE, SIZE]}, ["logits"], weights)
    helper.set_model_props(model, {"author": "us"})
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network with random weights, and 1,000 digits to train on, 797 to test on."""
    path = tmp_path_factory.mktemp("lowrank")
    onnx.save(network(), path / "random.onnx")
    for name, digits in zip(("train", "test"), load(), strict=True):
        np.savez(path / f"{name}.npz", x=shrunk(digits.images))
        np.save(path / f"{name}_labels.npy", digits.labels)
    return path


def shrunk(images: Array) -> Array:
    """32×32 pixels to 16×16, by means."""
    found: Array = images.reshape(-1, 1, SIZE, 2, SIZE, 2).mean((3, 5))
    return found


@pytest.fixture(scope="module")
def full(folder: Path) -> Result:
    """Trained from scratch at full rank; also in full.onnx."""
    result = trained(folder, "full", THOROUGH)
    result.save(folder / "full.onnx")
    return result


@pytest.fixture(scope="module")
def cut(folder: Path, full: Result) -> Result:  # noqa: ARG001 - for full.onnx
    """Adaptive-rank from the weights of `full`, by labels."""
    return trained(folder, "adaptive-rank", CUT, model="full.onnx")


def checks(folder: Path) -> onnxlr.Checks:
    inputs, labels = str(folder / "test.npz"), str(folder / "test_labels.npy")
    return onnxlr.Checks(inputs, labels, device="cpu", threads=1, latency_seconds=0)


def plan_for(folder: Path, method: str, model: str = "random.onnx") -> onnxlr.Plan | None:
    schemes = all_methods()[method].schemes
    return onnxlr.plan(folder / model, target_params=KEPT, schemes=schemes) if schemes else None


def trained(
    folder: Path, method: str, options: TrainingOptions = QUICK, model: str = "random.onnx", **given: Any
) -> Result:
    """By labels on one thread, unless something else is said."""
    labels = given.pop("labels", str(folder / "train_labels.npy"))
    plan = given.pop("plan") if "plan" in given else plan_for(folder, method, model)
    data = TrainingData(str(folder / "train.npz"), labels)
    given = {"checks": checks(folder), "device": "cpu", "threads": 1, "workers": 1, **given}
    return train(folder / model, method, plan, data, options, **given)


def accuracy(result: Result) -> float:
    assert result.report.validation is not None
    found = result.report.validation.outputs[0].top1_after
    assert found is not None
    return found


def told(result: Result) -> Mapping[str, Any]:
    assert result.report.training is not None
    return result.report.training


@pytest.mark.parametrize("method", ["tai", "elrt"])
def test_low_rank_from_scratch_is_as_good_as_full_rank(folder: Path, full: Result, method: str) -> None:
    """Within half a point (3 of 797 images), at 40 % of the parameters."""
    result = trained(folder, method, THOROUGH)
    params = result.report.totals.params
    assert params.before is not None
    assert params.after is not None
    assert params.after <= KEPT * params.before
    assert params.after == sum(array.size for array in initializers(result.model).values())
    assert accuracy(full) > 0.985
    assert accuracy(result) >= accuracy(full) - POINTS
    assert told(result)["start"] == "scratch"


def test_the_cut_costs_nothing(folder: Path, full: Result, cut: Result) -> None:
    """And applied to the weights that training started with, the same plan costs a lot."""
    (output,) = told(cut)["cut"]["outputs"]
    assert output["rel_l2"] < 0.01
    assert output["top1_agreement"] > 0.997
    assert abs(output["top1_before"] - output["top1_after"]) <= 0.0013  # one image
    plain = onnxlr.apply(folder / "full.onnx", cut.plan)
    lost = onnxlr.validate(folder / "full.onnx", plain.model, checks(folder)).validation
    assert lost is not None
    assert lost.outputs[0].rel_l2 > 20 * output["rel_l2"]
    assert accuracy(cut) >= accuracy(full) - 2 * POINTS
    violations = [epoch["violation"] for epoch in told(cut)["history"]]
    assert violations[0] > 0.1
    assert violations[-1] < 1e-4


@pytest.mark.parametrize("method", ["tai", "adaptive-rank", "elrt"])
@pytest.mark.parametrize("start", ["scratch", "weights"])
def test_the_result_has_the_chains_of_the_plan(folder: Path, method: str, start: str) -> None:
    """No layer more or less; BatchNormalizations, which it was trained with, are folded."""
    result = trained(folder, method, start=start)
    graph, original = result.model.graph, network().graph
    wanted = Counter(weights_of(result.plan))
    assert Counter(weights_in(result.model)) == wanted
    assert sum(wanted.values()) > len(LAYERS) + 1
    assert {node.op_type for node in graph.node} <= {"Conv", "Relu", "GlobalAveragePool", "Flatten", "Gemm"}
    assert [value.name for value in graph.output] == [value.name for value in original.output]
    assert list(graph.input) == list(original.input)
    assert [(item.key, item.value) for item in result.model.metadata_props] == [("author", "us")]
    onnx.checker.check_model(result.model, full_check=True)


def weights_of(plan: onnxlr.Plan) -> Iterator[tuple[int, ...]]:
    """Shapes that weights have when a plan is applied."""
    planned = {layer.name: layer for layer in plan.layers}
    channels = 1
    for i, (width, _) in enumerate(LAYERS):
        layer = planned.pop(f"conv{i}", None)
        conv = onnxlr.conv.ConvSpec.create(
            (width, channels, 3, 3), strides=(LAYERS[i][1],) * 2, pads=(1,) * 4
        )
        links = (conv,) if layer is None else all_schemes()[layer.scheme].chain(conv, layer.rank)
        yield from (link.weight_shape for link in links)
        channels = width
    yield (10, channels)
    assert not planned


def weights_in(model: ModelProto) -> Iterator[tuple[int, ...]]:
    """Shapes of the weights of all layers."""
    arrays = initializers(model)
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm"):
            yield arrays[node.input[1]].shape


def test_the_report(folder: Path, cut: Result) -> None:
    report = json.loads(json.dumps(cut.report.to_dict()))
    assert [layer["name"] for layer in report["layers"]] == [layer.name for layer in cut.plan.layers]
    assert report["layers"]
    assert report["model"] == cut.plan.model
    assert report["settings"]["target-params"] == KEPT
    params = report["totals"]["params"]
    assert params["after"] <= KEPT * params["before"]
    assert report["totals"]["macs"]["after"] < report["totals"]["macs"]["before"]
    training = report["training"]
    assert set(training) == {"method", "start", "settings", "history", "cut"}
    assert (training["method"], training["start"]) == ("adaptive-rank", "weights")
    assert training["settings"]["epochs"] == CUT.epochs
    assert training["settings"]["data"]["inputs"] == str(folder / "train.npz")
    assert [epoch["number"] for epoch in training["history"]] == list(range(1, 9))
    losses = [epoch["loss"] for epoch in training["history"]]
    assert all(0 < loss < 0.5 for loss in losses)
    assert all(epoch["held_out_loss"] is None for epoch in training["history"])
    (output,) = report["validation"]["outputs"]
    assert output["top1_after"] == training["cut"]["outputs"][0]["top1_after"]
    assert any("before training" in note for note in report["notes"])


def test_the_validation_is_that_of_the_model(folder: Path, cut: Result) -> None:
    """Labels and images of the checks, through the model that came out."""
    images, labels = np.load(folder / "test.npz")["x"], np.load(folder / "test_labels.npy")
    right = run(cut.model, x=images)[0].argmax(1) == labels
    assert accuracy(cut) == pytest.approx(right.mean())


def test_full_changes_nothing_but_weights(folder: Path) -> None:
    result = trained(folder, "full")
    assert result.plan.layers == ()
    assert Counter(weights_in(result.model)) == Counter(weights_in(network()))
    assert told(result)["cut"] is None
    (epoch,) = told(result)["history"]
    assert (epoch["violation"], epoch["rel_l2"], epoch["agreement"]) == (None, None, None)
    assert 0 < epoch["accuracy"] < 1


@pytest.mark.usefixtures("full")
def test_scratch_knows_nothing_of_the_weights(folder: Path) -> None:
    """Nor of biases: the same comes out of two networks of the same shapes."""
    results = [trained(folder, "full", model=model) for model in ("random.onnx", "full.onnx")]
    images = np.load(folder / "test.npz")["x"]
    (first,), (second,) = (run(result.model, x=images) for result in results)
    assert np.array_equal(first, second)


@pytest.mark.usefixtures("full")
def test_weights_are_started_with(folder: Path) -> None:
    """With next to no learning, tai and elrt compute what the plain cut of the weights does."""
    still = replace(QUICK, learning_rate=1e-9, optimizer="sgd", held_out=0.1)
    images = np.load(folder / "test.npz")["x"]
    for method in ("tai", "elrt"):
        result = trained(folder, method, still, model="full.onnx", start="weights")
        (expected,) = run(onnxlr.apply(folder / "full.onnx", result.plan).model, x=images)
        (actual,) = run(result.model, x=images)
        assert np.linalg.norm(expected - actual) < 0.2 * np.linalg.norm(expected)  # statistics are of batches


class InterruptError(Exception):
    """What stops a training in a test."""


def interrupt(epoch: Epoch) -> None:
    if epoch.number == 2:
        raise InterruptError


@pytest.mark.usefixtures("full")
def test_an_interrupted_training_goes_on(folder: Path, tmp_path: Path) -> None:
    """With the penalties of the layers as they were: the same weights and violations, bit for bit."""
    options = replace(CUT, epochs=4, batch_size=64)
    given: dict[str, Any] = {"model": "full.onnx", "checks": None}
    whole = trained(folder, "adaptive-rank", options, **given)
    with pytest.raises(InterruptError):
        trained(folder, "adaptive-rank", options, checkpoint=tmp_path / "c", on_epoch=interrupt, **given)
    heard: list[Epoch] = []
    resumed = trained(
        folder, "adaptive-rank", options, checkpoint=tmp_path / "c", on_epoch=heard.append, **given
    )
    assert [epoch.number for epoch in heard] == [3, 4]
    expected, actual = (numbers(result) for result in (whole, resumed))
    assert actual == expected
    assert as_bytes(resumed.model) == as_bytes(whole.model)


def numbers(result: Result) -> list[dict[str, Any]]:
    """The history without times."""
    return [{**epoch, "seconds": None} for epoch in told(result)["history"]]


def as_bytes(model: ModelProto) -> bytes:
    return model.SerializeToString(deterministic=True)


def test_a_checkpoint_is_of_its_method_and_plan(folder: Path, tmp_path: Path) -> None:
    given: dict[str, Any] = {"checkpoint": tmp_path / "c", "checks": None}
    trained(folder, "tai", **given)
    plan = onnxlr.plan(folder / "random.onnx", target_params=0.5, schemes=["spatial"])
    for method, other in (("adaptive-rank", plan_for(folder, "tai")), ("tai", plan), ("full", None)):
        with pytest.raises(onnxlr.DataError) as raised:
            trained(folder, method, plan=other, **given)
        one_line(raised, "is of another training")


@pytest.mark.usefixtures("full")
@pytest.mark.parametrize("method", ["tai", "adaptive-rank", "elrt"])
def test_distillation_without_labels(folder: Path, method: str) -> None:
    """Towards the network itself: what was lost by low rank comes back."""
    given: dict[str, Any] = {"model": "full.onnx", "teacher": folder / "full.onnx", "labels": None}
    options = replace(CUT, epochs=8 if method == "adaptive-rank" else 3, held_out=0.1)
    result = trained(folder, method, options, start="weights", **given)
    last = told(result)["history"][-1]
    assert last["accuracy"] is None
    assert last["agreement"] > 0.95
    plain = onnxlr.apply(folder / "full.onnx", result.plan).model
    lost = onnxlr.validate(folder / "full.onnx", plain, checks(folder)).validation
    assert lost is not None
    assert result.report.validation is not None
    assert result.report.validation.outputs[0].rel_l2 < 0.75 * lost.outputs[0].rel_l2
    if method == "adaptive-rank":  # held-out data chose the state, but not one that is far from its rank
        assert told(result)["cut"]["outputs"][0]["rel_l2"] < 0.05


def test_what_no_rule_draws_is_told(folder: Path, tmp_path: Path) -> None:
    model = network()
    (relu,) = (node for node in model.graph.node if node.name == "relu0")
    relu.op_type = "PRelu"
    relu.input.append("slope")
    slope = 0.25 * np.ones((LAYERS[0][0], 1, 1), np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(slope, "slope"))
    onnx.save(model, tmp_path / "prelu.onnx")
    result = trained(folder, "tai", model=str(tmp_path / "prelu.onnx"), checks=None)
    (note,) = (note for note in result.report.notes if "no rule is known" in note)
    assert note.endswith(": slope")


@pytest.mark.parametrize(
    ("error", "message", "method", "given"),
    [
        ("UsageError", "method must be one of", "cp", {"plan": None}),
        ("UsageError", "start must be one of scratch, weights; got 'middle'", "tai", {"start": "middle"}),
        ("UsageError", "needs a plan that replaces a layer", "tai", {"plan": None}),
        ("UsageError", "needs a plan that replaces a layer", "elrt", {"plan": "empty"}),
        ("PlanError", "make a new plan", "tai", {"plan": "other"}),
        ("UsageError", "elrt does not train the scheme spatial, but tucker2", "elrt", {"plan": "spatial"}),
        ("UsageError", "full replaces nothing, so it takes no plan", "full", {"plan": "spatial"}),
        ("UsageError", "give a teacher, labels, or both", "tai", {"labels": None}),
        ("UsageError", "device must be auto, cpu or cuda", "tai", {"device": "tpu"}),
    ],
)
def test_what_is_refused(folder: Path, error: str, message: str, method: str, given: dict[str, Any]) -> None:
    """In one line, before anything is trained."""
    spatial = plan_for(folder, "tai")
    assert spatial is not None
    plans = {
        None: None,
        "spatial": spatial,
        "empty": replace(spatial, layers=()),
        "other": replace(spatial, model={**spatial.model, "hash": "sha256:0"}),
    }
    chosen: dict[str, Any] = {"plan": plans[given["plan"]]} if "plan" in given else {}

    def heard(_: Epoch) -> None:
        raise AssertionError("it was trained")

    with pytest.raises(getattr(onnxlr, error)) as raised:
        trained(folder, method, on_epoch=heard, **{**given, **chosen})
    one_line(raised, message)


def invoke(folder: Path, out: Path, *arguments: object) -> Done:
    """`onnxlr train` by labels, for an epoch."""
    data = ["--data", folder / "train.npz", "--labels", folder / "train_labels.npy"]
    options = ["--epochs", 1, "--device", "cpu", "--threads", 1, "--latency-seconds", 0]
    command = ["train", folder / "random.onnx", "-o", out, *data, *options, *arguments]
    return CliRunner().invoke(cli, list(map(str, command)))


def test_the_command(folder: Path, tmp_path: Path) -> None:
    out, report = tmp_path / "o.onnx", tmp_path / "r.json"
    test = ["--inputs", folder / "test.npz", "--input-labels", folder / "test_labels.npy"]
    done = invoke(folder, out, "--method", "tai", "--target-params", KEPT, *test, "--report", report)
    assert done.exit_code == 0, done.output
    assert done.stderr.startswith("epoch 1, ")
    assert f"wrote {out}" in done.stdout
    data = json.loads(report.read_text())
    assert {layer["scheme"] for layer in data["layers"]} == {"spatial"}
    (logits,) = run(onnx.load(out), x=np.load(folder / "test.npz")["x"])
    right = logits.argmax(1) == np.load(folder / "test_labels.npy")
    assert data["validation"]["outputs"][0]["top1_after"] == pytest.approx(right.mean())
    assert (data["training"]["method"], data["training"]["start"]) == ("tai", "scratch")
    assert load_model(out).nbytes < load_model(folder / "random.onnx").nbytes * 0.5
    assert {path.name for path in tmp_path.iterdir()} == {"o.onnx", "r.json"}


def test_the_command_at_full_rank_prints_only_json(folder: Path, tmp_path: Path) -> None:
    done = invoke(folder, tmp_path / "o.onnx", "--method", "full", "--json")
    assert done.exit_code == 0, done.output
    data = json.loads(done.stdout)
    assert data["layers"] == []
    assert data["training"]["method"] == "full"
    assert Counter(weights_in(onnx.load(tmp_path / "o.onnx"))) == Counter(weights_in(network()))
    assert {path.name for path in tmp_path.iterdir()} == {"o.onnx"}


def test_the_checkpoint_stays_until_all_is_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A report that cannot be written: the same command then writes all without training again."""

    def full_disk(*_: object) -> None:
        raise onnxlr.UsageError("no space left on device")

    arguments = ["--method", "elrt", "--target-params", KEPT, "--report", tmp_path / "r.json"]
    with monkeypatch.context() as patch:
        patch.setattr(app, "staged_reports", full_disk)
        failed = invoke(folder, tmp_path / "o.onnx", *arguments)
    assert failed.exit_code == 2, failed.output
    assert "no space left" in failed.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["o.onnx.checkpoint"]
    done = invoke(folder, tmp_path / "o.onnx", *arguments)
    assert done.exit_code == 0, done.output
    assert "epoch" not in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"o.onnx", "r.json"}


@pytest.mark.parametrize(
    ("code", "message", "arguments"),
    [
        (
            2,
            "--plan says what is replaced; leave out",
            ["--method", "tai", "--plan", "PLAN", "--energy", 0.9],
        ),
        (2, "--plan says what is replaced; leave out", ["--method", "tai", "--plan", "PLAN", "--align", 4]),
        (2, "--method full replaces nothing", ["--method", "full", "--energy", 0.9]),
        (2, "full replaces nothing, so it takes no plan", ["--method", "full", "--plan", "PLAN"]),
        (2, "Missing option '--method'", []),
        (2, "Invalid value for '--start'", ["--method", "tai", "--start", "middle"]),
        (3, "cannot be read as a plan", ["--method", "tai", "--plan", "nowhere.json"]),
    ],
)
def test_wrong_commands(folder: Path, tmp_path: Path, code: int, message: str, arguments: list[Any]) -> None:
    path = folder / "plan.json"
    spatial = plan_for(folder, "tai")
    assert spatial is not None
    onnxlr.write_plan(spatial, path)
    done = invoke(folder, tmp_path / "o.onnx", *(path if a == "PLAN" else a for a in arguments))
    assert done.exit_code == code, done.output
    assert message in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_limit(folder: Path, tmp_path: Path) -> None:
    """A network from scratch is unlike the random one: it is not written, and the training is not lost."""
    arguments = ["--method", "tai", "--target-params", KEPT, "--max-rel-l2", 1e-3]
    done = invoke(folder, tmp_path / "o.onnx", *arguments)
    assert done.exit_code == 1, done.output
    assert "was not written" in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"o.onnx.checkpoint"}
    done = invoke(folder, tmp_path / "o.onnx", *arguments, "--force", "--json")
    assert "epoch" not in done.stderr
    assert json.loads(done.stdout)["validation"]["passed"] is False
    assert (tmp_path / "o.onnx").is_file()


def test_labels_of_the_samples_that_are_taken(folder: Path) -> None:
    """Evenly spaced ones, as the images: with those of others nothing could be learned."""
    data = TrainingData(str(folder / "train.npz"), str(folder / "train_labels.npy"), samples=500)
    options = replace(THOROUGH, epochs=8)
    result = train(
        folder / "random.onnx", "full", None, data, options, checks=checks(folder), device="cpu", threads=1
    )
    assert accuracy(result) > 0.9


def test_a_speedup_that_is_required_of_a_cut_network(folder: Path) -> None:
    asked = replace(checks(folder), latency_seconds=0.2, require_speedup=0.01)
    validation = trained(folder, "adaptive-rank", checks=asked).report.validation
    assert validation is not None
    assert validation.passed


def test_a_cut_that_came_too_early_is_told(folder: Path, cut: Result) -> None:
    """And nothing is told of options that `train` does not have."""
    early = trained(folder, "adaptive-rank")
    assert told(early)["history"][-1]["violation"] > 0.1
    assert any("of a layer's energy was beyond its rank; train longer" in note for note in early.report.notes)
    assert not any("beyond its rank" in note for note in cut.report.notes)
    assert not any("--calibration" in note for note in (*early.report.notes, *cut.report.notes))
