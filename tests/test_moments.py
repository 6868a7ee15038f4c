"""Second moments of pairs: those of numpy on all pairs at once, however they come."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxlr import moments as moments_module
from onnxlr.moments import Moments, Sample
from tests.builders import Array

EXACT = 1e-5


def pairs(count: int, group: int = 1, d: int = 5, m: int = 3, seed: int = 0) -> tuple[Array, Array]:
    """Correlated x and y, `(count, group, ·)`, float32, each entry with its mean and spread."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((count, group, d)) @ rng.standard_normal((d, d))
    x = x * rng.uniform(0.5, 2.0, (group, d)) + 3 * rng.standard_normal((group, d))
    y = x @ rng.standard_normal((d, m)) + 0.1 * rng.standard_normal((count, group, m)) - 2
    return x.astype(np.float32), y.astype(np.float32)


def batches(array: Array, borders: list[int]) -> Iterator[Array]:
    return iter(np.split(array, sorted(borders)))


def gathered(
    x: Array, y: Array, held: tuple[Array, Array], borders: list[int], centred: bool = True
) -> list[Sample]:
    moments = Moments(centred)
    for a, b in zip(batches(x, borders), batches(y, borders), strict=True):
        moments.add(a, b)
    moments.hold_out(*held)
    return moments.samples()


def expected(x: Array, y: Array, held: tuple[Array, Array], centred: bool = True) -> list[Sample]:
    """From numpy in float64, on everything at once."""
    found = []
    for g in range(x.shape[1]):
        a, b = x[:, g].astype(np.float64), y[:, g].astype(np.float64)
        mean_a, mean_b = a.mean(axis=0) * centred, b.mean(axis=0) * centred
        u, v = a - mean_a, b - mean_b
        parts = u.T @ u / len(a), (v.T @ u / len(a),), mean_a, mean_b
        found.append(Sample(len(a), *parts, held[0][:, g] - mean_a, held[1][:, g] - mean_b))
    return found


def assert_same(found: list[Sample], wanted: list[Sample], tolerance: float = EXACT) -> None:
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        assert a.count == b.count
        spread_x, spread_y = np.sqrt(b.covariance.diagonal()), np.sqrt(np.square(b.outputs).mean(axis=0))
        scales = {
            "covariance": np.outer(spread_x, spread_x),
            "crosses": np.outer(spread_y, spread_x),
            "input_mean": spread_x,
            "output_mean": spread_y,
            "inputs": spread_x,
            "outputs": spread_y,
        }
        for name, scale in scales.items():
            value, true = np.asarray(getattr(a, name)), np.asarray(getattr(b, name))
            assert value.shape == true.shape, name
            assert (np.abs(value - true) / scale).max() < tolerance, name
        assert a.covariance.dtype == a.crosses[0].dtype == np.float64
        assert a.inputs.dtype == a.outputs.dtype == np.float32


@given(
    count=st.integers(2, 60),
    group=st.integers(1, 3),
    borders=st.lists(st.integers(0, 60), max_size=6),
    buffer=st.integers(1, 70),
    centred=st.booleans(),
)
def test_any_split_gives_the_moments_of_all(
    count: int, group: int, borders: list[int], buffer: int, centred: bool
) -> None:
    x, y = pairs(count, group)
    held = pairs(7, group, seed=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moments_module, "_BUFFER", buffer)
        found = gathered(x, y, held, borders, centred)
    assert_same(found, expected(x, y, held, centred))


def test_more_pairs_than_the_buffer_holds() -> None:
    x, y = pairs(20_000, 2)
    held = pairs(50, 2, seed=1)
    found = gathered(x, y, held, list(range(0, 20_000, 1500)))
    assert_same(found, expected(x, y, held))
    assert found[0].covariance == pytest.approx(np.cov(x[:, 0].T, bias=True), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("mean", [0.0, 1e3, -1e4])
def test_a_large_mean_takes_no_digits(mean: float) -> None:
    """Beyond those that float32 does not hold: 1e-3 of 1e4. E[x²] − E[x]² in it would lose all of them."""
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((30_000, 1, 4)) + mean).astype(np.float32)
    y = (x[:, :, :2] - x[:, :, 2:] + mean).astype(np.float32)
    held = x[:10], y[:10]
    assert_same(gathered(x, y, held, list(range(0, 30_000, 2000))), expected(x, y, held), 1e-4)


def test_a_first_batch_unlike_the_others() -> None:
    """Its mean is no good shift: digits are lost, but few of those that the spread of all batches has."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40_000, 1, 4)).astype(np.float32)
    x[5000:] += 1e3
    held = x[-10:], x[-10:]
    assert_same(gathered(x, x, held, list(range(0, 40_000, 5000))), expected(x, x, held), 1e-4)


def test_moments_that_are_not_central() -> None:
    x, y = pairs(100)
    held = pairs(5, seed=1)
    (sample,) = gathered(x, y, held, [30], centred=False)
    a, b = x[:, 0].astype(np.float64), y[:, 0].astype(np.float64)
    assert sample.covariance == pytest.approx(a.T @ a / 100, rel=1e-5, abs=1e-5)
    assert sample.crosses[0] == pytest.approx(b.T @ a / 100, rel=1e-5, abs=1e-5)
    assert not sample.input_mean.any()
    assert not sample.output_mean.any()
    assert np.array_equal(sample.inputs, held[0][:, 0])
    assert np.array_equal(sample.outputs, held[1][:, 0])


def test_groups_do_not_mix() -> None:
    x, y = pairs(50, 3)
    held = pairs(4, 3, seed=1)
    together = gathered(x, y, held, [10])
    alone = [
        gathered(x[:, g : g + 1], y[:, g : g + 1], (held[0][:, g : g + 1], held[1][:, g : g + 1]), [10])[0]
        for g in range(3)
    ]
    assert_same(together, alone, 1e-6)
    assert np.abs(together[0].covariance - together[1].covariance).max() > 0.1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["x", "y"])
def test_pairs_that_are_not_finite_are_left_out(value: float, where: str) -> None:
    x, y = pairs(60, 2)
    held = pairs(9, 2, seed=1)
    broken, broken_held = (x.copy(), y.copy()), (held[0].copy(), held[1].copy())
    index = "xy".index(where)
    broken[index][[3, 40], [0, 1], 1] = value
    broken_held[index][5, 1, 0] = value
    kept, kept_held = np.delete(np.arange(60), [3, 40]), np.delete(np.arange(9), 5)
    found = gathered(*broken, broken_held, [20, 41])
    wanted = gathered(x[kept], y[kept], (held[0][kept_held], held[1][kept_held]), [20])
    assert [sample.count for sample in found] == [58, 58]
    assert_same(found, wanted, 2e-6)


NONE = np.empty((0, 1, 5), np.float32), np.empty((0, 1, 3), np.float32)
NAN = tuple(np.full_like(array, np.nan) for array in pairs(4))


@pytest.mark.parametrize(
    ("fitted", "held"),
    [
        ((), ()),
        ((pairs(4),), ()),
        ((), (pairs(4),)),
        ((NONE,), (pairs(4),)),
        ((pairs(4),), (NONE,)),
        ((NAN,), (pairs(4),)),
        ((pairs(4),), (NAN,)),
    ],
)
def test_too_few(fitted: Any, held: Any) -> None:
    moments = Moments()
    for x, y in fitted:
        moments.add(x, y)
    for x, y in held:
        moments.hold_out(x, y)
    with pytest.raises(ValueError, match="too few positions"):
        moments.samples()


def test_one_pair_has_no_spread() -> None:
    x, y = pairs(1)
    (sample,) = gathered(x, y, (x, y), [])
    assert sample.count == 1
    assert not sample.covariance.any()
    assert not sample.crosses[0].any()
    assert np.array_equal(sample.input_mean, x[0, 0])
    assert not sample.inputs.any()


def test_another_target_is_judged_by_the_same_pairs() -> None:
    (sample,) = gathered(*pairs(30), pairs(4, seed=1), [])
    (cross,) = sample.crosses
    other = sample.with_crosses(2 * cross, 3 * cross)
    assert [np.array_equal(found, i * cross) for i, found in enumerate(other.crosses, 2)] == [True, True]
    assert other.outputs is sample.outputs
    assert other.covariance is sample.covariance


def test_some_of_the_outputs() -> None:
    x, y = pairs(30)
    held = pairs(4, seed=1)
    (sample,) = gathered(x, y, held, [])
    (alone,) = gathered(x, y[:, :, 1:], (held[0], held[1][:, :, 1:]), [])
    assert_same([sample.for_outputs(slice(1, 3))], [alone], 1e-6)


def test_samples_can_be_asked_for_again() -> None:
    moments = Moments()
    x, y = pairs(10)
    for i in range(10):
        moments.add(x[i : i + 1], y[i : i + 1])
    moments.hold_out(x, y)
    first, again = moments.samples(), moments.samples()
    assert_same(first, again, 1e-12)
    moments.add(x + 1, y)
    assert moments.samples()[0].count == 20
