"""Fine-tuning: a factorized network is brought back to its original, and goes on after an interruption."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import ModelProto

pytest.importorskip("torch", reason="needs the extra onnxlr[train]")

import onnxlr
from onnxlr.cli import cli
from onnxlr.model_file import load
from onnxlr.training import Epoch, FineTuned, TrainingData, TrainingOptions, finetune
from onnxlr.training.dataset import Augmentation, Dataset
from tests.builders import initializers, one_line, run
from tests.training.checks import ROOT

TEACHER = ROOT / "models/digits/digits.onnx"
QUICK = TrainingOptions(epochs=3, batch_size=32, learning_rate=3e-3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Training images and labels of half the digits, and a network of a tenth of the MACs."""
    from sklearn.datasets import load_digits  # noqa: PLC0415 - slow to import

    path = tmp_path_factory.mktemp("digits")
    name = onnx.load(TEACHER).graph.input[0]
    shape = [d.dim_value for d in name.type.tensor_type.shape.dim[1:]]
    digits = load_digits()
    images = digits.images[:, None].astype(np.float32)
    scale = shape[-1] // images.shape[-1]
    images = images.repeat(scale, 2).repeat(scale, 3) / 16
    rows = np.arange(0, len(images), 4)
    np.savez(path / "data.npz", **{name.name: images[rows]})
    np.save(path / "labels.npy", digits.target[rows].astype(np.int64))
    small = onnxlr.optimize(TEACHER, target_macs=0.1, checks=None)
    small.save(path / "small.onnx")
    return path


def tuned(folder: Path, options: TrainingOptions = QUICK, **given: Any) -> FineTuned:
    given = {"teacher": TEACHER, "threads": 1, "device": "cpu", **given}
    data = TrainingData(str(folder / "data.npz"), given.pop("labels", None))
    return finetune(folder / "small.onnx", given.pop("teacher"), data, options, **given)


def stripped(model: ModelProto) -> bytes:
    """A model without the numbers of its weights."""
    copy = ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        tensor.ClearField("raw_data")
    return copy.SerializeToString(deterministic=True)


def test_it_comes_nearer_to_the_teacher(folder: Path) -> None:
    checks = onnxlr.Checks(inputs=str(folder / "data.npz"), latency_seconds=0, device="cpu")
    before = onnxlr.validate(TEACHER, folder / "small.onnx", checks).validation
    result = tuned(folder, checks=checks)
    assert before is not None
    assert result.checked is not None
    assert result.checked.validation is not None
    assert result.checked.validation.outputs[0].rel_l2 < 0.8 * before.outputs[0].rel_l2
    assert [epoch.number for epoch in result.history] == [1, 2, 3]
    first, *_, last = result.history
    assert last.loss < first.loss
    assert last.rel_l2 is not None
    assert first.rel_l2 is not None
    assert last.rel_l2 < first.rel_l2
    assert last.accuracy is None
    assert last.learning_rate < first.learning_rate


def test_only_weights_change(folder: Path) -> None:
    before = onnx.load(folder / "small.onnx")
    after = tuned(folder, replace(QUICK, epochs=1)).model.proto
    assert stripped(after) == stripped(before)
    old, new = initializers(before), initializers(after)
    changed = {name for name in old if old[name].tobytes() != new[name].tobytes()}
    assert any(name.endswith("_weight") for name in changed)
    assert all(old[name].dtype.kind == "f" for name in changed)


def test_labels_alone(folder: Path) -> None:
    result = tuned(folder, teacher=None, labels=str(folder / "labels.npy"))
    last = result.history[-1]
    assert last.accuracy is not None
    assert last.accuracy > 0.8
    assert (last.agreement, last.rel_l2) == (None, None)
    assert result.checked is None


class InterruptError(Exception):
    """What stops a training in a test."""


def interrupt(after: int) -> Any:
    def told(epoch: Epoch) -> None:
        if epoch.number == after:
            raise InterruptError

    return told


def test_an_interrupted_training_goes_on(folder: Path, tmp_path: Path) -> None:
    """It ends with the weights of one that was not interrupted, bit for bit."""
    checkpoint, options = tmp_path / "state", replace(QUICK, crop=1)
    whole = tuned(folder, options)
    with pytest.raises(InterruptError):
        tuned(folder, options, checkpoint=checkpoint, on_epoch=interrupt(2))
    assert checkpoint.is_file()
    heard: list[Epoch] = []
    resumed = tuned(folder, options, checkpoint=checkpoint, on_epoch=heard.append)
    assert [epoch.number for epoch in heard] == [3]
    assert [epoch.number for epoch in resumed.history] == [1, 2, 3]
    assert checkpoint.is_file()  # it stays until the result is saved
    expected, actual = initializers(whole.model.proto), initializers(resumed.model.proto)
    assert {name: array.tobytes() for name, array in actual.items()} == {
        name: array.tobytes() for name, array in expected.items()
    }


def test_a_checkpoint_of_another_training_is_refused(folder: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "state"
    with pytest.raises(InterruptError):
        tuned(folder, checkpoint=checkpoint, on_epoch=interrupt(1))
    with pytest.raises(onnxlr.DataError) as raised:
        tuned(folder, replace(QUICK, seed=1), checkpoint=checkpoint)
    one_line(raised, "is of another training", "delete it")
    checkpoint.write_bytes(b"nonsense")
    with pytest.raises(onnxlr.DataError) as raised:
        tuned(folder, checkpoint=checkpoint)
    one_line(raised, "is no checkpoint")


def test_time_is_kept_to(folder: Path) -> None:
    result = tuned(folder, TrainingOptions(time_budget=0.5, batch_size=8))
    assert 0.5 <= result.history[-1].seconds < 5
    assert result.history[-1].learning_rate < 1e-4


def test_it_stops_where_nothing_improves(folder: Path) -> None:
    options = TrainingOptions(epochs=50, patience=1, learning_rate=0.5, optimizer="sgd", batch_size=32)
    assert len(tuned(folder, options).history) < 50


def test_nothing_held_out(folder: Path) -> None:
    (epoch,) = tuned(folder, replace(QUICK, epochs=1, held_out=0)).history
    assert epoch.held_out_loss is None


def test_with_batch_normalization(folder: Path) -> None:
    """It is there while the network is trained, and folded in again."""
    images = np.load(folder / "data.npz")
    (name,) = images.files
    result = tuned(folder, replace(QUICK, epochs=1, learning_rate=1e-6, optimizer="sgd"), unfold_bn=True)
    assert not any(node.op_type == "BatchNormalization" for node in result.model.proto.graph.node)
    onnx.checker.check_model(result.model.proto, full_check=True)
    expected = run(onnx.load(folder / "small.onnx"), **{name: images[name]})[0]
    actual = run(result.model.proto, **{name: images[name]})[0]
    assert np.linalg.norm(expected - actual) < 0.2 * np.linalg.norm(expected)


def test_wrong_input(folder: Path) -> None:
    with pytest.raises(onnxlr.UsageError) as raised:
        tuned(folder, teacher=None)
    one_line(raised, "give a teacher, labels, or both")
    np.save(folder / "few.npy", np.zeros(3, np.int64))
    with pytest.raises(onnxlr.DataError) as data:
        tuned(folder, labels=str(folder / "few.npy"))
    one_line(data, "3 labels for 450 samples")
    other = load(TEACHER).proto
    changed = ModelProto()
    changed.CopyFrom(other)
    old = changed.graph.output[0].name
    changed.graph.output[0].name = "renamed"
    for node in changed.graph.node:
        node.output[:] = ["renamed" if name == old else name for name in node.output]
    with pytest.raises(onnxlr.ModelError) as model:
        tuned(folder, teacher=changed)
    one_line(model, "outputs differ", "renamed")
    with pytest.raises(onnxlr.ModelError) as diverged:
        tuned(folder, TrainingOptions(epochs=2, optimizer="sgd", learning_rate=1e30))
    one_line(diverged, "loss is not finite", "smaller learning rate")


@pytest.mark.parametrize(
    "wrong",
    [
        {"optimizer": "adam"},
        {"epochs": 0},
        {"time_budget": 0},
        {"learning_rate": -1},
        {"held_out": 1},
        {"batch_size": 0},
        {"crop": -1},
        {"patience": 0},
        {"weight_decay": -1},
    ],
)
def test_options_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(onnxlr.UsageError, match=next(iter(wrong))):
        TrainingOptions(**wrong)


def test_augmentation() -> None:
    images = np.arange(2 * 1 * 3 * 4, dtype=np.float32).reshape(2, 1, 3, 4) + 1
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(200):
        (result,) = Augmentation(flip=True, crop=1, axes={"x": (2, 3)}).apply({"x": images}, rng).values()
        assert result.shape == images.shape
        seen.add(result[0].tobytes())
    assert len(seen) == 2 * 9  # mirrored or not, by three shifts along either axis
    left = np.pad(images[0, 0], ((0, 0), (0, 1)))[:, 1:]
    assert left[None].tobytes() in seen
    same = Augmentation(flip=False, crop=0, axes={"x": (2, 3)}).apply({"x": images, "n": images}, rng)
    assert all(np.array_equal(array, images) for array in same.values())


def test_the_split_is_seeded_and_whole() -> None:
    data = Dataset([{"x": np.arange(10)[:, None]}, {"x": np.arange(10, 25)[:, None]}])
    rows, held = data.split(0.2, seed=3)
    assert sorted([*rows, *held]) == list(range(25))
    assert len(held) == 5
    assert [len(part) for part in data.split(0.0, seed=3)] == [25, 0]
    assert np.array_equal(data.split(0.2, seed=3)[1], held)
    assert not np.array_equal(data.split(0.2, seed=4)[1], held)


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["finetune", *map(str, arguments)])


def test_the_command(folder: Path, tmp_path: Path) -> None:
    out, report = tmp_path / "o.onnx", tmp_path / "r.json"
    options = ["--data", folder / "data.npz", "--epochs", 2, "--device", "cpu", "--threads", 1]
    done = invoke(
        folder / "small.onnx",
        "--teacher",
        TEACHER,
        "-o",
        out,
        *options,
        "--latency-seconds",
        0,
        "--report",
        report,
    )
    assert done.exit_code == 0, done.output
    assert [line.split(",")[0] for line in done.stderr.splitlines()] == ["epoch 1", "epoch 2"]
    assert "agreement" in done.stderr
    assert f"wrote {out}" in done.stdout
    data = json.loads(report.read_text())
    assert len(data["history"]) == 2
    assert data["settings"]["epochs"] == 2
    assert data["validation"]["outputs"][0]["rel_l2"] < 1
    onnx.checker.check_model(onnx.load(out), full_check=True)
    assert {path.name for path in tmp_path.iterdir()} == {"o.onnx", "r.json"}


@pytest.mark.parametrize(
    ("code", "message", "arguments"),
    [
        (2, "nothing to train towards", []),
        (2, "is not like 90s, 10m or 1.5h", ["--time-budget", "soon"]),
        (3, "no such file", ["--teacher", "nowhere.onnx"]),
        (2, "written as .json", ["--report", "r.txt"]),
    ],
)
def test_wrong_commands(folder: Path, tmp_path: Path, code: int, message: str, arguments: list[str]) -> None:
    done = invoke(folder / "small.onnx", "-o", tmp_path / "o.onnx", "--data", folder / "data.npz", *arguments)
    assert done.exit_code == code, done.output
    assert message in done.stderr
    assert not list(tmp_path.iterdir())


def test_optimize_and_finetune(folder: Path, tmp_path: Path) -> None:
    out, report = tmp_path / "o.onnx", tmp_path / "r.json"
    options = ["--target-macs", 0.1, "--latency-seconds", 0, "--device", "cpu", "--threads", 1]
    chain = ["--finetune", "3s", "--finetune-data", folder / "data.npz", "--max-rel-l2", 0.9]
    arguments = [TEACHER, "-o", out, *options, *chain, "--report", report]
    done = CliRunner().invoke(cli, ["optimize", *map(str, arguments)])
    assert done.exit_code == 0, done.output
    data = json.loads(report.read_text())
    assert data["layers"]
    assert data["training"]["history"][-1]["seconds"] >= 3
    assert data["training"]["settings"]["time_budget"] == 3
    assert data["validation"]["inputs"] == str(folder / "data.npz")
    trained, small = (onnx.load(path) for path in (out, folder / "small.onnx"))
    assert stripped(trained) == stripped(small)


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("give --finetune-data, or --calibration", ["--energy", "0.9"]),
        ("needs a rank rule", ["--finetune-data", "x.npz", "--max-rel-l2", "0.1"]),
    ],
)
def test_finetune_of_optimize_needs(tmp_path: Path, message: str, arguments: list[str]) -> None:
    command = ["optimize", str(TEACHER), "-o", str(tmp_path / "o.onnx"), "--finetune", "1m", *arguments]
    done = CliRunner().invoke(cli, command)
    assert done.exit_code == 2
    assert message in done.stderr
