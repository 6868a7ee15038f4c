"""Weights as before any training: what training from scratch starts with."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import torch
from onnx import NodeProto

from onnxlr.training.module import GraphModule
from passes.graph import attributes, opset

__all__ = ["draw_weights", "reset_normalizations"]

_NORMALIZATIONS = ("BatchNormalization", "GroupNormalization", "InstanceNormalization", "LayerNormalization")


@torch.no_grad()
def draw_weights(module: GraphModule, seed: int) -> list[str]:
    """Draw the weights of all layers anew.

    Weights of Conv and ConvTranspose are normal with variance 2 / fan-in (He et al., arXiv 1502.01852), those
    of Gemm and MatMul with 1 / fan-in, and biases 0. Normalizations are reset as `reset_normalizations` does.

    Args:
        module: is changed in place.
        seed: of the numbers.

    Returns:
        Names of the parameters that are left as they are, because no rule is known for them.
    """
    generator = torch.Generator().manual_seed(seed)
    parameters = dict(module.named_parameters())
    left = dict.fromkeys(parameters)
    for node in module.model.proto.graph.node:
        for i, name in enumerate(node.input[:2]):
            variance = _variance(node, i, parameters[name].shape) if name in left else None
            if variance is not None:
                drawn = torch.randn(parameters[name].shape, generator=generator) * variance**0.5
                parameters[name].copy_(drawn)
                del left[name]
        if node.op_type in ("Conv", "ConvTranspose", "Gemm") and len(node.input) > 2 and node.input[2] in left:
            parameters[node.input[2]].zero_()
            del left[node.input[2]]
    return [name for name in left if name not in reset_normalizations(module)]


@torch.no_grad()
def reset_normalizations(module: GraphModule) -> list[str]:
    """Make every normalization one without scale and bias, and statistics those of mean 0 and variance 1.

    Returns:
        Names of the parameters that were set.
    """
    parameters, statistics = dict(module.named_parameters()), module.statistics
    found = []
    for node in module.model.proto.graph.node:
        if node.op_type not in _NORMALIZATIONS:
            continue
        for tensors, first in ((parameters, 1), (statistics, 3)):
            found += [name for name in node.input[first : first + 2] if name in tensors]
            for name, fill in zip(node.input[first : first + 2], _filled(first), strict=False):
                if name in tensors:
                    tensors[name].fill_(fill)
    return [name for name in found if name in parameters]


def _filled(first: int) -> tuple[float, float]:
    """Scale and bias; mean and variance."""
    return (1.0, 0.0) if first == 1 else (0.0, 1.0)


def _variance(node: NodeProto, position: int, shape: torch.Size) -> float | None:
    """Of the weight of a layer; None for what is none."""
    given: Mapping[str, object] = attributes(node)
    if node.op_type == "Conv" and position == 1:
        return 2 / prod(shape[1:])
    if node.op_type == "ConvTranspose" and position == 1:
        strides = attributes(node).get("strides")
        reached = prod(strides.ints) if strides is not None else 1
        group = attributes(node).get("group")
        return 2 * reached / (shape[0] // (group.i if group is not None else 1) * prod(shape[2:]))
    if node.op_type == "MatMul" and len(shape) > 1:
        return 1 / shape[-2 if position == 1 else -1]
    if node.op_type == "Gemm":
        flag = attributes(node).get("transB" if position else "transA")
        turned = flag is not None and flag.i != 0
        return 1 / shape[1 if turned == bool(position) else 0]
    return None
