"""`evbmf`: ranks by the global solution of empirical variational Bayesian matrix factorization.

An unfolding of the weight is taken for a matrix of low rank plus white noise of unknown variance, and keeps
as many singular values as the noise does not explain; no number has to be given (Kim et al. 2016, arXiv
1511.06530, choose the ranks of Tucker-2 like this). The formulas:

1. The solution is analytic where the variance is known (Nakajima, Sugiyama, Babacan, Tomioka, JMLR 14, 2013).
2. With an unknown variance its free energy has to be minimized over that one number, within bounds that are
   known too (Nakajima, Tomioka, Sugiyama, Babacan, "Condition for Perfect Dimensionality Recovery by
   Variational Bayesian PCA", JMLR 16, 2015).

The L × M matrix, L ≤ M, is the unfolding that a rank entry truncates: L is the entry's full rank, and L · M
the number of weights. Groups that are truncated alike have a matrix each, of L · M weights of a group; they
share the rank, and the mean of their spectra stands for all of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq, minimize_scalar

from onnxlr.selectors.base import (
    Candidate,
    Choice,
    Judges,
    LayerOptions,
    ModelSize,
    Refusal,
    cheapest_chain,
)

__all__ = ["Selector", "evbmf_rank"]

Float = NDArray[np.float64]

_GRID = 100
"""Variances at which the free energy is looked at before it is minimized: it may have several minima."""


class Selector:
    """EVBMF selector; it has nothing to choose.

    Args:
        value: 1: it is on.

    >>> import onnxlr
    >>> onnxlr.plan("models/digits/digits.onnx", selector=Selector()).settings["evbmf"]
    1.0
    """

    name = "evbmf"
    help = "Ranks that Bayesian matrix factorization (EVBMF) finds to be more than noise."
    takes_value = False
    judges: Judges = "weights"

    def __init__(self, value: float = 1.0) -> None:
        if value != 1:
            raise ValueError(f"evbmf takes no number; got {value}")
        self.value = 1.0

    def __call__(self, options: Sequence[LayerOptions], model: ModelSize) -> Mapping[str, Choice | Refusal]:  # noqa: ARG002 - no budget
        """See `RankSelector`."""
        return {layer.layer: _select(layer) for layer in options}


def _select(options: LayerOptions) -> Choice | Refusal:
    chains = [
        (candidate, index)
        for candidate in options.candidates
        if (index := _smallest_rank(candidate, options.params)) is not None
    ]
    if not chains:
        return Refusal("EVBMF finds nothing but noise in the weight")
    return cheapest_chain(options.layer, chains, "the ranks of EVBMF")


def _smallest_rank(candidate: Candidate, params: int) -> int | None:
    """Position of the smallest allowed rank with every entry at least EVBMF's; None if one of these is 0."""
    size = params // candidate.groups
    needed = [evbmf_rank(s / candidate.groups, size // len(s)) for s in candidate.spectra]
    ranks = np.array(candidate.ranks)
    if ranks.shape[1] != len(needed):
        raise ValueError(f"layer '{candidate.layer}', {candidate.scheme}: a rank entry has no spectrum")
    if min(needed) == 0:
        return None
    suffices = (ranks >= needed).all(axis=1)
    return int(np.where(suffices, ranks.sum(axis=1), np.iinfo(np.int64).max).argmin())


def evbmf_rank(spectrum: Float, columns: int) -> int:
    """Number of singular values that are more than noise.

    It cannot be more than about L M / (L + M): the rest must be enough to tell the noise's variance from.

    Args:
        spectrum: `(L,)`, σ² of an L × M matrix, largest first.
        columns: M, at least L.

    References:
        Nakajima, Sugiyama, Babacan, Tomioka: Global analytic solution of fully-observed variational Bayesian
        matrix factorization. JMLR 14, 2013; and, with an unknown variance, JMLR 16, 2015. For Convs: Kim et
        al., arXiv 1511.06530.

    >>> evbmf_rank(np.array([900.0, 400.0, 1.1, 1.0, 0.9, 0.8, 0.7]), 10)
    2
    """
    if spectrum[0] <= 0:
        return 0
    # what eigenvalues of a Gram matrix are rounded by counts as noise too: there is no log of 0
    floor = spectrum[0] * len(spectrum) * np.finfo(np.float64).eps
    scaled = np.maximum(spectrum, floor) / columns
    threshold = _threshold(len(spectrum) / columns)
    variance = _noise_variance(scaled, len(spectrum) / columns, threshold)
    return int(np.count_nonzero(scaled > variance * threshold))


def _threshold(alpha: float) -> float:
    """σ² / M in units of the noise variance above which a singular value is kept.

    (1 + τ)(1 + α / τ) at the zero of Φ(τ) + Φ(τ / α), where Φ(z) = log(1 + z) / z − 1/2 (τ is about
    2.5 √α, which is often taken instead).
    """

    root = math.sqrt(alpha)

    def balance(z: float) -> float:  # z = τ / √α
        return math.log1p(z * root) / (z * root) + math.log1p(z / root) / (z / root) - 1

    tau = root * float(brentq(balance, 1.0, 100.0))
    return (1 + tau) * (1 + alpha / tau)


def _noise_variance(scaled: Float, alpha: float, threshold: float) -> float:
    """Variance of the noise with the least free energy.

    Args:
        scaled: `(L,)`, σ² / M, largest first, all positive.
        alpha: L / M.
        threshold: see `_threshold`.
    """
    rank = int(np.ceil(len(scaled) / (1 + alpha))) - 1  # the most that can be told from noise
    lower = max(scaled[rank] / threshold, scaled[rank:].mean())
    upper = max(scaled.mean(), lower)
    grid = np.linspace(np.log(lower), np.log(upper), _GRID)
    best = int(np.argmin([_free_energy(point, scaled, alpha, threshold) for point in grid]))
    around = grid[max(best - 1, 0)], grid[min(best + 1, _GRID - 1)]
    found = minimize_scalar(_free_energy, bounds=around, args=(scaled, alpha, threshold), method="bounded")
    return float(np.exp(found.x))


def _free_energy(log_variance: float, scaled: Float, alpha: float, threshold: float) -> float:
    """Free energy at the best factors, but for a factor and what does not depend on the variance."""
    x = scaled / np.exp(log_variance)
    signal = x[x > threshold]
    shifted = signal - 1 - alpha
    tau = (shifted + np.sqrt(shifted**2 - 4 * alpha)) / 2
    return float(np.sum(x - np.log(x)) + np.sum(np.log1p(tau) + alpha * np.log1p(tau / alpha) - tau))
