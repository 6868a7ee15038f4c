"""The committed exports of the trap network, and the parts of `models.exports` that need no framework."""

import ast
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

import models
from models.exports import __main__ as program
from models.exports.checking import check, run_file
from models.exports.checkpoint import Checkpoint
from models.exports.cleaning import remove_local_paths
from models.exports.environments import ENVIRONMENTS, EXPORTERS, Environment, ProgramError
from models.exports.networks import EPSILON, NETWORKS, Padding, pads
from models.exports.weights import make_checkpoint
from models.weights import random_images

ROOT = Path(__file__).parents[2]
EXPORTS = ROOT / "models" / "exports"
TRAP = EXPORTS / "trap"
CONVS = range(1, 8)


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return make_checkpoint("trap")


def fixture(exporter: str) -> Path:
    return TRAP / f"{exporter}.onnx"


def relative_error(value: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> float:
    return float(np.linalg.norm(value - expected) / np.linalg.norm(expected))


def initializers(model: onnx.ModelProto) -> dict[str, npt.NDArray[np.float32]]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def test_there_is_a_file_of_every_exporter() -> None:
    assert {path.stem for path in TRAP.iterdir()} == set(EXPORTERS)


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_file(exporter: str, checkpoint: Checkpoint) -> None:
    data = fixture(exporter).read_bytes()
    assert len(data) <= 300_000
    assert [path for path in (b"/tmp", b"/work", b"/home", b"/root", b"site-packages") if path in data] == []
    onnx.checker.check_model(data)
    assert relative_error(run_file(fixture(exporter), checkpoint.images), checkpoint.logits) < 1e-5


def test_all_files_compute_the_same_for_other_images() -> None:
    images = random_images(np.random.default_rng(7), (6, 3, 32, 32))
    first, *others = (run_file(fixture(exporter), images) for exporter in EXPORTERS)
    assert first.std(axis=0).mean() > 0.1 * first.std(), "hardly depends on the image"
    assert [relative_error(other, first) < 1e-4 for other in others] == [True] * len(others)


def test_unfolded_weights_are_the_seeded_ones(checkpoint: Checkpoint) -> None:
    weights = initializers(onnx.load(fixture("torch_ts_preserve")))
    assert weights.keys() == checkpoint.parameters.keys()
    for name, value in checkpoint.parameters.items():
        np.testing.assert_allclose(weights[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


def test_folded_weights_are_the_seeded_ones_times_the_scale(checkpoint: Checkpoint) -> None:
    model = onnx.load(fixture("torch_ts"))
    weights, own = initializers(model), checkpoint.parameters
    convs = [node for node in model.graph.node if node.op_type == "Conv"]
    for i, conv in zip(CONVS, convs, strict=True):
        scale = own[f"bn{i}.weight"] / np.sqrt(own[f"bn{i}.running_var"] + EPSILON)
        expected = own[f"conv{i}.weight"] * scale[:, None, None, None]
        np.testing.assert_allclose(weights[conv.input[1]], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("network", NETWORKS)
def test_a_seed_decides_the_checkpoint(network: str, tmp_path: Path) -> None:
    for i, seed in enumerate((3, 3, 4)):
        make_checkpoint(network, seed).write(tmp_path / f"{i}.npz")
    first, same, other = ((tmp_path / f"{i}.npz").read_bytes() for i in range(3))
    assert first == same
    assert first != other


def test_a_checkpoint_survives_its_file(checkpoint: Checkpoint, tmp_path: Path) -> None:
    checkpoint.write(tmp_path / "weights.npz")
    read = Checkpoint.read(tmp_path / "weights.npz")
    assert read.parameters.keys() == checkpoint.parameters.keys()
    assert read.difference(checkpoint.logits) == 0.0
    np.testing.assert_array_equal(read.images, checkpoint.images)


def test_resnet20_is_the_builders() -> None:
    own = make_checkpoint("resnet20")
    session = ort.InferenceSession(
        models.build("resnet20").SerializeToString(), providers=["CPUExecutionProvider"]
    )
    assert relative_error(session.run(None, {"input": own.images})[0], own.logits) < 1e-5


@pytest.mark.parametrize("logits", [np.zeros((4, 9)), np.full((4, 10), np.nan)])
def test_another_shape_and_nan_are_infinitely_far(
    checkpoint: Checkpoint, logits: npt.NDArray[np.float32]
) -> None:
    assert checkpoint.difference(logits) == np.inf


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "expected"),
    [
        (3, 1, "same", (1, 1)),
        (3, 2, "same", (0, 1)),
        (1, 1, "same", (0, 0)),
        (1, 2, "same", (0, 0)),
        (5, 2, "same", (1, 2)),
        (3, 2, 1, (1, 1)),
        (1, 1, 0, (0, 0)),
    ],
)
def test_pads(kernel: int, stride: int, padding: Padding, expected: tuple[int, int]) -> None:
    assert pads(kernel, stride, padding) == expected


def test_a_wrong_weight_is_noticed(checkpoint: Checkpoint, tmp_path: Path) -> None:
    model = onnx.load(fixture("torch_ts_preserve"))
    tensor = next(t for t in model.graph.initializer if t.name == "conv3.weight")
    tensor.CopyFrom(numpy_helper.from_array(1.01 * numpy_helper.to_array(tensor), tensor.name))
    onnx.save(model, tmp_path / "wrong.onnx")
    assert not check(tmp_path / "wrong.onnx", checkpoint).passed


def test_what_is_missing_or_broken_does_not_pass(checkpoint: Checkpoint, tmp_path: Path) -> None:
    missing = check(tmp_path / "missing.onnx", checkpoint)
    assert (missing.passed, missing.text) == (False, "nothing written")
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    broken = check(tmp_path / "broken.onnx", checkpoint)
    assert not broken.passed
    assert broken.text.startswith("does not run: ")


def test_only_local_paths_are_removed() -> None:
    model = onnx.load(fixture("torch_dynamo"))
    original = model.SerializeToString()
    assert any(node.metadata_props for node in model.graph.node)
    model.doc_string = f'File "{sys.prefix}/lib/torch.py"'
    model.graph.node[0].metadata_props.add(key="stack_trace", value=f'File "{ROOT}/models/x.py", line 3')
    remove_local_paths(model)
    assert model.SerializeToString() == original


@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=lambda environment: environment.name)
def test_every_package_is_pinned(environment: Environment) -> None:
    assert environment.requirements
    assert [line for line in environment.requirements if line.count("==") != 1] == []


def exports_of(script: str) -> set[str]:
    """The keys of a script's EXPORTS, read without importing its framework."""
    tree = ast.parse((EXPORTS / f"{script}.py").read_text())
    assigned = [node for node in tree.body if isinstance(node, ast.Assign)]
    (value,) = (node.value for node in assigned if ast.unparse(node.targets[0]) == "EXPORTS")
    assert isinstance(value, ast.Dict)
    return {ast.literal_eval(key) for key in value.keys if key is not None}


def test_every_export_of_a_script_has_its_environment() -> None:
    for script in {environment.script for environment in ENVIRONMENTS}:
        users = [environment for environment in ENVIRONMENTS if environment.script == script]
        assert exports_of(script) == {name for environment in users for name in environment.exporters}


def test_the_scripts_share_modules_that_need_numpy_and_onnx_only() -> None:
    code = (
        "import sys, models.exports.script; "
        "print(sorted({'scipy', 'onnxruntime', 'torch', 'click'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@dataclass(frozen=True)
class FakeEnvironment:
    """Exports by copying committed files; an exporter whose file is None fails."""

    files: dict[str, Path | None]
    requirements: tuple[str, ...] = ("framework==1.0",)

    @property
    def exporters(self) -> tuple[str, ...]:
        return tuple(self.files)

    def make(self, venvs: Path) -> None:
        assert venvs.is_absolute()

    def export(
        self, venvs: Path, checkpoint: Path, network: str, folder: Path, exporters: Sequence[str]
    ) -> None:
        assert (venvs.is_absolute(), checkpoint.is_file(), network) == (True, True, "trap")
        for exporter in exporters:
            file = self.files[exporter]
            if file is None:
                raise ProgramError(f"no {exporter} today")
            shutil.copyfile(file, folder / f"{exporter}.onnx")


def test_the_program_keeps_what_is_right_and_goes_on_after_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    wrong = ROOT / "models" / "digits" / "digits.onnx"
    first = FakeEnvironment({"torch_ts": fixture("torch_ts"), "torch_dynamo": None})
    second = FakeEnvironment({"jax2onnx": fixture("jax2onnx"), "paddle": wrong})
    monkeypatch.setattr(program, "ENVIRONMENTS", (first, second))
    assert program.main(["--network", "trap", "-o", str(tmp_path / "out")]) == 1
    printed = capsys.readouterr()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["jax2onnx.onnx", "torch_ts.onnx"]
    assert "torch_dynamo: FAILED: nothing written (framework==1.0)" in printed.out
    assert "paddle: FAILED: does not run" in printed.out
    assert "models.exports: no torch_dynamo today" in printed.err


def test_the_program_exports_only_what_is_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environment = FakeEnvironment({"torch_ts": fixture("torch_ts"), "torch_dynamo": None})
    monkeypatch.setattr(program, "ENVIRONMENTS", (environment, FakeEnvironment({"paddle": None})))
    assert program.main(["--network", "trap", "-o", str(tmp_path), "--exporter", "torch_ts"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["torch_ts.onnx"]
