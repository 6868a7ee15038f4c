"""Models -> exports: loaded into ONNX Runtime, their inputs and outputs bound to those of the first."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from onnxlr.comparing.layouts import find_channel_axes
from onnxlr.comparing.options import CompareOptions
from onnxlr.comparing.ports import Binding, Port, bind
from onnxlr.comparing.running import Export
from onnxlr.errors import UsageError
from onnxlr.feeds import Feeds, load_feeds, random_feeds
from onnxlr.model_file import Model
from onnxlr.providers import GpuOptions
from onnxlr.runtime import Session, Value, find_device

__all__ = ["find_feeds", "open_exports"]


def open_exports(models: Sequence[Model], options: CompareOptions) -> list[Export]:
    """Load all models, and find what the inputs and outputs of the first one are in the others.

    Raises:
        UsageError: there are less than two models, `options` name an input or output that is in none of them,
            or there are several ways to match them.
        ModelError: ONNX Runtime cannot load a model, or inputs or outputs cannot be matched.
        ProviderError: the device is not there.
    """
    if len(models) < 2:
        raise UsageError("compare needs at least two models")
    device = find_device(options.device)

    def open_session(model: Model) -> Session:
        return Session(model, device, options.threads, gpu=GpuOptions())

    named = [replace(model, name=name) for model, name in zip(models, _names(models), strict=True)]
    sessions = [open_session(model) for model in named]
    ports = [_ports(model, session, options) for model, session in zip(named, sessions, strict=True)]
    _check_names(options, ports)
    found = []
    for model, session, own in zip(named, sessions, ports, strict=True):
        names = named[0].name, model.name
        inputs = bind("input", ports[0][0], own[0], options.mapping, names)
        outputs = bind("output", ports[0][1], own[1], options.mapping, names)
        _check_all_fed(model.name, own[0], inputs)
        found.append(Export(model, session, inputs, outputs, open_session))
    return found


def find_feeds(exports: Sequence[Export], options: CompareOptions) -> Feeds:
    """Inputs of the first model: the data that were given, or random ones of a size that suits all.

    Raises:
        DataError: data do not fit the first model.
        UsageError: a symbolic dimension has no size.
    """
    if options.inputs is not None:
        inputs = exports[0].session.inputs
        return load_feeds(options.inputs, inputs, samples=options.samples, images=options.images)
    values = [_sized(i, exports) for i in range(len(exports[0].inputs))]
    return random_feeds(values, options.input_shapes, seed=options.seed)


def _names(models: Sequence[Model]) -> list[str]:
    """Short names that tell the models apart: file names, paths where those are not enough, or numbers."""
    names = [model.name for model in models]
    for longer in (
        [str(model.file or model.name) for model in models],
        [f"model {i + 1}" for i in range(len(models))],
    ):
        counts = Counter(names)
        names = [name if counts[name] == 1 else other for name, other in zip(names, longer, strict=True)]
    return [os.path.normpath(name) for name in names]


def _ports(model: Model, session: Session, options: CompareOptions) -> tuple[list[Port], list[Port]]:
    """Inputs and outputs, with the axis of their channels as far as the user or the graph tells."""
    axes = find_channel_axes(model.proto.graph)

    def port(value: Value) -> Port:
        layout = options.layouts.get(value.name)
        if layout is None:
            return Port(value, axes.get(value.name))
        if len(layout) != len(value.shape):
            raise UsageError(
                f"layout {layout} of '{value.name}' in {model.name}: it has {len(value.shape)} axes"
            )
        return Port(value, layout.index("C"))

    return [port(value) for value in session.inputs], [port(value) for value in session.outputs]


def _check_names(options: CompareOptions, ports: Sequence[tuple[list[Port], list[Port]]]) -> None:
    """Refuse names that are nowhere."""
    first, *others = ([port.name for group in pair for port in group] for pair in ports)
    rest = [name for names in others for name in names]
    for what, given, known in (
        ("--layout", options.layouts, [*first, *rest]),
        ("--map", options.mapping, first),
        ("--map", options.mapping.values(), rest),
    ):
        for name in given:
            if name not in known:
                raise UsageError(f"{what}: no input or output named '{name}'; there are {', '.join(known)}")


def _check_all_fed(name: str, inputs: Sequence[Port], bindings: Sequence[Binding]) -> None:
    fed = {binding.other.name for binding in bindings}
    left = [port for port in inputs if port.name not in fed]
    if left:
        raise UsageError(f"{name} has an input {left[0]} that the first model does not have")


def _sized(index: int, exports: Sequence[Export]) -> Value:
    """An input of the first model, with the sizes that any of the models fixes, but for the batch."""
    value = exports[0].inputs[index].first.value
    shape = list(value.shape)
    for export in exports:
        binding = export.inputs[index]
        sizes = binding.other.value.shape
        perm = binding.perm or range(len(shape))
        for axis, source in enumerate(perm):
            if axis and not isinstance(shape[source], int):
                shape[source] = sizes[axis]
    return replace(value, shape=tuple(shape))
