"""Give every layer parameters of its own where an exporter has merged those that were equal.

torch stores parameters of equal values once (in PRESERVE mode the scale 1 and the variance 1 of all fresh
BatchNormalizations, for example), and hands them on through Identity nodes that bear the names of the others.
For inference that is the same; trained, they would be tied. Other tools drop the Identity nodes as well.

A place is an input of a layer that is a vector: scale, bias, mean and variance of a BatchNormalization, scale
and bias of other normalizations, the bias of a Conv, ConvTranspose or Gemm. Tensors that several places read,
directly or through Identity nodes, are untied:
1. what an Identity gives is stored under its name, if only places and other Identity nodes read it;
2. of places that read the same name, the first keeps it, and each other one gets a copy;
3. but layers that read the same names at all their places are one layer that is used several times, and stay
   tied, unless one of them reads a name at two of its places: no layer does that by itself.
Weights of more than one axis stay tied. Bodies and local functions are left alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from onnx import ModelProto, TensorProto

from passes.graph import (
    add_initializers,
    attributes,
    count_reads,
    drop,
    free_name,
    trained_names,
    value_names,
)
from passes.remove_unused import remove_unused

__all__ = ["untie_parameters"]

_PLACES: Mapping[str, tuple[int, ...]] = {
    "BatchNormalization": (1, 2, 3, 4),
    "Conv": (2,),
    "ConvTranspose": (2,),
    "Gemm": (2,),
    "GroupNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "LayerNormalization": (1, 2),
}


@dataclass(frozen=True, slots=True)
class _Place:
    """An input of a node, and which layer it belongs to: nodes of one layer share their parameters."""

    node: int
    position: int
    name: str
    layer: tuple[str, ...] | int


def untie_parameters(model: ModelProto, base_dir: str = "") -> ModelProto:
    """Untie what the module's rules allow.

    Args:
        model: left alone; returned itself where nothing is tied.
        base_dir: not needed: no tensor is read.
    """
    del base_dir
    stored = _stored_vectors(model)
    origins = _origins(model, stored)
    places = [place for place in _places(model) if place.name in origins]
    names = _named_apart(model, places, origins)
    copies = _copied_apart(model, places)
    if not names and not copies:
        return model
    result = ModelProto()
    result.CopyFrom(model)
    new = [_renamed(stored[origins[name]], name) for name in sorted(names)]
    for place, name in copies.items():
        result.graph.node[place.node].input[place.position] = name
    origin_of = {name: origins[place.name] for place, name in copies.items()}
    new += [_renamed(stored[origin], name) for name, origin in origin_of.items()]
    nodes = result.graph.node
    drop(nodes, [node.op_type == "Identity" and node.output[0] in names for node in nodes])
    add_initializers(result, new)
    return remove_unused(model, result)


def _stored_vectors(model: ModelProto) -> dict[str, TensorProto]:
    """Vectors among the initializers and the values of Constant nodes."""
    found = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and "value" in attributes(node):
            found[node.output[0]] = attributes(node)["value"].t
    return {name: tensor for name, tensor in found.items() if len(tensor.dims) == 1}


def _origins(model: ModelProto, stored: Mapping[str, TensorProto]) -> dict[str, str]:
    """Stored vectors and what Identity nodes make of them -> the name under which it is stored."""
    origins = {name: name for name in stored}
    for node in model.graph.node:
        if node.op_type == "Identity" and node.input[0] in origins:
            origins[node.output[0]] = origins[node.input[0]]
    return origins


def _places(model: ModelProto) -> Iterator[_Place]:
    for i, node in enumerate(model.graph.node):
        positions = [p for p in _PLACES.get(node.op_type, ()) if p < len(node.input) and node.input[p]]
        names = [node.input[p] for p in positions]
        is_merged = len(set(names)) < len(names)  # rule 3
        layer = i if is_merged else (node.op_type, *node.input[1:])
        yield from (_Place(i, p, name, layer) for p, name in zip(positions, names, strict=True))


def _named_apart(model: ModelProto, places: list[_Place], origins: Mapping[str, str]) -> set[str]:
    """Outputs of Identity nodes to store: rule 1, where something else reads the same tensor."""
    reads = count_reads(model.graph)
    allowed = Counter(place.name for place in places)
    inner = Counter(node.input[0] for node in model.graph.node if node.op_type == "Identity")
    readers = Counter[str]()  # of each stored tensor, under any of its names
    for name, origin in origins.items():
        readers[origin] += reads[name] - inner[name]
    outputs = {node.output[0] for node in model.graph.node if node.op_type == "Identity"}
    fixed = trained_names(model)
    return {
        name
        for name in outputs & allowed.keys()
        if reads[name] == allowed[name] + inner[name]
        and readers[origins[name]] > 1
        and not {name, origins[name]} & fixed
    }


def _copied_apart(model: ModelProto, places: list[_Place]) -> dict[_Place, str]:
    """Places that get a copy, and its name: rules 2 and 3."""
    owners: dict[str, _Place] = {}
    given: dict[tuple[str, int, tuple[str, ...] | int], str] = {}
    taken, fixed = value_names(model), trained_names(model)
    copies = {}
    for place in places:
        owner = owners.setdefault(place.name, place)
        is_own = (owner.layer, owner.position) == (place.layer, place.position)
        if not is_own and place.name not in fixed:
            key = place.name, place.position, place.layer
            if key not in given:
                given[key] = free_name(place.name, taken)
            copies[place] = given[key]
    return copies


def _renamed(tensor: TensorProto, name: str) -> TensorProto:
    copy = TensorProto()
    copy.CopyFrom(tensor)
    copy.name = name
    return copy
