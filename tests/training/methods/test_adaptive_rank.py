"""The penalty on the energy beyond the rank: its step, its weight, its end; by SVDs of numpy."""

from __future__ import annotations

import copy
import io
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra onnxlr[train]")

from onnxlr.conv import ConvSpec
from onnxlr.layout import Layout
from onnxlr.schemes import Rank, all_schemes
from onnxlr.training import all_methods
from onnxlr.training.constraint import Constraint
from onnxlr.training.methods import Target, TrainedWeight
from tests.builders import Array, relative_error, weight

CONV = ConvSpec.create((16, 12, 3, 3), pads=(1, 1, 1, 1))
RANK = 5
PLAIN = Layout()
EVERY = 10  # steps of the optimizer from one step of the penalty to the next
START, GROWTH = 0.01, 1.5
END, TOLERATED = 1e-5, 1e-4


def start(seed: int = 0) -> Array:
    """A weight whose rows have very different norms."""
    rows = np.logspace(-1, 1, CONV.out_channels).reshape(-1, 1, 1, 1)
    return rows * weight(*CONV.weight_shape, seed=seed, dtype=np.float64)


def layer(conv: ConvSpec, scheme: str, rank: Rank, w: Array, layout: Layout = PLAIN) -> Target:
    """A layer to train, without a network around it."""
    parameter = torch.nn.Parameter(torch.tensor(layout.store(w, conv)))
    return Target(scheme, all_schemes()[scheme], rank, conv, [TrainedWeight(parameter, conv, layout)])


def target(rank: int = RANK, seed: int = 0) -> Target:
    return layer(CONV, "channel-out", (rank,), start(seed))


def constrain(*targets: Target) -> Constraint:
    return all_methods()["adaptive-rank"].constrain(targets)


def read(item: Target) -> Array:
    return item.weights[0].read().copy()


def step(constraint: Constraint, done: float = 0.0, times: int = EVERY) -> None:
    """What the trainer does after as many steps of the optimizer."""
    with torch.no_grad():
        for _ in range(times):
            constraint.after_step(done)


def truncated(w: Array, rank: int) -> tuple[Array, float]:
    """Eckart-Young in the scale of rows of norm 1: the nearest weight, and its share of the energy."""
    rows = w.reshape(len(w), -1)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    left, values, right = np.linalg.svd(rows / norms, full_matrices=False)
    share = np.square(values[rank:]).sum() / len(w)
    closest = norms * (left[:, :rank] * values[:rank] @ right[:rank])
    return closest.reshape(w.shape), float(share)


def penalties(constraint: Constraint) -> list[float]:
    return list(constraint.state()["penalties"])


def test_it_acts_every_ten_steps_by_its_proximal_step() -> None:
    item = target()
    constraint, before = constrain(item), read(item)
    step(constraint, times=EVERY - 1)
    assert np.array_equal(read(item), before)
    step(constraint, times=1)
    closest, share = truncated(before, RANK)
    assert relative_error((before + START * closest) / (1 + START), read(item)) < 1e-12
    assert constraint.violation == pytest.approx(share, abs=1e-12)
    assert constraint.loss() is None


@pytest.mark.parametrize(
    ("conv", "scheme", "layout"),
    [
        (CONV, "spatial", Layout()),
        (CONV, "group-4", Layout()),
        (ConvSpec.create((16, 6, 3, 3), group=2), "spatial", Layout()),
        (ConvSpec.create((16, 12)), "channel-out", Layout(swapped=True)),
    ],
)
def test_the_step_shrinks_what_is_beyond_the_rank(conv: ConvSpec, scheme: str, layout: Layout) -> None:
    """It keeps the nearest weight, and takes everything else by 1 / (1 + μ)."""
    whole = weight(*conv.weight_shape, seed=2, dtype=np.float64)
    item = layer(conv, scheme, (3,), whole, layout)
    constraint = constrain(item)
    step(constraint)
    first, shrunk = constraint.violation, read(item)
    closest = (shrunk * (1 + START) - whole) / START
    step(constraint)
    assert first is not None
    assert constraint.violation is not None
    assert 0.9 * first < constraint.violation < first
    share = np.square(unit(whole) - closest / norms(whole)).sum() / np.square(unit(whole)).sum()
    assert share == pytest.approx(first, abs=1e-9)


def norms(w: Array) -> Array:
    found: Array = np.linalg.norm(w.reshape(len(w), -1), axis=1).reshape(-1, *(1,) * (w.ndim - 1))
    return found


def unit(w: Array) -> Array:
    return w / norms(w)


def test_a_step_has_the_penalty_that_is_told() -> None:
    """(W + μŴ) / (1 + μ) with the μ of the state, also after it has changed."""
    item = target()
    constraint = constrain(item)
    for done in (0.0, 0.9, 0.9, 0.9, 0.0):
        before = read(item)
        step(constraint, done)
        (penalty,) = penalties(constraint)
        expected = (before + penalty * truncated(before, RANK)[0]) / (1 + penalty)
        assert relative_error(expected, read(item)) < 1e-12


def test_the_penalty_grows_while_violated_and_fades_when_met() -> None:
    item = target()
    constraint = constrain(item)
    step(constraint, 0.0)
    assert penalties(constraint) == [START]
    for i in range(1, 4):
        step(constraint, 0.8)  # nearly nothing is allowed any more
        assert penalties(constraint) == pytest.approx([START * GROWTH**i])
    item.weights[0].write(truncated(read(item), RANK)[0])
    for i in range(2, -2, -1):
        step(constraint, 0.8)
        assert penalties(constraint) == pytest.approx([START * GROWTH**i])


def test_each_layer_has_its_own() -> None:
    low = target(seed=1)
    low.weights[0].write(truncated(read(low), RANK)[0])
    high = target()
    constraint = constrain(low, high)
    step(constraint, 0.0)
    step(constraint, 0.8)
    assert penalties(constraint) == pytest.approx([START / GROWTH, START * GROWTH])
    assert constraint.violation == pytest.approx(truncated(start(), RANK)[1], rel=0.1)  # the larger one


@pytest.mark.parametrize(("done", "left"), [(0.0, 1.0), (0.35, 0.5), (0.6, 1 / 7), (0.7, 0.0), (1.0, 0.0)])
def test_what_is_allowed_falls_geometrically(done: float, left: float) -> None:
    """From the share at the start to 1e-5 at 70 % of the training; `left` of the way is before it."""
    first = 0.1
    allowed = first**left * END ** (1 - left)
    for factor, change in ((0.9, 1 / GROWTH), (1.1, GROWTH)):
        item = layer(CONV, "channel-out", (RANK,), with_share(first))
        constraint = constrain(item)
        step(constraint)
        item.weights[0].write(with_share(allowed * factor))
        step(constraint, done)
        assert penalties(constraint) == pytest.approx([START * change])


def with_share(share: float) -> Array:
    """A weight with rows of norm 1 and so much of its energy beyond the rank."""
    w = unit(start())
    closest, _ = truncated(w, RANK)
    low, high = 0.0, 1.0
    for _ in range(60):  # the norms of the rows change as well, so by bisection
        middle = (low + high) / 2
        beyond = truncated(closest + middle * (w - closest), RANK)[1]
        low, high = (middle, high) if beyond < share else (low, middle)
    found: Array = closest + low * (w - closest)
    return found


def test_the_energy_beyond_the_rank_is_gone_by_the_end() -> None:
    """Without any gradient; nothing is lost by a cut then."""
    items = [target(3), target(12, seed=1), layer(CONV, "spatial", (8,), start(2))]
    constraint = constrain(*items)
    seen = run_through(constraint, 600)
    assert seen[0] > 0.3
    assert min(seen[: len(seen) // 3]) > TOLERATED  # not before its time
    assert constraint.is_met
    assert constraint.violation is not None
    assert constraint.violation <= END
    for item, rank in zip(items[:2], (3, 12), strict=True):
        w = read(item)
        assert relative_error(truncated(w, rank)[0], w) < 2 * END**0.5


def run_through(constraint: Constraint, steps: int) -> list[float]:
    """All steps of a training without gradients; the violation after each step of the penalty."""
    seen = []
    for i in range(steps):
        step(constraint, i / steps, times=1)
        if i % EVERY == EVERY - 1:
            assert constraint.violation is not None
            seen.append(constraint.violation)
    return seen


def test_it_holds_against_a_gradient() -> None:
    """A loss that pulls the weight back, as the falling learning rate lets it, is overcome."""
    item = target()
    constraint, goal, steps = constrain(item), start(), 600
    for i in range(steps):
        rate = 0.05 * (1 + np.cos(np.pi * i / steps)) / 2
        item.weights[0].write(read(item) + rate * (goal - read(item)))
        step(constraint, i / steps, times=1)
    assert constraint.violation is not None
    assert constraint.violation <= END
    assert constraint.is_met


def test_is_met() -> None:
    assert constrain().is_met
    assert constrain().violation is None
    item = target()
    constraint = constrain(item)
    assert not constraint.is_met  # nothing is known yet
    for factor, expected in ((1.1, False), (0.9, True)):
        item.weights[0].write(with_share(TOLERATED * factor))
        step(constraint)
        assert constraint.violation == pytest.approx(TOLERATED * factor, rel=1e-3)
        assert constraint.is_met is expected


def test_all_layers_have_to_meet_it() -> None:
    met, other = (layer(CONV, "channel-out", (RANK,), with_share(TOLERATED * f)) for f in (0.5, 2))
    constraint = constrain(met, other)
    step(constraint)
    assert not constraint.is_met
    other.weights[0].write(with_share(TOLERATED * 0.5))
    step(constraint)
    assert constraint.is_met


@pytest.mark.parametrize("steps", [4, 10, 37])
def test_it_goes_on_from_its_state(steps: int) -> None:
    """Bit for bit, from the middle of ten steps as well."""
    item = target()
    constraint = constrain(item)
    run_part(constraint, 0, steps)
    other = layer(CONV, "channel-out", (RANK,), read(item))
    resumed = constrain(other)
    resumed.load_state(stored(constraint.state()))
    assert resumed.violation == constraint.violation
    assert resumed.is_met == constraint.is_met
    run_part(constraint, steps, 100)
    run_part(resumed, steps, 100)
    assert np.array_equal(read(item), read(other))
    assert resumed.state() == constraint.state()
    fresh = layer(CONV, "channel-out", (RANK,), start())
    run_part(constrain(fresh), 0, 100 - steps)
    assert not np.array_equal(read(item), read(fresh))


def run_part(constraint: Constraint, first: int, last: int) -> None:
    for i in range(first, last):
        step(constraint, i / 100, times=1)


def stored(state: dict[str, Any]) -> dict[str, Any]:
    """As a checkpoint keeps it."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    found: dict[str, Any] = torch.load(file, weights_only=True)
    return found


def test_a_state_is_not_changed_by_what_comes_after() -> None:
    constraint = constrain(target())
    step(constraint)
    state = constraint.state()
    before = copy.deepcopy(state)
    resumed = constrain(target())
    resumed.load_state(state)
    step(resumed, 0.9, times=50)
    assert state == before
