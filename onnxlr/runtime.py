"""ONNX Runtime: sessions and execution providers. The only module that imports onnxruntime."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import helper

from onnxlr.errors import ModelError, ProviderError
from onnxlr.model_file import Model
from onnxlr.model_writing import gathered

__all__ = ["DEVICES", "Device", "NodeTime", "Session", "Value", "find_device", "ort_version"]

DEVICES = ("auto", "cpu", "cuda")

_LOG_FATAL = 4  # errors come as exceptions; ONNX Runtime would print them as well


@dataclass(frozen=True, slots=True)
class Device:
    """Where models run.

    Attributes:
        name: cpu or cuda.
        provider: ONNX Runtime's name of the execution provider.
    """

    name: str
    provider: str


@dataclass(frozen=True, slots=True)
class Value:
    """An input of a model; a dimension is a number, or the name of a symbolic one, or None."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str | None, ...]


@dataclass(frozen=True, slots=True)
class NodeTime:
    """One run of one node of the graph that ONNX Runtime made.

    Attributes:
        name: as ONNX Runtime calls it: that of a node, or of an output where it fused several.
        op_type: of the node; ReorderInput and ReorderOutput convert between layouts.
        seconds: that its kernel took.
    """

    name: str
    op_type: str
    seconds: float


def ort_version() -> str:
    """ONNX Runtime's version."""
    return str(ort.__version__)


def find_device(wanted: str) -> Device:
    """The device to run on; `auto` is CUDA where it is really there, else the CPU.

    ONNX Runtime lists the CUDA provider wherever its GPU package is installed and falls back to the CPU
    silently. Here a CUDA session has to come up.

    Raises:
        ProviderError: `cuda` was asked for and cannot be used.
        ValueError: no name in `DEVICES`.
    """
    if wanted not in DEVICES:
        raise ValueError(f"device must be one of {', '.join(DEVICES)}; got '{wanted}'")
    if wanted == "cpu":
        return _CPU
    problem = _cuda_problem()
    if problem is None:
        return _CUDA
    if wanted == "cuda":
        raise ProviderError(f"device cuda: {problem}; use --device cpu, or --device auto to fall back")
    return _CPU


class Session:
    """A model loaded into ONNX Runtime on one device, with no fallback to another one.

    Args:
        model: may refer to external data in its folder and in a spill.
        device: from `find_device`.
        threads: intra-op threads, 0 for ONNX Runtime's default (one a physical core).
        optimize: whether ONNX Runtime may rewrite the graph.
        spinning: whether its threads spin while they wait: faster where nothing else runs, much slower else.
        profiled: whether it takes down what each node takes, for `node_times`.

    Raises:
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
    ) -> None:
        self.device = device
        self.threads = threads
        self._name = model.name
        options = ort.SessionOptions()
        options.log_severity_level = _LOG_FATAL
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.force_spinning_stop", "1")
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
        self._model = gathered(model)  # kept: ONNX Runtime maps its files
        folder = str(self._model.folder.resolve())
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
        if profiled:
            self._profiles = tempfile.TemporaryDirectory(prefix="onnxlr-")
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(self._profiles.name) / "profile")
        if not optimize:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            # Typing of the failures differs between releases; all derive from Exception.
            self._session = ort.InferenceSession(
                self._model.proto.SerializeToString(), options, providers=[device.provider]
            )
        except Exception as error:
            reason = " ".join(str(error).split())
            raise ModelError(f"{model.name}: ONNX Runtime cannot load it: {reason}") from error
        if self._session.get_providers()[0] != device.provider:
            raise ProviderError(f"{model.name}: ONNX Runtime did not load it on {device.name}")

    @property
    def inputs(self) -> list[Value]:
        """What the model reads; inputs that have a default are left out."""
        return [_value(node) for node in self._session.get_inputs()]

    @property
    def output_names(self) -> list[str]:
        """Names of the outputs."""
        return [node.name for node in self._session.get_outputs()]

    def run(self, feed: Mapping[str, NDArray[Any]]) -> list[Any]:
        """The outputs for one batch, in the order of `output_names`.

        Raises:
            ModelError: ONNX Runtime fails, for example because shapes do not fit.
        """
        try:
            outputs: list[Any] = self._session.run(None, dict(feed))
        except Exception as error:
            reason = " ".join(str(error).split())
            raise ModelError(f"{self._name}: ONNX Runtime cannot run it: {reason}") from error
        return outputs

    def node_times(self) -> list[NodeTime]:
        """What every node took in every run of a profiled session, in the order of time; ends the profile."""
        with self._profiles:
            events = json.loads(Path(self._session.end_profiling()).read_text(encoding="utf-8"))
        return [
            NodeTime(event["name"].removesuffix("_kernel_time"), event["args"]["op_name"], event["dur"] / 1e6)
            for event in events
            if event["cat"] == "Node" and event["name"].endswith("_kernel_time")
        ]


_CPU = Device("cpu", "CPUExecutionProvider")
_CUDA = Device("cuda", "CUDAExecutionProvider")


def _cuda_problem() -> str | None:
    """Why CUDA cannot be used, or None if it can."""
    if _CUDA.provider not in ort.get_available_providers():
        return "the installed ONNX Runtime has no CUDA provider (install onnxruntime-gpu)"
    with contextlib.suppress(AttributeError):  # releases before get_ep_devices: the session below decides
        if _CUDA.provider not in {found.ep_name for found in ort.get_ep_devices()}:
            return "ONNX Runtime finds no CUDA GPU on this machine"
    try:
        Session(_probe_model(), _CUDA)
    except (ModelError, ProviderError) as error:
        return f"a CUDA session does not come up ({error})"
    return None


def _probe_model() -> Model:
    value = [helper.make_tensor_value_info(name, 1, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "probe", value[:1], value[1:])
    proto = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    return Model(proto, Path(), "CUDA probe")


def _value(node: Any) -> Value:
    element = str(node.type).removeprefix("tensor(").removesuffix(")")
    name = {"float": "float32", "double": "float64"}.get(element, element)
    try:
        dtype = np.dtype(name)
    except TypeError as error:
        raise ModelError(f"input '{node.name}' of type {node.type} is not supported") from error
    return Value(node.name, dtype, tuple(node.shape))
