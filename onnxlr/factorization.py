"""Weights of layers -> their decompositions and factors, in the scale in which errors count.

Every output channel counts alike: factorizations minimize ‖D⁻¹(W − Ŵ)‖_F, D the norms of the rows of W, and D
is multiplied back into the last factor. A norm says how the network scales a channel, not how much it
matters; and one exporter folds a BatchNormalization into W, as diag(f) W, where another one does not: so both
get the same ranks. A row of zeros stays one.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import helper

from onnxlr.conv import ConvSpec
from onnxlr.errors import ModelError
from onnxlr.layer import Layer
from onnxlr.memory import room
from onnxlr.schemes import Decomposition, Rank, Scheme, Weight

__all__ = ["LayerWeights", "balance", "compose", "nearest"]

_KEPT_BYTES = 256 * 2**20
"""Decompositions kept between planning and rewriting; beyond it they are computed again."""

_DEAD = 1e-30
"""Norm of a row below which its channel counts as dead: float32 holds it no longer with all digits."""

Array = NDArray[np.float64]


class LayerWeights:
    """Reads one layer's weight at a time, and remembers decompositions within a memory budget."""

    def __init__(self) -> None:
        self._kept: dict[tuple[object, ...], Decomposition] = {}
        self._kept_bytes = 0
        self._lock = threading.Lock()

    def weight(self, layer: Layer) -> Weight:
        """The weight `(M, C / group, *kernel_shape)` in the scale in which errors count."""
        return _normalized(layer.read_weight())[0]

    def decompose(self, layer: Layer, scheme: Scheme) -> Decomposition:
        """The decomposition of a layer's weight; at the second call from memory, if there was room.

        Raises:
            ModelError: the weight has values that are not finite.
        """
        kept = self.kept(layer, scheme)
        if kept is not None:
            return kept
        try:
            decomposition = scheme.decompose(layer.conv, self.weight(layer))
        except np.linalg.LinAlgError as error:
            raise ModelError(f"the weight of layer '{layer.name}' cannot be used: {error}") from error
        with self._lock:
            if self._kept_bytes + decomposition.nbytes <= room(_KEPT_BYTES):
                self._kept_bytes += decomposition.nbytes
                self._kept[self._key(layer, scheme)] = decomposition
        return decomposition

    def kept(self, layer: Layer, scheme: Scheme) -> Decomposition | None:
        """The decomposition, if it is in memory."""
        return self._kept.get(self._key(layer, scheme))

    def factorize(self, layer: Layer, scheme: Scheme, rank: Rank) -> list[NDArray[Any]]:
        """The factors of one layer at one rank, balanced, in the scale and type of its stored weight.

        Their shapes are those of `scheme.chain(layer.conv, rank)`.
        """
        weight, norms = _normalized(layer.read_weight())
        factors = list(self.decompose(layer, scheme).factors(weight, rank))
        factors[-1] = factors[-1] * _column(norms, factors[-1].ndim)
        dtype = helper.tensor_dtype_to_np_dtype(layer.weight.data_type)
        chain = scheme.chain(layer.conv, rank)
        return [factor.astype(dtype) for factor in balance(factors, chain)]

    def shared_key(self, layer: Layer) -> tuple[object, ...]:
        """Equal for layers whose factors at equal rank are equal: one stored weight, read the same way."""
        return layer.weight, layer.layout, layer.conv

    def _key(self, layer: Layer, scheme: Scheme) -> tuple[object, ...]:
        return (*self.shared_key(layer), scheme.name)


def nearest(conv: ConvSpec, weight: Weight, scheme: Scheme, rank: Rank) -> tuple[Array, float]:
    """The weight of a rank that is nearest in the scale in which errors count; its share of error.

    Args:
        conv: the layer.
        weight: `(M, C / group, *kernel_shape)`, finite.
        scheme: accepts the layer.
        rank: in the scheme's range.

    Returns:
        Ŵ of the shape of `weight`, and ‖D⁻¹(W − Ŵ)‖² / ‖D⁻¹W‖², D the norms of the rows of W.

    References:
        Those of the scheme. For `spatial`: Tai et al., arXiv 1511.06067, Theorem 1.

    >>> from onnxlr.schemes import all_schemes
    >>> conv, weight = ConvSpec.create((4, 4)), np.diag([3.0, 2.0, 1.0, 5.0])
    >>> closest, error = nearest(conv, weight, all_schemes()["channel-out"], (3,))
    >>> round(error, 6)  # all rows count alike
    0.25
    """
    scaled, norms = _normalized(weight)
    factors = scheme.decompose(conv, scaled).factors(scaled, rank)
    closest = compose(factors, scheme.chain(conv, rank), conv.group).reshape(weight.shape)
    energy = float(np.square(scaled).sum())
    error = float(np.square(scaled - closest).sum()) / energy if energy else 0.0
    return closest * _column(norms, weight.ndim), error


def balance(factors: Sequence[Array], chain: Sequence[ConvSpec]) -> list[Array]:
    """Give both sides of every rank-one term about the same norm, so that float16 survives.

    Scales are powers of two: the product does not change by a single bit.

    Args:
        factors: weights of the Convs of a chain: what axis 0 of each gives, axis 1 of the next one takes,
            group by group.
        chain: their shapes.

    >>> links = ConvSpec.create((1, 1)), ConvSpec.create((1, 1))
    >>> [factor.item() for factor in balance([np.array([[64.0]]), np.array([[1.0]])], links)]
    [8.0, 8.0]
    """
    balanced = list(factors)
    for i in range(len(balanced) - 1):
        first, second = balanced[i], balanced[i + 1]
        groups = second.reshape(chain[i + 1].group, -1, *second.shape[1:])  # g, M / g, r, ...
        ratio = _norms(groups, axes=(0, 2)) / _norms(first, axes=(0,))
        scale = np.exp2(np.round(np.log2(ratio) / 2))
        balanced[i] = first * _column(scale, first.ndim)
        inverse = (1 / scale).reshape(len(groups), 1, -1, *(1,) * (second.ndim - 2))
        balanced[i + 1] = (groups * inverse).reshape(second.shape)
    return balanced


def compose(factors: Sequence[NDArray[Any]], links: Sequence[ConvSpec], group: int = 1) -> Array:
    """The weight `(M, C / group, *kernel_shape)` of the one Conv that a chain computes.

    Args:
        factors: weights of the links.
        links: no axis has a kernel above 1 in two of them.
        group: groups of that Conv: every link has as many, times some of its own.

    Returns:
        In float64.

    >>> links = ConvSpec.create((2, 3, 3, 1)), ConvSpec.create((4, 2, 1, 3))
    >>> compose([np.ones(link.weight_shape) for link in links], links).shape
    (4, 3, 3, 3)
    """
    if group > 1:
        parts = [np.split(factor, group) for factor in factors]
        ones = [_of_one_group(link, group) for link in links]
        return np.concatenate([compose(part, ones) for part in zip(*parts, strict=True)])
    product: Array | None = None
    for factor, link in zip(factors, links, strict=True):
        dense = np.moveaxis(_dense(factor, link), (0, 1), (-2, -1))  # *kernel_shape, out, in
        product = dense if product is None else np.matmul(dense, product)
    assert product is not None, "a chain is not empty"  # noqa: S101 - holds by construction
    return np.moveaxis(product, (-2, -1), (0, 1))


def _of_one_group(link: ConvSpec, group: int) -> ConvSpec:
    shape = (link.out_channels // group, *link.weight_shape[1:])
    return replace(link, weight_shape=shape, group=link.group // group)


def _dense(factor: NDArray[Any], link: ConvSpec) -> Array:
    """The weight of a grouped Conv as that of an ungrouped one."""
    if link.group == 1:
        return factor.astype(np.float64)
    dense = np.zeros((link.out_channels, link.in_channels, *link.kernel_shape))
    blocks = np.split(factor, link.group)
    rows, columns = blocks[0].shape[:2]
    for i, block in enumerate(blocks):
        dense[i * rows : (i + 1) * rows, i * columns : (i + 1) * columns] = block
    return dense


def _norms(factor: Array, axes: tuple[int, ...]) -> Array:
    """Norms along some axes, flat; 1 for a zero row, which no scale can balance."""
    letters = "abcdefgh"[: factor.ndim]
    kept = "".join(letters[axis] for axis in axes)
    norms = np.sqrt(np.einsum(f"{letters},{letters}->{kept}", factor, factor)).reshape(-1)
    return np.where(norms > np.finfo(np.float64).tiny, norms, 1.0)


def _column(scale: Array, ndim: int) -> Array:
    return scale.reshape(-1, *(1,) * (ndim - 1))


def _normalized(weight: Weight) -> tuple[Weight, Array]:
    """The weight with rows of norm 1, and what these were; 1 for rows that are zero or not finite."""
    rows = weight.reshape(len(weight), -1).astype(np.float64)
    norms = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    norms[(norms < _DEAD) | ~np.isfinite(norms)] = 1.0
    return weight / _column(norms, weight.ndim), norms
