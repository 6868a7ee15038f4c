"""The EVBMF selector: it tells rank from noise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxlr.selectors import Choice, ModelSize, Refusal
from onnxlr.selectors.evbmf import Selector, evbmf_rank
from tests.selectors.builders import candidate, layer

Spectrum = NDArray[np.float64]


def spectrum(rows: int, columns: int, rank: int, noise: float, seed: int = 0) -> Spectrum:
    """σ² of a matrix of the given rank plus white noise, whose entries are of the size 1 and `noise`."""
    rng = np.random.default_rng(seed)
    low_rank = rng.standard_normal((rows, rank)) @ rng.standard_normal((rank, columns))
    matrix = low_rank / max(rank, 1) ** 0.5 + noise * rng.standard_normal((rows, columns))
    sigma: Spectrum = np.linalg.svd(matrix, compute_uv=False)
    return sigma**2


@pytest.mark.parametrize("noise", [1e-6, 0.01, 0.3])
@pytest.mark.parametrize(
    ("rows", "columns", "rank"),
    [(30, 30, 3), (64, 64, 12), (64, 576, 1), (64, 576, 20), (100, 300, 10), (128, 1152, 40)],
)
def test_the_true_rank_is_found(rows: int, columns: int, rank: int, noise: float) -> None:
    assert evbmf_rank(spectrum(rows, columns, rank, noise), columns) == rank


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("rows", "columns"), [(10, 20), (30, 30), (64, 576), (256, 256), (1, 9)])
def test_noise_has_no_rank(rows: int, columns: int, seed: int) -> None:
    assert evbmf_rank(spectrum(rows, columns, 0, 1.0, seed), columns) == 0


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e20])
@pytest.mark.parametrize(("rows", "columns", "rank"), [(30, 30, 3), (64, 576, 20)])
def test_without_noise_the_rank_is_that_of_the_matrix(
    rows: int, columns: int, rank: int, scale: float
) -> None:
    exact = scale * spectrum(rows, columns, rank, 0.0)
    assert evbmf_rank(exact, columns) == rank
    assert evbmf_rank(np.where(np.arange(rows) < rank, exact, 0.0), columns) == rank


def test_nothing_has_no_rank() -> None:
    assert evbmf_rank(np.zeros(8), 8) == 0


@pytest.mark.parametrize("strength", [0.7, 0.9, 1.2, 1.5])
def test_a_signal_is_found_from_the_threshold_of_the_theory_on(strength: float) -> None:
    """In large matrices a component of size √(M τ) is found from a certain τ on (JMLR 16, 2015)."""
    rows, columns = 200, 800
    tau = 1.2726  # for α = 1/4: log(1 + τ) / τ + α log(1 + τ / α) / τ = 1
    rng = np.random.default_rng(1)
    noise = rng.standard_normal((rows, columns))
    signal = (strength * tau * columns) ** 0.5
    left, right = np.linalg.qr(rng.standard_normal((rows, 1)))[0], rng.standard_normal((columns, 1))
    matrix = noise + signal * left @ right.T / np.linalg.norm(right)
    sigma = np.linalg.svd(matrix, compute_uv=False)
    assert evbmf_rank(sigma**2, columns) == (strength > 1)


NOISE = spectrum(30, 30, 0, 1.0)
THREE = spectrum(30, 30, 3, 0.01)
SIX = spectrum(60, 90, 6, 0.01)


@pytest.mark.parametrize(
    ("candidates", "params", "expected"),
    [
        # the smallest rank that is not below
        (
            [candidate("a", [0.1, 0.2, 0.3], [0, 0, 0], ranks=[(2,), (4,), (6,)], spectra=[THREE])],
            900,
            Choice("layer", "a", (4,)),
        ),
        (
            [candidate("a", [0.1, 0.2, 0.3], [0, 0, 0], ranks=[(2,), (3,), (30,)], spectra=[THREE])],
            900,
            Choice("layer", "a", (3,)),
        ),
        # the smallest one, even if a larger one is cheaper
        (
            [candidate("a", [0.3, 0.2], [0, 0], ranks=[(4,), (8,)], spectra=[THREE])],
            900,
            Choice("layer", "a", (4,)),
        ),
        # in every entry
        (
            [
                candidate(
                    "a",
                    [0.1, 0.2, 0.3, 0.4],
                    [0, 0, 0, 0],
                    ranks=[(4, 4), (4, 8), (8, 4), (8, 8)],
                    spectra=[THREE, spectrum(30, 180, 6, 0.01)],
                )
            ],
            5400 // 6,
            Choice("layer", "a", (4, 8)),
        ),
        # of schemes the cheapest; those that find noise do not count
        (
            [
                candidate("a", [0.3], [0], ranks=[(4,)], spectra=[THREE]),
                candidate("b", [0.2], [0], ranks=[(4,)], spectra=[THREE]),
                candidate("c", [0.1], [0], ranks=[(4,)], spectra=[NOISE]),
                candidate("d", [0.1], [0], ranks=[(4, 4)], spectra=[THREE, NOISE]),
            ],
            900,
            Choice("layer", "b", (4,)),
        ),
        # groups: the spectra are sums
        (
            [candidate("a", [0.1, 0.2], [0, 0], ranks=[(6,), (8,)], spectra=[4 * SIX], groups=4)],
            4 * 5400,
            Choice("layer", "a", (6,)),
        ),
        (
            [candidate("a", [0.3], [0], ranks=[(8,)], spectra=[NOISE])],
            900,
            Refusal("EVBMF finds nothing but noise in the weight"),
        ),
        (
            [candidate("a", [0.3, 1.25], [0, 0], ranks=[(2,), (4,)], spectra=[THREE])],
            900,
            Refusal("no gain at the ranks of EVBMF: the cheapest chain (a, rank 4) costs 1.25 of the layer"),
        ),
    ],
)
def test_selection(candidates: Any, params: int, expected: Choice | Refusal) -> None:
    options = layer(*candidates, params=params)
    assert Selector()([options], ModelSize(None, params)) == {"layer": expected}


def test_a_missing_spectrum_is_an_error() -> None:
    options = layer(candidate("a", [0.3], [0], ranks=[(8, 8)], spectra=[THREE]), params=900)
    with pytest.raises(ValueError, match="layer 'layer', a: a rank entry has no spectrum"):
        Selector()([options], ModelSize(None, 900))


def test_it_takes_no_number() -> None:
    with pytest.raises(ValueError, match=r"evbmf takes no number; got 0\.5"):
        Selector(0.5)
