"""Judged layers -> their spectra: what each further rank adds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxlr.factorization import LayerWeights
from onnxlr.judging import Judgement
from onnxlr.layer import Layer
from onnxlr.offers import edge_spectra
from onnxlr.schemes import Rank, Scheme, all_schemes

__all__ = ["Mode", "Spectrum", "find_spectra"]

_POINTS = 64
"""Singular values of a mode that are kept, evenly spaced, with the first and the last."""

_DIGITS = 4


@dataclass(frozen=True, slots=True)
class Mode:
    """The spectrum along one rank entry, with all others at full rank.

    Attributes:
        full: full rank of the entry.
        ranks: which singular values are given, counted from 1.
        values: these singular values, by the norm of all: their squares are shares of the energy.
    """

    full: int
    ranks: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Spectrum:
    """Singular values of a layer.

    Attributes:
        name: of the layer.
        scheme: whose unfolding they are of.
        judged_by: `weight`: of the unfolded weight, in the scale in which errors count. `outputs`: square
            roots of what each further rank takes from the error of the outputs on held-out inputs.
        modes: one a rank entry of the scheme.
    """

    name: str
    scheme: str
    judged_by: str
    modes: tuple[Mode, ...]


def find_spectra(
    layers: Iterable[Layer], chosen: Mapping[str, str], judgement: Judgement | None, weights: LayerWeights
) -> tuple[Spectrum, ...]:
    """Spectra of all layers of which errors are known at this point; nothing is computed for it.

    Args:
        layers: of the model.
        chosen: name of the scheme by name of the layer; of others the first scheme that was judged is taken.
        judgement: of the layers, if ranks were chosen.
        weights: may have decompositions where no ranks were chosen.
    """
    found = (_find(layer, chosen.get(layer.name), judgement, weights) for layer in layers)
    return tuple(spectrum for spectrum in found if spectrum is not None)


def _find(
    layer: Layer, wanted: str | None, judgement: Judgement | None, weights: LayerWeights
) -> Spectrum | None:
    for scheme, residuals in _known(layer, judgement, weights):
        if wanted in (None, scheme.name):
            by = "outputs" if judgement is not None and layer.key in judgement.of_outputs else "weight"
            full = scheme.max_rank(layer.conv)
            return Spectrum(layer.name, scheme.name, by, tuple(_modes(residuals, full)))
    return None


def _known(
    layer: Layer, judgement: Judgement | None, weights: LayerWeights
) -> Iterator[tuple[Scheme, NDArray[np.float64]]]:
    for scheme in all_schemes().values():
        if judgement is not None and (layer.key, scheme.name) in judgement.residuals:
            yield scheme, judgement.residuals[layer.key, scheme.name]
        elif judgement is None and (kept := weights.kept(layer, scheme)) is not None:
            yield scheme, kept.residuals


def _modes(residuals: NDArray[np.float64], full: Rank) -> Iterator[Mode]:
    total = float(residuals[(0,) * residuals.ndim]) or 1.0
    for axis, squares in enumerate(edge_spectra(residuals)):
        values = np.sqrt(squares / total)
        ranks = np.unique(np.linspace(1, len(values), min(_POINTS, len(values))).round().astype(int))
        shown = tuple(float(f"{value:.{_DIGITS}g}") for value in values[ranks - 1])
        yield Mode(full[axis], tuple(ranks.tolist()), shown)
