"""Put a BatchNormalization behind every Conv that has none, so that it can be trained with one.

Exporters fold BatchNormalization into the Conv before it, and training is then slow or unstable. With the
mean μ and the variance σ² of the Conv's outputs y = W * x + b on the user's data,

    g = max(σ, 1e-3 · max σ)      y = scale · (z − mean) / sqrt(var + ε) + μ      z = (W / g) * x
    mean = (μ − b) / g            var = (σ / g)²        scale = g · sqrt(var + ε)

holds for every x, and with the statistics of such a batch in place of mean and var it nearly does: training
starts where the folded network was. z has variance 1, but for channels that are (nearly) constant on the
data. `fold_affine` folds it again afterwards.

A Conv gets a BatchNormalization where
1. it is in the main graph, its weight and its bias, if it has one, are constants, and only it reads the
   weight;
2. all that reads its output is in `_FOLLOWERS`: activations, additions and the like. So Convs within a chain,
   and those that give the network's outputs, have none, as in networks that were trained with it;
3. training_info refers to none of these values, and the opset is 7 or later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from passes.constants import Constant
from passes.graph import is_operator, opset
from passes.weights import Weights

__all__ = ["ChannelStatistics", "find_unnormalized", "unfold_batchnorm"]

_EPSILON = 1e-5
_SMALLEST = 1e-3  # of the largest deviation: channels below it are not blown up
_MOMENTUM = 0.9  # ONNX's share of the old statistics

_FOLLOWERS = frozenset(
    (
        *("Add", "AveragePool", "Celu", "Clip", "Concat", "Elu", "Gelu", "HardSigmoid", "HardSwish"),
        *("LeakyRelu", "MaxPool", "Mish", "Mul", "PRelu", "Relu", "Selu", "Sigmoid", "Softplus", "Sum"),
        *("Swish", "Tanh"),
    )
)


@dataclass(frozen=True, slots=True, eq=False)
class ChannelStatistics:
    """Of a value `(N, M, ...)`, over all axes but the second; both `(M,)`.

    Attributes:
        mean: of each channel.
        variance: of each channel, of the population.
    """

    mean: NDArray[np.float64]
    variance: NDArray[np.float64]


def find_unnormalized(model: ModelProto, base_dir: str = "") -> list[str]:
    """Outputs of the Convs that can get a BatchNormalization: what statistics are needed of.

    Args:
        model: left alone.
        base_dir: the folder that locations of external data are relative to.
    """
    return [model.graph.node[i].output[0] for i in _find(model, Weights(model, base_dir))]


def unfold_batchnorm(
    model: ModelProto, statistics: Mapping[str, ChannelStatistics], base_dir: str = ""
) -> ModelProto:
    """Unfold where the module's rules allow and statistics are given.

    Args:
        model: left alone; returned itself where nothing was unfolded. New tensors get new names; the
            BatchNormalization has the Conv's output.
        statistics: by the name of the Conv's output.
        base_dir: the folder that locations of external data are relative to.

    Raises:
        ValueError: statistics do not have one number for each channel, or are not those of any data.
    """
    weights = Weights(model, base_dir)
    names = {i: model.graph.node[i].output[0] for i in _find(model, weights)}
    chosen = {i: statistics[name] for i, name in names.items() if name in statistics}
    if not chosen:
        return model
    plans = {i: _plan(model.graph.node[i], given, weights) for i, given in chosen.items()}
    old = [name for i in plans for name in model.graph.node[i].input[1:] if name]
    result = weights.exchanged(old, [tensor for plan in plans.values() for tensor in plan.tensors])
    nodes: list[NodeProto] = []
    for i, node in enumerate(model.graph.node):
        nodes += plans[i].nodes if i in plans else [node]
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    return result


@dataclass(frozen=True, slots=True, eq=False)
class _Plan:
    """What takes the place of a Conv, and the tensors that it reads."""

    nodes: Sequence[NodeProto]
    tensors: Sequence[TensorProto]


def _find(model: ModelProto, weights: Weights) -> list[int]:
    """Positions of Convs that the rules allow."""
    readers: dict[str, list[str]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node.op_type)
    found = []
    for i, node in enumerate(model.graph.node):
        if not is_operator(node, "Conv") or opset(model) < 7:
            continue
        output = node.output[0]
        followers = readers.get(output, [])
        is_read_elsewhere = weights.reads[output] != len(followers)  # an output, a body, training_info
        is_followed = bool(followers) and not is_read_elsewhere and _FOLLOWERS.issuperset(followers)
        if is_followed and _tensors(node, weights) is not None:
            found.append(i)
    return found


def _tensors(node: NodeProto, weights: Weights) -> tuple[Constant, Constant | None] | None:
    """Weight and bias of a Conv; None where rules 1 and 3 do not hold."""
    weight = weights.find(node.input[1])
    if weight is None or not weights.has_one_reader(weight):
        return None
    if len(node.input) < 3 or not node.input[2]:
        return weight, None
    bias = weights.find(node.input[2])
    return None if bias is None else (weight, bias)


def _plan(node: NodeProto, given: ChannelStatistics, weights: Weights) -> _Plan:
    found = _tensors(node, weights)
    assert found is not None, "the rules were asked before"  # noqa: S101
    weight = found[0].read()
    channels = len(weight)
    bias = np.zeros(channels) if found[1] is None else found[1].read().astype(np.float64)
    _check(node, given, channels)
    deviation = np.sqrt(given.variance)
    g = np.maximum(deviation, _SMALLEST * deviation.max()) if deviation.any() else np.ones(channels)
    variance = (deviation / g) ** 2
    arrays = {
        "scale": g * np.sqrt(variance + _EPSILON),
        "bias": given.mean,
        "mean": (given.mean - bias) / g,
        "var": variance,
    }
    scaled = weight.astype(np.float64) / g.reshape(-1, *[1] * (weight.ndim - 1))
    stem = node.name or node.output[0]
    tensors = [_tensor(scaled, weight.dtype, weights.new_name(f"{node.input[1]}_unfolded"))]
    for part, array in arrays.items():
        tensors.append(_tensor(array, weight.dtype, weights.new_name(f"{stem}_norm_{part}")))
    return _Plan(_nodes(node, [tensor.name for tensor in tensors], weights), tensors)


def _check(node: NodeProto, given: ChannelStatistics, channels: int) -> None:
    what = f"statistics of '{node.output[0]}'"
    if given.mean.shape != (channels,) or given.variance.shape != (channels,):
        shapes = f"{given.mean.shape} and {given.variance.shape}"
        raise ValueError(f"{what} have shapes {shapes}, and the Conv has {channels} channels")
    if not (
        np.isfinite(given.mean).all() and np.isfinite(given.variance).all() and given.variance.min() >= 0
    ):
        raise ValueError(f"{what} are not finite, or a variance is negative")


def _tensor(array: NDArray[np.float64], dtype: np.dtype[Any], name: str) -> TensorProto:
    return numpy_helper.from_array(array.astype(dtype), name)


def _nodes(node: NodeProto, names: Sequence[str], weights: Weights) -> list[NodeProto]:
    conv = NodeProto()
    conv.CopyFrom(node)
    between = weights.new_name(f"{node.output[0]}_unnormalized")
    conv.input[:] = [node.input[0], names[0]]
    conv.output[:] = [between]
    norm = helper.make_node(
        "BatchNormalization",
        [between, *names[1:]],
        [node.output[0]],
        weights.new_name(f"{node.name or node.output[0]}_norm"),
        epsilon=_EPSILON,
        momentum=_MOMENTUM,
    )
    return [conv, norm]
