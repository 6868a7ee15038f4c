"""ONNX Runtime: sessions and execution providers. The only module that imports onnxruntime."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import helper

from onnxlr.errors import ModelError, ProviderError, UsageError
from onnxlr.model_file import Model
from onnxlr.model_writing import gathered
from onnxlr.providers import CPU, CUDA, TENSORRT, Device, GpuOptions, provider_options
from onnxlr.traces import NodeTime, memory_peaks, node_times

__all__ = [
    "DEVICES",
    "MOST_THREADS",
    "Device",
    "NodeTime",
    "Session",
    "Value",
    "check_device_name",
    "find_device",
    "listed_providers",
    "ort_version",
]

DEVICES = ("auto", "cpu", "cuda", "tensorrt")
MOST_THREADS = 1024

_LOG_FATAL = 4  # errors come as exceptions; ONNX Runtime would print them as well
_NOT_CAPTURED = -1  # of a run, instead of the number of its CUDA graph


@dataclass(frozen=True, slots=True)
class Value:
    """An input or output of a model; a dimension is a number, or the name of a symbolic one, or None."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str | None, ...]


def ort_version() -> str:
    """ONNX Runtime's version."""
    return str(ort.__version__)


def listed_providers() -> list[str]:
    """Execution providers that ONNX Runtime was built with; whether they can be used is another question."""
    return list(ort.get_available_providers())


def check_device_name(name: str) -> None:
    """Raise UsageError for what is no name in `DEVICES`; `find_device` tells whether the device is there."""
    if name not in DEVICES:
        raise UsageError(f"device must be one of {', '.join(DEVICES)}; got '{name}'")


def find_device(wanted: str) -> Device:
    """The device to run on; `auto` is CUDA where it is really there, else the CPU.

    ONNX Runtime lists the providers for GPUs wherever its GPU package is installed and falls back to the CPU
    silently. Here a session has to come up, with its node where it belongs.

    Raises:
        ProviderError: `cuda` or `tensorrt` was asked for and cannot be used.
        ValueError: no name in `DEVICES`.
    """
    if wanted not in DEVICES:
        raise ValueError(f"device must be one of {', '.join(DEVICES)}; got '{wanted}'")
    if wanted == "cpu":
        return CPU
    device = TENSORRT if wanted == "tensorrt" else CUDA
    problem = _problem(device)
    if problem is None:
        return device
    if wanted == "auto":
        return CPU
    raise ProviderError(f"device {wanted}: {problem}; use --device cpu, or --device auto to fall back")


class Session:
    """A model loaded into ONNX Runtime on one device, with no fallback to another one.

    Args:
        model: may refer to external data in its folder and in a spill.
        device: from `find_device`.
        threads: intra-op threads, 0 for ONNX Runtime's default (one a physical core).
        optimize: whether ONNX Runtime may rewrite the graph.
        spinning: whether its threads spin while they wait: faster where nothing else runs, much slower else.
        profiled: whether it takes down what each node takes, for `node_times` or `memory_peaks`.
        gpu: how it uses a GPU.

    Raises:
        UsageError: there cannot be so many threads.
        ModelError: ONNX Runtime cannot load the model.
        ProviderError: it loaded it on another device.
    """

    def __init__(
        self,
        model: Model,
        device: Device,
        threads: int = 0,
        optimize: bool = True,
        spinning: bool = True,
        profiled: bool = False,
        gpu: GpuOptions = GpuOptions(),
    ) -> None:
        if not 0 <= threads <= MOST_THREADS:
            raise UsageError(f"threads are from 0 to {MOST_THREADS}, got {threads}")
        self.device = device
        self.threads = threads
        self.gpu = gpu
        self._bound = 0
        self._name = model.name
        options = ort.SessionOptions()
        options.log_severity_level = _LOG_FATAL
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.force_spinning_stop", "1")
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        self._model = gathered(model)  # kept: ONNX Runtime maps its files
        folder = str(self._model.folder.resolve())
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
        if profiled:
            self._profiles = tempfile.TemporaryDirectory(prefix="onnxlr-")
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(self._profiles.name) / "profile")
        if not optimize:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        with self._explained("load"):
            self._session = ort.InferenceSession(
                self._model.proto.SerializeToString(),
                options,
                providers=provider_options(device, gpu),
                enable_fallback=0,  # else a failure, also of a run, silently ends up on the CPU
            )
        if self._session.get_providers()[0] != device.provider:
            raise ProviderError(f"{model.name}: ONNX Runtime did not load it on {device.name}")

    @property
    def inputs(self) -> list[Value]:
        """What the model reads; inputs that have a default are left out."""
        return [_value(node) for node in self._session.get_inputs()]

    @property
    def outputs(self) -> list[Value]:
        """What the model gives."""
        return [_value(node) for node in self._session.get_outputs()]

    @property
    def output_names(self) -> list[str]:
        """Names of the outputs."""
        return [node.name for node in self._session.get_outputs()]

    def run(self, feed: Mapping[str, NDArray[Any]]) -> list[Any]:
        """The outputs for one batch, in the order of `output_names`.

        Raises:
            ModelError: ONNX Runtime fails, for example because shapes do not fit.
        """
        with self._explained("run"):
            outputs: list[Any] = self._session.run(None, dict(feed))
        return outputs

    def repeat(self, feed: Mapping[str, NDArray[Any]]) -> Callable[[], object]:
        """What runs one batch again each time it is called; on a GPU without copies, as by `bind`."""
        return (lambda: self.run(feed)) if self.device == CPU else self.bind(feed)

    def bind(self, feed: Mapping[str, NDArray[Any]]) -> Callable[[], list[Any]]:
        """Put one batch where the model runs; what comes back runs it there and leaves the outputs there.

        One run is made at once, to learn the sizes of the outputs. With a CUDA graph the next run is
        captured, and those after it replay it. The function returns the outputs as ONNX Runtime's values.

        Raises:
            ModelError: ONNX Runtime fails, here or in a run.
        """
        self._bound += 1
        binding = self._session.io_binding()
        with self._explained("run"):
            for name, array in feed.items():
                value = ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), self.device.memory, 0)
                binding.bind_ortvalue_input(name, value)
            for name in self.output_names:
                binding.bind_output(name, self.device.memory, 0)
            self._session.run_with_iobinding(binding, _graph(_NOT_CAPTURED))
            for name, value in zip(self.output_names, binding.get_outputs(), strict=True):
                binding.bind_ortvalue_output(name, value)
        options = _graph(self._bound)

        def run() -> list[Any]:
            with self._explained("run"):
                self._session.run_with_iobinding(binding, options)
                binding.synchronize_outputs()
            return list(binding.get_outputs())

        return run

    def placement(self) -> dict[str, int]:
        """Nodes by execution provider; empty where ONNX Runtime is of a release that does not tell."""
        with contextlib.suppress(AttributeError):
            parts = self._session.get_provider_graph_assignment_info()
            return dict(sum((Counter({p.ep_name: len(p.get_nodes())}) for p in parts), Counter()))
        return {}

    def node_times(self) -> list[NodeTime]:
        """What every node took in every run of a profiled session, in the order of time; ends the profile."""
        return node_times(self._events())

    def memory_peaks(self, feeds: Sequence[Mapping[str, NDArray[Any]]]) -> list[int | None]:
        """Run each batch once in a profiled session that has not run before; ends the profile.

        Returns:
            The most bytes that ONNX Runtime's arena had in use by the end of each run: what is computed,
            scratch, and those weights that it repacks into the arena. None where it does not tell.
        """
        for feed in feeds:
            self.run(feed)
        return memory_peaks(self._events(), self.device.provider)

    def _events(self) -> list[dict[str, Any]]:
        with self._profiles:
            events: list[dict[str, Any]] = json.loads(
                Path(self._session.end_profiling()).read_text(encoding="utf-8")
            )
        return events

    @contextlib.contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        """Failures of ONNX Runtime as `ModelError`; their types differ between releases."""
        try:
            yield
        except Exception as error:
            reason = " ".join(str(error).split())
            raise ModelError(f"{self._name}: ONNX Runtime cannot {what} it: {reason}") from error


def _problem(device: Device) -> str | None:
    """Why a GPU cannot be used, or None if it can."""
    if device.provider not in ort.get_available_providers():
        name = {"cuda": "CUDA", "tensorrt": "TensorRT"}[device.name]
        return f"the installed ONNX Runtime has no {name} provider (install onnxruntime-gpu)"
    _preload_libraries()
    with contextlib.suppress(AttributeError):  # releases before get_ep_devices: the session below decides
        if CUDA.provider not in {found.ep_name for found in ort.get_ep_devices()}:
            return "ONNX Runtime finds no CUDA GPU on this machine"
    try:
        placed = Session(_probe_model(), device).placement()
    except (ModelError, ProviderError) as error:
        return f"a {device.name} session does not come up ({error})"
    if placed and set(placed) != {device.provider}:
        return f"a {device.name} session runs on {', '.join(placed)}"
    return None


@cache
def _preload_libraries() -> None:
    """Load CUDA and cuDNN where pip has put them, where the provider would not look; once.

    What cannot be loaded is no failure here: the session that is tried next tells.
    """
    if hasattr(ort, "preload_dlls"):
        with contextlib.suppress(Exception), contextlib.redirect_stdout(io.StringIO()):  # it prints
            ort.preload_dlls()


def _graph(number: int) -> Any:
    """Options of a run whose CUDA graph has this number; without graphs they say nothing."""
    options = ort.RunOptions()
    options.add_run_config_entry("gpu_graph_id", str(number))
    return options


def _probe_model() -> Model:
    value = [helper.make_tensor_value_info(name, 1, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "probe", value[:1], value[1:])
    proto = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    return Model(proto, Path(), "probe")


def _value(node: Any) -> Value:
    element = str(node.type).removeprefix("tensor(").removesuffix(")")
    name = {"float": "float32", "double": "float64"}.get(element, element)
    try:
        dtype = np.dtype(name)
    except TypeError as error:
        raise ModelError(f"'{node.name}' of type {node.type} is not supported") from error
    return Value(node.name, dtype, tuple(node.shape))
