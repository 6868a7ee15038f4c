"""Spectra are the singular values of the unfolded weight, and what lies beyond the rank is the error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import onnxlr
from onnxlr.spectra import Spectrum
from tests.builders import Array, conv_model, weight
from tests.classifier import classifier, write_data

SHAPE = (12, 8, 3, 3)


def unfold(w: Array, scheme: str) -> list[Array]:
    """The matrices whose ranks are cut, one a rank entry."""
    m, c, height, width = w.shape
    rows, columns = w.reshape(m, -1), w.swapaxes(0, 1).reshape(c, -1)
    return {
        "channel-out": [rows],
        "channel-in": [columns],
        "spatial": [w.transpose(1, 2, 0, 3).reshape(c * height, m * width)],
        "tucker2": [columns, rows],
    }[scheme]


def singular_values(matrix: Array) -> Array:
    values = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
    return values / np.linalg.norm(values)


def only(spectra: tuple[Spectrum, ...]) -> Spectrum:
    (spectrum,) = spectra
    return spectrum


@pytest.mark.parametrize("scheme", ["channel-out", "channel-in", "spatial", "tucker2"])
def test_singular_values_of_the_weight(scheme: str) -> None:
    """Of the weight whose rows have norm 1, the scale in which errors count."""
    w = weight(*SHAPE)
    result = onnxlr.optimize(
        conv_model(w, pads=[1, 1, 1, 1]), energy=0.5, schemes=[scheme], align=1, gate="none", checks=None
    )
    spectrum = only(result.report.spectra)
    scaled = w / np.linalg.norm(w.reshape(len(w), -1), axis=1).reshape(-1, 1, 1, 1)
    expected = [singular_values(matrix) for matrix in unfold(scaled, scheme)]
    assert (spectrum.scheme, spectrum.judged_by) == (scheme, "weight")
    assert len(spectrum.modes) == len(expected)
    for mode, values in zip(spectrum.modes, expected, strict=True):
        assert mode.full == len(values)
        assert mode.ranks == tuple(range(1, len(values) + 1))
        np.testing.assert_allclose(mode.values, values, rtol=1e-3)
    if scheme != "tucker2":  # what lies beyond the rank is the error
        (layer,) = result.plan.layers
        beyond = np.square(spectrum.modes[0].values)[layer.rank[0] :].sum() ** 0.5
        assert beyond == pytest.approx(layer.error, rel=1e-3)


def test_long_spectra_keep_their_ends() -> None:
    result = onnxlr.optimize(
        conv_model(weight(300, 310, 1, 1)), energy=0.5, schemes=["channel-out"], gate="none", checks=None
    )
    (mode,) = only(result.report.spectra).modes
    assert (mode.full, mode.ranks[0], mode.ranks[-1], len(mode.ranks)) == (300, 1, 300, 64)
    assert list(mode.values) == sorted(mode.values, reverse=True)


def test_layers_left_alone_have_one_too() -> None:
    result = onnxlr.optimize(classifier(), energy=0.9999, align=1, checks=None)
    judged = {spectrum.name for spectrum in result.report.spectra}
    left = {item.name for item in result.plan.skipped if "too small" not in item.reason}
    assert left
    assert left | {layer.name for layer in result.plan.layers} <= judged


def test_of_outputs(tmp_path: Path) -> None:
    """Errors of the outputs at every rank that was looked at: beyond the chosen one lies the plan's error."""
    model = classifier()
    data = write_data(tmp_path, model)
    result = onnxlr.optimize(
        model, target_macs=0.5, align=2, schemes=["channel-out"], calibration=data.calibration, checks=None
    )
    spectra = {spectrum.name: spectrum for spectrum in result.report.spectra}
    assert result.plan.layers
    for layer in result.plan.layers:
        spectrum = spectra[layer.name]
        assert spectrum.judged_by == layer.judged_by == "outputs"
        (mode,) = spectrum.modes
        assert mode.ranks[-1] <= mode.full
        taken = sum(
            value**2 for rank, value in zip(mode.ranks, mode.values, strict=True) if rank <= layer.rank[0]
        )
        assert 1 - taken == pytest.approx(layer.error**2, abs=2e-3)


def test_a_plan_that_is_applied_has_those_that_were_computed() -> None:
    model = conv_model(weight(*SHAPE), pads=[1, 1, 1, 1])
    plan = onnxlr.plan(model, energy=0.5, schemes=["spatial"], align=1, gate="none")
    result = onnxlr.apply(model, plan)
    planned = onnxlr.optimize(model, energy=0.5, schemes=["spatial"], align=1, gate="none", checks=None)
    assert result.report.spectra == planned.report.spectra
