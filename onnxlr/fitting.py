"""One layer, one scheme, one rank + samples -> factors and bias with the smallest error of the outputs.

What is not closed form is decided by the error on held-out pairs, among:

1. The target, after Zhang et al. (arXiv 1505.06798): a · y + (1 − a) · W x̂, where y is the output in the
   original network, x̂ the input in the compressed one. a = 1 makes up for the errors of earlier layers; a = 0
   does not, and has no noise where samples are few.
2. The vectors of the first factors: those of W, those of the full-rank regression of the target on x̂, or
   factors of W that no output was looked at for.
3. The ridge of the last factor's refit, or none (`onnxlr.regression`).
4. A scale for each output channel: that of the regression of y on ŷ, or 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from onnxlr.conv import ConvSpec
from onnxlr.factorization import balance, compose
from onnxlr.moments import Sample
from onnxlr.parallel import map_layers
from onnxlr.ridge import mean_variance, ridged_cholesky
from onnxlr.schemes import Rank, Scheme

__all__ = ["Fit", "fit_layer", "fit_of", "refit_layer"]

Float = NDArray[np.float64]
Array = NDArray[Any]

_SHARES = (1.0, 0.5)
"""a of case 1, besides 0."""

_GAIN = 0.99
"""Error after a refit by the error before, above which it is not worth to touch a weight."""

_RIDGE = 1e-2
"""Of the full-rank regression, by the mean variance of an input."""


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """What replaces a layer.

    Attributes:
        factors: weights of the chain, in the scheme's shapes.
        bias: `(M,)`, or None to keep the layer's.
        error: E‖y − ŷ‖² / E‖y‖² on held-out pairs, y without its mean where `bias` is given.
    """

    factors: tuple[Array, ...]
    bias: Array | None
    error: float


def fit_layer(
    conv: ConvSpec,
    weight: Float,
    samples: Sequence[Sample],
    scheme: Scheme,
    rank: Rank,
    refine: int = 0,
    workers: int = 1,
) -> Fit:
    """Factors of `scheme.chain(conv, rank)`, and the bias that goes with them.

    Args:
        conv: the layer.
        weight: `(M, C / group, *kernel_shape)`.
        samples: x̂ of the compressed network, y of the original one; one a group.
        scheme: how to split it.
        rank: of the scheme.
        refine: see `Scheme.regress`.
        workers: number of cores to use.
    """
    links = scheme.chain(conv, rank)
    matrices = weight.reshape(conv.group, -1, samples[0].covariance.shape[0])

    def from_outputs(variant: tuple[list[Sample], Float]) -> Sequence[Float]:
        targets, bases = variant
        return scheme.regress(conv, bases.reshape(weight.shape), targets, rank, refine).factors(rank)

    def from_weight() -> Sequence[Float]:
        return scheme.decompose(conv, weight).factors(weight, rank)

    ways: list[Callable[[], Sequence[Float]]] = [from_weight]
    ways += [partial(from_outputs, variant) for variant in _variants(matrices, samples)]
    found = map_layers(lambda way: way(), ways, lambda _: 1.0, workers, lambda _: None)
    judged = (pair for factors in found for pair in _judged(factors, links, matrices.shape, samples))
    _, best = min(judged, key=lambda pair: pair[0])
    return fit_of(best, links, conv, samples)


def _judged(
    factors: Sequence[Float], links: Sequence[ConvSpec], shape: tuple[int, ...], samples: Sequence[Sample]
) -> list[tuple[float, Sequence[Float]]]:
    """Factors as they are, and with a scale for each output: with their errors."""
    composed = compose(factors, links, shape[0]).reshape(shape)
    scales = _scales(composed, samples)
    scaled = (*factors[:-1], _scaled(factors[-1], scales))
    plain, better = 0.0, 0.0
    for sample, weight, scale in zip(samples, composed, scales, strict=True):
        outputs = sample.predict(weight)
        plain += sample.error_of(outputs)
        better += sample.error_of(outputs * scale.astype(np.float32))
    return [(plain, factors), (better, scaled)]


def fit_of(
    factors: Sequence[Float], links: Sequence[ConvSpec], conv: ConvSpec, samples: Sequence[Sample]
) -> Fit:
    """The fit with given factors of the layer `conv`."""
    size = samples[0].covariance.shape[0]
    composed = compose(factors, links, conv.group).reshape(len(samples), -1, size)
    error = _error(composed, samples) / _energy(samples)
    return Fit(tuple(balance(factors, links)), _bias(composed, samples), error)


def refit_layer(conv: ConvSpec, weight: Float, samples: Sequence[Sample]) -> Fit | None:
    """Weights of the layer as it is, regressed on x̂; None if that is not better on held-out pairs."""
    matrices = weight.reshape(conv.group, -1, samples[0].covariance.shape[0])
    before = _error(matrices, samples)
    ridges = (1e-2, 1e-1, 1.0, 10.0)
    found = [np.stack([_full(w, s, r) for w, s in zip(matrices, samples, strict=True)]) for r in ridges]
    errors = [_error(matrix, samples) for matrix in found]
    best = int(np.argmin(errors))
    if errors[best] >= _GAIN * before:
        return None
    composed = found[best]
    return Fit((composed.reshape(weight.shape),), _bias(composed, samples), errors[best] / _energy(samples))


def _variants(matrices: Float, samples: Sequence[Sample]) -> list[tuple[list[Sample], Float]]:
    """Samples with their targets, and the weights that the vectors come from, `(group, M / group, D)`."""
    own = [w @ sample.covariance for w, sample in zip(matrices, samples, strict=True)]
    mixed = [
        [share * sample.crosses[0] + (1 - share) * c for share in _SHARES]
        for sample, c in zip(samples, own, strict=True)
    ]
    full = np.stack([_full(w, sample, _RIDGE) for w, sample in zip(matrices, samples, strict=True)])
    return [
        ([s.with_crosses(c, *m) for s, c, m in zip(samples, own, mixed, strict=True)], matrices),
        ([s.with_crosses(*m) for s, m in zip(samples, mixed, strict=True)], full),
    ]


def _full(weight: Float, sample: Sample, ridge: float) -> Float:
    """The full-rank regression of y on x, drawn to the weight."""
    factor, strength = ridged_cholesky(sample.covariance, ridge * mean_variance(sample.covariance))
    target = sample.crosses[0] + strength * weight
    return linalg.cho_solve((factor, True), target.T, check_finite=False).T


def _scales(composed: Float, samples: Sequence[Sample]) -> Float:
    """For each output the factor of ŷ that the regression of y on it gives, `(group, M / group)`."""
    found = []
    for weight, sample in zip(composed, samples, strict=True):
        variance = np.einsum("md,md->m", weight @ sample.covariance, weight)
        shared = np.einsum("md,md->m", weight, sample.crosses[0])
        found.append(np.divide(shared, variance, out=np.ones_like(shared), where=variance > 0))
    return np.array(found)


def _scaled(factor: Array, scale: Float) -> Array:
    return factor * scale.reshape(-1, *(1,) * (factor.ndim - 1))


def _error(composed: Float, samples: Sequence[Sample]) -> float:
    """E‖y − ŷ‖² on held-out pairs, over all groups."""
    return sum(s.error(w) for w, s in zip(composed, samples, strict=True))


def _energy(samples: Sequence[Sample]) -> float:
    return max(sum(s.energy for s in samples), np.finfo(np.float64).tiny)


def _bias(composed: Float, samples: Sequence[Sample]) -> Float:
    """What is missing to the mean of y."""
    parts = [s.output_mean - w @ s.input_mean for w, s in zip(composed, samples, strict=True)]
    return np.concatenate(parts)
