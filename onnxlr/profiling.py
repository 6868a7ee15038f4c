"""How long layers take in place, from ONNX Runtime's profile of the whole model.

ONNX Runtime rewrites the graph before it runs it, so nodes have to be found again by their names. They are
given names of our own first, in a copy of the model.
1. A node that stays, or takes others into it, keeps its name or has it in the new one (`fused NAME`).
2. A Conv of the NCHWc layout is called `TENSOR_nchwc`: by the output of the last node that was fused into it
   before (of Conv + Relu, the Relu's). The Conv is the one that the tensor is traced back to.
3. Everything else (`MatMulBnFusion_Gemm`, a node that was merged with an equal one) is lost: its layer is
   left out.
Conversions between layouts, and what of a layer stays a node of its own (a bias added after a MatMul), are no
part of the layer.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from onnx import NodeProto

from onnxlr.feeds import Feed
from onnxlr.model_file import Model
from onnxlr.runtime import Device, NodeTime, Session
from onnxlr.stopwatch import time_runs, typical
from passes.constants import Constants
from passes.graph import Key, copy_model, is_operator, scopes

__all__ = ["LayerTimes", "measure_layers"]

_MIN_RUNS, _MAX_RUNS = 5, 200
_LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_FUSIBLE = {
    *("Add", "BatchNormalization", "Clip", "HardSigmoid", "Identity", "LeakyRelu", "Mul", "Relu", "Sigmoid"),
    *("Sub", "Tanh"),
}
"""What may stand between a Conv and the tensor that ONNX Runtime calls it by."""

_MARK = "onnxlr-node-{}-"
_MARKED = re.compile(r"onnxlr-node-(\d+)-")
_NCHWC = "_nchwc"


@dataclass(frozen=True, slots=True)
class LayerTimes:
    """What one run of a model spends where, in seconds: lower quartiles of several runs.

    Attributes:
        layers: time of each layer that could be told apart, by scope and output.
        rest: all else: the time of a run without a profile minus the layers' sum, at least 0.
    """

    layers: Mapping[Key, float]
    rest: float


def measure_layers(
    model: Model, chains: Mapping[Key, int], device: Device, threads: int, feed: Feed, seconds: float = 1.0
) -> LayerTimes:
    """Time layers, or the chains in their place, within a model.

    Args:
        model: left alone.
        chains: number of Convs, Gemms and MatMuls in a row that give an output: 1 for a layer, more for a
            chain. Only those of the main graph can be told apart.
        device: on CUDA no layer can be told apart: a profile holds the launches of kernels, not their runs.
        threads: intra-op threads, 0 for ONNX Runtime's default.
        feed: one batch.
        seconds: time to spend; at least 5 runs with and without a profile are made, whatever they take.

    Raises:
        ModelError: ONNX Runtime cannot load or run the model.
    """
    whole = typical(_run(Session(model, device, threads), feed, seconds / 2))
    if device.name != "cpu":
        return LayerTimes({}, whole)
    session = Session(_marked(model), device, threads, profiled=True)
    _run(session, feed, seconds / 2)
    graph = _Graph(model)
    times = graph.assign(session.node_times())
    layers = {key: sum(times[i] for i in nodes) for key, nodes in graph.find(chains, times)}
    return LayerTimes(layers, max(0.0, whole - sum(layers.values())))


def _run(session: Session, feed: Feed, seconds: float) -> list[float]:
    """Seconds of each of several runs, after one to warm up."""
    run = session.repeat(feed)
    run()
    return time_runs(run, seconds, _MIN_RUNS, _MAX_RUNS)


def _marked(model: Model) -> Model:
    """A copy whose nodes are called by their position."""
    proto = copy_model(model.proto)
    for i, node in enumerate(proto.graph.node):
        node.name = _MARK.format(i)
    return model.with_proto(proto)


class _Graph:
    """The main graph: who gives a value, and where values come from. Nodes are known by their position."""

    def __init__(self, model: Model) -> None:
        self._nodes = model.proto.graph.node
        self._producers = {name: i for i, node in enumerate(self._nodes) for name in node.output if name}
        self._constants = Constants(next(scopes(model.proto)), str(model.folder))

    def find(self, chains: Mapping[Key, int], known: Iterable[int]) -> Iterator[tuple[Key, list[int]]]:
        """The nodes of every chain of which all are known."""
        known = set(known)
        for (path, output), length in chains.items():
            nodes = [] if path else self._walk_back(output, length)
            if len(nodes) == length and known.issuperset(nodes):
                yield (path, output), nodes

    def assign(self, times: Iterable[NodeTime]) -> dict[int, float]:
        """Seconds of the linear nodes that can be found in a profile."""
        named: defaultdict[str, list[float]] = defaultdict(list)
        for entry in times:
            if any(op in entry.op_type for op in _LINEAR):
                named[entry.name].append(entry.seconds)
        found: defaultdict[int, list[float]] = defaultdict(list)
        for name, seconds in named.items():
            position = self._identify(name)
            if position is not None:
                found[position].append(typical(seconds))
        return {position: share[0] for position, share in found.items() if len(share) == 1}

    def _identify(self, name: str) -> int | None:
        """The linear node that ONNX Runtime calls so."""
        tensor = name.removesuffix(_NCHWC)
        if tensor != name and tensor in self._producers:  # rule 2
            return next(iter(self._walk_back(tensor, 1)), None)
        marked = _MARKED.search(name)
        if marked is None or not _is_linear(self._nodes[int(marked[1])]):
            return None
        return int(marked[1])  # rule 1

    def _walk_back(self, output: str, length: int) -> list[int]:
        """The last linear nodes on the way to a value, as many as there are up to `length`, last first."""
        found: list[int] = []
        position = self._producers.get(output)
        while position is not None and len(found) < length:
            node = self._nodes[position]
            if _is_linear(node):
                found.append(position)
            elif not is_operator(node, *_FUSIBLE):
                break
            computed = {name for name in node.input if name and self._constants.find(name) is None}
            position = self._producers.get(computed.pop()) if len(computed) == 1 else None
        return found


def _is_linear(node: NodeProto) -> bool:
    return is_operator(node, *_LINEAR)
