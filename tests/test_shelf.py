"""Arrays are kept in memory while there is room, and in files that nobody else sees."""

from __future__ import annotations

import gc
import tempfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from onnxlr import shelf as shelf_module
from onnxlr.errors import UsageError
from onnxlr.shelf import Shelf
from tests.builders import Array, one_line, weight

ARRAYS: dict[str, Array] = {
    "float32": weight(30, 20, 3, 3),
    "float64": weight(30, 20, dtype=np.float64),
    "float16": weight(40, 30, dtype=np.float16),
    "bfloat16": weight(40, 30).astype(ml_dtypes.bfloat16),
    "int64": np.arange(1000),
    "uint8": np.arange(200, dtype=np.uint8),
    "bool": np.arange(2000) % 3 == 0,
    "transposed": weight(40, 30).T,
    "every second, backwards": weight(40, 30)[::-1, ::2],
    "broadcast": np.broadcast_to(weight(30), (40, 30)),
    "read-only": np.frombuffer(bytes(range(120)), np.uint8),
    "not finite": np.array([np.nan, np.inf, -np.inf, -0.0], np.float32),
    "scalar": np.array(3.0),
    "one number": np.array([[7]]),
}

EMPTY: dict[str, Array] = {
    "a vector": np.zeros(0, np.float32),
    "no rows": np.zeros((0, 3), np.float64),
    "no columns": np.zeros((3, 0, 2), bool),
}


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """For temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def mappings(folder: Path) -> int:
    """Files of a folder that are mapped to memory, deleted ones too."""
    return sum(str(folder) in line for line in Path("/proc/self/maps").read_text().splitlines())


def is_in_file(array: Array) -> bool:
    return isinstance(array, np.memmap)


@pytest.mark.parametrize("case", ARRAYS)
def test_in_a_file_it_is_the_same(case: str) -> None:
    array = ARRAYS[case]
    kept = Shelf(array.nbytes - 1).put(array)
    assert is_in_file(kept)
    assert (kept.dtype, kept.shape) == (array.dtype, array.shape)
    assert kept.tobytes() == array.tobytes()


@pytest.mark.parametrize("case", ARRAYS)
def test_where_there_is_room_it_is_the_array_itself(case: str) -> None:
    array = ARRAYS[case]
    assert Shelf(array.nbytes).put(array) is array
    assert Shelf().put(array) is array


def test_what_is_in_a_file_does_not_change_with_the_array() -> None:
    array = weight(20, 30)
    kept, before = Shelf(0).put(array), array.copy()
    array[:] = 0
    assert np.array_equal(kept, before)


def test_room() -> None:
    """Whatever comes takes of it, and what does not fit leaves it to what comes later."""
    shelf = Shelf(100)
    sizes = [40, 50, 20, 10, 1, 30]
    kept = [shelf.put(np.full(size, i, np.uint8)) for i, size in enumerate(sizes)]
    assert [is_in_file(array) for array in kept] == [False, False, True, False, True, True]
    assert [array.tolist() for array in kept] == [[i] * size for i, size in enumerate(sizes)]


def test_room_is_of_bytes() -> None:
    shelf = Shelf(100)
    assert not is_in_file(shelf.put(np.zeros((5, 2))))
    assert not is_in_file(shelf.put(np.zeros((5, 2), np.float16)))
    assert is_in_file(shelf.put(np.zeros(1, np.uint8)))


def test_the_same_array_twice_counts_twice() -> None:
    shelf, array = Shelf(8), np.zeros(1)
    assert shelf.put(array) is array
    assert is_in_file(shelf.put(array))


def test_shelves_have_rooms_of_their_own() -> None:
    one, other = Shelf(8), Shelf(8)
    assert [is_in_file(shelf.put(np.zeros(1))) for shelf in (one, other, one)] == [False, False, True]


def test_a_gibibyte_by_default() -> None:
    shelf, page = Shelf(), np.broadcast_to(np.zeros(1, np.uint8), (2**28,))  # takes no memory
    assert all(shelf.put(page) is page for _ in range(4))
    assert is_in_file(shelf.put(np.zeros(1, np.uint8)))


def test_what_is_in_a_file_is_returned_and_takes_no_room(tmp_path: Path) -> None:
    saved = tmp_path / "saved.npy"
    np.save(saved, weight(40, 30))
    mapped = np.load(saved, mmap_mode="r")
    shelf = Shelf(8)
    assert shelf.put(mapped) is mapped
    part = mapped[3:7]
    assert shelf.put(part) is part
    kept = Shelf(0).put(weight(40, 30))
    assert shelf.put(kept) is kept
    assert not is_in_file(shelf.put(np.zeros(1)))


@pytest.mark.parametrize("room", [0, 8])
@pytest.mark.parametrize("case", EMPTY)
def test_what_has_no_elements(case: str, room: int) -> None:
    """It takes no room, not even where there is none."""
    shelf, array = Shelf(room), EMPTY[case]
    full = shelf.put(np.zeros(1))
    assert is_in_file(full) == (room == 0)
    for _ in range(2):
        kept = shelf.put(array)
        assert (kept.dtype, kept.shape) == (array.dtype, array.shape)


def test_no_file_has_a_name(folder: Path) -> None:
    kept = [Shelf(0).put(weight(50, 30, seed=i)) for i in range(3)]
    assert list(folder.iterdir()) == []
    assert all(np.array_equal(array, weight(50, 30, seed=i)) for i, array in enumerate(kept))


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="a system that does not tell what is mapped")
def test_the_file_goes_with_the_array(folder: Path) -> None:
    shelf = Shelf(0)
    kept = [shelf.put(weight(50, 30, seed=i)) for i in range(2)]
    assert mappings(folder) > 0
    part = kept[0][10:20]
    del kept, shelf
    gc.collect()
    assert mappings(folder) > 0
    assert np.array_equal(part, weight(50, 30)[10:20])
    del part
    gc.collect()
    assert mappings(folder) == 0


def test_it_outlives_the_shelf() -> None:
    shelf = Shelf(0)
    kept = shelf.put(weight(50, 30))
    del shelf
    gc.collect()
    assert np.array_equal(kept, weight(50, 30))


def fail(*_: Any, **__: Any) -> Any:
    raise OSError(28, "No space left on device")


def test_a_full_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelf_module.tempfile, "TemporaryFile", fail)
    shelf = Shelf(8)
    assert not is_in_file(shelf.put(np.zeros(1)))
    with pytest.raises(UsageError) as error:
        shelf.put(np.zeros(1))
    one_line(error, str(folder), "No space left on device", "TMPDIR")


def test_no_temporary_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(UsageError) as error:
        Shelf(0).put(np.zeros(1))
    one_line(error, str(tmp_path), "TMPDIR")
