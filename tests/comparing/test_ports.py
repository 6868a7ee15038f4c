"""Inputs and outputs find each other, or the user is asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from onnxlr.comparing.ports import Binding, Port, bind
from onnxlr.errors import ModelError, UsageError
from onnxlr.runtime import Value
from tests.builders import one_line

NAMES = ("a.onnx", "b.onnx")


def port(name: str, *shape: int | str, channels: int | None = None, dtype: str = "float32") -> Port:
    return Port(Value(name, np.dtype(dtype), shape), channels)


def bound(first: Sequence[Port], other: Sequence[Port], **given: str) -> list[Binding]:
    return bind("input", first, other, given, NAMES)


IMAGE = port("x", "N", 3, 32, 32)

FITS: list[tuple[str, Port, Port, tuple[int, ...] | None]] = [
    ("the same", IMAGE, IMAGE, None),
    ("another name", IMAGE, port("image", "batch", 3, 32, 32), None),
    ("a fixed batch", IMAGE, port("x", 8, 3, 32, 32), None),
    ("other fixed batches", port("x", 4, 3, 32, 32), port("x", 8, 3, 32, 32), None),
    ("half precision", IMAGE, port("x", "N", 3, 32, 32, dtype="float16"), None),
    ("channels last by shape", IMAGE, port("x", "N", 32, 32, 3), (0, 2, 3, 1)),
    ("channels first by shape", port("x", "N", 32, 32, 3), IMAGE, (0, 3, 1, 2)),
    ("symbolic sizes", port("x", "N", 3, "H", "W"), port("x", "N", "H", "W", 3, channels=3), (0, 2, 3, 1)),
    (
        "known where shapes do not tell",
        port("x", "N", 4, 4, 4, channels=1),
        port("x", "N", 4, 4, 4, channels=3),
        (0, 2, 3, 1),
    ),
    ("one axis", port("x", "N", 3, 100), port("x", "N", 100, 3), (0, 2, 1)),
    ("three axes", port("x", "N", 2, 5, 6, 7), port("x", "N", 5, 6, 7, 2), (0, 2, 3, 4, 1)),
    ("ones behind", port("y", "N", 10), port("y", "N", 10, 1, 1), None),
    ("ones behind the first", port("y", "N", 10, 1, 1), port("y", 4, 10), None),
    ("a vector", port("x", "N", 10), port("logits", "N", 10), None),
    ("integers", port("ids", "N", 16, dtype="int64"), port("ids", "N", 16, dtype="int32"), None),
]


@pytest.mark.parametrize(("first", "other", "perm"), [case[1:] for case in FITS], ids=[c[0] for c in FITS])
def test_one_that_fits(first: Port, other: Port, perm: tuple[int, ...] | None) -> None:
    (found,) = bound([first], [other])
    assert (found.first, found.other, found.perm) == (first, other, perm)


def test_arrays_there_and_back() -> None:
    (found,) = bound([IMAGE], [port("x", "N", 32, 32, 3, dtype="float16")])
    array = np.arange(2 * 3 * 32 * 32, dtype=np.float32).reshape(2, 3, 32, 32) / 8192
    there = found.to_other(array)
    assert there.shape == (2, 32, 32, 3)
    assert there.dtype == np.float16
    assert there[1, 5, 7, 2] == array[1, 2, 5, 7].astype(np.float16)
    np.testing.assert_array_equal(found.to_first(there), array.astype(np.float16))


def test_axes_of_size_one() -> None:
    (found,) = bound([port("y", "N", 10)], [port("y", "N", 10, 1, 1)])
    array = np.arange(20, dtype=np.float32).reshape(2, 10)
    assert found.to_other(array).shape == (2, 10, 1, 1)
    np.testing.assert_array_equal(found.to_first(found.to_other(array)), array)


def test_names_come_before_places() -> None:
    first = [port("a", "N", 5), port("b", "N", 5)]
    found = bound(first, [port("b", "N", 5), port("a", "N", 5)])
    assert [binding.other.name for binding in found] == ["a", "b"]


def test_what_fits_nothing_else() -> None:
    first = [port("a", "N", 5), port("b", "N", "M")]
    found = bound(first, [port("p", "N", 7), port("q", "N", 5)])
    assert [binding.other.name for binding in found] == ["q", "p"]


def test_the_user_decides() -> None:
    first = [port("a", "N", 5), port("b", "N", 5)]
    other = [port("p", "N", 5), port("q", "N", 5)]
    found = bound(first, other, a="q")
    assert [binding.other.name for binding in found] == ["q", "p"]


AMBIGUOUS = "input 'a' float32 [N, 5] of a.onnx could be 'p' or 'q' of b.onnx; say which with --map a=p"

REFUSED: list[tuple[type[Exception], str, Any, Any, dict[str, str]]] = [
    (UsageError, AMBIGUOUS, [port("a", "N", 5)], [port("p", "N", 5), port("q", "N", 5)], {}),
    (
        ModelError,
        "b.onnx has no input that fits 'x' float32 [N, 3, 32, 32]",
        [IMAGE],
        [port("x", "N", 5)],
        {},
    ),
    (ModelError, "it has none", [IMAGE], [], {}),
    (ModelError, "no input that fits", [IMAGE], [port("x", "N", 3, 32, 32, dtype="uint8")], {}),
    (ModelError, "no input that fits", [IMAGE], [port("x", "N", 3, 31, 32)], {}),
    (ModelError, "shapes differ", [IMAGE], [port("y", "N", 3, 31, 32)], {"x": "y"}),
    (
        ModelError,
        "no input that fits",
        [port("x", "N", 3, 32, 32, channels=1)],
        [port("x", "N", 3, 32, 32, channels=3)],
        {},
    ),
]


@pytest.mark.parametrize(("error", "message", "first", "other", "given"), REFUSED)
def test_refused(error: type[Any], message: str, first: Any, other: Any, given: dict[str, str]) -> None:
    with pytest.raises(error) as raised:
        bound(first, other, **given)
    one_line(raised, message)
