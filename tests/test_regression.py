"""Features and their nested regression against numpy's lstsq, SVD and eigenvalues of generated rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize
from threadpoolctl import threadpool_limits

from onnxlr import regression
from onnxlr.linalg import tail_sums
from onnxlr.moments import Sample
from onnxlr.regression import (
    Features,
    GroupedFeatures,
    HeadFeatures,
    NestedRegression,
    OutputFeatures,
    leading_vectors,
)
from tests.builders import Array

SINGLE = 2e-6
"""Of what is computed in float32, by the energy of y."""

FLOOR = 1e-5
"""Of what has a little variance added in every direction, by the energy of y."""


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Matrices are small: where cores are busy, BLAS takes ten times as long with several threads."""
    with threadpool_limits(1):
        yield


def sample_of(x: Array, y: Array, held: tuple[Array, Array] | None = None) -> Sample:
    """Exact central moments; by default the pairs to judge by are those of the moments."""
    mean_x, mean_y = x.mean(axis=0), y.mean(axis=0)
    u, v = x - mean_x, y - mean_y
    held_x, held_y = held or (x, y)
    inputs, outputs = (held_x - mean_x).astype(np.float32), (held_y - mean_y).astype(np.float32)
    return Sample(len(x), u.T @ u / len(x), (v.T @ u / len(x),), mean_x, mean_y, inputs, outputs)


def rows(rng: np.random.Generator, count: int, size: int, decay: float = 0.05) -> Array:
    """Correlated inputs with a mean, whose standard deviations fall to `decay`."""
    basis, _ = np.linalg.qr(np.random.default_rng(size).standard_normal((size, size)))
    spread = rng.standard_normal((count, size)) * np.geomspace(1, decay, size)
    return spread @ basis + np.linspace(-1, 1, size)


def energy(sample: Sample) -> float:
    return float(np.square(sample.outputs.astype(np.float64)).sum(axis=1).mean())


def held_error(sample: Sample, composed: Array) -> float:
    """E‖y − Ŵ x‖² on the held-out pairs, in float64."""
    rest = sample.outputs.astype(np.float64) - sample.inputs.astype(np.float64) @ composed.T
    return float(np.square(rest).sum(axis=1).mean())


def matrix_of(features: Features, size: int) -> Array:
    """F, column by column."""
    return features.apply(np.eye(size)).T


def head_index(head: int, taps: int) -> Array:
    return np.arange(head * taps).reshape(head, taps)


def ridged(sample: Sample, features: Features, rank: int, ridge: float | None) -> Array:
    """Coefficients of a rank by the plain formula; the ridge is by the mean variance of all features."""
    count = rank * features.block
    prior = features.prior[:, :count]
    if ridge is None:
        return prior
    f = matrix_of(features, len(sample.covariance))
    covariance, cross = f @ sample.covariance @ f.T, sample.crosses[0] @ f.T
    weight = ridge * covariance.diagonal().mean()
    raised = covariance[:count, :count] + weight * np.eye(count)
    return np.linalg.solve(raised, (cross[:, :count] + weight * prior).T).T


KINDS: dict[str, Callable[[Sample, Array], Features]] = {
    "outputs": lambda sample, w: OutputFeatures(sample, w, min(w.shape)),
    "heads": lambda sample, w: HeadFeatures(sample, w, head_index(4, 3), 4),
    "heads, interleaved": lambda sample, w: HeadFeatures(sample, w, head_index(6, 2)[::-1, ::-1], 6),
    "one tap": lambda sample, w: HeadFeatures(sample, w, head_index(12, 1), min(w.shape)),
    "one row": lambda sample, w: HeadFeatures(sample, w, head_index(1, 12), 1),
    "2 groups": lambda sample, w: GroupedFeatures(sample, w, 2, 6),
    "4 groups": lambda sample, w: GroupedFeatures(sample, w, 4, 3),
}
"""Features of 12 inputs for 7 outputs, at full rank."""

kinds = pytest.mark.parametrize("kind", KINDS)


def problem(
    kind: str, noise: float = 0.5, count: int = 300, change: float = 0.2
) -> tuple[Sample, Features, Array, Array, Array]:
    """A sample, features, the weight, and the rows x and y behind the sample, without their means.

    Args:
        kind: of the features.
        noise: standard deviation of what x does not explain.
        count: rows.
        change: standard deviation of what y's weight differs by from that of the features.
    """
    rng = np.random.default_rng(0)
    w = rng.standard_normal((7, 12))
    x, held = rows(rng, count, 12), rows(rng, 200, 12)
    own = w + change * rng.standard_normal(w.shape)
    y, held_y = (part @ own.T + 2 + noise * rng.standard_normal((len(part), 7)) for part in (x, held))
    sample = sample_of(x, y, (held, held_y))
    return sample, KINDS[kind](sample, w), w, x - x.mean(axis=0), y - y.mean(axis=0)


@kinds
def test_prior_at_full_rank_is_the_weight(kind: str) -> None:
    _, features, w, _, _ = problem(kind)
    assert np.abs(features.prior @ matrix_of(features, 12) - w).max() < 1e-12


@kinds
def test_features_are_nested_and_linear(kind: str) -> None:
    sample, features, _, x, _ = problem(kind)
    f = matrix_of(features, 12)
    assert np.abs(features.apply(x) - x @ f.T).max() < 1e-12
    single = features.apply(x.astype(np.float32))
    assert single.dtype == np.float32
    assert np.abs(single - x @ f.T).max() < 1e-5 * np.abs(x @ f.T).max()
    nested = NestedRegression(sample, features)
    assert len(f) == features.prior.shape[1]
    assert len(f) % nested.block == 0
    assert np.abs(nested.covariance - f @ sample.covariance @ f.T).max() < 1e-12


@given(
    outputs=st.integers(1, 8),
    inputs=st.integers(1, 10),
    decay=st.sampled_from([1.0, 0.1, 1e-3]),
    seed=st.integers(0, 9),
    data=st.data(),
)
def test_output_features_are_the_optimum(
    outputs: int, inputs: int, decay: float, seed: int, data: st.DataObject
) -> None:
    rng = np.random.default_rng(seed)
    w, x = rng.standard_normal((outputs, inputs)), rows(rng, 60, inputs, decay)
    sample = sample_of(x, x @ w.T)
    rank = data.draw(st.integers(1, min(w.shape)))
    features = OutputFeatures(sample, w, rank)
    composed = features.prior @ features.vectors

    def error(candidate: Array) -> float:
        return float(np.trace((w - candidate) @ sample.covariance @ (w - candidate).T))

    sigma = np.linalg.svd((x - x.mean(axis=0)) @ w.T / np.sqrt(60), compute_uv=False)
    best, total = np.square(sigma[rank:]).sum(), np.square(sigma).sum()
    assert abs(error(composed) - best) <= 1e-9 * total
    size = 10.0 ** data.draw(st.integers(-3, 0))
    left = features.prior + size * rng.standard_normal(features.prior.shape)
    right = features.vectors + size * rng.standard_normal(features.vectors.shape)
    assert error(left @ features.vectors) >= best - 1e-9 * total
    assert error(features.prior @ right) >= best - 1e-9 * total
    assert error(left @ right) >= best - 1e-9 * total


def test_no_descent_goes_below_output_features() -> None:
    rng = np.random.default_rng(1)
    w, x = rng.standard_normal((4, 6)), rows(rng, 80, 6, 0.2)
    sample = sample_of(x, x @ w.T)
    features = OutputFeatures(sample, w, 2)

    def error(flat: Array) -> tuple[float, Array]:
        left, right = flat[:8].reshape(4, 2), flat[8:].reshape(2, 6)
        rest = (left @ right - w) @ sample.covariance
        gradients = 2 * rest @ right.T, 2 * left.T @ rest
        return float(((left @ right - w) * rest).sum()), np.concatenate([g.ravel() for g in gradients])

    best, _ = error(np.concatenate([features.prior.ravel(), features.vectors.ravel()]))
    starts = [rng.standard_normal(20) for _ in range(8)]
    found = [optimize.minimize(error, start, jac=True, method="BFGS", tol=1e-9).fun for start in starts]
    assert min(found) >= best * (1 - 1e-9)
    assert min(found) <= best * (1 + 1e-6)  # the descents arrive


def symmetric_root(matrix: Array) -> Array:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(values)) @ vectors.T


@given(
    outputs=st.integers(1, 5),
    head=st.integers(1, 6),
    taps=st.integers(1, 4),
    decay=st.sampled_from([1.0, 0.3, 0.1]),
    seed=st.integers(0, 9),
    data=st.data(),
)
def test_head_features_are_the_optimum_of_the_weighted_problem(
    outputs: int, head: int, taps: int, decay: float, seed: int, data: st.DataObject
) -> None:
    rng = np.random.default_rng(seed)
    w, x = rng.standard_normal((outputs, head * taps)), rows(rng, 80, head * taps, decay)
    sample = sample_of(x, x @ w.T)
    index = rng.permutation(head * taps).reshape(head, taps)
    rank = data.draw(st.integers(1, min(head, outputs * taps)))
    features = HeadFeatures(sample, w, index, rank)
    last = features.prior.reshape(outputs, rank, taps)
    found = np.einsum("rh,mrt->hmt", features.vectors, last).reshape(head, -1)

    unfolded = np.moveaxis(w[:, index], 1, 0).reshape(head, -1)
    columns = (x - x.mean(axis=0))[:, index]  # n, head, taps
    covariance = np.einsum("nht,nkt->hk", columns, columns) / (len(x) * taps)
    root = symmetric_root(covariance)
    left, sigma, right = np.linalg.svd(root @ unfolded, full_matrices=False)
    best = np.linalg.solve(root, (left[:, :rank] * sigma[:rank]) @ right[:rank])

    def error(candidate: Array) -> float:
        return float(np.square(root @ (unfolded - candidate)).sum())

    total = np.square(sigma).sum()
    assert abs(error(found) - np.square(sigma[rank:]).sum()) <= FLOOR * total
    if rank == len(sigma) or sigma[rank] < 0.9 * sigma[rank - 1]:  # else the optimum is hardly unique
        assert np.abs(root @ (found - best)).max() <= 10 * FLOOR * np.sqrt(total)
    other = features.vectors + 0.1 * rng.standard_normal(features.vectors.shape)
    moved = np.einsum("rh,mrt->hmt", other, last).reshape(head, -1)
    assert error(moved) >= error(found) - FLOOR * total


def test_head_features_are_the_global_optimum_where_taps_are_alike_and_uncorrelated() -> None:
    rng = np.random.default_rng(0)
    orthonormal, _ = np.linalg.qr(rng.standard_normal((100, 12)))
    centred, _ = np.linalg.qr(orthonormal - orthonormal.mean(axis=0))
    columns = np.einsum("nkt,hk->nht", 10 * centred.reshape(100, 4, 3), rng.standard_normal((4, 4)))
    w, x = rng.standard_normal((7, 12)), columns.reshape(100, 12)
    sample = sample_of(x, x @ w.T)
    covariance = sample.covariance.reshape(4, 3, 4, 3)[:, 0, :, 0]
    weighted = symmetric_root(covariance) @ np.moveaxis(w.reshape(7, 4, 3), 1, 0).reshape(4, -1)
    best = tail_sums(np.square(np.linalg.svd(weighted, compute_uv=False)))
    found = NestedRegression(sample, HeadFeatures(sample, w, head_index(4, 3), 4)).energies().sum(axis=1)
    assert np.abs(found - best).max() <= SINGLE * energy(sample)


@kinds
def test_without_ridge_coefficients_are_least_squares(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, features, _, x, y = problem(kind)
    sample = sample_of(x, y)  # on the pairs that it is fitted to, least squares wins
    monkeypatch.setattr(regression, "RIDGES", (None, 1e-12))
    nested, z = NestedRegression(sample, features), features.apply(x)
    for rank in range(1, z.shape[1] // nested.block + 1):
        count = rank * nested.block
        found = nested.solve(rank)
        expected, *_ = np.linalg.lstsq(z[:, :count], y)
        assert np.abs(z[:, :count] @ (found.coefficients.T - expected)).max() < 1e-7 * np.abs(y).max()
        composed = found.coefficients @ matrix_of(features, 12)[:count]
        assert abs(found.error - held_error(sample, composed)) <= SINGLE * energy(sample)


@kinds
@pytest.mark.parametrize("ridge", [1e-2, 0.1, 1.0, 100.0])
def test_the_ridge_draws_to_the_prior(kind: str, ridge: float, monkeypatch: pytest.MonkeyPatch) -> None:
    sample, features, _, x, y = problem(kind)
    monkeypatch.setattr(regression, "RIDGES", (ridge,))
    z = features.apply(x)
    root = np.sqrt(ridge * np.square(z).mean() * len(z))  # rows that ask for the prior
    asked = np.vstack([z, root * np.eye(z.shape[1])])
    expected, *_ = np.linalg.lstsq(asked, np.vstack([y, root * features.prior.T]))
    rank = z.shape[1] // features.block
    assert np.abs(ridged(sample, features, rank, ridge) - expected.T).max() < 1e-8 * np.abs(expected).max()
    found = NestedRegression(sample, features).energies().sum(axis=1)[-1]
    assert abs(found - held_error(sample, expected.T @ matrix_of(features, 12))) <= SINGLE * energy(sample)


@kinds
@pytest.mark.parametrize("ridge", [None, 1e-2, 0.1, 1.0])
def test_one_factorization_gives_the_error_of_every_rank(
    kind: str, ridge: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample, features, _, _, _ = problem(kind)
    monkeypatch.setattr(regression, "RIDGES", (ridge,))
    found = NestedRegression(sample, features).energies().sum(axis=1)
    assert len(found) == features.prior.shape[1] // features.block + 1
    assert abs(found[0] - energy(sample)) <= SINGLE * energy(sample)
    for rank in range(1, len(found)):
        f = matrix_of(features, 12)[: rank * features.block]
        expected = held_error(sample, ridged(sample, features, rank, ridge) @ f)
        assert abs(found[rank] - expected) <= SINGLE * energy(sample)


@kinds
@pytest.mark.parametrize(("count", "change"), [(300, 0.0), (60, 1.0), (14, 1.0)])
def test_coefficients_of_the_best_ridge(kind: str, count: int, change: float) -> None:
    sample, features, _, _, _ = problem(kind, noise=1.0, count=count, change=change)
    rank, f = features.prior.shape[1] // features.block, matrix_of(features, 12)
    tried = [ridged(sample, features, rank, ridge) for ridge in regression.RIDGES]
    errors = [held_error(sample, coefficients @ f) for coefficients in tried]
    found = NestedRegression(sample, features).solve(rank)
    assert abs(found.error - min(errors)) <= SINGLE * energy(sample)
    expected = tried[int(np.argmin(errors))]
    assert np.abs(found.coefficients - expected).max() <= 1e-8 * np.abs(expected).max()


@kinds
def test_the_best_target_wins(kind: str) -> None:
    """Errors go by the first target, coefficients by the best one."""
    sample, features, w, _, _ = problem(kind, noise=3.0, count=60, change=0.1)
    own, wrong = w @ sample.covariance, -sample.crosses[0]
    separate = {
        name: NestedRegression(sample.with_crosses(cross), features).solve(1)
        for name, cross in {"y": sample.crosses[0], "own": own, "wrong": wrong}.items()
    }
    both = NestedRegression(sample.with_crosses(wrong, sample.crosses[0], own), features)
    best = min(separate.values(), key=lambda solution: solution.error)
    found = both.solve(1)
    assert found.error == best.error
    assert np.array_equal(found.coefficients, best.coefficients)
    assert separate["wrong"].error >= best.error
    first = NestedRegression(sample.with_crosses(wrong), features).energies()
    assert np.array_equal(both.energies(), first)


def test_a_solution_knows_its_target() -> None:
    sample, features, w, _, _ = problem("heads", noise=0.1, change=1.0)
    own = w @ sample.covariance
    assert (
        NestedRegression(sample.with_crosses(own, sample.crosses[0]), features).solve(4).cross
        is sample.crosses[0]
    )


@kinds
def test_stated_errors_are_those_of_the_coefficients(kind: str) -> None:
    sample, features, _, _, _ = problem(kind, noise=1.0, count=60, change=1.0)
    nested = NestedRegression(sample, features)
    for rank, stated in enumerate(nested.energies().sum(axis=1)):
        if rank:
            assert abs(nested.solve(rank).error - stated) <= SINGLE * energy(sample)


@kinds
def test_energies_are_of_the_best_ridge_at_every_rank(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sample, features, _, _, _ = problem(kind, noise=1.0, count=60, change=1.0)
    nested = NestedRegression(sample, features)
    curves = []
    for ridge in regression.RIDGES:
        with monkeypatch.context() as patch:
            patch.setattr(regression, "RIDGES", (ridge,))
            curves.append(nested.energies())
    sums = np.sum(curves, axis=2)
    assert np.array_equal(nested.energies().sum(axis=1), sums.min(axis=0))
    assert set(sums.argmin(axis=0)) != {0}  # not always the first


@kinds
def test_a_rotation_tells_outputs_apart_in_its_basis(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sample, features, _, _, _ = problem(kind)
    rotation, _ = np.linalg.qr(np.random.default_rng(3).standard_normal((7, 7)))
    plain = NestedRegression(sample, features).energies()
    turned = NestedRegression(sample, features, rotation).energies()
    assert np.abs(plain.sum(axis=1) - turned.sum(axis=1)).max() <= SINGLE * energy(sample)
    monkeypatch.setattr(regression, "RIDGES", (None,))
    nested = NestedRegression(sample, features, rotation)
    count = nested.block
    rest = sample.outputs - sample.inputs @ (features.prior[:, :count] @ matrix_of(features, 12)[:count]).T
    expected = np.square(rest @ rotation).mean(axis=0)
    assert np.abs(nested.energies()[1] - expected).max() <= SINGLE * energy(sample)


def test_many_ranks_are_interpolated(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    w, x = rng.standard_normal((90, 75)), rows(rng, 400, 75)
    sample = sample_of(x, x @ w.T)
    monkeypatch.setattr(regression, "RIDGES", (None,))
    nested = NestedRegression(sample, OutputFeatures(sample, w, 75))
    found = nested.energies().sum(axis=1)
    measured = [*range(0, 75, 8), 75]
    features = OutputFeatures(sample, w, 75)
    exact = [held_error(sample, features.prior[:, :r] @ features.vectors[:r]) for r in measured]
    assert np.abs(found[measured] - exact).max() <= SINGLE * energy(sample)
    assert np.abs(found - np.interp(range(76), measured, found[measured])).max() <= 1e-12 * energy(sample)
    best = tail_sums(np.square(np.linalg.svd((x - x.mean(axis=0)) @ w.T / 20, compute_uv=False)))[:76]
    assert np.all(found >= best - SINGLE * energy(sample))  # the true curve is convex: never too good


def test_features_of_a_rank_as_inputs() -> None:
    sample, features, _, _, _ = problem("heads")
    found = NestedRegression(sample, features).inputs_of(2)
    f = matrix_of(features, 12)[:6]
    assert np.abs(found.covariance - f @ sample.covariance @ f.T).max() < 1e-12
    assert np.abs(found.crosses[0] - sample.crosses[0] @ f.T).max() < 1e-12
    assert np.abs(found.inputs - sample.inputs @ f.T).max() < 1e-4 * np.abs(f).max()
    assert np.array_equal(found.outputs, sample.outputs)


def test_improved_vectors_are_the_optimum_for_their_coefficients() -> None:
    sample, _, w, x, y = problem("heads")
    features = HeadFeatures(sample, w, head_index(4, 3), 2)
    features.vectors = np.random.default_rng(1).standard_normal((2, 4))
    solution = NestedRegression(sample, features).solve(2)
    improved = features.improved(sample, features.vectors, solution)
    last = solution.coefficients.reshape(7, 2, 3)

    def error(vectors: Array) -> float:
        rest = y - np.einsum("mrt,rh,nht->nm", last, vectors, x.reshape(-1, 4, 3))
        return float(np.square(rest).sum(axis=1).mean())

    design = np.einsum("mrt,nht->nmrh", last, x.reshape(-1, 4, 3)).reshape(-1, 8)
    best = np.linalg.lstsq(design, y.ravel())[0].reshape(2, 4)
    gain = error(features.vectors) - error(best)
    assert gain > 1e-2 * energy(sample)
    assert error(improved.vectors) - error(best) <= 1e-2 * gain
    assert improved.prior is solution.coefficients
    f = np.einsum("rh,tu->rtuh", improved.vectors, np.eye(3))
    expected = np.einsum("rtuh,nhu->nrt", f, x.reshape(-1, 4, 3)).reshape(-1, 6)
    assert np.abs(improved.apply(x) - expected).max() < 1e-12 * np.abs(expected).max()


@given(n=st.integers(1, 12), seed=st.integers(0, 9), data=st.data())
def test_leading_vectors(n: int, seed: int, data: st.DataObject) -> None:
    root = np.random.default_rng(seed).standard_normal((n, n))
    matrix = root @ root.T
    count = data.draw(st.integers(1, n))
    vectors = leading_vectors(matrix, count)
    values = np.linalg.eigvalsh(matrix)[::-1][:count]
    assert vectors.flags.c_contiguous
    assert np.abs(vectors.T @ vectors - np.eye(count)).max() < 1e-12
    assert np.abs(matrix @ vectors - vectors * values).max() < 1e-11 * values[0]
