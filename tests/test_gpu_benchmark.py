"""The program of `benchmarks/gpu`, as far as it goes without a GPU; and its float16 models."""

import numpy as np
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper

import models
from benchmarks import gpu
from benchmarks.float16 import to_float16
from onnxlr.model_file import Model
from onnxlr.providers import CPU
from onnxlr.runtime import Session
from tests.builders import make_model, weight
from tests.test_runtime import has_gpu


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names: list[str] = []
    monkeypatch.setattr(gpu, "write_results", lambda name, _: names.append(name))
    return names


def test_a_trial_on_the_cpu_writes_nothing(written: list[str]) -> None:
    arguments = ["--device", "cpu", "--seconds", "0.001", "--batch", "2,1", "--scheme", "spatial", "resnet20"]
    done = CliRunner().invoke(gpu.main, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    assert written == []
    rows = [line for line in done.stdout.splitlines() if line.startswith("| resnet20 | spatial |")]
    table = [row.split(" | ")[3:6] for row in rows[-4:]]
    assert table == [[p, batch, "cpu"] for p in ("float32", "float16") for batch in ("2", "1")]
    assert "no results file was written" in done.stdout


@pytest.mark.skipif(has_gpu(), reason="on a machine with a GPU it takes an hour")
@pytest.mark.parametrize("device", ["cuda", "tensorrt"])
def test_without_a_gpu_there_are_no_results(
    written: list[str], capsys: pytest.CaptureFixture[str], device: str
) -> None:
    with pytest.raises(SystemExit) as exited:  # CliRunner of click 8.2.0 loses what was printed to stderr
        gpu.main(["--device", device])
    printed = capsys.readouterr()
    assert exited.value.code == 4
    assert printed.err.startswith(f"no GPU results: device {device}: ")
    assert (written, printed.out) == ([], "")


@pytest.mark.parametrize(("name", "size", "tolerance"), [("resnet20", 32, 0.02), ("mobilenet_v2", 224, 0.15)])
def test_float16(name: str, size: int, tolerance: float) -> None:
    """MobileNet's 53 layers with random weights carry rounding errors of 2^-11 far."""
    model = models.build(name)
    half = to_float16(model)
    assert {tensor.data_type for tensor in half.graph.initializer} <= {TensorProto.FLOAT16, TensorProto.INT64}
    x = weight(2, 3, size, size)
    (expected,) = Session(Model(model), CPU, threads=1).run({"input": x})
    (found,) = Session(Model(half), CPU, threads=1).run({"input": x.astype(np.float16)})
    assert found.dtype == np.float16
    assert np.linalg.norm(found - expected) < tolerance * np.linalg.norm(expected)


def test_float16_of_a_node_with_a_type_of_its_own() -> None:
    nodes = [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)]
    with pytest.raises(ValueError, match="Cast"):
        to_float16(make_model(nodes, {"x": [2]}, ["y"], {}))
