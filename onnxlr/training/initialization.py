"""Weights as before any training: what training from scratch starts with."""

from __future__ import annotations

from math import prod

import torch
from onnx import NodeProto, helper

from onnxlr.training.module import GraphModule
from passes.graph import attributes

__all__ = ["draw_weights", "reset_normalizations"]

_BIASED = ("Conv", "ConvTranspose", "Gemm")
_NORMALIZATIONS = ("BatchNormalization", "GroupNormalization", "InstanceNormalization", "LayerNormalization")
_AS_NEW = (1.0, 0.0, 0.0, 1.0)  # scale, bias and, of a BatchNormalization, mean and variance


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
                parameters[name].data.copy_(drawn)
                del left[name]
        bias = node.input[2] if node.op_type in _BIASED and len(node.input) > 2 else ""
        if bias in left:
            parameters[bias].data.zero_()
            del left[bias]
    known = reset_normalizations(module)
    return [name for name in left if name not in known]


def reset_normalizations(module: GraphModule) -> set[str]:
    """Make scales of normalizations 1 and their biases 0, means 0 and variances 1.

    Returns:
        Names of the parameters and statistics that were set.
    """
    tensors = {**dict(module.named_parameters()), **module.statistics}
    found = set()
    for node in module.model.proto.graph.node:
        if node.op_type not in _NORMALIZATIONS:
            continue
        for name, number in zip(node.input[1:], _AS_NEW, strict=False):
            if name in tensors:
                tensors[name].data.fill_(number)
                found.add(name)
    return found


def _variance(node: NodeProto, position: int, shape: torch.Size) -> float | None:
    """Of the weight of a layer; None for what is none."""
    given = {name: helper.get_attribute_value(value) for name, value in attributes(node).items()}
    if node.op_type == "Conv" and position == 1:
        return 2 / prod(shape[1:])
    if node.op_type == "ConvTranspose" and position == 1:
        fan_in = shape[0] // given.get("group", 1) * prod(shape[2:]) / prod(given.get("strides", ()))
        return 2 / fan_in
    if node.op_type == "MatMul" and len(shape) > 1:
        return 1 / shape[-2 if position == 1 else -1]
    if node.op_type == "Gemm":
        is_turned = bool(given.get("transB" if position else "transA", 0))
        return 1 / shape[1 if is_turned == bool(position) else 0]
    return None
