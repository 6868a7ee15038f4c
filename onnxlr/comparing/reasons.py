"""Why a layer gives something else than the same layer of another export, as far as the two nodes tell."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxlr.comparing.matching import Match
from onnxlr.comparing.sides import Side
from onnxlr.layer import Layer

__all__ = ["find_reasons"]

_SAME = 1e-4
"""Relative difference up to which weights, biases and scales count as the same."""


def find_reasons(first: Side, other: Side, match: Match) -> Iterator[str]:
    """One line for everything that differs; nothing where the layers are the same."""
    if len(match.first) > 1 or len(match.other) > 1:
        yield f"a chain stands for the layer: its weight differs by {match.weight_error:.2g} (relative L2)"
        return
    i, j = match.first[0], match.other[0]
    yield from _attributes(first.layers[i], other.layers[j])
    yield from _weights(match)
    biases = first.bias(i), other.bias(j)
    if biases[0] is not None and biases[1] is not None:
        yield from _biases(biases[0], biases[1], match.permutation)


def _attributes(a: Layer, b: Layer) -> Iterator[str]:
    if not a.conv.kernel_shape or not b.conv.kernel_shape:  # one of them is a Gemm, which has none
        return
    for name in ("strides", "dilations", "output_padding"):
        values = getattr(a.conv, name), getattr(b.conv, name)
        if values[0] != values[1]:
            yield f"{name} {_shown(values[0])} against {_shown(values[1])}"
    pads = [_pads(layer) for layer in (a, b)]
    if pads[0] != pads[1]:
        yield f"pads {_shown(pads[0])} against {_shown(pads[1])}"


def _pads(layer: Layer) -> Any:
    """The pads that apply: of auto_pad what it comes to, or its name where the sizes are not known."""
    conv = layer.conv
    if conv.auto_pad == "NOTSET" or (conv.transposed and conv.auto_pad != "VALID"):
        return conv.output_shape or conv.pads
    if conv.auto_pad == "VALID":
        return (0,) * len(conv.pads)
    if layer.spatial is None:
        return conv.auto_pad
    windows = [(k - 1) * d + 1 for k, d in zip(conv.kernel_shape, conv.dilations, strict=True)]
    sizes = zip(layer.spatial, conv.strides, windows, strict=True)
    totals = [max((-(-size // stride) - 1) * stride + window - size, 0) for size, stride, window in sizes]
    small, large = [total // 2 for total in totals], [total - total // 2 for total in totals]
    begins, ends = (small, large) if conv.auto_pad == "SAME_UPPER" else (large, small)
    return (*begins, *ends)


def _weights(match: Match) -> Iterator[str]:
    low, high = match.scales or (1.0, 1.0)
    if not np.isfinite(match.weight_error):
        yield "weights are not finite"
    elif match.by == "weights" and max(1 - low, high - 1) > _SAME:
        yield (
            f"weights are the same but for the scales of output channels, {low:.3g} to {high:.3g} times"
            " as large: a BatchNormalization is missing, or has other statistics"
        )
    elif match.weight_error > _SAME:
        yield f"weights differ by {match.weight_error:.2g} (relative L2)"


def _biases(a: NDArray[Any], b: NDArray[Any], permutation: NDArray[np.intp] | None) -> Iterator[str]:
    size = max(a.size, b.size)
    a, b = np.broadcast_to(a, size), np.broadcast_to(b, size)
    gap = np.linalg.norm(a - (b if permutation is None else b[permutation]))
    norm = max(np.linalg.norm(a), np.linalg.norm(b))
    if gap > _SAME * norm:
        yield f"biases differ by {gap / norm:.2g} (relative L2)"


def _shown(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
