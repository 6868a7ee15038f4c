"""Every scheme regressed on data: what is stated of the errors is what the composed factors have."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view
from onnx import ModelProto, helper
from threadpoolctl import threadpool_limits

from onnxlr import regression
from onnxlr.conv import ConvSpec
from onnxlr.factorization import compose
from onnxlr.linalg import tail_sums
from onnxlr.moments import Moments, Sample
from onnxlr.regression import HeadFeatures, leading_vectors
from onnxlr.schemes import Factors, Rank, Scheme, all_schemes
from tests.builders import Array, make_model, relative_error, run, weight
from tests.test_regression import SINGLE, energy, held_error, ridged, rows, sample_of

CONVS = {
    "1-D": ConvSpec.create((6, 5, 3)),
    "2-D": ConvSpec.create((8, 6, 3, 3), strides=(2, 1), pads=(1, 0, 2, 1)),
    "2-D, wide": ConvSpec.create((4, 8, 3, 2), strides=(1, 2), dilations=(2, 1)),
    "2-D, M above C·k": ConvSpec.create((12, 4, 1, 2)),
    "3-D": ConvSpec.create((6, 4, 3, 3, 3)),
    "3-D, other order": ConvSpec.create((4, 6, 2, 3, 2), strides=(1, 1, 2)),
    "3-D, two axes": ConvSpec.create((6, 4, 3, 1, 3)),
    "grouped": ConvSpec.create((8, 3, 3, 3), group=2),
    "grouped 3-D": ConvSpec.create((4, 2, 2, 3, 2), group=2),
    "depthwise": ConvSpec.create((3, 1, 3, 3), group=3),
    "depthwise, 2 each": ConvSpec.create((6, 1, 3, 2), group=3),
    "pointwise": ConvSpec.create((10, 8, 1, 1)),
    "pointwise, wide": ConvSpec.create((4, 12, 1, 1)),
    "Gemm": ConvSpec.create((10, 7)),
    "Gemm, wide": ConvSpec.create((5, 12)),
    "2 Gemms": ConvSpec.create((12, 5), group=2),
    "transposed": ConvSpec.create((6, 8, 3, 3), strides=(2, 2), transposed=True, output_padding=(1, 0)),
    "transposed, grouped": ConvSpec.create((6, 4, 3, 2), transposed=True, group=2),
    "transposed, pointwise": ConvSpec.create((6, 8, 1, 1), strides=(2, 2), transposed=True),
}


FEW = ("2-D", "2-D, M above C·k", "3-D", "depthwise", "grouped", "Gemm", "Gemm, wide", "transposed")
"""One Conv for each way that a scheme regresses."""


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Matrices are small: where cores are busy, BLAS takes ten times as long with several threads."""
    with threadpool_limits(1):
        yield


def accepted(*names: str, cases: Collection[str] = CONVS) -> pytest.MarkDecorator:
    """Every scheme, or those named, with every Conv that it does not refuse."""
    chosen = [scheme for name, scheme in all_schemes().items() if name in names or not names]
    pairs = [(scheme, case) for scheme in chosen for case in cases if scheme.refuses(CONVS[case]) is None]
    ids = [f"{scheme.name}-{case}" for scheme, case in pairs]
    return pytest.mark.parametrize(("scheme", "case"), pairs, ids=ids)


def matrices(conv: ConvSpec, w: Array) -> Array:
    """`(group, M / group, D)`."""
    return w.reshape(conv.group, conv.out_channels // conv.group, -1)


def layer(conv: ConvSpec, noise: float = 0.3, change: float = 0.1) -> tuple[Array, list[Sample]]:
    """A weight and samples of the layer in a compressed network: y is not quite W x."""
    rng = np.random.default_rng(0)
    w = weight(*conv.weight_shape, dtype=np.float64)
    samples = []
    for own in matrices(conv, w):
        other = own * (1 + change * rng.standard_normal(own.shape))
        x, held = rows(rng, 600, own.shape[1]), rows(rng, 200, own.shape[1])
        y, held_y = (
            part @ other.T + noise * rng.standard_normal((len(part), len(own))) for part in (x, held)
        )
        samples.append(sample_of(x, y, (held, held_y)))
    return w, samples


def error_of(factors: Factors, scheme: Scheme, conv: ConvSpec, rank: Rank, samples: list[Sample]) -> float:
    """E‖y − ŷ‖² on held-out pairs with the one Conv that the factors compose to."""
    composed = matrices(conv, compose(factors, scheme.chain(conv, rank), conv.group))
    return sum(held_error(sample, part) for sample, part in zip(samples, composed, strict=True))


def some_ranks(full: Rank) -> Iterator[Rank]:
    """Both ends and the middle of every entry, or all ranks of a short one."""
    entries = [sorted({1, 2, size // 3, size // 2, size - 1, size} & {*range(1, size + 1)}) for size in full]
    return product(*([*range(1, full[0] + 1)],) if full[0] <= 8 and len(full) == 1 else entries)


def has_triple(scheme: Scheme, conv: ConvSpec) -> bool:
    return scheme.name == "spatial" and len(scheme.max_rank(conv)) == 2


@accepted("channel-in", "channel-out", "group-2", "group-4", "spatial")
def test_errors_are_those_of_the_factors(scheme: Scheme, case: str) -> None:
    conv = CONVS[case]
    if has_triple(scheme, conv):
        return
    w, samples = layer(conv)
    full = scheme.max_rank(conv)
    found = scheme.regress(conv, w, samples, full)
    residuals, total = found.residuals, sum(map(energy, samples))
    assert residuals.shape == (full[0] + 1,)
    assert abs(residuals[0] - total) <= SINGLE * total
    for rank in some_ranks(full):
        factors = found.factors(rank)
        assert [f.shape for f in factors] == [link.weight_shape for link in scheme.chain(conv, rank)]
        assert abs(error_of(factors, scheme, conv, rank, samples) - residuals[rank]) <= SINGLE * total


@accepted("tucker2")
@pytest.mark.parametrize("ridge", [None, 1e-2])
def test_tucker2_errors_are_those_with_the_components_of_the_outputs(
    scheme: Scheme, case: str, ridge: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    conv = CONVS[case]
    w, samples = layer(conv)
    monkeypatch.setattr(regression, "RIDGES", (ridge,))
    full = scheme.max_rank(conv)
    found, expected = scheme.regress(conv, w, samples, full), np.zeros([size + 1 for size in full])
    for own, sample in zip(matrices(conv, w), samples, strict=True):
        index = np.arange(own.shape[1]).reshape(conv.weight_shape[1], -1)
        features = HeadFeatures(sample, own, index, full[0])
        seen = features.apply(np.eye(own.shape[1])).T
        components = leading_vectors(own @ sample.covariance @ own.T, full[1])
        for r1 in range(full[0] + 1):
            one = ridged(sample, features, r1, ridge) @ seen[: r1 * features.block]
            for r2 in range(full[1] + 1):
                kept = components[:, :r2]
                expected[r1, r2] += held_error(sample, kept @ (kept.T @ one))
    total = expected[0, 0]
    assert np.abs(found.residuals - expected).max() <= SINGLE * total


@accepted("tucker2")
def test_tucker2_factors_are_hardly_worse_than_stated(scheme: Scheme, case: str) -> None:
    """Their last basis is of what they give, not of the outputs: better where they are fitted."""
    conv = CONVS[case]
    w, samples = layer(conv)
    full = scheme.max_rank(conv)
    found, total = scheme.regress(conv, w, samples, full), sum(map(energy, samples))
    for rank in some_ranks(full):
        factors = found.factors(rank)
        assert [f.shape for f in factors] == [link.weight_shape for link in scheme.chain(conv, rank)]
        error, stated = error_of(factors, scheme, conv, rank, samples), found.residuals[rank]
        assert error <= stated + 2.5e-2 * total
        if rank[1] == conv.out_channels // conv.group:  # any basis will do
            assert abs(error - stated) <= SINGLE * total


@accepted("tucker2")
def test_tucker2_factors_are_the_optimum_at_their_vectors(
    scheme: Scheme, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reduced-rank regression: the tail sum of the eigenvalues of what the features explain."""
    conv = CONVS[case].one_group()
    rng = np.random.default_rng(0)
    w = weight(*conv.weight_shape, dtype=np.float64)
    x = rows(rng, 400, w[0].size)
    y = x @ w.reshape(len(w), -1).T + 0.3 * rng.standard_normal((400, len(w)))
    sample = sample_of(x, y)
    monkeypatch.setattr(regression, "RIDGES", (None, 1e-9))
    full = scheme.max_rank(conv)
    found, total = scheme.regress(conv, w, [sample], full), energy(sample)
    index = np.arange(w[0].size).reshape(conv.in_channels, -1)
    z = HeadFeatures(sample, w.reshape(len(w), -1), index, full[0]).apply(x - x.mean(axis=0))
    for r1, r2 in some_ranks(full):
        explained, *_ = np.linalg.lstsq(z[:, : r1 * index.shape[1]], y - y.mean(axis=0))
        fitted = z[:, : r1 * index.shape[1]] @ explained
        sigma = np.linalg.svd(fitted / 20, compute_uv=False)
        best = np.square(y - y.mean(axis=0) - fitted).sum() / 400 + np.square(sigma[r2:]).sum()
        error = error_of(found.factors((r1, r2)), scheme, conv, (r1, r2), [sample])
        assert abs(error - best) <= SINGLE * total
        assert error <= found.residuals[r1, r2] + SINGLE * total


def middle_taps(scheme: Scheme, conv: ConvSpec) -> int:
    """Taps of the second Conv of a triple: what it can tell apart of each channel."""
    return int(np.prod(scheme.chain(conv, (1, 1))[1].kernel_shape))


@accepted("spatial")
def test_triple_errors_are_measured_at_some_ranks(scheme: Scheme, case: str) -> None:
    conv = CONVS[case]
    if not has_triple(scheme, conv):
        return
    w, samples = layer(conv)
    full = scheme.max_rank(conv)
    found, total = scheme.regress(conv, w, samples, full), sum(map(energy, samples))
    assert found.residuals.shape == tuple(size + 1 for size in full)
    assert np.abs(np.stack([found.residuals[0], found.residuals[0]]) - total).max() <= SINGLE * total
    measured = sorted({max(1, round(full[0] * part)) for part in (0.125, 0.25, 0.5, 0.75, 1)})
    for r1, r2 in some_ranks(full):
        if r2 > r1 * middle_taps(scheme, conv):
            continue
        factors = found.factors((r1, r2))
        assert [f.shape for f in factors] == [link.weight_shape for link in scheme.chain(conv, (r1, r2))]
        error = error_of(factors, scheme, conv, (r1, r2), samples)
        if r1 in measured:
            exact = min(error, total) if conv.group == 1 else error
            assert abs(exact - found.residuals[r1, r2]) <= SINGLE * total
        else:  # interpolated
            assert abs(error - found.residuals[r1, r2]) <= 0.15 * total


@pytest.mark.parametrize("case", ["3-D", "3-D, other order", "grouped 3-D"])
def test_triple_with_more_channels_than_taps(case: str) -> None:
    """Ranks are multiples of 8 and plans may be edited: (r1, r2) may have r2 > r1 · k."""
    scheme, conv = all_schemes()["spatial"], CONVS[case]
    w, samples = layer(conv)
    full = scheme.max_rank(conv)
    found, total = scheme.regress(conv, w, samples, full), sum(map(energy, samples))
    for rank in [(1, full[1]), (2, full[1])]:
        factors = found.factors(rank)
        assert [f.shape for f in factors] == [link.weight_shape for link in scheme.chain(conv, rank)]
        most = (rank[0], min(full[1], rank[0] * middle_taps(scheme, conv)))
        error = error_of(found.factors(most), scheme, conv, most, samples)
        assert abs(error_of(factors, scheme, conv, rank, samples) - error) <= SINGLE * total


@accepted(cases=FEW)
def test_a_lower_top_changes_no_error(scheme: Scheme, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    conv = CONVS[case]
    if has_triple(scheme, conv):
        return  # measures at other ranks
    monkeypatch.setattr(regression, "RIDGES", (None,))
    w, samples = layer(conv)
    full = scheme.max_rank(conv)
    top = tuple(max(1, size // 2) for size in full)
    whole = scheme.regress(conv, w, samples, full).residuals[tuple(slice(size + 1) for size in top)]
    assert np.abs(scheme.regress(conv, w, samples, top).residuals - whole).max() <= SINGLE * whole.max()


@accepted(cases=FEW)
def test_refinement_is_kept_where_it_helps(scheme: Scheme, case: str) -> None:
    conv = CONVS[case]
    w, samples = layer(conv)
    rank = tuple(max(1, size // 3) for size in scheme.max_rank(conv))
    errors = [
        error_of(scheme.regress(conv, w, samples, rank, refine).factors(rank), scheme, conv, rank, samples)
        for refine in (0, 1, 3)
    ]
    assert errors[2] <= errors[1] * (1 + 1e-5)
    assert errors[1] <= errors[0] * (1 + 1e-5)


def test_refinement_helps_a_head() -> None:
    scheme, conv = all_schemes()["spatial"], CONVS["2-D"]
    w, samples = layer(conv)
    plain, refined = (
        error_of(scheme.regress(conv, w, samples, (4,), refine).factors((4,)), scheme, conv, (4,), samples)
        for refine in (0, 2)
    )
    assert refined < 0.9 * plain


@accepted("channel-in", "channel-out", "group-2", "spatial", "tucker2")
def test_a_corrupted_factor_is_caught(scheme: Scheme, case: str) -> None:
    conv = CONVS[case]
    w, samples = layer(conv, noise=0, change=0)
    rank = scheme.max_rank(conv)
    found, total = scheme.regress(conv, w, samples, rank), sum(map(energy, samples))
    factors = found.factors(rank)
    error = error_of(factors, scheme, conv, rank, samples)
    for i, factor in enumerate(factors):
        broken = factor.copy()
        broken.flat[np.abs(broken).argmax()] *= -1
        others = (*factors[:i], broken, *factors[i + 1 :])
        assert error_of(others, scheme, conv, rank, samples) > error + 100 * SINGLE * total


OUTPUTS = [
    (scheme, case)
    for scheme in ("channel-out", "channel-in")
    for case in CONVS
    if all_schemes()[scheme].refuses(CONVS[case]) is None
    and (scheme == "channel-out" or CONVS[case].is_pointwise)
]


@pytest.mark.parametrize(("name", "case"), OUTPUTS)
def test_output_pairs_reach_the_optimum_at_every_rank(name: str, case: str) -> None:
    """Eckart-Young: nothing of rank r comes closer to y = W x than the tail of the eigenvalues of cov(y)."""
    scheme, conv = all_schemes()[name], CONVS[case]
    rng = np.random.default_rng(0)
    w = weight(*conv.weight_shape, dtype=np.float64)
    xs = [rows(rng, 400, part.shape[1]) for part in matrices(conv, w)]
    ys = [x @ part.T for x, part in zip(xs, matrices(conv, w), strict=True)]
    samples = [sample_of(x, y) for x, y in zip(xs, ys, strict=True)]
    full, total = scheme.max_rank(conv), sum(map(energy, samples))
    values = [np.linalg.eigvalsh(np.cov(y.T, bias=True))[::-1] for y in ys]
    best = sum(tail_sums(v) for v in values)[: full[0] + 1]
    found = scheme.regress(conv, w, samples, full)
    assert np.abs(found.residuals - best).max() <= SINGLE * total
    for rank in some_ranks(full):
        error = error_of(found.factors(rank), scheme, conv, rank, samples)
        assert abs(error - best[rank]) <= SINGLE * total


def weights_only(scheme: Scheme, conv: ConvSpec, w: Array, rank: Rank, samples: list[Sample]) -> float:
    return error_of(scheme.decompose(conv, w).factors(w, rank), scheme, conv, rank, samples)


@given(
    shape=st.tuples(st.integers(2, 6), st.integers(1, 4), st.integers(1, 3)),
    decay=st.sampled_from([1.0, 0.1, 1e-3]),
    seed=st.integers(0, 9),
    data=st.data(),
)
def test_output_pairs_are_never_worse_than_those_of_the_weight(
    shape: tuple[int, ...], decay: float, seed: int, data: st.DataObject
) -> None:
    scheme, conv = all_schemes()["channel-out"], ConvSpec.create(shape)
    w = weight(*shape, seed=seed, dtype=np.float64)
    x = rows(np.random.default_rng(seed), 100, w[0].size, decay)
    samples = [sample_of(x, x @ w.reshape(len(w), -1).T)]
    rank = (data.draw(st.integers(1, scheme.max_rank(conv)[0])),)
    found = scheme.regress(conv, w, samples, rank).residuals[rank]
    assert found <= weights_only(scheme, conv, w, rank, samples) + SINGLE * energy(samples[0])


def patches(channels: int, kernel: Sequence[int], seed: int) -> Array:
    """Windows `(positions, C · kH · kW)` of a smooth random image whose channels are correlated."""
    rng = np.random.default_rng(seed)
    image = np.einsum(
        "cd,dhw->chw", rng.standard_normal((channels,) * 2), rng.standard_normal((channels, 44, 44))
    )
    for axis in (1, 2):
        image = image + np.roll(image, 1, axis) + np.roll(image, 2, axis)
    windows = sliding_window_view(image, tuple(kernel), axis=(1, 2))
    return windows.transpose(1, 2, 0, 3, 4).reshape(-1, channels * int(np.prod(kernel)))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shape", [(8, 6, 3, 3), (5, 8, 2, 3), (12, 4, 1, 5)])
@pytest.mark.parametrize("name", ["channel-in", "spatial", "tucker2"])
def test_heads_are_better_than_those_of_the_weight_on_images(
    name: str, shape: tuple[int, ...], seed: int
) -> None:
    """Not a law: taps of an image have nearly, not exactly, the same covariance."""
    scheme, conv = all_schemes()[name], ConvSpec.create(shape)
    if scheme.refuses(conv) is not None:
        return
    w = weight(*shape, seed=seed, dtype=np.float64)
    x = patches(shape[1], shape[2:], seed)
    samples = [sample_of(x, x @ w.reshape(len(w), -1).T)]
    full = scheme.max_rank(conv)
    residuals = scheme.regress(conv, w, samples, full).residuals
    for rank in some_ranks(full):
        assert residuals[rank] <= weights_only(scheme, conv, w, rank, samples) + SINGLE * energy(samples[0])


def moments_of(conv: ConvSpec, w: Array, x: Array, held: Array) -> list[Sample]:
    """Samples as calibration makes them, in float32: x and held-out x `(n, D)`, the same in each group."""
    moments = Moments()
    for put, part in ((moments.add, x), (moments.hold_out, held)):
        y = np.stack([part @ own.T for own in matrices(conv, w)], axis=1)
        put(np.stack([part] * conv.group, axis=1).astype(np.float32), y.astype(np.float32))
    return moments.samples()


def six_decades(rng: np.random.Generator, count: int, size: int) -> Array:
    return rows(rng, count, size, 1e-6) - np.linspace(-1, 1, size)


def dead(rng: np.random.Generator, count: int, size: int) -> Array:
    return rng.standard_normal((count, size)) * (np.arange(size) % 2)


def duplicated(rng: np.random.Generator, count: int, size: int) -> Array:
    return rng.standard_normal((count, (size + 1) // 2)).repeat(2, axis=1)[:, :size]


def dependent(rng: np.random.Generator, count: int, size: int) -> Array:
    """Two directions in all, as after a layer of low rank."""
    return rng.standard_normal((count, 2)) @ np.random.default_rng(5).standard_normal((2, size))


def plain(rng: np.random.Generator, count: int, size: int) -> Array:
    return rng.standard_normal((count, size)) + 3


Rows = Callable[[np.random.Generator, int, int], Array]

EXACT = 2e-5
"""Of the outputs, in float32; covariances may be that of inputs over six decades."""

HARD: dict[str, tuple[Rows, int]] = {
    "ample": (plain, 300),
    "six decades": (six_decades, 300),
    "dead inputs": (dead, 300),
    "duplicated inputs": (duplicated, 300),
    "dependent inputs": (dependent, 300),
    "fewer samples than entries": (plain, 4),
    "one sample": (plain, 1),
    "constant input": (lambda _, count, size: np.full((count, size), 1.5), 300),
    "no input": (lambda _, count, size: np.zeros((count, size)), 300),
    "tiny": (lambda rng, count, size: 1e-12 * plain(rng, count, size), 300),
    "huge": (lambda rng, count, size: 1e12 * plain(rng, count, size), 300),
}


@accepted(cases=FEW)
@pytest.mark.parametrize("kind", HARD)
def test_full_rank_reproduces_the_outputs(scheme: Scheme, case: str, kind: str) -> None:
    conv = CONVS[case]
    w = weight(*conv.weight_shape, dtype=np.float64)
    draw, count = HARD[kind]
    x = draw(np.random.default_rng(2), count + 100, w[0].size)
    samples = moments_of(conv, w, x[:count], x[count:])
    full, scale = scheme.max_rank(conv), float(np.square(x).mean())
    total = max(sum(map(energy, samples)), 1e-10 * scale, np.finfo(np.float64).tiny)
    for refine in (0, 1):
        found = scheme.regress(conv, w, samples, full, refine)
        assert np.isfinite(found.residuals).all()
        assert found.residuals.min() >= -1e-6 * total
        assert found.residuals[full] <= EXACT**2 * total
        factors = found.factors(full)
        assert all(np.isfinite(factor.astype(np.float32)).all() for factor in factors)
        assert error_of(factors, scheme, conv, full, samples) <= EXACT**2 * total
        found.factors((1,) * len(full))


@accepted(cases=FEW)
def test_a_zero_weight_stays_zero(scheme: Scheme, case: str) -> None:
    conv = CONVS[case]
    w = np.zeros(conv.weight_shape)
    x = plain(np.random.default_rng(2), 400, w[0].size)
    samples = moments_of(conv, w, x[:300], x[300:])
    for rank in (scheme.max_rank(conv), (1,) * len(scheme.max_rank(conv))):
        found = scheme.regress(conv, w, samples, rank)
        assert np.all(found.residuals <= 1e-12)
        composed = compose(found.factors(rank), scheme.chain(conv, rank), conv.group)
        assert np.abs(composed).max() <= 1e-6


def chain_model(links: Sequence[ConvSpec], factors: Sequence[Array], channels: int) -> ModelProto:
    """A chain, or one Conv, as ONNX nodes; what has no spatial axes as MatMuls, side by side if grouped."""
    nodes, weights = [], {}
    for i, (link, factor) in enumerate(zip(links, factors, strict=True)):
        blocks = factor.reshape(link.group, -1, *factor.shape[1:])
        names = {"inputs": ["x" if i == 0 else f"v{i}", f"w{i}"], "outputs": [f"v{i + 1}"]}
        if not link.kernel_shape:
            weights[f"w{i}"] = blocks.swapaxes(1, 2)
            nodes.append(helper.make_node("MatMul", **names))
            continue
        stored = blocks.swapaxes(1, 2).reshape(-1, *blocks.shape[1:2], *blocks.shape[3:])
        weights[f"w{i}"] = stored if link.transposed else factor
        given: dict[str, Any] = {"strides": link.strides, "pads": link.pads, "dilations": link.dilations}
        if link.transposed:
            given["output_padding"] = link.output_padding
        op = "ConvTranspose" if link.transposed else "Conv"
        nodes.append(helper.make_node(op, **names, group=link.group, **given))
    first = links[0]
    if first.kernel_shape:
        shape = [2, channels, *range(8, 8 + len(first.kernel_shape))]
    else:
        shape = [first.group, 5, channels // first.group]
    single = {name: array.astype(np.float32) for name, array in weights.items()}
    return make_model(nodes, {"x": shape}, [f"v{len(links)}"], single)


@accepted()
def test_a_chain_composes_to_the_conv_that_it_computes(scheme: Scheme, case: str) -> None:
    conv = CONVS[case]
    rng = np.random.default_rng(1)
    for rank in ((1,) * len(scheme.max_rank(conv)), scheme.max_rank(conv)):
        links = scheme.chain(conv, rank)
        factors = [weight(*link.weight_shape, seed=i, dtype=np.float64) for i, link in enumerate(links)]
        composed = compose(factors, links, conv.group)
        assert composed.shape == conv.weight_shape
        chain, single = (
            chain_model(specs, parts, conv.in_channels)
            for specs, parts in ((links, factors), ([conv], [composed]))
        )
        dims = [dim.dim_value for dim in chain.graph.input[0].type.tensor_type.shape.dim]
        x = rng.standard_normal(dims).astype(np.float32)
        assert relative_error(run(single, x=x)[0], run(chain, x=x)[0]) < 1e-5


@accepted()
def test_full_rank_factors_compose_to_the_weight(scheme: Scheme, case: str) -> None:
    conv = CONVS[case]
    w = weight(*conv.weight_shape, dtype=np.float64)
    full = scheme.max_rank(conv)
    factors = scheme.decompose(conv, w).factors(w, full)
    assert np.abs(compose(factors, scheme.chain(conv, full), conv.group) - w).max() < 1e-13
