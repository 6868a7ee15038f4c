"""Find what scales and shifts the output channels of a layer: the rules are those of `passes.fold_affine`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto

from passes.constants import Constant
from passes.graph import attributes, is_operator, opset
from passes.weights import Weights

__all__ = ["Array", "Layer", "Link", "Run", "as_float64", "bias_name", "find_runs"]

Array = NDArray[np.float64]

_EPSILON = float(np.float32(1e-5))  # attributes are float32
_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_LINKS = ("Add", "BatchNormalization", "Div", "Mul", "Sub")


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """A node that links can be folded into.

    Attributes:
        position: in the list of nodes.
        node: the node.
        weight: its weight.
        bias: its bias, or a Gemm's C; None if it has none.
        channels: M.
        can_scale: whether nothing else needs its weight as it is.
    """

    position: int
    node: NodeProto
    weight: Constant
    bias: Constant | None
    channels: int
    can_scale: bool

    @property
    def is_matmul(self) -> bool:
        """Whether its channels are the last axis, and it has no bias."""
        return self.node.op_type == "MatMul"

    @property
    def rank(self) -> int:
        """How many axes a constant may have that its output is combined with."""
        return 1 if self.is_matmul else len(self.weight.shape)

    @property
    def axis(self) -> int:
        """Which of those axes runs over output channels."""
        return 0 if self.is_matmul else 1


@dataclass(frozen=True, slots=True, eq=False)
class Link:
    """A node that multiplies by `scale`, then adds `shift`, both of shape `(M,)`; None if it does not."""

    position: int
    scale: Array | None = None
    shift: Array | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """A layer and the links after it, of which there is at least one."""

    layer: Layer
    links: Sequence[Link]

    @property
    def scales(self) -> bool:
        """Whether any link scales."""
        return any(link.scale is not None for link in self.links)

    @property
    def shifts(self) -> bool:
        """Whether any link shifts."""
        return any(link.shift is not None for link in self.links)

    def total(self) -> tuple[Array, Array]:
        """Scale and shift of all links together."""
        scale, shift = np.ones(self.layer.channels), np.zeros(self.layer.channels)
        for link in self.links:
            if link.scale is not None:
                scale, shift = scale * link.scale, shift * link.scale
            if link.shift is not None:
                shift = shift + link.shift
        return scale, shift


def find_runs(model: ModelProto, weights: Weights) -> list[Run]:
    """Every run of a model's main graph, by rules 1 to 5 and 7."""
    return list(_Search(model, weights).runs())


def as_float64(constant: Constant) -> Array:
    """The numbers of a constant."""
    return constant.read().astype(np.float64)


class _Search:
    def __init__(self, model: ModelProto, weights: Weights) -> None:
        self._nodes = list(model.graph.node)
        self._readers = {name: i for i, node in enumerate(self._nodes) for name in node.input}
        self._weights = weights
        self._opset = opset(model)

    def runs(self) -> Iterator[Run]:
        for i, node in enumerate(self._nodes):
            layer = self._layer(i) if is_operator(node, *_LAYERS) and self._next(i) is not None else None
            links = [] if layer is None else list(self._links(layer))
            if layer is not None and links:
                yield Run(layer, links)

    def _next(self, position: int) -> int | None:
        """Where the only reader of a node's output is, if it may be a link: rules 2 and 3."""
        value = self._nodes[position].output[0]
        reader = self._readers.get(value, -1)  # none if a body reads it
        if self._weights.reads[value] != 1 or reader <= position:
            return None
        return reader if is_operator(self._nodes[reader], *_LINKS) else None

    def _layer(self, position: int) -> Layer | None:
        node = self._nodes[position]
        weight = self._weights.find(node.input[1])  # rule 1
        channels = 0 if weight is None else _channels(node, weight.shape)
        if weight is None or channels < 1:
            return None
        name = bias_name(node)
        bias = self._weights.find(name) if name else None
        can_scale = self._weights.has_one_reader(weight)  # rule 4
        layer = Layer(position, node, weight, bias, channels, can_scale)
        return layer if self._has_fitting_bias(layer) else None

    def _has_fitting_bias(self, layer: Layer) -> bool:  # rule 5
        is_gemm, bias = layer.node.op_type == "Gemm", layer.bias
        if bias is None:
            return not bias_name(layer.node) and (not is_gemm or self._opset >= 11)
        if bias.data_type != layer.weight.data_type:
            return False
        row = (layer.channels,)
        return bias.shape in ((), (1,), (1, 1), row, (1, *row)) if is_gemm else bias.shape == row

    def _links(self, layer: Layer) -> Iterator[Link]:
        """The run after a layer, up to the first node that is no link of it."""
        position = layer.position
        while (following := self._next(position)) is not None:
            link = self._link(following, self._nodes[position].output[0], layer)
            if link is None:
                return
            yield link
            position = following

    def _link(self, position: int, value: str, layer: Layer) -> Link | None:
        """The node as a link of the layer's run that reads `value`, or None if it is none."""
        is_norm = self._nodes[position].op_type == "BatchNormalization"
        with np.errstate(all="ignore"):  # what is not finite is no link
            link = (self._normalization if is_norm else self._arithmetic)(position, value, layer)
        if link is None or (link.scale is not None and not layer.can_scale):  # rule 4
            return None
        if link.shift is not None and layer.is_matmul:  # rule 5
            return None
        return link if all(np.isfinite(a).all() for a in (link.scale, link.shift) if a is not None) else None

    def _arithmetic(self, position: int, value: str, layer: Layer) -> Link | None:
        """A link by rule 3a."""
        node = self._nodes[position]
        left, right = node.input
        number = self._per_channel(right if left == value else left, layer)
        if number is None:
            return None
        scale: Array | None = None
        shift: Array | None = None
        match node.op_type, left == value:
            case "Mul", _:
                scale = number
            case "Div", True:
                scale = 1 / number
            case "Add", _:
                shift = number
            case "Sub", True:
                shift = -number
            case "Sub", False:
                scale, shift = -np.ones(layer.channels), number
            case _:
                return None
        return Link(position, scale, shift)

    def _per_channel(self, name: str, layer: Layer) -> Array | None:
        """A constant as one number per output channel, or None if it is nothing like that."""
        found = self._weights.find(name)
        if found is None or found.data_type != layer.weight.data_type or len(found.shape) > layer.rank:
            return None
        sizes = (1,) * (layer.rank - len(found.shape)) + found.shape
        count = sizes[layer.axis]
        if count not in (1, layer.channels) or prod(sizes) != count:
            return None
        return np.broadcast_to(as_float64(found).reshape(-1), layer.channels)

    def _normalization(self, position: int, value: str, layer: Layer) -> Link | None:
        """A link by rule 3b."""
        node = self._nodes[position]
        given = attributes(node)
        is_training = "training_mode" in given and given["training_mode"].i != 0
        is_per_channel = "spatial" not in given or given["spatial"].i != 0
        if is_training or not is_per_channel or layer.is_matmul or node.input[0] != value:
            return None
        found = [self._weights.find(name) for name in node.input[1:]]
        parameters = [as_float64(c) for c in found if c is not None and c.shape == (layer.channels,)]
        if len(parameters) != 4 or sum(map(bool, node.output)) != 1:
            return None
        gamma, beta, mean, var = parameters
        scale = gamma / np.sqrt(var + (given["epsilon"].f if "epsilon" in given else _EPSILON))
        return Link(position, scale, beta - mean * scale)


def bias_name(node: NodeProto) -> str:
    """The third input of a layer, "" if it has none."""
    return node.input[2] if len(node.input) > 2 else ""


def _channels(node: NodeProto, shape: tuple[int, ...]) -> int:
    """How many output channels a layer has whose weight has this shape; 0 if it cannot have it."""
    given = attributes(node)
    if node.op_type in ("Gemm", "MatMul"):
        is_transposed = "transB" in given and given["transB"].i != 0
        return shape[0 if is_transposed else 1] if len(shape) == 2 else 0
    if len(shape) < 3:
        return 0
    if node.op_type == "Conv":
        return shape[0]
    groups = given["group"].i if "group" in given else 1
    return shape[1] * groups if groups > 0 and shape[0] % groups == 0 else 0
