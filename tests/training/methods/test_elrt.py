"""Orthogonal outer factors of Tucker-2 chains: they start so, for free, and the penalty is the stated one."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra onnxlr[train]")

from onnx import ModelProto
from torch import nn
from torch.optim import SGD, Optimizer

import onnxlr
from onnxlr.job import Job
from onnxlr.model_file import load
from onnxlr.parallel import no_progress
from onnxlr.plan import BeforeAfter, PlannedLayer
from onnxlr.schemes import Rank
from onnxlr.training import GraphModule, all_methods
from onnxlr.training.constraint import Constraint
from onnxlr.training.methods import Target
from onnxlr.training.targets import find_targets
from tests.builders import Array, conv_model, relative_error, weight
from tests.training.checks import evaluate, random_feed

WEIGHT = 0.1  # λ

CASES: dict[str, tuple[ModelProto, Rank]] = {
    "one group": (conv_model(weight(16, 12, 3, 3), pads=[1] * 4), (5, 7)),
    "two groups": (conv_model(weight(16, 6, 3, 3), group=2), (3, 5)),
    "full rank": (conv_model(weight(6, 8, 3, 3)), (8, 6)),
    "rank 1": (conv_model(weight(16, 12, 3, 3)), (1, 1)),
    "up": (conv_model(weight(12, 16, 3, 3), op="ConvTranspose", strides=[2, 2]), (5, 7)),
    "up, two groups": (conv_model(weight(12, 8, 3, 3), op="ConvTranspose", group=2), (3, 5)),
    "one axis": (conv_model(weight(16, 12, 5), size=(32,)), (5, 7)),
}


def chain(case: str) -> tuple[GraphModule, list[Target]]:
    """The network of a case with a chain in place, whose factors are far from orthogonal."""
    model, rank = CASES[case]
    job = Job(load(model), {}, 1, no_progress)
    nothing = BeforeAfter(None, None)
    layer = PlannedLayer("conv", "Conv", (), "tucker2", rank, nothing, nothing, 0.0, 0.0)
    plan = onnxlr.Plan(job.identity, {}, (layer,), ())
    student = GraphModule(job.apply(plan))
    targets = find_targets(student, job.replacements(plan), is_factorized=True)
    rng = np.random.default_rng(8)
    for link in targets[0].weights:
        w = link.read()
        noisy = w + w.std() * rng.standard_normal(w.shape)
        link.write(noisy * rng.uniform(0.5, 3, (len(w), *(1,) * (w.ndim - 1))))
    return student, targets


def constrain(targets: list[Target]) -> Constraint:
    return all_methods()["elrt"].constrain(targets)


def gaps(target: Target) -> list[float]:
    """‖U₁U₁ᵀ − I‖² / r₁ and ‖U₂ᵀU₂ − I‖² / r₂, the mean over groups, by numpy."""
    found, groups = [], target.conv.group
    for link, is_head in zip((target.weights[0], target.weights[2]), (True, False), strict=True):
        parts = np.split(link.read(), groups)
        matrices = [part.reshape(len(part), -1) for part in parts]  # U₁ (r₁, C), U₂ (O, r₂)
        rows = [u if is_head else u.T for u in matrices]
        found.append(np.mean([np.square(u @ u.T - np.eye(len(u))).sum() / len(u) for u in rows]))
    return [float(gap) for gap in found]


def loss_of(constraint: Constraint) -> float:
    loss = constraint.loss()
    assert loss is not None
    return float(loss.detach())


@pytest.mark.parametrize("case", CASES)
def test_the_function_stays_and_the_factors_are_orthonormal(case: str) -> None:
    student, targets = chain(case)
    feed = random_feed(student.model)
    (before,) = evaluate(student, feed)
    assert max(gaps(targets[0])) > 0.1
    shapes = [link.parameter.shape for link in targets[0].weights]
    constraint = constrain(targets)
    (after,) = evaluate(student, feed)
    assert relative_error(before, after) < 2e-6
    assert max(gaps(targets[0])) < 1e-10
    assert loss_of(constraint) < 1e-10
    assert constraint.violation is not None
    assert constraint.violation < 1e-10
    assert [link.parameter.shape for link in targets[0].weights] == shapes


@pytest.mark.parametrize("case", CASES)
def test_the_penalty_is_the_stated_one(case: str) -> None:
    _, targets = chain(case)
    constraint = constrain(targets)
    assert constraint.violation is None  # nothing was seen yet
    disturb(targets)
    expected = gaps(targets[0])
    assert loss_of(constraint) == pytest.approx(WEIGHT * sum(expected), rel=1e-5)
    assert constraint.violation == pytest.approx(max(expected), rel=1e-5)


def disturb(targets: list[Target]) -> None:
    for i, target in enumerate(targets):
        for j, link in enumerate(target.weights):
            w = link.read()
            link.write(w + 0.1 * weight(*w.shape, seed=10 * i + j + 1))


def test_layers_add_up() -> None:
    """The penalty is their sum; the violation is that of the worst factor."""
    targets = [target for case in ("one group", "two groups", "up") for target in chain(case)[1]]
    constraint = constrain(targets)
    disturb(targets)
    expected = [gap for target in targets for gap in gaps(target)]
    assert loss_of(constraint) == pytest.approx(WEIGHT * sum(expected), rel=1e-5)
    assert constraint.violation == pytest.approx(max(expected), rel=1e-5)


@pytest.mark.parametrize("case", ["one group", "two groups", "up, two groups"])
def test_its_gradient_leads_back(case: str) -> None:
    """A step makes it smaller, many make it vanish; the core has no part in it."""
    student, targets = chain(case)
    constraint = constrain(targets)
    disturb(targets)
    core = targets[0].weights[1].read().copy()
    first = loss_of(constraint)
    optimizer = SGD(student.parameters(), 1.0)
    descend(optimizer, constraint)
    assert loss_of(constraint) < 0.9 * first
    for _ in range(300):
        descend(optimizer, constraint)
    assert loss_of(constraint) < 1e-6 * first
    assert np.array_equal(targets[0].weights[1].read(), core)


def descend(optimizer: Optimizer, constraint: Constraint) -> None:
    optimizer.zero_grad()
    loss = constraint.loss()
    assert loss is not None
    loss.backward()
    optimizer.step()


def test_its_gradient_is_that_of_differences() -> None:
    _, targets = chain("two groups")
    constraint = constrain(targets)
    disturb(targets)
    loss = constraint.loss()
    assert loss is not None
    loss.backward()
    for link in (targets[0].weights[0], targets[0].weights[2]):
        assert link.parameter.grad is not None
        direction = weight(*link.parameter.shape, seed=3)
        slope = float((link.parameter.grad.numpy() * direction).sum())
        assert slope == pytest.approx(difference(targets[0], link.parameter, direction), rel=1e-2)


def difference(target: Target, parameter: nn.Parameter, direction: Array) -> float:
    """Of the penalty along a direction, in float64."""
    whole, step = parameter.detach().clone(), 1e-3
    values = []
    for sign in (1, -1):
        parameter.data.copy_(whole + sign * step * torch.from_numpy(direction))
        values.append(WEIGHT * sum(gaps(target)))
    parameter.data.copy_(whole)
    return (values[0] - values[1]) / (2 * step)


def test_no_layers() -> None:
    constraint = constrain([])
    assert constraint.loss() is None
    assert constraint.violation is None
    assert constraint.is_met
