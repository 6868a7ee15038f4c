"""Normalizations; BatchNormalization with the statistics of the batch while it is trained."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from onnxlr.training.operators.base import Node, Operator, Table
from onnxlr.training.operators.windows import pad

__all__ = ["OPERATORS"]

_MOMENTUM = 0.9
_EPSILON = 1e-5


def batch_normalization(
    node: Node, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor, *, training: bool
) -> Tensor | tuple[Tensor, Tensor, Tensor]:
    """`x` of shape `(N, C, ...)`, the others `(C,)`.

    While it is trained, `mean` and `var` are updated in place as ONNX defines it: `momentum` is the share of
    the *old* statistics (torch's is that of the new ones), and the variance is that of the population (torch
    takes the sample's, which is n / (n - 1) of it).

    Returns:
        The output; with the statistics where the node has further outputs.

    Raises:
        ValueError: it has statistics for each position (`spatial` 0, until opset 8).
    """
    if not node.flag("spatial", True):
        raise ValueError("BatchNormalization with spatial=0 is not supported")
    epsilon = node.get("epsilon", _EPSILON)
    if not training and not node.flag("training_mode"):
        y = F.batch_norm(x, mean, var, scale, bias, False, 0.0, epsilon)
    else:
        batch_mean, batch_var = torch.zeros_like(mean), torch.zeros_like(var)
        y = F.batch_norm(x, batch_mean, batch_var, scale, bias, True, 1.0, epsilon)
        share = 1 - node.get("momentum", _MOMENTUM)
        count = x.numel() // x.shape[1]
        new = mean.lerp(batch_mean, share), var.lerp(batch_var * ((count - 1) / count), share)
        if training:
            mean.copy_(new[0])
            var.copy_(new[1])
        mean, var = new
    return y if len(node.outputs) == 1 else (y, mean, var)


def instance_normalization(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Every plane of `x` by its own mean and variance."""
    return F.instance_norm(x, weight=scale, bias=bias, eps=node.get("epsilon", _EPSILON))


def layer_normalization(
    node: Node, x: Tensor, scale: Tensor, bias: Tensor | None = None
) -> Tensor | tuple[Tensor, Tensor, Tensor]:
    """Over the axes from `axis` on; with the mean and 1 / deviation where the node has further outputs."""
    epsilon = node.get("epsilon", _EPSILON)
    axes = list(range(node.get("axis", -1) % x.ndim, x.ndim))
    y = F.layer_norm(x, [x.shape[axis] for axis in axes], eps=epsilon) * scale
    y = y if bias is None else y + bias
    if len(node.outputs) == 1:
        return y
    variance, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
    return y, mean, (variance + epsilon).rsqrt()


def group_normalization(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Scale and bias belong to the groups before opset 21, to the channels from then on."""
    groups = node.get("num_groups", 1)
    if node.opset < 21:
        scale, bias = (t.repeat_interleave(x.shape[1] // groups) for t in (scale, bias))
    return F.group_norm(x, groups, scale, bias, node.get("epsilon", _EPSILON))


def local_response_normalization(node: Node, x: Tensor) -> Tensor:
    """`x / (bias + alpha / size · Σ x²)^beta`, the sum over `size` neighbouring channels.

    Of an even size, torch's own function has the odd channel on the other side.
    """
    size = node.get("size", 1)
    squares = x.square().movedim(1, -1)
    squares = pad(squares, [(size - 1) // 2], [size // 2])
    sums = squares.unfold(-1, size, 1).sum(-1).movedim(-1, 1)
    scaled = node.get("bias", 1.0) + node.get("alpha", 1e-4) / size * sums
    return x / scaled.pow(node.get("beta", 0.75))


def lp_normalization(node: Node, x: Tensor) -> Tensor:
    """By the sum of absolute values (p = 1) or the root of that of squares (p = 2) along an axis."""
    return F.normalize(x, p=node.get("p", 2), dim=node.get("axis", -1))


def mean_variance_normalization(node: Node, x: Tensor) -> Tensor:
    """By mean and deviation over `axes`."""
    axes = node.ints("axes", [0, 2, 3])
    centred = x - x.mean(axes, keepdim=True)
    return centred / (centred.square().mean(axes, keepdim=True).sqrt() + 1e-9)


OPERATORS: Table = {
    "BatchNormalization": Operator(batch_normalization, layer_weights=(1, 2), has_modes=True),
    "GroupNormalization": Operator(group_normalization, layer_weights=(1, 2)),
    "InstanceNormalization": Operator(instance_normalization, layer_weights=(1, 2)),
    "LRN": Operator(local_response_normalization),
    "LayerNormalization": Operator(layer_normalization, layer_weights=(1, 2)),
    "LpNormalization": Operator(lp_normalization),
    "MeanVarianceNormalization": Operator(mean_variance_normalization),
}
