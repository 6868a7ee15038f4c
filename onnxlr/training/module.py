"""`GraphModule`: an ONNX graph as a torch module, and its weights back into the file."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from onnx import ModelProto
from torch import Tensor, nn

from onnxlr.errors import DataError, ModelError, UsageError
from onnxlr.model_file import Model, load, read_tensor
from onnxlr.training.elements import Value, as_tensor, torch_type, widened
from onnxlr.training.roles import find_roles
from onnxlr.training.steps import Step, check_operators, make_steps
from onnxlr.training.stored import put, stored_tensors
from passes.graph import opset
from passes.untie_parameters import untie_parameters

__all__ = ["AUTOCAST", "GraphModule"]

AUTOCAST: Mapping[str, torch.dtype] = {"float16": torch.float16, "bfloat16": torch.bfloat16}
"""Types that arithmetic on a GPU can be done in."""

_OLDEST = 7  # before, arithmetic broadcasts by attributes


class GraphModule(nn.Module):
    """An ONNX graph that runs in torch.

    `module(feed)` gives the outputs by name. In training mode BatchNormalization takes the statistics of the
    batch and updates its own, and Dropout drops. Parameters are float32 (float64 where the file has that)
    and have the names of the initializers, or of the outputs of Constant nodes, that they come from.

    Args:
        model: left alone. Parameters that an exporter has merged because they were equal are untied.
        autocast: `float16` or `bfloat16` for arithmetic in that type on a GPU; None for that of the file.

    Attributes:
        model: the model that is trained; the one given, unless parameters had to be untied.

    Raises:
        ModelError: the graph has operators that cannot be trained through, all of which are named, or ones of
            a version before 7.
        UsageError: `autocast` is no such type.
    """

    def __init__(
        self, model: Model | ModelProto | str | os.PathLike[str], autocast: str | None = None
    ) -> None:
        super().__init__()
        if autocast is not None and autocast not in AUTOCAST:
            raise UsageError(f"autocast must be one of {', '.join(AUTOCAST)}; got '{autocast}'")
        given = load(model)
        check_operators(given.proto.graph, given.name)
        _check_opset(given)
        proto = untie_parameters(given.proto)
        self.model = given if proto is given.proto else given.with_proto(proto)
        self.autocast = autocast
        self._weights = nn.ParameterDict()
        self._statistics = nn.Module()
        self._known: dict[str, Value] = {}
        self._placed: dict[tuple[str, torch.device], Tensor] = {}
        self.register_buffer("_anchor", torch.empty(0), persistent=False)  # tells the device
        self._take_tensors()
        self._inputs = self._find_inputs()
        self._steps = self._compute_known()

    def _take_tensors(self) -> None:
        """Read every stored tensor into a parameter, a buffer, or a known value."""
        stored = stored_tensors(self.model.proto.graph)
        self._roles = find_roles(self.model.proto.graph, stored)
        for name, tensor in stored.items():
            array = read_tensor(self.model, tensor)
            if name in self._roles.statistics:
                self._statistics.register_buffer(_key(name), torch.tensor(widened(array)))
            elif name in self._roles.trained and np.isfinite(widened(array)).all():
                self._weights[_key(name)] = nn.Parameter(_channels_last(torch.tensor(widened(array))))
            else:
                self._known[name] = array

    def _find_inputs(self) -> dict[str, torch.dtype]:
        """What has to be fed, with its type."""
        graph = self.model.proto.graph
        stored = {tensor.name for tensor in graph.initializer}
        given = [value for value in graph.input if value.name not in stored]
        try:
            return {value.name: torch_type(value.type.tensor_type.elem_type) for value in given}
        except ValueError as error:
            raise ModelError(f"{self.model.name}: cannot be fed in torch: {error}") from error

    def _compute_known(self) -> list[Step]:
        """Compute once what depends on no input and no weight; the other steps are left."""
        graph = self.model.proto.graph
        taken = {*self.statistics, *dict(self.named_parameters()), *self._known}
        left = []
        for step in make_steps(graph, opset(self.model.proto), self._roles.frozen):
            if taken.issuperset(filter(None, step.node.outputs)):
                continue  # a Constant node, whose tensor was read
            if all(name in self._known for name in step.inputs if name):
                self._run(step, self._known, training=False)
            else:
                left.append(step)
        return left

    def _run(self, step: Step, values: dict[str, Value], training: bool) -> None:
        """One step, with failures explained."""
        try:
            step.run(values, self._place, training)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, IndexError, TypeError, KeyError) as error:
            reason = " ".join(str(error).split())
            if isinstance(error, KeyError):
                reason = f"reads {reason}, which is neither stored nor computed before it"
            raise ModelError(
                f"{self.model.name}: {step.node.op_type} '{step.node.name}' cannot be run in torch: {reason}"
            ) from error

    def _place(self, name: str, value: Value) -> Tensor:
        """A value where the module is; what is known before the run is brought there once."""
        if self._known.get(name) is not value:
            return as_tensor(value, self.device)
        key = name, self.device
        if key not in self._placed:
            with torch.inference_mode(False):  # else no later run could be trained
                self._placed[key] = as_tensor(value, self.device)
        return self._placed[key]

    @property
    def device(self) -> torch.device:
        """Where it is; `to` moves it."""
        anchor: Tensor = self.get_buffer("_anchor")
        return anchor.device

    @property
    def input_names(self) -> list[str]:
        """What has to be fed."""
        return list(self._inputs)

    @property
    def output_names(self) -> list[str]:
        """The graph's outputs."""
        return [value.name for value in self.model.proto.graph.output]

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """Parameters under the names of the graph; in `state_dict` they are escaped, as torch needs it."""
        del recurse, remove_duplicate
        for key, parameter in self._weights.items():
            yield prefix + _name(key), parameter

    @property
    def statistics(self) -> dict[str, Tensor]:
        """Means and variances of BatchNormalizations, under the names of the graph."""
        return {_name(key): tensor for key, tensor in self._statistics.named_buffers()}

    def forward(self, feed: Mapping[str, Any], wanted: Collection[str] | None = None) -> dict[str, Tensor]:
        """Run the graph.

        Args:
            feed: a tensor or an array for every input.
            wanted: names of values to give, any of the graph; by default its outputs.

        Returns:
            The values by name, on the module's device.

        Raises:
            DataError: an input is missing, or the graph has no such value.
            ModelError: a node cannot be run, for example because shapes do not fit.
            UsageError: autocast was asked for and the module is not on a GPU.
        """
        names = self.output_names if wanted is None else list(wanted)
        kept = {*names, *self.output_names}
        values = self._start(feed)
        with self._precision():
            for step in self._steps:
                self._run(step, values, self.training)
                for name in step.finished:
                    if name not in kept:
                        values.pop(name, None)
        if unknown := [name for name in names if name not in values]:
            raise DataError(f"{self.model.name}: computes no value '{unknown[0]}'")
        return {name: as_tensor(values[name], self.device) for name in names}

    def _start(self, feed: Mapping[str, Any]) -> dict[str, Value]:
        """What is there before the first step."""
        values: dict[str, Value] = {**self._known, **self.statistics}
        values.update(self.named_parameters())
        if unknown := [name for name in feed if name not in self._inputs]:
            raise DataError(f"{self.model.name}: has no input '{unknown[0]}', but {', '.join(self._inputs)}")
        for name, dtype in self._inputs.items():
            if name not in feed:
                raise DataError(f"{self.model.name}: input '{name}' is missing")
            value = feed[name] if isinstance(feed[name], Tensor) else np.asarray(feed[name])
            values[name] = _channels_last(as_tensor(value, self.device).to(dtype))
        return values

    @contextlib.contextmanager
    def _precision(self) -> Iterator[None]:
        if self.autocast is None:
            yield
            return
        if self.device.type != "cuda":
            raise UsageError(f"autocast to {self.autocast} is for GPUs, and the network is on the CPU")
        with torch.autocast("cuda", AUTOCAST[self.autocast]):
            yield

    def write_back(self) -> Model:
        """The model with the weights and statistics as they are now; everything else is as it was."""
        target = self.model.with_proto(ModelProto())
        target.proto.CopyFrom(self.model.proto)
        target = target.with_spill()
        stored = stored_tensors(target.proto.graph)
        for name, tensor in {**self.statistics, **dict(self.named_parameters())}.items():
            put(tensor.detach().cpu().numpy(), stored[name], target)
        return target


def _check_opset(model: Model) -> None:
    version = opset(model.proto)
    if version < _OLDEST:
        raise ModelError(
            f"{model.name}: uses opset {version}, and training needs {_OLDEST} or later; "
            "convert it with onnx.version_converter"
        )


def _channels_last(tensor: Tensor) -> Tensor:
    """The same numbers, of images and filters in the order in memory that convolutions are fastest in."""
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


def _key(name: str) -> str:
    """A name of the graph as torch can have it: without dots, and unlike any attribute of a module."""
    return "=" + name.replace("%", "%25").replace(".", "%2E")


def _name(key: str) -> str:
    return key[1:].replace("%2E", ".").replace("%25", "%")
