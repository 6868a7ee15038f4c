"""Which positions are looked at: the same ones whenever they are asked for, some of them held out."""

from __future__ import annotations

from math import ceil, isqrt, prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxlr.analysis import analyse
from onnxlr.layer import Layer
from onnxlr.positions import _FEWEST, _HELD_OUT, _MOST, _PER_ENTRY, _WORK, Positions, held_out_runs
from tests.builders import Array, conv_model, gemm_model, matmul_model, weight

Shape = tuple[int, ...]


def conv(entries: int = 4, outputs: int = 3) -> Layer:
    (layer,) = analyse(conv_model(weight(outputs, entries, 1, 1)))
    assert isinstance(layer, Layer)
    return layer


def gemm() -> Layer:
    (layer,) = analyse(gemm_model(weight(4, 6)))
    assert isinstance(layer, Layer)
    return layer


def split(positions: Positions, layer: Layer, run: int, shape: Shape) -> tuple[Array, Array]:
    """Positions to fit on, and those that are held out."""
    chosen, fitted = positions.of(layer, run, shape)
    return chosen[:fitted], chosen[fitted:]


@given(
    seed=st.integers(0, 2**40),
    runs=st.integers(1, 30),
    run=st.integers(0, 29),
    shape=st.tuples(st.integers(0, 5), st.just(3), st.integers(0, 60), st.integers(1, 60)),
)
def test_positions_are_in_bounds_sorted_and_split(seed: int, runs: int, run: int, shape: Shape) -> None:
    run %= runs
    chosen, count = Positions(seed, runs).of(conv(), run, shape)
    total = shape[0] * shape[2] * shape[3]
    assert chosen.dtype.kind == "i"
    assert (np.diff(chosen) > 0).all()
    assert chosen.size == 0 or (chosen[0] >= 0 and chosen[-1] < total)
    assert 0 <= count <= len(chosen)
    assert len(chosen) > 0 or total == 0
    again, count_again = Positions(seed, runs).of(conv(), run, shape)
    assert np.array_equal(again, chosen)
    assert count_again == count


SHAPE = (2, 3, 400, 300)


def test_the_seed_and_the_run_decide() -> None:
    def of(seed: int, run: int) -> bytes:
        return Positions(seed, 10).of(conv(), run, SHAPE)[0].tobytes()

    drawn = {of(seed, run) for seed in (0, 1) for run in (0, 1, 2, 4)}
    assert len(drawn) == 8
    assert of(1, 2) in drawn


def test_asking_is_no_step_of_a_generator() -> None:
    positions, layer = Positions(3, 8), conv()
    first = positions.of(layer, 5, SHAPE)[0]
    for run in range(8):
        positions.of(layer, run, SHAPE)
    assert np.array_equal(positions.of(layer, 5, SHAPE)[0], first)


def test_layers_of_one_size_are_seen_at_the_same_places() -> None:
    one, other = conv(4, 3), conv(4, 7)
    first, second = (
        Positions(0, 10).of(layer, 1, (2, m, 400, 300))[0] for layer, m in ((one, 3), (other, 7))
    )
    assert np.array_equal(first, second)


@pytest.mark.parametrize("runs", [1, 2, 3, 4])
def test_with_few_runs_the_last_fifth_of_each_is_held_out(runs: int) -> None:
    for run in range(runs):
        fitted, held = split(Positions(0, runs), conv(), run, (2, 3, 10, 10))
        assert fitted.tolist() == list(range(160))
        assert held.tolist() == list(range(160, 200))


@pytest.mark.parametrize("runs", [5, 6, 9, 10, 23])
def test_with_more_runs_every_fifth_is_held_out(runs: int) -> None:
    for run in range(runs):
        fitted, held = split(Positions(0, runs), conv(), run, (2, 3, 10, 10))
        is_held = run in (4, 9, 14, 19)
        assert (len(fitted), len(held)) == ((0, 200) if is_held else (200, 0))


@pytest.mark.parametrize("runs", range(13))
def test_held_out_runs(runs: int) -> None:
    """Those that have positions to judge by; with five and more nothing is fitted on them."""
    held = held_out_runs(runs)
    assert held == (list(range(runs)) if runs < 5 else [4, 9][: runs // 5])
    counts = [[len(part) for part in split(Positions(0, runs), gemm(), i, (20, 6))] for i in range(runs)]
    assert [i for i, (_, judged) in enumerate(counts) if judged] == held
    assert runs < 5 or not any(counts[i][0] for i in held)


@pytest.mark.parametrize(
    ("total", "fitted"), [(1, 1), (2, 1), (3, 2), (4, 3), (5, 4), (9, 8), (10, 8), (11, 9)]
)
@pytest.mark.parametrize("runs", [1, 4])
def test_one_position_at_least_is_held_out_where_there_are_two(runs: int, total: int, fitted: int) -> None:
    fit, held = split(Positions(0, runs), gemm(), 0, (total, 6))
    assert fit.tolist() == list(range(fitted))
    assert held.tolist() == list(range(fitted, total))


@pytest.mark.parametrize("runs", [1, 4, 5, 12])
def test_a_run_without_positions(runs: int) -> None:
    for run in range(runs):
        chosen, count = Positions(0, runs).of(gemm(), run, (0, 6))
        assert (len(chosen), count) == (0, 0)


# The last numbers of entries with the fewest positions, with some for each entry, with the most, and with as
# many as the work allows; after that come the fewest again.
FEW, MORE = _FEWEST // _PER_ENTRY, _MOST // _PER_ENTRY
MANY, VERY_MANY = isqrt(int(_WORK / _MOST)), isqrt(int(_WORK / _FEWEST))


def test_there_are_all_kinds_of_numbers() -> None:
    assert 4 < FEW < MORE < MANY < VERY_MANY


@pytest.mark.parametrize(
    ("entries", "wanted"),
    [
        (4, _FEWEST),
        (FEW, _FEWEST),
        (FEW + 1, _PER_ENTRY * (FEW + 1)),
        (MORE, _PER_ENTRY * MORE),
        (MORE + 1, _MOST),
        (MANY, _MOST),
        (MANY + 1, _WORK / (MANY + 1) ** 2),
        (VERY_MANY, _WORK / VERY_MANY**2),
        (VERY_MANY + 1, _FEWEST),
        (2 * VERY_MANY, _FEWEST),
    ],
)
@pytest.mark.parametrize("runs", [1, 3, 4, 5, 7, 20])
def test_counts(entries: int, wanted: float, runs: int) -> None:
    layer, positions, shape = conv(entries, 1), Positions(0, runs), (1, 1, 1000, 1000)
    counts = [[len(part) for part in split(positions, layer, run, shape)] for run in range(runs)]
    fitted, held = zip(*counts, strict=True)
    held_runs = runs // 5 if runs >= 5 else runs
    fitted_runs = runs - held_runs if runs >= 5 else runs
    assert set(fitted) - {0} == {ceil(wanted / fitted_runs)}
    assert set(held) - {0} == {ceil(_HELD_OUT / held_runs)}
    assert np.count_nonzero(fitted) == fitted_runs
    assert np.count_nonzero(held) == held_runs


def test_entries_are_those_of_one_group() -> None:
    (layer,) = analyse(conv_model(weight(12, 250, 2, 1), group=3))
    assert isinstance(layer, Layer)
    fitted, _ = split(Positions(0, 1), layer, 0, (1, 12, 1000, 1000))
    assert len(fitted) == _PER_ENTRY * 500


def test_every_position_has_the_same_chance() -> None:
    drawn = [split(Positions(seed, 1), conv(), 0, (4, 3, 100, 125)) for seed in range(60)]
    counts = np.bincount(np.concatenate([fitted for fitted, _ in drawn]), minlength=50_000)
    assert counts[40_000:].max() == 0
    # 60 draws of 1 in 4: a mean of 15, whose spread over 40,000 positions is that of the binomial
    assert counts[:40_000].mean() == 15
    assert counts[:40_000].std() == pytest.approx((60 * 0.25 * 0.75) ** 0.5, rel=0.02)
    held = np.concatenate([held for _, held in drawn])
    assert held.min() >= 40_000
    assert np.unique(held).size > 9_900


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (gemm(), (7, 6)),
        (analyse(matmul_model(["x", "w"], ["N", 5, 24], weight(24, 16)))[0], (3, 5, 16)),
        (analyse(matmul_model(["w", "x"], [2, 24, 5], weight(2, 16, 24)))[0], (2, 16, 5)),
        (analyse(conv_model(weight(6, 4, 3), (9,)))[0], (2, 6, 7)),
        (analyse(conv_model(weight(4, 6, 3, 3, 3), (3, 3, 3), op="ConvTranspose"))[0], (2, 6, 5, 5, 5)),
    ],
)
def test_all_positions_of_a_small_output(layer: Layer, shape: Shape) -> None:
    chosen, _ = Positions(0, 2).of(layer, 0, shape)
    assert chosen.tolist() == list(range(prod(shape) // layer.conv.out_channels))
