"""On a GPU that is really there: CUDA sessions, binding, CUDA graphs, TF32, float16, and no silent fallback.

`python -m pytest -m gpu` runs these alone; without a GPU they are skipped.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

import models
import onnxlr
from benchmarks.float16 import to_float16
from onnxlr.checking import Checks
from onnxlr.cli import cli
from onnxlr.errors import ProviderError
from onnxlr.latency import Latency
from onnxlr.model_file import Model
from onnxlr.providers import CPU, CUDA, TENSORRT, Device, GpuOptions
from onnxlr.runtime import Session, find_device
from tests.builders import make_model, weight


def is_there(device: Device) -> bool:
    try:
        return find_device(device.name) == device
    except ProviderError:
        return False


pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not is_there(CUDA), reason="no CUDA session comes up on this machine"),
]


@pytest.fixture(scope="module")
def network() -> ModelProto:
    return models.build("resnet20")


def images(batch: int, seed: int = 0, dtype: Any = np.float32) -> dict[str, NDArray[Any]]:
    return {"input": weight(batch, 3, 32, 32, seed=seed, dtype=dtype)}


def open_on(device: Device, proto: ModelProto, **options: Any) -> Session:
    return Session(Model(proto, name="net.onnx"), device, threads=1, **options)


def relative(expected: NDArray[Any], found: NDArray[Any]) -> float:
    x, y = expected.astype(np.float64), found.astype(np.float64)
    return float(np.linalg.norm(x - y) / np.linalg.norm(x))


def test_every_node_runs_on_cuda(network: ModelProto) -> None:
    placed = open_on(CUDA, network).placement()
    assert set(placed) <= {CUDA.provider}


def test_outputs_without_tf32_are_those_of_the_cpu(network: ModelProto) -> None:
    (expected,) = open_on(CPU, network).run(images(4))
    (found,) = open_on(CUDA, network).run(images(4))
    assert relative(expected, found) < 1e-5


@pytest.mark.parametrize("gpu", [GpuOptions(tf32=True), GpuOptions(prefer_nhwc=True)])
def test_options_change_little(network: ModelProto, gpu: GpuOptions) -> None:
    (expected,) = open_on(CPU, network).run(images(4))
    (found,) = open_on(CUDA, network, gpu=gpu).run(images(4))
    assert relative(expected, found) < (2e-2 if gpu.tf32 else 1e-5)


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_bound_batches(network: ModelProto, cuda_graph: bool) -> None:
    """Batches of different sizes, each captured and replayed, in one session."""
    session = open_on(CUDA, network, gpu=GpuOptions(cuda_graph=cuda_graph))
    plain = open_on(CUDA, network)
    runs = {batch: session.bind(images(batch, seed=batch)) for batch in (1, 8)}
    for batch in (1, 8, 1, 8, 1):
        (found,) = runs[batch]()
        assert found.device_name() == "cuda"
        assert relative(plain.run(images(batch, seed=batch))[0], found.numpy()) < 1e-5


def test_memory_peaks_grow_with_the_batch(network: ModelProto) -> None:
    peaks = open_on(CUDA, network, profiled=True).memory_peaks([images(1), images(64)])
    if None in peaks:
        pytest.skip("this release of ONNX Runtime has no memory in its profile")
    small, large = peaks
    assert small is not None
    assert large is not None
    assert 0 < small < large


def check_timing(latencies: Sequence[Latency], device: Device, batches: Sequence[int]) -> None:
    assert [latency.batch for latency in latencies if not latency.cuda_graph] == list(batches)
    for latency in latencies:
        assert (latency.device, latency.provider) == (device.name, device.provider)
        assert 0 < latency.before <= (latency.before_p99 or 0)
        assert latency.cuda_graph is not None


@pytest.mark.parametrize("half", [False, True])
def test_optimized_on_cuda(network: ModelProto, half: bool) -> None:
    proto = to_float16(network) if half else network
    checks = Checks(device="cuda", latency_seconds=0.05, batches=(1, 8))
    report = onnxlr.optimize(proto, target_macs=0.5, checks=checks).report
    check_timing(report.latencies, CUDA, (1, 8))
    assert {latency.cuda_graph for latency in report.latencies} == {False, True}
    assert {latency.tf32 for latency in report.latencies} == {True}
    assert report.validation is not None
    assert np.isfinite(report.validation.outputs[0].rel_l2)


def test_nodes_off_the_gpu_are_told_and_not_captured() -> None:
    """CUDA has no Det: it runs on the CPU."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["z"]), helper.make_node("Det", ["z"], ["y"])]
    proto = make_model(nodes, {"x": ["N", 5, 5]}, ["y"], {"w": weight(5, 5)})
    checks = Checks(device="cuda", latency_seconds=0.01)
    found = onnxlr.validate(proto, proto, checks)
    assert [latency.cuda_graph for latency in found.latencies] == [False]
    assert any("some do not run on cuda" in note for note in found.notes)
    assert any(note.startswith("not timed with CUDA graphs") for note in found.notes)


@pytest.mark.skipif(not is_there(TENSORRT), reason="no TensorRT session comes up on this machine")
def test_tensorrt(network: ModelProto) -> None:
    checks = Checks(device="tensorrt", latency_seconds=0.05)
    found = onnxlr.validate(network, network, checks)
    check_timing(found.latencies, TENSORRT, (1,))
    assert {latency.tf32 for latency in found.latencies} == {None}


def test_the_command_line(network: ModelProto, tmp_path: Path) -> None:

    path = tmp_path / "net.onnx"
    path.write_bytes(network.SerializeToString())
    arguments = ["validate", path, path, "--device", "cuda", "--batch", "1,4", "--latency-seconds", 0.01]
    done = CliRunner().invoke(cli, list(map(str, [*arguments, "--prefer-nhwc"])))
    assert done.exit_code == 0, done.output
    assert "  CUDA graph: " in done.output


def test_float16_inputs() -> None:
    nodes = [helper.make_node("Neg", ["x"], ["y"])]
    proto = make_model(nodes, {"x": ["N"]}, ["y"], {}, dtype=TensorProto.FLOAT16)
    (y,) = open_on(CUDA, proto).bind({"x": np.array([1.5, -2.0], np.float16)})()
    np.testing.assert_array_equal(y.numpy(), np.array([-1.5, 2.0], np.float16))
