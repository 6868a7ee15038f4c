"""`Machine`: where a result is to be fast; with a model of its own, the clock that times are told by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from onnx import helper

from onnxlr.clock import Clock
from onnxlr.cost_model import CostModel
from onnxlr.cost_model_files import find_cost_model, machine_key, read_cost_model
from onnxlr.errors import ModelError, UsageError
from onnxlr.feeds import batch_size, random_feeds
from onnxlr.layer import Layer
from onnxlr.model_file import Model
from onnxlr.parallel import Progress
from onnxlr.profiling import measure_layers
from onnxlr.runtime import Session, check_device_name, find_device
from onnxlr.timing import timing_feeds

__all__ = ["Machine", "describe_clock", "set_clock"]

_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Machine:
    """Where and how the result is to run.

    Attributes:
        cost_model: file that `onnxlr calibrate-device` wrote, of this machine or another; None: the one that
            is cached for this machine, else a documented default.
        device: auto, cpu, cuda or tensorrt.
        threads: intra-op threads of ONNX Runtime, 0 for its default.
        batch: samples in a run, where the model leaves it open.

    Raises:
        UsageError: a value is out of range.

    >>> import onnxlr
    >>> onnxlr.Machine(cost_model="device.json", threads=1)
    Machine(cost_model='device.json', device='auto', threads=1, batch=1)
    """

    cost_model: str | None = None
    device: str = "auto"
    threads: int = 0
    batch: int = 1

    def __post_init__(self) -> None:
        check_device_name(self.device)
        if self.threads < 0 or self.batch < 1:
            raise UsageError("threads must not be negative, and batch at least 1")


def set_clock(
    machine: Machine,
    model: Model,
    layers: Sequence[Layer],
    input_shapes: Mapping[str, Sequence[int]],
    progress: Progress,
) -> Clock:
    """A clock for a model's layers: each is timed in place, which takes some seconds.

    Args:
        machine: where the result is to be fast.
        model: run here. Of one that cannot be run, only layers count.
        layers: all that were found in it.
        input_shapes: for symbolic dimensions; those that `Layer.repeats` counts by.
        progress: told that layers are being timed.

    Raises:
        DataError: the file of the cost model is missing or damaged.
        ProviderError: the device is not there.
        UsageError: sizes of a layer are unknown that is not in the body of a Loop, an If or a function.
    """
    if any(layer.macs is None for layer in layers if not layer.key[0]):
        raise UsageError(
            "times cannot be predicted, as sizes of the model's inputs are unknown; give --input-shape"
        )
    device, dtype = find_device(machine.device), _dtype(layers)
    if machine.cost_model is None:
        cost_model = find_cost_model(device, machine.threads, dtype)
    else:
        cost_model = read_cost_model(Path(machine.cost_model))
    elsewhere = not cost_model.is_default and cost_model.key != machine_key(device, machine.threads, dtype)
    progress("Timing layers", 0, 1)
    try:
        inputs = Session(model, device, machine.threads).inputs
        one = random_feeds(inputs, input_shapes, samples=1).batches[0]
        (feed,), _ = timing_feeds(inputs, one, [machine.batch])
        found = measure_layers(
            model, {layer.key: 1 for layer in layers}, device, machine.threads, feed, _SECONDS
        )
    except ModelError:
        return Clock(cost_model, layers, machine.batch)
    finally:
        progress("Timing layers", 1, 1)
    scale = max(1, batch_size(feed) // batch_size(one))
    whole = found.rest + sum(found.layers.values())
    return Clock(cost_model, layers, scale, found.layers, whole, elsewhere)


def describe_clock(clock: Clock) -> str:
    """By what times were predicted, for people."""
    model = clock.cost_model
    name = model.key.get("provider", "the device")
    if model.is_default:
        return (
            f"times were predicted by the default cost model for {name}, which was not measured on this"
            " machine; run onnxlr calibrate-device once"
        )
    error = "unknown" if model.error is None else f"{model.error:.1%}"
    return f"times were predicted by the cost model of {_machine(model)} (held-out error {error})"


def _machine(model: CostModel) -> str:
    """What a cost model holds for, without what tells apart machines that are alike."""
    names = ("processor", "gpu", "provider", "dtype")
    parts = [model.key[name] for name in names if model.key.get(name)]
    threads = model.key.get("threads")
    return ", ".join([*parts, *([f"threads: {threads}"] if threads else [])])


def _dtype(layers: Sequence[Layer]) -> str:
    """The type of the first layer's numbers, which in all but odd models is that of all."""
    names = [helper.tensor_dtype_to_np_dtype(layer.weight.data_type).name for layer in layers[:1]]
    return "float16" if names == ["float16"] else "float32"
