"""Activations, Dropout and Softmax."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from onnxlr.training.elements import Array
from onnxlr.training.operators.base import Node, Operator, Table

__all__ = ["OPERATORS"]


def leaky_relu(node: Node, x: Tensor) -> Tensor:
    """`alpha · x` below 0."""
    return F.leaky_relu(x, node.get("alpha", 0.01))


def p_relu(x: Tensor, slope: Tensor) -> Tensor:
    """`slope · x` below 0; the slope broadcasts to x."""
    return torch.where(x < 0, slope * x, x)


def elu(node: Node, x: Tensor) -> Tensor:
    """`alpha · (eˣ − 1)` below 0."""
    return F.elu(x, node.get("alpha", 1.0))


def celu(node: Node, x: Tensor) -> Tensor:
    """`alpha · (eˣᐟᵃˡᵖʰᵃ − 1)` below 0."""
    return F.celu(x, node.get("alpha", 1.0))


def selu(node: Node, x: Tensor) -> Tensor:
    """An Elu times `gamma`."""
    gamma: float = node.get("gamma", 1.05070102214813232421875)
    return gamma * F.elu(x, node.get("alpha", 1.67326319217681884765625))


def hard_sigmoid(node: Node, x: Tensor) -> Tensor:
    """`alpha · x + beta` between 0 and 1."""
    return torch.clamp(node.get("alpha", 0.2) * x + node.get("beta", 0.5), 0.0, 1.0)


def thresholded_relu(node: Node, x: Tensor) -> Tensor:
    """x above `alpha`, else 0."""
    return torch.where(x > node.get("alpha", 1.0), x, torch.zeros_like(x))


def gelu(node: Node, x: Tensor) -> Tensor:
    """Exact, or with `approximate` by tanh."""
    return F.gelu(x, approximate=node.get("approximate", "none"))


def swish(node: Node, x: Tensor) -> Tensor:
    """`x · sigmoid(alpha · x)`."""
    return x * torch.sigmoid(node.get("alpha", 1.0) * x)


def clip(node: Node, x: Tensor, low: Array | None = None, high: Array | None = None) -> Tensor:
    """Between bounds: attributes before opset 11, inputs from then on."""
    bounds = [node.get("min", None), node.get("max", None)] if node.opset < 11 else [low, high]
    lower, upper = (None if bound is None else np.asarray(bound).item() for bound in bounds)
    return x if lower is None and upper is None else torch.clamp(x, lower, upper)


def dropout(
    node: Node, x: Tensor, ratio: Array | None = None, _: Array | None = None, *, training: bool
) -> Tensor | tuple[Tensor, Tensor]:
    """While it is trained, whatever the file says of `training_mode`; the mask where it is asked for."""
    share = node.get("ratio", 0.5) if ratio is None else float(ratio)
    kept = torch.ones_like(x, dtype=torch.bool)
    if training and share > 0:
        kept = torch.rand_like(x) >= share
        x = torch.where(kept, x / (1 - share), 0.0) if share < 1 else torch.zeros_like(x)
    return x if len(node.outputs) == 1 else (x, kept)


def softmax(node: Node, x: Tensor) -> Tensor:
    """Along an axis."""
    return _along_axis(node, x, torch.softmax)


def log_softmax(node: Node, x: Tensor) -> Tensor:
    """Along an axis."""
    return _along_axis(node, x, torch.log_softmax)


def _along_axis(node: Node, x: Tensor, function: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Along one axis from opset 13 on; before, over all axes from it on."""
    if node.opset >= 13:
        return function(x, node.get("axis", -1))
    axis = node.get("axis", 1) % x.ndim
    return function(x.reshape(prod(x.shape[:axis]), -1), 1).reshape(x.shape)


OPERATORS: Table = {
    "Celu": Operator(celu),
    "Clip": Operator(clip, numbers=(1, 2)),
    "Dropout": Operator(dropout, numbers=(1, 2), has_modes=True),
    "Elu": Operator(elu),
    "Gelu": Operator(gelu),
    "HardSigmoid": Operator(hard_sigmoid),
    "HardSwish": Operator(F.hardswish, takes_node=False),
    "LeakyRelu": Operator(leaky_relu),
    "LogSoftmax": Operator(log_softmax),
    "Mish": Operator(F.mish, takes_node=False),
    "PRelu": Operator(p_relu, layer_weights=(1,), takes_node=False),
    "Relu": Operator(torch.relu, takes_node=False),
    "Selu": Operator(selu),
    "Sigmoid": Operator(torch.sigmoid, takes_node=False),
    "Softmax": Operator(softmax),
    "Softplus": Operator(F.softplus, takes_node=False),
    "Softsign": Operator(F.softsign, takes_node=False),
    "Swish": Operator(swish),
    "Tanh": Operator(torch.tanh, takes_node=False),
    "ThresholdedRelu": Operator(thresholded_relu),
}
