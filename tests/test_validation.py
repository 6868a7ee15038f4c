"""Differences between outputs against numpy on all samples at once, and the limits on them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import pytest

from onnxlr.errors import DataError, ModelError
from onnxlr.feeds import Feeds
from onnxlr.model_file import Model
from onnxlr.runtime import Session, find_device
from onnxlr.validation import Expected, Limits, OutputDifference, Validation, compare_outputs
from tests.builders import Array, gemm_model, weight

RNG = np.random.default_rng(0)
NAN, INF = float("nan"), float("inf")


class Fake:
    """A session whose outputs are given: one list of arrays an output, one entry a batch."""

    def __init__(self, outputs: Mapping[str, Sequence[Any]]) -> None:
        self.output_names = list(outputs)
        self._runs = iter(list(zip(*outputs.values(), strict=True)))

    def run(self, _: Mapping[str, Array]) -> list[Any]:
        return list(next(self._runs))


def compare(
    expected: Mapping[str, Sequence[Any]],
    actual: Mapping[str, Sequence[Any]],
    limits: Limits = Limits(),
    labels: Array | None = None,
    sizes: Sequence[int] | None = None,
) -> Validation:
    sizes = sizes or [len(array) for array in next(iter(expected.values()))]
    feeds = Feeds([{"x": np.zeros((size, 1))} for size in sizes], "made up")
    before, after = (cast(Session, Fake(outputs)) for outputs in (expected, actual))
    return compare_outputs(Expected(before, feeds, labels), after, limits)


def one(x: Sequence[Any], y: Sequence[Any], **options: Any) -> OutputDifference:
    (output,) = compare({"y": x}, {"y": y}, **options).outputs
    return output


def batches(*shape: int, dtype: Any = np.float32) -> list[Array]:
    return [RNG.standard_normal((size, *shape)).astype(dtype) for size in (5, 1, 7)]


@pytest.mark.parametrize("shape", [(10,), (3, 4, 5), (), (1,)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_figures(shape: tuple[int, ...], dtype: Any) -> None:
    x = batches(*shape, dtype=dtype)
    y = [(array + 0.1 * RNG.standard_normal(array.shape)).astype(dtype) for array in x]
    found = one(x, y)
    a, b = (np.concatenate([array.astype(np.float64).ravel() for array in arrays]) for arrays in (x, y))
    assert found.max_abs == pytest.approx(np.abs(a - b).max(), rel=1e-12)
    assert found.rel_l2 == pytest.approx(np.linalg.norm(a - b) / np.linalg.norm(a), rel=1e-12)
    assert found.cosine == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), rel=1e-12)


def test_agreement_and_accuracy() -> None:
    x, y = batches(6), batches(6)
    labels = RNG.integers(0, 6, 13)
    a, b = (np.concatenate(arrays).argmax(axis=1) for arrays in (x, y))
    found = one(x, y, labels=labels)
    assert found.top1_agreement == pytest.approx((a == b).mean(), rel=1e-12)
    assert found.top1_before == pytest.approx((a == labels).mean(), rel=1e-12)
    assert found.top1_after == pytest.approx((b == labels).mean(), rel=1e-12)
    assert one(x, y).top1_before is None


def test_labels_go_with_their_samples() -> None:
    """Perfect predictions in batches of different sizes; one label off shows."""
    labels = np.array([0, 3, 1, 2, 2, 0, 1])
    logits = np.eye(4)[labels]
    parts = np.split(logits, [2, 3])
    assert one(parts, parts, labels=labels).top1_after == 1.0
    labels[4] = 0
    assert one(parts, parts, labels=labels).top1_after == pytest.approx(6 / 7)


# arrays of one batch of 4 samples
NOT_CLASS_LIKE = {
    "a vector": np.zeros(4),
    "an image": np.zeros((4, 3, 2)),
    "one column": np.zeros((4, 1)),
    "whole numbers": np.zeros((4, 5), np.int64),
    "booleans": np.zeros((4, 5), bool),
    "other rows than samples": np.zeros((8, 5)),
    "one row for all samples": np.zeros((1, 5)),
    "a scalar": np.float32(3.0),
}


@pytest.mark.parametrize("array", NOT_CLASS_LIKE.values(), ids=NOT_CLASS_LIKE.keys())
def test_not_class_like(array: Array) -> None:
    outputs = {"y": [np.asarray(array)]}
    (found,) = compare(outputs, outputs, sizes=[4]).outputs
    assert found.top1_agreement is None
    assert (found.max_abs, found.rel_l2, found.cosine) == (0.0, 0.0, 1.0)
    with pytest.raises(DataError, match="no output is class-like"):
        compare(outputs, outputs, labels=np.zeros(4, np.int64), sizes=[4])
    (violation,) = compare(outputs, outputs, Limits(min_agreement=0.5), sizes=[4]).violations
    assert "cannot be measured" in violation


SPECIAL: dict[str, tuple[list[float], list[float], tuple[float, float, float]]] = {
    "equal": ([1, 2], [1, 2], (0, 0, 1)),
    "both zero": ([0, 0], [0, 0], (0, 0, 1)),
    "expected zero": ([0, 0], [1, 0], (1, INF, 0)),
    "actual zero": ([3, 4], [0, 0], (4, 1, 0)),
    "opposite": ([1, 2], [-1, -2], (4, 2, -1)),
    "equal NaN": ([NAN, 1], [NAN, 1], (0, 0, 1)),
    "equal infinities": ([INF, -INF, 1], [INF, -INF, 1], (0, 0, 1)),
    "opposite infinities": ([INF, 3], [-INF, 3], (INF, INF, 1)),
    "NaN in the result": ([1, 3], [NAN, 3], (NAN, NAN, 1)),
    "infinity in the result": ([1, 3], [INF, 3], (INF, INF, 1)),
    "NaN in the original": ([NAN, 3], [1, 3], (NAN, NAN, 1)),
    "empty": ([], [], (0, 0, 1)),
}


@pytest.mark.parametrize(("x", "y", "expected"), SPECIAL.values(), ids=SPECIAL.keys())
def test_special_values(x: list[float], y: list[float], expected: tuple[float, float, float]) -> None:
    found = one([np.array(x)], [np.array(y)], sizes=[2])
    np.testing.assert_allclose((found.max_abs, found.rel_l2, found.cosine), expected, rtol=1e-15)


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("batch", [0, 1, 2])
@pytest.mark.parametrize("limits", [Limits(), Limits(max_rel_l2=1e9)])
def test_what_is_not_finite_always_fails(bad: float, batch: int, limits: Limits) -> None:
    x = batches(6)
    y = [array.copy() for array in x]
    y[batch][0, 2] = bad
    validation = compare({"y": x}, {"y": y}, limits)
    assert not validation.passed
    assert any("not finite" in line for line in validation.violations)
    assert len(validation.violations) == (1 if limits.max_rel_l2 is None else 2)


def difference(
    rel_l2: float = 0.1, agreement: float | None = 0.9, after: float | None = None
) -> OutputDifference:
    before = None if after is None else 0.95
    return OutputDifference("y", 1.0, rel_l2, 1.0, agreement, before, after)


LIMITS: dict[str, tuple[Limits, list[OutputDifference], int]] = {
    "none": (Limits(), [difference(9.0, 0.0)], 0),
    "within": (Limits(0.1, 0.9), [difference()], 0),
    "rel_l2 past": (Limits(max_rel_l2=0.0999), [difference()], 1),
    "zero allowed": (Limits(max_rel_l2=0.0), [difference(0.0)], 0),
    "rel_l2 NaN": (Limits(max_rel_l2=1e9), [difference(NAN)], 1),
    "limit NaN": (Limits(max_rel_l2=NAN), [difference()], 1),
    "agreement past": (Limits(min_agreement=0.901), [difference()], 1),
    "both": (Limits(0.0, 1.0), [difference()], 2),
    "drop within, but for rounding": (Limits(max_drop=0.01), [difference(after=0.94)], 0),
    "drop past": (Limits(max_drop=0.0099), [difference(after=0.94)], 1),
    "no drop allowed": (Limits(max_drop=0.0), [difference(after=0.95)], 0),
    "better than before": (Limits(max_drop=0.0), [difference(after=0.96)], 0),
    "a gain is asked for": (Limits(max_drop=-0.01), [difference(after=0.95)], 1),
    "drop NaN": (Limits(max_drop=NAN), [difference(after=0.95)], 1),
    "agreement NaN": (Limits(min_agreement=NAN), [difference()], 1),
    "no labels": (Limits(max_drop=0.5), [difference()], 1),
    "labels of one output": (Limits(max_drop=0.01), [difference(), difference(after=0.95)], 0),
    "all three": (Limits(0.0, 1.0, 0.0), [difference(after=0.5)], 3),
    "every output": (Limits(max_rel_l2=0.05), [difference(), difference(0.01), difference()], 2),
    "no class-like output": (Limits(min_agreement=0.0), [difference(agreement=None)], 1),
    "one class-like output": (Limits(min_agreement=0.5), [difference(agreement=None), difference()], 0),
    "no numeric output": (Limits(max_rel_l2=1.0), [], 1),
}


@pytest.mark.parametrize(("limits", "outputs", "count"), LIMITS.values(), ids=LIMITS.keys())
def test_limits(limits: Limits, outputs: list[OutputDifference], count: int) -> None:
    found = limits.violations(outputs)
    assert len(found) == count
    assert Validation(tuple(outputs), "", 1, tuple(found)).passed == (count == 0)


def test_outputs_that_are_no_numbers_are_left_out() -> None:
    text, sequence = np.array(["a", "b"], dtype=object), [np.zeros(2)]
    outputs = {"text": [text], "sequence": [sequence], "y": [np.ones((2, 3))]}
    validation = compare(outputs, outputs, sizes=[2])
    assert [output.name for output in validation.outputs] == ["y"]
    assert (validation.samples, validation.inputs) == (2, "made up")


@pytest.mark.parametrize(
    ("names", "reason"), [(["z"], "outputs differ"), (["y", "z"], "outputs differ"), ([], "outputs differ")]
)
def test_different_outputs(names: list[str], reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        compare({"y": [np.ones((2, 3))]}, {name: [np.ones((2, 3))] for name in names})


@pytest.mark.parametrize("shape", [(2, 4), (2, 3, 1), (3,), (1, 3)])
def test_different_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match="has the shape"):
        one([np.ones((2, 3))], [np.ones(shape)])


@pytest.mark.parametrize("count", [0, 12, 14])
def test_labels_must_be_as_many_as_samples(count: int) -> None:
    with pytest.raises(DataError, match=f"{count} labels for 13 samples"):
        one(batches(4), batches(4), labels=np.zeros(count, np.int64))


def test_a_drop_is_of_accuracy_not_of_agreement() -> None:
    """The result is wrong where the original is, in another way."""
    labels = np.array([0, 1, 2, 3])
    x, y = np.eye(4)[[0, 1, 2, 0]], np.eye(4)[[0, 1, 2, 1]]
    validation = compare({"y": [x]}, {"y": [y]}, Limits(max_drop=0.0), labels)
    assert validation.passed
    assert validation.outputs[0].top1_agreement == 0.75
    assert not compare({"y": [x]}, {"y": [np.eye(4)[[0, 1, 1, 0]]]}, Limits(max_drop=0.2), labels).passed


def test_outputs_that_are_kept_are_the_same_again() -> None:
    """The second time the original is not run: a fake could not be."""
    outputs = {"text": [np.array(["a"] * 5, object)] * 2, "y": batches(6)[:1] * 2}
    feeds = Feeds([{"x": np.zeros((5, 1))}] * 2, "made up")
    expected = Expected(cast(Session, Fake(outputs)), feeds, kept=True)
    changed = {**outputs, "y": [array + 0.1 for array in outputs["y"]]}
    first, again = (compare_outputs(expected, cast(Session, Fake(changed)), Limits()) for _ in range(2))
    assert first == again
    assert first.outputs[0].max_abs == pytest.approx(0.1)


def test_a_comparison_that_broke_off_leaves_nothing_half_kept() -> None:
    feeds = Feeds([{"x": np.zeros((2, 1))}] * 2, "made up")
    outputs = [np.full((2, 3), float(number)) for number in range(4)]
    expected = Expected(cast(Session, Fake({"y": outputs})), feeds, kept=True)
    _, (seen,) = next(iter(expected))
    assert seen[0, 0] == 0
    for _ in range(2):  # all of it, from where the fake stands, twice
        assert [array[0, 0] for _, (array,) in expected] == [1, 2]


def test_a_scalar_first_input() -> None:
    feeds = Feeds([{"scale": np.float32(1).reshape(()), "x": np.zeros((3, 2))}], "")
    before, after = (cast(Session, Fake({"y": [np.eye(3, 4)]})) for _ in range(2))
    validation = compare_outputs(Expected(before, feeds, np.array([0, 1, 3])), after, Limits())
    assert validation.samples == 3
    assert validation.outputs[0].top1_before == pytest.approx(2 / 3)


CHANGES: dict[str, tuple[Callable[[Array], Array], bool]] = {
    "the same": (lambda w: w, True),
    "one weight off": (lambda w: w + 0.1 * (np.arange(w.size).reshape(w.shape) == 17), False),
    "doubled": (lambda w: 2 * w, False),
    "negated": (lambda w: -w, False),
    "rounding": (lambda w: w * (1 + 1e-7), True),
}


@pytest.mark.parametrize(("change", "passes"), CHANGES.values(), ids=CHANGES.keys())
def test_a_perturbed_model_is_caught(change: Callable[[Array], Array], passes: bool) -> None:
    w = weight(8, 5)
    device = find_device("cpu")
    models = (gemm_model(array.astype(np.float32), weight(5, seed=2)) for array in (w, change(w)))
    before, after = (Session(Model(model), device, threads=1) for model in models)
    feeds = Feeds([{"x": weight(20, 8, seed=i)} for i in range(3)], "")
    assert compare_outputs(Expected(before, feeds), after, Limits(max_rel_l2=1e-5)).passed is passes
