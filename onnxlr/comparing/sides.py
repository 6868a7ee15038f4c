"""`Side`: the layers of one model as they are matched to those of another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from onnxlr.analysis import analyse
from onnxlr.comparing.fingerprint import row_moments
from onnxlr.conv import ConvSpec
from onnxlr.layer import Layer
from onnxlr.model_file import Model
from passes.constants import Constants, all_constants
from passes.graph import count_reads

__all__ = ["Side", "Signature", "signature"]

Float = NDArray[np.float64]
Signature = tuple[int, ...]
"""Output channels, input channels, groups and the kernel of a Conv, whatever operator computes it."""

_LONGEST = 4
"""Nodes of the longest chain that is looked for."""


def signature(conv: ConvSpec) -> Signature:
    """See `Signature`; a Gemm's is that of a 1×1 Conv."""
    kernel = () if conv.is_pointwise else conv.kernel_shape
    return (conv.out_channels, conv.in_channels, conv.group, *kernel)


@dataclass(frozen=True, eq=False)
class Side:
    """The layers of the main graph of a model, in its order.

    Attributes:
        model: after the passes that prepare it.
        layers: what can be matched; a layer whose weight is not known cannot.
    """

    model: Model
    layers: Sequence[Layer]

    @classmethod
    def of(cls, model: Model, input_shapes: Mapping[str, Sequence[int]]) -> Side:
        """Analyse a prepared model."""
        found = analyse(model.proto, input_shapes, str(model.folder))
        return cls(model, [item for item in found if isinstance(item, Layer) and not item.key[0]])

    def weight(self, index: int) -> NDArray[Any]:
        """The weight of a layer, `(M, C / group, *kernel_shape)`; read anew at each call."""
        return self.layers[index].read_weight()

    def input_name(self, index: int) -> str:
        """The value that a layer reads."""
        layer = self.layers[index]
        return self._nodes[layer.key[1]].input[1 - layer.layout.position]

    def output_name(self, index: int) -> str:
        """The value that a layer gives."""
        return self.layers[index].key[1]

    def channel_axis(self, index: int) -> int:
        """The axis of the channels in what a layer reads and gives."""
        layer = self.layers[index]
        return 1 if layer.conv.kernel_shape else -1 - (layer.layout.position == 0)

    def bias(self, index: int) -> Float | None:
        """What a layer's node adds, flat, 0 if nothing; None where another node may add, or nobody knows."""
        node = self._nodes[self.layers[index].key[1]]
        if node.op_type == "MatMul":
            return None
        name = node.input[2] if len(node.input) > 2 else ""
        if not name:
            return np.zeros(1)
        found = self._constants.find(name)
        return None if found is None else found.read().astype(np.float64).reshape(-1)

    @cached_property
    def signatures(self) -> list[Signature]:
        """Of every layer."""
        return [signature(layer.conv) for layer in self.layers]

    @cached_property
    def moments(self) -> list[Float]:
        """Of the rows of every weight, see `onnxlr.comparing.fingerprint`."""
        return [row_moments(self.weight(i)) for i in range(len(self.layers))]

    def chains(self, free: set[int]) -> Iterator[tuple[int, ...]]:
        """Layers in a row with nothing in between, two to four; all of them `free`."""
        for start in sorted(free):
            run = [start]
            while len(run) < _LONGEST and (following := self._following.get(run[-1])) in free:
                run.append(following)
                yield tuple(run)

    @cached_property
    def _following(self) -> dict[int, int]:
        """The layer that alone reads the output of a layer."""
        reads = count_reads(self.model.proto.graph)
        readers = {self.input_name(i): i for i in range(len(self.layers))}
        outputs = ((i, self.output_name(i)) for i in range(len(self.layers)))
        return {i: readers[name] for i, name in outputs if reads[name] == 1 and name in readers}

    @cached_property
    def _constants(self) -> Constants:
        return next(all_constants(self.model.proto, str(self.model.folder)))

    @cached_property
    def _nodes(self) -> dict[str, NodeProto]:
        return {node.output[0]: node for node in self.model.proto.graph.node if node.output}
