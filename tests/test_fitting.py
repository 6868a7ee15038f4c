"""Fits of one layer: better than what they compete with, unbiased, and sane where samples are few."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from onnxlr.conv import ConvSpec
from onnxlr.factorization import compose
from onnxlr.fitting import Fit, fit_layer, fit_of, refit_layer
from onnxlr.moments import Moments, Sample
from onnxlr.schemes import Rank, Scheme, all_schemes
from tests.builders import Array, weight
from tests.test_regression import SINGLE, energy, held_error, rows, sample_of

CONVS = {
    "2-D": ConvSpec.create((10, 8, 3, 3)),
    "3-D": ConvSpec.create((6, 4, 2, 3, 2)),
    "grouped": ConvSpec.create((8, 4, 3, 3), group=2),
    "depthwise": ConvSpec.create((3, 1, 3, 3), group=3),
    "Gemm": ConvSpec.create((12, 20)),
    "transposed": ConvSpec.create((6, 8, 3, 3), strides=(2, 2), transposed=True),
}

PAIRS = [
    pytest.param(scheme, case, id=f"{name}-{case}")
    for name, scheme in all_schemes().items()
    for case, conv in CONVS.items()
    if scheme.refuses(conv) is None
]

fits = pytest.mark.parametrize(("scheme", "case"), PAIRS)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Matrices are small: where cores are busy, BLAS takes ten times as long with several threads."""
    with threadpool_limits(1):
        yield


def matrices(conv: ConvSpec, w: Array) -> Array:
    """`(group, M / group, D)`."""
    return w.reshape(conv.group, conv.out_channels // conv.group, -1)


def third(scheme: Scheme, conv: ConvSpec) -> Rank:
    return tuple(max(1, size // 3) for size in scheme.max_rank(conv))


def samples_of(
    conv: ConvSpec,
    w: Array,
    count: int = 400,
    held: int = 200,
    shrink: float = 1.0,
    noise: float = 0.0,
    symmetric: bool = False,
    decay: float = 0.1,
    seed: int = 0,
) -> list[Sample]:
    """x̂ = shrink · x + noise and y = W x + 1, or W x̂ + 1 where `symmetric`; one sample a group."""
    rng = np.random.default_rng(seed)
    samples = []
    for own in matrices(conv, w):
        x = rows(rng, count + held, own.shape[1], decay)
        given = shrink * x + noise * rng.standard_normal(x.shape)
        y = (given if symmetric else x) @ own.T + 1
        samples.append(sample_of(given[:count], y[:count], (given[count:], y[count:])))
    return samples


def relative(fit: Fit, scheme: Scheme, conv: ConvSpec, rank: Rank, samples: list[Sample]) -> float:
    """E‖y − ŷ‖² / E‖y‖² of the fit's factors, on held-out pairs, in float64."""
    composed = matrices(conv, compose(fit.factors, scheme.chain(conv, rank), conv.group))
    errors = [held_error(sample, part) for sample, part in zip(samples, composed, strict=True)]
    return sum(errors) / sum(map(energy, samples))


@fits
def test_a_fit_is_what_it_says(scheme: Scheme, case: str) -> None:
    conv = CONVS[case]
    w, rank = weight(*conv.weight_shape, dtype=np.float64), third(scheme, conv)
    samples = samples_of(conv, w, shrink=0.8, noise=0.1)
    links = scheme.chain(conv, rank)
    fit = fit_layer(conv, w, samples, scheme, rank)
    assert [factor.shape for factor in fit.factors] == [link.weight_shape for link in links]
    assert abs(fit.error - relative(fit, scheme, conv, rank, samples)) <= SINGLE
    first, *others, last = fit.factors
    again = fit_of((2.0**20 * first, *others, 2.0**-20 * last), links, conv, samples)
    assert abs(again.error - fit.error) <= SINGLE
    assert np.array_equal(compose(again.factors, links, conv.group), compose(fit.factors, links, conv.group))
    if not others:  # balanced
        assert 0.1 < np.abs(again.factors[0]).max() / np.abs(first).max() < 10


@fits
def test_the_bias_takes_the_mean_error_away(scheme: Scheme, case: str) -> None:
    conv = CONVS[case]
    w, rank = weight(*conv.weight_shape, dtype=np.float64), third(scheme, conv)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, conv.group, w[0].size)) + np.linspace(-2, 3, w[0].size)
    y = np.einsum("ngd,gmd->ngm", x, matrices(conv, w)) + 5
    given = (0.9 * x + 0.2).astype(np.float32)
    for centred in (True, False):
        moments = Moments(centred)
        moments.add(given[:200], y[:200].astype(np.float32))
        moments.hold_out(given[200:], y[200:].astype(np.float32))
        fit = fit_layer(conv, w, moments.samples(), scheme, rank)
        assert fit.bias is not None
        assert fit.bias.shape == (conv.out_channels,)
        composed = matrices(conv, compose(fit.factors, scheme.chain(conv, rank), conv.group))
        seen = np.einsum("ngd,gmd->ngm", given[:200].astype(np.float64), composed)
        missing = (y[:200] - seen).mean(axis=0).ravel()
        if centred:
            assert np.abs(missing - fit.bias).max() <= 1e-5
            assert np.abs(missing).max() > 0.1  # there was something to make up for
        else:
            assert not fit.bias.any()  # nothing may replace the layer's own


@fits
def test_exact_at_full_rank(scheme: Scheme, case: str) -> None:
    conv = CONVS[case]
    w, rank = weight(*conv.weight_shape, dtype=np.float64), scheme.max_rank(conv)
    fit = fit_layer(conv, w, samples_of(conv, w), scheme, rank)
    assert fit.error <= 1e-10
    composed = compose(fit.factors, scheme.chain(conv, rank), conv.group)
    assert np.abs(composed - w).max() <= 1e-4 * np.abs(w).max()


@fits
@pytest.mark.parametrize(("shrink", "noise"), [(1.0, 0.0), (1.0, 0.2), (0.6, 0.0), (0.7, 0.2)])
def test_making_up_for_earlier_errors(scheme: Scheme, case: str, shrink: float, noise: float) -> None:
    """Zhang et al.: regressed on the original's y, the fit is better than one that imitates W x̂."""
    conv = CONVS[case]
    w, rank = weight(*conv.weight_shape, dtype=np.float64), third(scheme, conv)
    imitated = samples_of(conv, w, shrink=shrink, noise=noise, symmetric=True)
    samples = samples_of(conv, w, shrink=shrink, noise=noise)
    symmetric = fit_layer(conv, w, imitated, scheme, rank)
    links = scheme.chain(conv, rank)
    before = fit_of(symmetric.factors, links, conv, samples).error
    after = fit_layer(conv, w, samples, scheme, rank).error
    assert after <= before * (1 + 1e-5)
    if shrink < 1:
        assert after < 0.999 * before


@fits
def test_never_worse_than_without_variants(scheme: Scheme, case: str) -> None:
    conv = CONVS[case]
    if len(scheme.max_rank(conv)) > 1:
        return  # those factors are truncated once more
    w, rank = weight(*conv.weight_shape, dtype=np.float64), third(scheme, conv)
    samples, links = samples_of(conv, w, count=60, shrink=0.8, noise=0.3), scheme.chain(conv, rank)
    fit = fit_layer(conv, w, samples, scheme, rank)
    own = [s.with_crosses(m @ s.covariance) for m, s in zip(matrices(conv, w), samples, strict=True)]
    for targets in (samples, own):
        factors = scheme.regress(conv, w, targets, rank).factors(rank)
        assert fit.error <= fit_of(factors, links, conv, samples).error + SINGLE


@fits
def test_scales_are_learned_from_few_samples(scheme: Scheme, case: str) -> None:
    """Eight samples say how much each output is to grow, whatever the number of weights."""
    conv = CONVS[case]
    w, rank = weight(*conv.weight_shape, dtype=np.float64), scheme.max_rank(conv)
    rng = np.random.default_rng(0)
    samples = []
    for own in matrices(conv, w):
        x = rng.standard_normal((208, own.shape[1]))
        y = x @ own.T * np.linspace(0.25, 2.5, len(own))
        samples.append(sample_of(x[:8], y[:8], (x[8:], y[8:])))
    fit = fit_layer(conv, w, samples, scheme, rank)
    assert fit.error < 1e-10


def calibrated(conv: ConvSpec, w: Array, rng: np.random.Generator, sizes: Sequence[int]) -> list[Sample]:
    """Samples as calibration makes them of y = W x: so many pairs to fit to, and to judge by."""
    moments = Moments()
    count, held = sizes
    x = np.stack([rows(rng, count + held, w[0].size, 0.03) for _ in range(conv.group)], axis=1)
    y = np.einsum("ngd,gmd->ngm", x, matrices(conv, w))
    x, y = x.astype(np.float32), y.astype(np.float32)
    moments.add(x[:count], y[:count])
    moments.hold_out(x[count:], y[count:])
    return moments.samples()


FEW = [
    ("channel-out", ConvSpec.create((24, 100))),
    ("channel-in", ConvSpec.create((140, 100))),
    ("channel-out", ConvSpec.create((16, 4, 3, 3, 3))),
    ("channel-in", ConvSpec.create((16, 11, 3, 3))),
    ("spatial", ConvSpec.create((16, 11, 3, 3), group=2)),
    ("tucker2", ConvSpec.create((6, 11, 3, 3))),
    ("group-2", ConvSpec.create((16, 12, 3, 3))),
]
"""About 100 entries of x."""


def fresh_ratio(scheme: Scheme, conv: ConvSpec, held: int, seed: int) -> float:
    """Error on fresh pairs of a fit to 20 positions, by that of the factors of the weight."""
    rng = np.random.default_rng(seed)
    left, sigma, right = np.linalg.svd(
        rng.standard_normal((conv.out_channels, conv.params // conv.out_channels))
    )
    sigma *= np.geomspace(1, 0.05, len(sigma))
    w = ((left[:, : len(sigma)] * sigma) @ right[: len(sigma)]).reshape(conv.weight_shape)
    samples, rank = calibrated(conv, w, rng, (20, held)), third(scheme, conv)
    links = scheme.chain(conv, rank)
    fits = [
        fit_layer(conv, w, samples, scheme, rank),
        fit_of(scheme.decompose(conv, w).factors(w, rank), links, conv, samples),
    ]
    fresh = calibrated(conv, w, rng, (2000, 2))
    errors = []
    for fit in fits:
        composed = matrices(conv, compose(fit.factors, links, conv.group))
        missing = [
            np.trace((own - part) @ sample.covariance @ (own - part).T)
            + np.square((own - part) @ sample.input_mean - bias).sum()
            for own, part, sample, bias in zip(
                matrices(conv, w), composed, fresh, fit.bias.reshape(conv.group, -1), strict=True
            )
        ]
        errors.append(sum(missing))
    return float(errors[0] / errors[1])


@pytest.mark.parametrize(("name", "conv"), FEW, ids=lambda value: getattr(value, "weight_shape", value))
@pytest.mark.parametrize(("held", "worst", "usual"), [(50, 1.3, 1.1), (5, 1.6, 1.15)])
def test_few_samples_do_no_harm(name: str, conv: ConvSpec, held: int, worst: float, usual: float) -> None:
    """20 positions for 100 entries: what is fitted is noise, and held-out pairs have to notice."""
    ratios = [fresh_ratio(all_schemes()[name], conv, held, seed) for seed in range(10)]
    assert max(ratios) <= worst
    assert np.exp(np.mean(np.log(ratios))) <= usual


REFITS = ["2-D", "3-D", "grouped", "depthwise", "Gemm", "transposed"]


@pytest.mark.parametrize("case", REFITS)
def test_nothing_to_refit(case: str) -> None:
    conv = CONVS[case]
    w = weight(*conv.weight_shape, dtype=np.float64)
    assert refit_layer(conv, w, samples_of(conv, w)) is None


@pytest.mark.parametrize("case", REFITS)
def test_a_refit_that_only_adds_noise_is_not_made(case: str) -> None:
    conv = CONVS[case]
    w = weight(*conv.weight_shape, dtype=np.float64)
    rng = np.random.default_rng(0)
    samples = []
    for own in matrices(conv, w):
        x = rng.standard_normal((1000, own.shape[1]))
        y = x @ own.T + 3 * rng.standard_normal((1000, len(own)))  # of which x knows nothing
        samples.append(sample_of(x[:6], y[:6], (x[6:], y[6:])))
    assert refit_layer(conv, w, samples) is None


@pytest.mark.parametrize("case", REFITS)
@pytest.mark.parametrize(("shrink", "noise"), [(0.6, 0.0), (0.7, 0.3), (1.0, 0.3)])
def test_a_refit_makes_up_for_earlier_errors(case: str, shrink: float, noise: float) -> None:
    conv = CONVS[case]
    w = weight(*conv.weight_shape, dtype=np.float64)
    samples = samples_of(conv, w, count=2000, shrink=shrink, noise=noise)
    fit = refit_layer(conv, w, samples)
    assert fit is not None
    (found,) = fit.factors
    assert found.shape == conv.weight_shape
    total = sum(map(energy, samples))
    before, after, best = (
        sum(held_error(s, m) for s, m in zip(samples, parts, strict=True)) / total
        for parts in (
            matrices(conv, w),
            matrices(conv, found),
            [np.linalg.solve(s.covariance, s.crosses[0].T).T for s in samples],
        )
    )
    assert abs(fit.error - after) <= SINGLE
    assert after < 0.97 * before
    assert after - best <= 0.15 * (before - best)  # nearly what least squares gains
    means = zip(matrices(conv, found), samples, strict=True)
    expected = np.concatenate([s.output_mean - m @ s.input_mean for m, s in means])
    assert fit.bias is not None
    assert np.abs(fit.bias - expected).max() <= 1e-12
