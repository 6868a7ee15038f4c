"""The layers of a plan, found again in the network that is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnx import NodeProto

from onnxlr.analysis import analyse
from onnxlr.errors import ModelError
from onnxlr.layer import Layer
from onnxlr.replacement import Replacement
from onnxlr.training.methods import Target, TrainedWeight
from onnxlr.training.module import GraphModule
from passes.graph import is_operator

__all__ = ["find_targets"]


def find_targets(
    student: GraphModule, replacements: Sequence[Replacement], is_factorized: bool
) -> list[Target]:
    """Where the weights of planned layers are; layers that share weight and rank count once.

    Args:
        student: has the planned layers, or their chains, under the names of their outputs; there may be a
            BatchNormalization behind each.
        replacements: what was planned.
        is_factorized: whether the student has the chains.

    Raises:
        ModelError: a layer is in the body of a node, or its weight cannot be trained.
    """
    search = _Search(student)
    found: dict[tuple[object, ...], Target] = {}
    for item in replacements:
        assert item.scheme is not None, "plans have schemes"  # noqa: S101
        weights = search.weights(item.layer, len(item.links) if is_factorized else 1)
        target = Target(item.layer.name, item.scheme, item.rank, item.layer.conv, weights)
        found.setdefault((id(weights[0].parameter), item.scheme.name, item.rank), target)
    return list(found.values())


class _Search:
    """Nodes of a student by what they give."""

    def __init__(self, student: GraphModule) -> None:
        model = student.model
        self._parameters = dict(student.named_parameters())
        self._nodes: Mapping[str, NodeProto] = {
            name: node for node in model.proto.graph.node for name in node.output
        }
        layers = analyse(model.proto, None, str(model.folder))
        self._layers = {item.key: item for item in layers if isinstance(item, Layer)}

    def weights(self, layer: Layer, count: int) -> list[TrainedWeight]:
        """Of so many layers that end where `layer` did in the original; first to last."""
        scope, name = layer.key
        found: list[TrainedWeight] = []
        for _ in range(count):
            node = self._nodes.get(name)
            if node is not None and is_operator(node, "BatchNormalization"):
                name = node.input[0]
                node = self._nodes.get(name)
            link = self._layers.get((scope, name))
            if node is None or link is None or link.weight.name not in self._parameters:
                raise ModelError(
                    f"layer '{layer.name}' cannot be trained: its weight is not in the main graph"
                )
            found.insert(0, TrainedWeight(self._parameters[link.weight.name], link.conv, link.layout))
            name = node.input[1 - link.layout.position]
        return found
