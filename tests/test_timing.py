"""Which sessions are timed on which batches; a GPU is played by the CPU provider under the name of one."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, helper

import onnxlr
from onnxlr import checking, timing
from onnxlr.checking import CheckResult, Checks, Reference
from onnxlr.errors import ModelError, UsageError
from onnxlr.feeds import batch_size
from onnxlr.model_file import Model
from onnxlr.parallel import no_progress
from onnxlr.providers import CPU, TENSORRT, Device, GpuOptions
from onnxlr.runtime import Session, Value
from onnxlr.timing import timing_feeds
from tests.builders import gemm_model, make_model, weight

W = weight(8, 5)
STAND_IN = Device("cuda", CPU.provider)


def checked(
    batches: tuple[int, ...] = (1,), proto: ModelProto | None = None, timed: bool = True, **options: Any
) -> CheckResult:
    checks = Checks(latency_seconds=1e-9, batches=batches, threads=1, **{"device": "cpu", **options})
    model = Model(proto or gemm_model(W), name="net.onnx")
    return Reference(model, checks, no_progress).check(Model(gemm_model(W, weight(5))), timed)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Device:
    monkeypatch.setattr(checking, "find_device", lambda _: STAND_IN)
    return STAND_IN


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[GpuOptions]:
    """Options of all sessions, in the order they are opened in."""
    found: list[GpuOptions] = []
    start = Session.__init__

    def init(self: Session, *arguments: Any, **options: Any) -> None:
        start(self, *arguments, **options)
        found.append(self.gpu)

    monkeypatch.setattr(Session, "__init__", init)
    return found


@pytest.mark.parametrize("batches", [(1,), (4,), (32, 1, 8)])
def test_every_batch_size_is_timed(batches: tuple[int, ...]) -> None:
    found = checked(batches)
    assert tuple(latency.batch for latency in found.latencies) == batches
    assert found.latency == found.latencies[0]
    assert found.to_dict()["latencies"][0]["batch"] == batches[0]


def test_memory_belongs_to_its_batch_size() -> None:
    """In whatever order they are given; and so it does where larger batches were run to compare outputs."""
    found = {latency.batch: latency for latency in checked((512, 1, 64)).latencies}
    peaks = [found[batch].after_memory for batch in (1, 64, 512)]
    if None in peaks:
        pytest.skip("this release of ONNX Runtime has no memory in its profile")
    assert peaks == sorted(set(peaks))  # type: ignore[type-var]
    assert found[512].before_memory is not None


@pytest.mark.parametrize("fixed", [1, 3])
def test_a_fixed_batch_size(fixed: int) -> None:
    proto = gemm_model(W)
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = fixed
    found = checked((1, 8), proto)
    assert [latency.batch for latency in found.latencies] == [fixed]
    others = "8" if fixed == 1 else "1, 8"
    assert f"the model fixes the batch size: timed at {fixed}, not at {others}" in found.notes


def test_nothing_is_said_where_the_fixed_size_was_asked_for() -> None:
    feed = {"x": weight(3, 2)}
    assert timing_feeds([Value("x", np.dtype("f4"), (3, 2))], feed, (3,)) == ([feed], [])


@pytest.mark.parametrize("batch", [1, 3, 7])
def test_samples_are_repeated_where_there_are_too_few(batch: int) -> None:
    x = np.arange(6.0).reshape(3, 2)
    inputs = [Value("s", np.dtype("f8"), ()), Value("x", np.dtype("f8"), ("N", 2))]
    (feed,), notes = timing_feeds(inputs, {"s": np.array(2.0), "x": x}, (batch,))
    assert notes == []
    assert feed["s"] == 2.0
    np.testing.assert_array_equal(feed["x"], np.tile(x, (3, 1))[:batch])
    assert batch_size(feed) == batch


@pytest.mark.parametrize("batches", [(), (0,), (1, -2), (8, 8)])
def test_wrong_batch_sizes(batches: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="batch sizes"):
        Checks(batches=batches)


@pytest.mark.parametrize(("timed", "sessions"), [(False, 2), (True, 4)])
def test_on_the_cpu_the_result_is_compared_in_the_session_that_is_timed(
    opened: list[GpuOptions], timed: bool, sessions: int
) -> None:
    """Of the original there is one to compare, and two to time."""
    found = checked(timed=timed)
    assert len(opened) == sessions
    assert (found.latency is not None) == timed


def test_a_gpu_compares_without_tf32_and_times_with_it(stand_in: Device, opened: list[GpuOptions]) -> None:
    found = checked((2, 4))
    compared, timed, captured = (
        GpuOptions(),
        GpuOptions(tf32=True),
        GpuOptions(tf32=True, cuda_graph=True),
    )
    assert sorted(opened, key=str) == sorted([compared] * 2 + [timed] * 3 + [captured] * 3, key=str)
    assert [(item.batch, item.tf32, item.cuda_graph) for item in found.latencies] == [
        (2, True, False),
        (2, True, True),
        (4, True, False),
        (4, True, True),
    ]
    assert found.latency == found.latencies[0]
    assert {item.device for item in found.latencies} == {stand_in.name}


@pytest.mark.usefixtures("stand_in")
def test_prefer_nhwc_is_passed_on(opened: list[GpuOptions]) -> None:
    found = checked(prefer_nhwc=True)
    assert all(gpu.prefer_nhwc for gpu in opened)
    assert all(latency.prefer_nhwc for latency in found.latencies)


def test_prefer_nhwc_on_the_cpu_is_told_to_do_nothing() -> None:
    assert "--prefer-nhwc does nothing on the CPU" in checked(prefer_nhwc=True).notes


@pytest.mark.usefixtures("stand_in")
def test_a_model_that_takes_no_cuda_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    start = Session.__init__

    def init(self: Session, *arguments: Any, **options: Any) -> None:
        if options.get("gpu", GpuOptions()).cuda_graph:
            raise ModelError("net.onnx: not all nodes are on CUDA")
        start(self, *arguments, **options)

    monkeypatch.setattr(Session, "__init__", init)
    found = checked((1, 2))
    assert [latency.cuda_graph for latency in found.latencies] == [False, False]
    assert "not timed with CUDA graphs: net.onnx: not all nodes are on CUDA" in found.notes


@pytest.mark.usefixtures("stand_in")
def test_a_batch_size_that_cannot_be_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    bind = Session.bind

    def refuse(self: Session, feed: Any) -> Any:
        if self.gpu.cuda_graph and batch_size(feed) == 8:
            raise ModelError("capture failed")
        return bind(self, feed)

    monkeypatch.setattr(Session, "bind", refuse)
    found = checked((1, 8, 2))
    shown = [(latency.batch, latency.cuda_graph) for latency in found.latencies]
    assert shown == [(1, False), (1, True), (8, False), (2, False), (2, True)]
    assert "batch 8 was not timed with a CUDA graph: capture failed" in found.notes


@pytest.mark.usefixtures("stand_in")
def test_nodes_that_run_elsewhere_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "placement", lambda _: {STAND_IN.provider: 3, "Other": 2})
    notes = checked().notes
    for name in ("original", "result"):
        assert f"of 5 nodes of the {name} some do not run on cuda: 2 with Other" in notes


@pytest.mark.parametrize("on_cpu", [True, False])
def test_all_that_is_timed_is_opened_in_one_way(on_cpu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else original and control would differ by more than chance, or the result from both."""
    if not on_cpu:
        monkeypatch.setattr(checking, "find_device", lambda _: STAND_IN)
    start, measure = Session.__init__, timing.measure_latency
    ways: dict[Session, Any] = {}
    groups: list[list[Any]] = []

    def init(self: Session, model: Model, device: Device, threads: int, **options: Any) -> None:
        start(self, model, device, threads, **options)
        ways[self] = (device, threads, options)

    def spy(*arguments: Any) -> Any:
        groups.append([ways[session] for session in arguments[:3]])
        assert len({*arguments[:3]}) == 3
        return measure(*arguments)

    monkeypatch.setattr(Session, "__init__", init)
    monkeypatch.setattr(timing, "measure_latency", spy)
    checked()
    assert len(groups) == (1 if on_cpu else 2)
    assert all(group[0] == group[1] == group[2] for group in groups)


def test_throttling_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    measure = timing.measure_latency

    def throttled(*arguments: Any) -> Any:
        return dataclasses.replace(measure(*arguments), gpu_throttling=("power cap",))

    monkeypatch.setattr(timing, "measure_latency", throttled)
    assert "the GPU was throttled while timing: power cap" in checked((1, 2)).notes


def test_tensorrt_may_use_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "find_device", lambda _: TENSORRT)
    monkeypatch.setattr(TENSORRT.__class__, "memory", "cpu")
    monkeypatch.setattr(onnxlr.runtime, "provider_options", lambda *_: [(CPU.provider, {})])
    monkeypatch.setattr(onnxlr.runtime.ort.InferenceSession, "get_providers", lambda _: [TENSORRT.provider])
    found = checked()
    assert any(note.startswith("TensorRT may round") for note in found.notes)
    assert {latency.tf32 for latency in found.latencies} == {None}
    assert any("some do not run on tensorrt" in note for note in found.notes)


def test_float16_models_are_timed() -> None:
    proto = gemm_model(W.astype(np.float16))
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(np.dtype(np.float16))
    model = Model(proto)
    checks = Checks(latency_seconds=1e-9, batches=(1, 4), device="cpu", threads=1)
    found = Reference(model, checks, no_progress).check(model)
    assert [latency.batch for latency in found.latencies] == [1, 4]
    assert found.validation is not None
    assert found.validation.outputs[0].max_abs == 0


def test_a_model_without_a_batch_is_timed_as_it_is() -> None:
    proto = make_model([helper.make_node("Neg", ["x"], ["y"])], {"x": []}, ["y"], {})
    model = Model(proto)
    checks = Checks(latency_seconds=1e-9, batches=(1,), device="cpu", threads=1)
    found = Reference(model, checks, no_progress).check(model)
    assert [latency.batch for latency in found.latencies] == [1]
