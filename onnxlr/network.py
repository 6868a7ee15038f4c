"""A network run piece by piece: cut before some of its nodes, its activations advanced from cut to cut.

Each piece runs once over all the data, however many layers are looked at; what a piece gives out is kept
until the last node that reads it has run. Beyond a budget of memory it is kept on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from onnx import ModelProto, TypeProto, helper

from onnxlr.errors import DataError
from onnxlr.feeds import Feed
from onnxlr.model_file import Model
from onnxlr.parallel import map_in_order
from onnxlr.runtime import Device, Session
from onnxlr.shelf import Shelf
from passes.cut import cut, reads_between, values_between
from passes.graph import Key

__all__ = ["Activations", "Network", "State"]

State = dict[str, Any]
"""Values of one run by name: those that are still needed."""

T = TypeVar("T")


class Network:
    """The main graph of a model, cut before each of some nodes.

    Args:
        model: left alone.
        nodes: keys of nodes of the main graph, in any order.
        device: where to run.
        threads: of ONNX Runtime for one run, 0 for its default.
        abreast: runs that go on at the same time, each in a thread of its own.

    Attributes:
        abreast: as above.
        order: the nodes' keys in graph order; piece i ends before node i, and piece i + 1 begins with it.
    """

    def __init__(
        self, model: Model, nodes: Iterable[Key], device: Device, threads: int = 0, abreast: int = 1
    ) -> None:
        self._model, self._device, self._threads, self.abreast = model, device, threads, abreast
        places = {("", next(iter(n.output), "")): i for i, n in enumerate(model.proto.graph.node)}
        self.order = sorted(nodes, key=places.__getitem__)
        self._ends = [places[key] for key in self.order] + [len(model.proto.graph.node)]
        graph = model.proto.graph
        self._alive = values_between(graph, self._ends)
        self.outputs = [value.name for value in graph.output]

    def piece(
        self,
        index: int,
        state: State,
        extra: Sequence[str] = (),
        change: Callable[[ModelProto], ModelProto] | None = None,
        until: int | None = None,
    ) -> Piece:
        """Piece `index`, ready to run.

        Args:
            index: 0 to the number of nodes.
            state: of any run before this piece: it tells names and types of the inputs.
            extra: values to give out besides those that later pieces need.
            change: rewrites the piece before it runs.
            until: the last of several pieces that shall run as one; by default only this one.
        """
        last = index if until is None else until
        start, stop = (self._ends[index - 1] if index else 0), self._ends[last]
        graph, alive = self._model.proto.graph, self._alive[last]
        produced = {v for node in graph.node[start:stop] for v in node.output}
        read = reads_between(graph, start, stop)
        inputs = {name: _type_of(name, state[name]) for name in state if name in read}
        outputs = [name for name in dict.fromkeys([*sorted(alive & produced), *extra]) if name in produced]
        passed = [name for name in alive if name not in produced]
        if not outputs:
            return Piece(None, list(inputs), outputs, passed, [])
        proto = cut(self._model.proto, start, stop, inputs, outputs)
        proto = proto if change is None else change(proto)
        session = Session(self._model.with_proto(proto), self._device, self._threads, spinning=False)
        dropped = [name for name in extra if name not in alive]
        return Piece(session, list(inputs), outputs, passed, dropped)


class Piece:
    """A piece of a network in ONNX Runtime.

    Attributes:
        extra: values that it gives out and no later piece needs.
    """

    def __init__(
        self,
        session: Session | None,
        inputs: Sequence[str],
        outputs: Sequence[str],
        passed: Sequence[str],
        extra: Sequence[str],
    ) -> None:
        self._session, self._inputs = session, inputs
        self._outputs, self._passed = outputs, passed
        self.extra = extra

    def run(self, state: State) -> State:
        """The state behind the piece, and the extra values."""
        after = {name: state[name] for name in self._passed if name in state}
        if self._session is not None:
            results = self._session.run({name: state[name] for name in self._inputs})
            after.update(zip(self._outputs, results, strict=True))
        return after


class Activations:
    """The states of all runs, advanced piece by piece.

    Args:
        feeds: one for each run.
        abreast: see `Network`.
    """

    def __init__(self, feeds: Iterable[Feed], abreast: int = 1) -> None:
        shelf = Shelf()
        self._abreast = abreast
        self.states: list[State] = [_shelved(feed, shelf) for feed in feeds]

    def advance(self, piece: Piece) -> None:
        """Run a piece on every state."""
        for _ in self.watch(piece, lambda *_: None):
            pass

    def watch(self, piece: Piece, look: Callable[[int, State, State], T]) -> Iterator[T]:
        """Run a piece on every state, as what is seen is asked for.

        Args:
            piece: what to run.
            look: called with the number of each run, its state before the piece, and behind it with the extra
                values; these are dropped then. Several calls may go on at the same time.

        Yields:
            What `look` sees, in the order of the runs.
        """
        shelf = Shelf()

        def step(number: int) -> tuple[State, T]:
            before = self.states[number]
            after = piece.run(before)
            seen = look(number, before, after)
            for name in piece.extra:
                del after[name]
            return after, seen

        for number, (after, seen) in enumerate(map_in_order(step, range(len(self.states)), self._abreast)):
            self.states[number] = _shelved(after, shelf)
            yield seen


def _shelved(state: Mapping[str, Any], shelf: Shelf) -> State:
    return {name: shelf.put(v) if isinstance(v, np.ndarray) else v for name, v in state.items()}


_AXES = 8
"""Entries of a vector up to which it may be a shape."""


def _type_of(name: str, value: Any) -> TypeProto:
    """The type of a value that ONNX Runtime gave out."""
    if isinstance(value, np.ndarray):
        kind = helper.np_dtype_to_tensor_dtype(value.dtype)
        # a short vector of whole numbers may be a shape: its length tells how many axes there are
        is_shape = value.ndim == 1 and value.dtype.kind == "i" and value.size <= _AXES
        sizes = value.shape if is_shape else [None] * value.ndim
        return helper.make_tensor_type_proto(kind, sizes)
    if isinstance(value, list) and value and all(isinstance(entry, np.ndarray) for entry in value):
        return helper.make_sequence_type_proto(_type_of(name, value[0]))
    raise DataError(f"value '{name}' of type {type(value).__name__} cannot be fed to a part of the model")
