"""Merge the Convs of the parts of a tensor into one Conv with groups.

    (x_1, …, x_n) = Split(x);  y = Concat(Conv(x_1, W_1), …, Conv(x_n, W_n))
    ->   y = Conv(x, (W_1; …; W_n); group = n)

Some exporters write a Conv with groups that way. It becomes one Conv again where, in the main graph,
1. Split and Concat have the channel axis, 1, and Concat has two inputs or more;
2. each input of the Concat is the output of a Conv, and nothing else reads it;
3. the data of these Convs are all outputs of one Split, in order, and nothing else reads them;
4. the Convs have the same attributes. Their group, if it is not 1, is multiplied by their number;
5. their weights are constant (`passes.constants`) and have one shape and type, so the parts have one size;
   nothing else reads them, also under other names and as what they are computed from;
6. either none of them has a bias, or each has a constant one of the right size and of the weight's type;
7. training_info refers to none of these values.
A merged Conv may be a part of another one: this is repeated until there is nothing to merge. What stands
between Conv and Concat is not looked through: `fold_affine` before this pass takes biases and scales of the
parts, `fold_affine` after it what follows the Concat.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from passes.constants import Constant
from passes.graph import attributes, drop, is_operator
from passes.weights import Weights

__all__ = ["merge_groups"]


def merge_groups(model: ModelProto, base_dir: str = "") -> ModelProto:
    """Merge all Convs that the module's rules allow.

    Args:
        model: left alone; returned itself where nothing was merged. New weights and biases get new names. Old
            initializers that nothing else reads are not copied; what else became unused is left to
            `remove_unused`.
        base_dir: the folder that locations of external data are relative to.
    """
    merged = _merge_once(model, base_dir)
    return model if merged is model else merge_groups(merged, base_dir)


def _merge_once(model: ModelProto, base_dir: str) -> ModelProto:
    weights = Weights(model, base_dir)
    search = _Search(model, weights)
    found = [search.parts(i) for i, node in enumerate(model.graph.node) if is_operator(node, "Concat")]
    merged = [_merge(model, parts, weights) for parts in found if parts is not None]
    return _apply(merged, weights) if merged else model


@dataclass(frozen=True, slots=True, eq=False)
class _Parts:
    """What becomes one Conv.

    Attributes:
        split: position of the node that makes the parts.
        convs: positions of the Convs, in the order of the parts.
        concat: position of the node that joins their outputs.
        weights: of the Convs.
        biases: of the Convs; empty if they have none.
    """

    split: int
    convs: Sequence[int]
    concat: int
    weights: Sequence[Constant]
    biases: Sequence[Constant]


class _Search:
    """Finds the parts that belong together."""

    def __init__(self, model: ModelProto, weights: Weights) -> None:
        self._nodes = list(model.graph.node)
        self._producers = {name: i for i, node in enumerate(self._nodes) for name in node.output if name}
        self._weights = weights

    def parts(self, concat: int) -> _Parts | None:
        """What a Concat joins, if the rules allow to merge it."""
        names = self._nodes[concat].input
        positions = [i for i in (self._source(name, "Conv") for name in names) if i is not None]
        if len(positions) != len(names) or len(names) < 2:  # rules 1 and 2
            return None
        convs = [self._nodes[i] for i in positions]
        split, tensors = self._split(convs), self._tensors(convs)
        if split is None or tensors is None or not _have_same_attributes(convs):
            return None
        weights, biases = tensors
        rank = len(weights[0].shape)
        if not all(_is_along_channels(self._nodes[i], rank) for i in (split, concat)):
            return None
        return _Parts(split, positions, concat, weights, biases)

    def _source(self, name: str, operator: str) -> int | None:
        """The position of what computes a value, if it is such a node and nothing else reads the value."""
        position = self._producers.get(name)
        if position is None or self._weights.reads[name] != 1:
            return None
        return position if is_operator(self._nodes[position], operator) else None

    def _split(self, convs: Sequence[NodeProto]) -> int | None:  # rule 3
        names = [conv.input[0] for conv in convs]
        split = self._source(names[0], "Split")
        if split is None or list(self._nodes[split].output) != names:
            return None
        return split if all(self._weights.reads[name] == 1 for name in names) else None

    def _tensors(self, convs: Sequence[NodeProto]) -> tuple[list[Constant], list[Constant]] | None:
        """Weights and biases of the Convs, by rules 5 to 7."""
        weights = self._constants([conv.input[1] for conv in convs])
        biases = self._constants([_bias_name(conv) for conv in convs if _bias_name(conv)])
        if weights is None or biases is None or len(biases) not in (0, len(convs)):
            return None
        kind, shape = weights[0].data_type, weights[0].shape
        are_alike = all(weight.data_type == kind and weight.shape == shape for weight in weights)
        do_fit = all(bias.data_type == kind and bias.shape == shape[:1] for bias in biases)
        are_free = all(self._weights.has_one_reader(weight) for weight in weights)
        return (weights, biases) if are_alike and do_fit and are_free and len(shape) > 2 else None

    def _constants(self, names: Sequence[str]) -> list[Constant] | None:
        """These values, or None if one of them is not constant."""
        found = [constant for constant in map(self._weights.find, names) if constant is not None]
        return found if len(found) == len(names) else None


def _bias_name(conv: NodeProto) -> str:
    return conv.input[2] if len(conv.input) > 2 else ""


def _have_same_attributes(convs: Sequence[NodeProto]) -> bool:  # rule 4
    first, *others = (attributes(conv) for conv in convs)
    return all(other == first for other in others)


def _is_along_channels(node: NodeProto, rank: int) -> bool:  # rule 1
    given = attributes(node)
    return "axis" in given and given["axis"].i in (1, 1 - rank)


@dataclass(frozen=True, slots=True, eq=False)
class _Merged:
    """One Conv in place of several.

    Attributes:
        position: of the Conv that it replaces.
        node: the new Conv.
        tensors: its weight and, if it has one, its bias.
        old: names of the weights and biases before.
        gone: positions of the nodes that it makes superfluous.
    """

    position: int
    node: NodeProto
    tensors: Sequence[TensorProto]
    old: Sequence[str]
    gone: Sequence[int]


def _merge(model: ModelProto, parts: _Parts, weights: Weights) -> _Merged:
    nodes = model.graph.node
    first = parts.convs[0]
    tensors = [_joined(parts.weights, nodes[first].input[1], weights)]
    if parts.biases:
        tensors.append(_joined(parts.biases, nodes[first].input[2], weights))
    merged = NodeProto()
    merged.CopyFrom(nodes[first])
    merged.input[:] = [nodes[parts.split].input[0], *(tensor.name for tensor in tensors)]
    merged.output[0] = nodes[parts.concat].output[0]
    _multiply_group(merged, len(parts.convs))
    old = [name for i in parts.convs for name in nodes[i].input[1:]]
    return _Merged(first, merged, tensors, old, [parts.split, *parts.convs[1:], parts.concat])


def _joined(constants: Sequence[Constant], stem: str, weights: Weights) -> TensorProto:
    array = np.concatenate([constant.read() for constant in constants])
    return numpy_helper.from_array(array, weights.new_name(f"{stem}_merged"))


def _multiply_group(conv: NodeProto, count: int) -> None:
    given = attributes(conv)
    if "group" in given:
        given["group"].i *= count
    else:
        conv.attribute.append(helper.make_attribute("group", count))


def _apply(found: Sequence[_Merged], weights: Weights) -> ModelProto:
    """A copy of the model with the merged Convs."""
    old = [name for item in found for name in item.old]
    result = weights.exchanged(old, (tensor for item in found for tensor in item.tensors))
    for item in found:
        result.graph.node[item.position].CopyFrom(item.node)
    gone = {position for item in found for position in item.gone}
    drop(result.graph.node, [i in gone for i in range(len(result.graph.node))])
    return result
