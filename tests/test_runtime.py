"""ONNX Runtime: devices are what they claim to be, failures are one clear line."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from onnxlr import runtime
from onnxlr.errors import ModelError, ProviderError
from onnxlr.model_file import Model, load
from onnxlr.providers import CPU, CUDA, TENSORRT, GpuOptions, provider_options
from onnxlr.runtime import DEVICES, Device, Session, Value, find_device, ort_version
from onnxlr.traces import memory_peaks
from tests.builders import gemm_model, make_model, weight

W = weight(8, 5)


def cpu(proto: ModelProto, **options: Any) -> Session:
    return Session(Model(proto, name="net.onnx"), find_device("cpu"), threads=1, **options)


def has_gpu(name: str = "cuda") -> bool:
    try:
        return find_device(name).name == name
    except ProviderError:
        return False


def test_cpu() -> None:
    assert find_device("cpu") == Device("cpu", "CPUExecutionProvider")
    session = cpu(gemm_model(W))
    assert (session.device.name, session.threads) == ("cpu", 1)


def test_cuda_is_there_or_an_error() -> None:
    """Never a silent fallback: where find_device gives CUDA, a session really runs on it."""
    if not has_gpu():
        with pytest.raises(ProviderError, match=r"device cuda: .*use --device cpu") as error:
            find_device("cuda")
        assert error.value.exit_code == 4
        assert "\n" not in str(error.value)
        assert find_device("auto") == find_device("cpu")
        return
    assert find_device("auto") == find_device("cuda") == Device("cuda", "CUDAExecutionProvider")
    session = Session(Model(gemm_model(W)), find_device("cuda"))
    (y,) = session.run({"x": weight(3, 8)})
    np.testing.assert_allclose(y, weight(3, 8) @ W, atol=2e-3)  # TF32


@pytest.mark.skipif(has_gpu(), reason="on a machine with a GPU it loads")
def test_a_session_never_falls_back() -> None:
    with pytest.raises((ProviderError, ModelError), match=r"net\.onnx"):
        Session(Model(gemm_model(W), name="net.onnx"), Device("cuda", "CUDAExecutionProvider"))


def test_auto_falls_back_where_the_provider_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime.ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    assert find_device("auto").name == "cpu"
    with pytest.raises(ProviderError, match="install onnxruntime-gpu"):
        find_device("cuda")
    with pytest.raises(ProviderError, match=r"no TensorRT provider \(install onnxruntime-gpu\)"):
        find_device("tensorrt")


def test_tensorrt_is_there_or_an_error() -> None:
    """The package names its provider wherever it is installed."""
    if has_gpu("tensorrt"):
        assert TENSORRT.provider in Session(Model(gemm_model(W)), TENSORRT).placement()
        return
    with pytest.raises(ProviderError, match=r"device tensorrt: .*use --device cpu") as error:
        find_device("tensorrt")
    assert error.value.exit_code == 4


def test_a_device_whose_nodes_run_elsewhere_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that comes up and says it is CUDA's does not suffice."""
    monkeypatch.setattr(
        runtime.ort, "get_ep_devices", lambda: [type("Found", (), {"ep_name": CUDA.provider})]
    )
    monkeypatch.setattr(runtime, "provider_options", lambda *_: [(CPU.provider, {})])
    monkeypatch.setattr(runtime.ort.InferenceSession, "get_providers", lambda _: [CUDA.provider])
    with pytest.raises(ProviderError, match="a cuda session runs on CPUExecutionProvider"):
        find_device("cuda")
    assert find_device("auto") == CPU


OPTIONS: list[tuple[Device, GpuOptions, dict[str, dict[str, str]]]] = [
    (CPU, GpuOptions(True, True, True), {"CPUExecutionProvider": {}}),
    (
        CUDA,
        GpuOptions(),
        {"CUDAExecutionProvider": {"use_tf32": "0", "enable_cuda_graph": "0", "prefer_nhwc": "0"}},
    ),
    (
        CUDA,
        GpuOptions(True, True, True),
        {"CUDAExecutionProvider": {"use_tf32": "1", "enable_cuda_graph": "1", "prefer_nhwc": "1"}},
    ),
    (
        TENSORRT,
        GpuOptions(cuda_graph=True),
        {
            "TensorrtExecutionProvider": {"trt_cuda_graph_enable": "True"},
            "CUDAExecutionProvider": {"use_tf32": "0", "enable_cuda_graph": "0", "prefer_nhwc": "0"},
        },
    ),
]


@pytest.mark.parametrize(("device", "gpu", "expected"), OPTIONS)
def test_provider_options(device: Device, gpu: GpuOptions, expected: dict[str, dict[str, str]]) -> None:
    assert dict(provider_options(device, gpu)) == expected
    assert next(iter(expected)) == device.provider


@pytest.mark.parametrize("name", ["", "gpu", "CPU", "cuda:0", "tpu"])
def test_unknown_devices(name: str) -> None:
    with pytest.raises(ValueError, match="auto, cpu, cuda"):
        find_device(name)
    assert name not in DEVICES


def unknown_operator(proto: ModelProto) -> None:
    proto.graph.node[0].op_type = "Gemmm"


def missing_value(proto: ModelProto) -> None:
    proto.graph.node[0].input[1] = "nowhere"


def no_opset(proto: ModelProto) -> None:
    del proto.opset_import[:]


def damaged_weight(proto: ModelProto) -> None:
    proto.graph.initializer[0].raw_data = b"\0" * 7


def future_ir(proto: ModelProto) -> None:
    proto.ir_version = 99


@pytest.mark.parametrize("damage", [unknown_operator, missing_value, no_opset, damaged_weight, future_ir])
def test_broken_models(damage: Any) -> None:
    proto = gemm_model(W)
    damage(proto)
    with pytest.raises(ModelError, match=r"net\.onnx: ONNX Runtime cannot load it: .+") as error:
        cpu(proto)
    assert "\n" not in str(error.value)


FEEDS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "another name": {"z": weight(3, 8)},
    "one too many": {"x": weight(3, 8), "z": weight(3, 8)},
    "wrong size": {"x": weight(3, 7)},
    "wrong rank": {"x": weight(3, 8, 1)},
    "wrong type": {"x": weight(3, 8, dtype=np.float64)},
    "no array": {"x": "text"},
}


@pytest.mark.parametrize("feed", FEEDS.values(), ids=FEEDS.keys())
def test_wrong_feeds(feed: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match=r"net\.onnx: ONNX Runtime cannot run it: .+") as error:
        cpu(gemm_model(W)).run(feed)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("optimize", [False, True])
def test_run(optimize: bool) -> None:
    b = weight(5, seed=3)
    session = cpu(gemm_model(W, b), optimize=optimize)
    assert session.output_names == ["y"]
    (y,) = session.run({"x": weight(3, 8)})
    np.testing.assert_allclose(y, weight(3, 8).astype(np.float64) @ W + b, atol=1e-6)


def test_external_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.onnx"
    copied = copy.deepcopy(gemm_model(W))
    onnx.save_model(copied, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    expected = weight(3, 8).astype(np.float64) @ W
    device = find_device("cpu")
    (y,) = Session(load(path), device).run({"x": weight(3, 8)})
    np.testing.assert_allclose(y, expected, atol=1e-6)
    monkeypatch.chdir(tmp_path)
    (y,) = Session(load("m.onnx"), device).run({"x": weight(3, 8)})
    np.testing.assert_allclose(y, expected, atol=1e-6)


def test_external_data_that_vanished(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save_model(gemm_model(W), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    model = load(path)
    (tmp_path / "w.bin").unlink()
    with pytest.raises(ModelError, match="ONNX Runtime cannot load it"):
        Session(model, find_device("cpu"))


def test_tensors_in_a_spill(tmp_path: Path) -> None:
    """Beside others in a file of the model's folder; the copy made for ONNX Runtime goes with the session."""
    b = weight(5, seed=3)
    path = tmp_path / "m.onnx"
    onnx.save_model(gemm_model(W, b), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    model = load(path).with_spill()
    model.proto.graph.node[0].input[0] = "h"
    model.proto.graph.node.insert(0, helper.make_node("MatMul", ["x", "v"], ["h"]))
    v = weight(600, 8)
    tensor = model.store(v)
    tensor.name = "v"
    model.proto.graph.initializer.append(tensor)
    model.proto.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 600
    session = Session(model, find_device("cpu"))
    x = weight(3, 600)
    (y,) = session.run({"x": x})
    np.testing.assert_allclose(y, x.astype(np.float64) @ v @ W + b, atol=1e-5)
    assert model.proto.graph.initializer[2] == tensor
    folder = session._model.folder
    assert folder.exists()
    del session
    assert not folder.exists()


@pytest.mark.parametrize(
    ("element", "dtype"),
    [
        (TensorProto.FLOAT, np.float32),
        (TensorProto.DOUBLE, np.float64),
        (TensorProto.FLOAT16, np.float16),
        (TensorProto.INT64, np.int64),
        (TensorProto.UINT8, np.uint8),
        (TensorProto.BOOL, np.bool_),
    ],
)
def test_input_types(element: int, dtype: Any) -> None:
    proto = make_model(
        [helper.make_node("Identity", ["x"], ["y"])], {"x": ["N", 3, 7]}, ["y"], {}, dtype=element
    )
    assert cpu(proto).inputs == [Value("x", np.dtype(dtype), ("N", 3, 7))]


@pytest.mark.parametrize(("shape", "expected"), [([], ()), (["N"], ("N",)), ([None, 2], (None, 2))])
def test_input_shapes(shape: Any, expected: Any) -> None:
    proto = make_model([helper.make_node("Identity", ["x"], ["y"])], {"x": shape}, ["y"], {})
    assert cpu(proto).inputs[0].shape == expected


def test_input_of_strings_is_refused() -> None:
    proto = make_model(
        [helper.make_node("Identity", ["x"], ["y"])], {"x": [2]}, ["y"], {}, dtype=TensorProto.STRING
    )
    with pytest.raises(ModelError, match="'x' of type"):
        _ = cpu(proto).inputs


@pytest.mark.parametrize("ir_version", [3, 8])
def test_inputs_with_a_default_are_left_out(ir_version: int) -> None:
    proto = gemm_model(W)
    proto.ir_version, proto.opset_import[0].version = ir_version, 13
    proto.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, W.shape))
    assert [entry.name for entry in cpu(proto).inputs] == ["x"]


def test_several_outputs_keep_their_order() -> None:
    nodes = [helper.make_node("Neg", ["x"], ["z"]), helper.make_node("Abs", ["x"], ["a"])]
    session = cpu(make_model(nodes, {"x": [2]}, ["z", "a"], {}))
    assert session.output_names == ["z", "a"]
    x = np.array([-1.0, 2.0], np.float32)
    z, a = session.run({"x": x})
    assert (z.tolist(), a.tolist()) == ([1.0, -2.0], [1.0, 2.0])


def test_the_model_is_left_alone() -> None:
    proto = gemm_model(W)
    proto.graph.initializer.append(numpy_helper.from_array(W, "idle"))
    stored = proto.SerializeToString()
    cpu(proto).run({"x": weight(3, 8)})
    assert proto.SerializeToString() == stored


def test_version() -> None:
    assert ort_version().count(".") >= 2


def test_nodes_are_timed() -> None:
    session = Session(Model(gemm_model(W), name="net.onnx"), find_device("cpu"), 1, profiled=True)
    for _ in range(3):
        session.run({"x": weight(3, 8)})
    times = session.node_times()
    assert [time.op_type for time in times] == ["Gemm"] * 3
    assert all(0 < time.seconds < 1 for time in times)


def test_a_bound_batch_gives_what_a_run_gives() -> None:
    """Also after another batch size was bound, whose buffers are others."""
    session = cpu(gemm_model(W))
    feeds = {rows: {"x": weight(rows, 8, seed=rows)} for rows in (3, 7)}
    runs = {rows: session.bind(feed) for rows, feed in feeds.items()}
    for rows in (3, 7, 3):
        (y,) = runs[rows]()
        np.testing.assert_array_equal(y.numpy(), session.run(feeds[rows])[0])


def test_a_bound_batch_stays_where_it_is() -> None:
    """Nothing is allocated anew, as CUDA graphs need it; a change of the array is not seen."""
    session, x = cpu(gemm_model(W)), weight(3, 8)
    run = session.bind({"x": x.T.copy().T})
    (first,) = run()
    expected = first.numpy().copy()
    (second,) = run()
    assert first.data_ptr() == second.data_ptr()
    np.testing.assert_array_equal(second.numpy(), expected)


def test_float16_is_bound() -> None:
    proto = make_model(
        [helper.make_node("Neg", ["x"], ["y"])], {"x": ["N"]}, ["y"], {}, dtype=TensorProto.FLOAT16
    )
    x = np.array([1.5, -2.0], np.float16)
    (y,) = cpu(proto).bind({"x": x})()
    assert y.numpy().dtype == np.float16
    np.testing.assert_array_equal(y.numpy(), -x)


@pytest.mark.parametrize("feed", FEEDS.values(), ids=FEEDS.keys())
def test_wrong_feeds_are_not_bound(feed: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match=r"net\.onnx: ONNX Runtime cannot run it: .+") as error:
        cpu(gemm_model(W)).bind(feed)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("device", "bound"), [(CPU, False), (Device("cuda", CPU.provider), True)])
def test_only_off_the_cpu_are_batches_bound(
    monkeypatch: pytest.MonkeyPatch, device: Device, bound: bool
) -> None:
    calls: list[Any] = []
    bind = Session.bind
    monkeypatch.setattr(Session, "bind", lambda *arguments: calls.append(1) or bind(*arguments))
    run = Session(Model(gemm_model(W)), device, threads=1).repeat({"x": weight(3, 8)})
    run()
    assert bool(calls) == bound


def test_placement() -> None:
    nodes = [helper.make_node("Neg", ["x"], ["z"]), helper.make_node("Sin", ["z"], ["y"])]
    assert cpu(make_model(nodes, {"x": [2]}, ["y"], {})).placement() == {CPU.provider: 2}


def test_memory_peaks_tell_what_is_alive_at_one_time() -> None:
    """Of a chain two tensors at a time: not what all of it holds, and not what was before."""
    n = 1 << 18
    nodes = [helper.make_node("Sin", [f"t{i}"], [f"t{i + 1}"]) for i in range(8)]
    session = cpu(make_model(nodes, {"t0": ["N", n]}, ["t8"], {}), profiled=True)
    peaks = session.memory_peaks([{"t0": np.zeros((rows, n), np.float32)} for rows in (1, 4)])
    if peaks == [None, None]:
        pytest.skip("this release of ONNX Runtime has no memory in its profile")
    for rows, peak in zip((1, 4), peaks, strict=True):
        assert peak is not None
        assert 4 * rows * n <= peak <= 3.1 * 4 * rows * n


def test_memory_that_the_profile_does_not_tell() -> None:
    run = {"cat": "Session", "name": "model_run", "args": {}, "ts": 9, "dur": 1}
    node = {"cat": "Node", "name": "a_kernel_time", "ts": 1, "dur": 1}
    other = {**node, "args": {"provider": CPU.provider, "mem_in_use_peak": "7"}}
    assert memory_peaks([{**node, "args": {"provider": CUDA.provider}}, other, run], CUDA.provider) == [None]
    assert memory_peaks([other, run], CPU.provider) == [7]
