"""Input data: every format, how it is cut into batches, and what is refused."""

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper

from onnxlr.errors import DataError, UsageError
from onnxlr.feeds import Feeds, batch_size, load_feeds, load_labels, random_feeds
from onnxlr.runtime import Value

Shape = tuple[int | str | None, ...]


def value(name: str = "x", shape: Shape = ("N", 3), dtype: Any = np.float32) -> Value:
    return Value(name, np.dtype(dtype), shape)


X = value()
TOKENS, SCALE = value("tokens", ("N", "S"), np.int64), value("scale", ())


def rows(count: int, *shape: int, dtype: Any = np.float32) -> Any:
    """Numbers that tell samples apart."""
    return np.arange(count * int(np.prod(shape)), dtype=dtype).reshape(count, *shape)


def script(body: str) -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        path = folder / "data.py"
        path.write_text(f"import numpy as np\n{body}\n")
        return f"{path}:feeds"

    return write


def npy(array: Any, name: str = "x.npy") -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        np.save(folder / name, array)
        return str(folder / name)

    return write


def npz(**arrays: Any) -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        np.savez(folder / "x.npz", **arrays)
        return str(folder / "x.npz")

    return write


def folder_of(*writers: Callable[[Path], str]) -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        for writer in writers:
            writer(folder)
        return str(folder)

    return write


def protobufs(**arrays: Any) -> Callable[[Path], str]:
    """An ONNX test_data_set folder; the files are numbered, names in them do not count."""

    def write(folder: Path) -> str:
        for name, array in arrays.items():
            (folder / f"{name}.pb").write_bytes(numpy_helper.from_array(array, "any").SerializeToString())
        return str(folder)

    return write


# what is written, the model's inputs, what each batch has (the number of samples in it by default)
GOOD: dict[str, tuple[Callable[[Path], str], list[Value], list[dict[str, Any]]]] = {
    "npy": (npy(rows(5, 3)), [X], [{"x": rows(5, 3)}]),
    "npy of float64": (npy(rows(5, 3, dtype=np.float64)), [X], [{"x": rows(5, 3)}]),
    "npy of whole numbers": (npy(rows(5, 3, dtype=np.int64)), [X], [{"x": rows(5, 3)}]),
    "npz": (
        npz(x=rows(4, 3), tokens=rows(4, 2, dtype=np.int32), more=rows(9)),
        [X, TOKENS],
        [{"x": rows(4, 3), "tokens": rows(4, 2, dtype=np.int64)}],
    ),
    "npz with a scalar": (
        npz(x=rows(40, 3), scale=np.float32(2)),
        [SCALE, X],
        [{"scale": 2.0, "x": rows(40, 3)[:32]}, {"scale": 2.0, "x": rows(40, 3)[32:]}],
    ),
    "only a scalar": (npz(scale=np.float32(2)), [SCALE], [{"scale": 2.0}]),
    "batches of 32": (
        npy(rows(70, 3)),
        [X],
        [{"x": rows(70, 3)[:32]}, {"x": rows(70, 3)[32:64]}, {"x": rows(70, 3)[64:]}],
    ),
    "fixed batch": (
        npy(rows(6, 3)),
        [value(shape=(2, 3))],
        [{"x": rows(6, 3)[i : i + 2]} for i in (0, 2, 4)],
    ),
    "fixed batch of one input, the other open": (
        npz(x=rows(2, 3), tokens=rows(2, 2, dtype=np.int64)),
        [value(shape=(1, 3)), TOKENS],
        [{"x": rows(2, 3)[i : i + 1], "tokens": rows(2, 2, dtype=np.int64)[i : i + 1]} for i in (0, 1)],
    ),
    "first axes that are no batch": (
        npz(x=rows(40, 3), tokens=rows(2, 2, dtype=np.int64)),
        [X, TOKENS],
        [{"x": rows(40, 3), "tokens": rows(2, 2, dtype=np.int64)}],
    ),
    "open axes": (npy(rows(2, 3, 5)), [value(shape=("N", 3, None))], [{"x": rows(2, 3, 5)}]),
    "folder of npy, by name": (
        folder_of(npy(rows(2, 3) + 9, "b.npy"), npy(rows(1, 3), "a.npy")),
        [X],
        [{"x": rows(1, 3)}, {"x": rows(2, 3) + 9}],
    ),
    "folder of npz, other files left alone": (
        folder_of(npz(x=rows(2, 3)), script("")),
        [X],
        [{"x": rows(2, 3)}],
    ),
    "test_data_set": (
        protobufs(input_1=rows(4, 2, dtype=np.int64), input_0=rows(4, 3), output_0=rows(1)),
        [X, TOKENS],
        [{"x": rows(4, 3), "tokens": rows(4, 2, dtype=np.int64)}],
    ),
    "test_data_set of more than ten inputs": (
        protobufs(**{f"input_{i}": rows(1, 3) + i for i in range(11)}),
        [value(f"x{i}") for i in range(11)],
        [{f"x{i}": rows(1, 3) + i for i in range(11)}],
    ),
    "script": (
        script("def feeds():\n    for i in range(2): yield {'x': np.full((1, 3), i)}"),
        [X],
        [{"x": np.full((1, 3), i)} for i in range(2)],
    ),
    "script with lists": (script("def feeds(): return [{'x': [[1, 2, 3]]}]"), [X], [{"x": [[1, 2, 3]]}]),
}


@pytest.mark.parametrize(("write", "inputs", "expected"), GOOD.values(), ids=GOOD.keys())
def test_formats(
    tmp_path: Path, write: Callable[[Path], str], inputs: list[Value], expected: list[dict[str, Any]]
) -> None:
    source = write(tmp_path)
    feeds = load_feeds(source, inputs)
    assert feeds.source == source
    assert len(feeds.batches) == len(expected)
    for batch, arrays in zip(feeds.batches, expected, strict=True):
        assert [*batch] == [i.name for i in inputs]
        for i in inputs:
            assert batch[i.name].dtype == i.dtype
            np.testing.assert_array_equal(batch[i.name], arrays[i.name], strict=False)


def numbered(*counts: int) -> Callable[[Path], str]:
    """Files of so many samples, which are numbered through: 0, 1, 2, …"""
    starts = np.cumsum([0, *counts])
    files = zip(counts, starts, strict=False)
    return folder_of(
        *(npy(np.repeat(start + rows(n, 1), 3, axis=1), f"{start:03}.npy") for n, start in files)
    )


def spaced(total: int, count: int) -> list[int]:
    return [i * total // count for i in range(count)]


ENDLESS = script("def feeds():\n    for i in range(10**9): yield {'x': np.full((3, 3), i)}")
SHORT = script("def feeds(): return [{'x': np.zeros((3, 3))}, {'x': np.ones((4, 3))}]")
TWO = value(shape=(2, 3))
FOUR = value(shape=(4, 3))

# what is written, the model's input, samples, batch; the numbers in each batch, and what the source has added
SAMPLED: dict[str, tuple[Callable[[Path], str], Value, int | None, int | None, list[list[int]], str]] = {
    "fewer": (numbered(10), X, 4, None, [[0, 2, 5, 7]], " (4 of 10 samples)"),
    "as many": (numbered(3), X, 3, None, [[0, 1, 2]], ""),
    "more": (numbered(3), X, 9, None, [[0, 1, 2]], ""),
    "thousands": (numbered(4000), X, 1024, 1024, [spaced(4000, 1024)], " (1,024 of 4,000 samples)"),
    "batch": (numbered(5), X, None, 2, [[0, 1], [2, 3], [4]], ""),
    "batch is the model's": (numbered(4), TWO, None, 4, [[0, 1], [2, 3]], ""),
    "batch and samples": (numbered(9), X, 3, 2, [[0, 3], [6]], " (3 of 9 samples)"),
    "over files": (numbered(2, 7, 1), X, 5, None, [[0, 2, 4, 6, 8]], " (5 of 10 samples)"),
    "some files left out": (numbered(1, 1, 1, 1, 1, 1), X, 2, None, [[0, 3]], " (2 of 6 samples)"),
    "fixed batch": (numbered(9), TWO, 5, None, [[0, 2], [4, 6]], " (4 of 9 samples)"),
    "fixed batch, one at least": (numbered(9), FOUR, 1, None, [[0, 2, 4, 6]], " (4 of 9 samples)"),
    "fixed batch, few data": (numbered(7), FOUR, 100, None, [[0, 1, 3, 5]], " (4 of 7 samples)"),
    "fixed batch over files": (
        numbered(3, 1, 3), TWO, 6, None, [[0, 1], [2, 3], [4, 5]], " (6 of 7 samples)",
    ),
    "script": (ENDLESS, X, 5, 2, [[0, 0], [0, 1], [1]], " (first 5 samples)"),
    "script, fixed batch": (ENDLESS, TWO, 5, None, [[0, 0], [0, 1]], " (first 4 samples)"),
    "script, fixed batch, one at least": (ENDLESS, FOUR, 1, None, [[0, 0, 0, 1]], " (first 4 samples)"),
    "script that ends": (SHORT, TWO, 99, None, [[0, 0], [0, 1], [1, 1]], " (first 6 samples)"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("write", "model_input", "samples", "batch", "expected", "note"), SAMPLED.values(), ids=SAMPLED.keys()
)
def test_samples(
    tmp_path: Path,
    write: Callable[[Path], str],
    model_input: Value,
    samples: int | None,
    batch: int | None,
    expected: list[list[int]],
    note: str,
) -> None:
    given = write(tmp_path)
    feeds = load_feeds(given, [model_input], samples=samples, batch=batch)
    assert [feed["x"][:, 0].tolist() for feed in feeds.batches] == expected
    assert feeds.source == given + note


def test_samples_of_all_inputs_belong_together(tmp_path: Path) -> None:
    write = npz(x=rows(9, 3), tokens=rows(9, 2, dtype=np.int64), scale=np.float32(2))
    (batch,) = load_feeds(write(tmp_path), [X, TOKENS, SCALE], samples=3).batches
    assert batch["x"][:, 0].tolist() == [0, 9, 18]
    assert batch["tokens"][:, 0].tolist() == [0, 6, 12]
    assert batch["scale"] == 2


def test_samples_that_do_not_fit_one_array_stay_apart(tmp_path: Path) -> None:
    lengths = [5, 5, 6, 5]
    parts = [npy(np.full((2, n), n + i), f"{i}.npy") for i, n in enumerate(lengths)]
    feeds = load_feeds(folder_of(*parts)(tmp_path), [value(shape=("N", "S"))], samples=4)
    assert [feed["x"].tolist() for feed in feeds.batches] == [[[5] * 5, [6] * 5], [[8] * 6], [[8] * 5]]


@pytest.mark.parametrize("source", ["files", "script"])
def test_feeds_without_a_batch_axis_are_taken_whole(tmp_path: Path, source: str) -> None:
    """A recurrent state's first axis, say, is no batch, though the model fixes it."""
    for i in range(5):
        np.savez(tmp_path / f"{i}.npz", x=rows(2, 3) + i, state=rows(3, 4))
    steps = "{'x': np.full((2, 3), i), 'state': np.ones((3, 4))}"
    write = script(f"def feeds():\n    for i in range(5): yield {steps}")
    feeds = load_feeds(
        str(tmp_path) if source == "files" else write(tmp_path), [X, value("state", (3, 4))], samples=2
    )
    assert [float(feed["x"][0, 0]) for feed in feeds.batches] == ([0, 2] if source == "files" else [0, 1])
    assert {feed["state"].shape for feed in feeds.batches} == {(3, 4)}


def test_a_script_is_run_no_further_than_needed(tmp_path: Path) -> None:
    write = script("def feeds():\n    yield {'x': np.ones((2, 3))}\n    raise ValueError('late')")
    assert load_feeds(write(tmp_path), [X], samples=2).samples == 2
    with pytest.raises(DataError, match="late"):
        load_feeds(write(tmp_path), [X], samples=3)


@pytest.mark.parametrize("write", [npy(rows(3, 3)), script("def feeds(): return [{'x': np.ones((3, 3))}]")])
def test_less_than_one_batch(tmp_path: Path, write: Callable[[Path], str]) -> None:
    with pytest.raises(DataError, match="3 samples do not divide into the model's batches of 4"):
        load_feeds(write(tmp_path), [FOUR], samples=3)


@pytest.mark.parametrize("option", ["samples", "batch"])
def test_counts_are_positive(tmp_path: Path, option: str) -> None:
    with pytest.raises(UsageError, match=f"{option} must be at least 1, got 0"):
        load_feeds(npy(rows(3, 3))(tmp_path), [X], **{option: 0})  # type: ignore[arg-type]


def holed(at: int, number: float, count: int = 20, dtype: Any = np.float32) -> Any:
    array = rows(count, 3, dtype=dtype)
    array[at, 1] = number
    return array


# what is written, the model's inputs, samples; the message, None: passes
FINITE: dict[str, tuple[Callable[[Path], str], list[Value], int | None, str | None]] = {
    "none": (npy(rows(9, 3)), [X], None, None),
    "NaN": (npy(holed(17, np.nan)), [X], None, "x.npy: input 'x' has NaN or infinite values in sample 17;"),
    "infinity": (npy(holed(0, np.inf)), [X], None, "in sample 0; remove it"),
    "minus infinity": (npy(holed(3, -np.inf)), [X], None, "in sample 3;"),
    "double": (npy(holed(3, np.nan, dtype=float)), [X], None, "in sample 3;"),
    "numbered as in the file": (npy(holed(15, np.nan)), [X], 4, "in sample 15;"),
    "in a sample that is not taken": (npy(holed(16, np.nan)), [X], 4, None),
    "in a folder": (
        folder_of(npy(rows(5, 3), "a.npy"), npy(holed(2, np.nan), "b.npy")),
        [X], None, "b.npy: input 'x' has NaN or infinite values in sample 2;",
    ),
    "in a script": (
        script("def feeds(): return [{'x': np.ones((2, 3))}, {'x': [[1, 1, 1], [1, np.nan, 1]]}]"),
        [X], None, "data.py:feeds, feed 1: input 'x' has NaN or infinite values in sample 1;",
    ),
    "second input": (
        npz(x=rows(4, 3), y=holed(2, np.nan, 4)),
        [X, value("y")], None, "x.npz: input 'y' has NaN or infinite values in sample 2;",
    ),
    "an array that the model does not read": (npz(x=rows(4, 3), y=holed(2, np.nan, 4)), [X], None, None),
    "scalar": (npz(scale=np.float32(np.nan)), [SCALE], None, "'scale' has NaN or infinite values; remove it"),
    "whole numbers": (npy(rows(2, 2, dtype=np.int64)), [TOKENS], None, None),
}  # fmt: skip


@pytest.mark.parametrize(("write", "inputs", "samples", "message"), FINITE.values(), ids=FINITE.keys())
def test_finite(
    tmp_path: Path,
    write: Callable[[Path], str],
    inputs: list[Value],
    samples: int | None,
    message: str | None,
) -> None:
    source = write(tmp_path)
    load_feeds(source, inputs, samples=samples)  # nobody asked
    if message is None:
        load_feeds(source, inputs, samples=samples, finite=True)
        return
    with pytest.raises(DataError) as error:
        load_feeds(source, inputs, samples=samples, finite=True)
    assert message in str(error.value)


class Bomb:
    """Sets off when it is unpickled."""

    exploded = False

    @staticmethod
    def explode() -> "Bomb":
        Bomb.exploded = True
        return Bomb()

    def __reduce__(self) -> tuple[Callable[[], "Bomb"], tuple[()]]:
        return Bomb.explode, ()


def pickled(folder: Path) -> str:
    (folder / "x.npy").write_bytes(pickle.dumps(Bomb()))
    return str(folder / "x.npy")


def zipped(folder: Path) -> str:
    with zipfile.ZipFile(folder / "x.npz", "w") as archive:
        archive.writestr("x", b"no array")
    return str(folder / "x.npz")


def written(name: str, content: bytes) -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        (folder / name).write_bytes(content)
        return str(folder / name)

    return write


OBJECTS = np.array([[Bomb(), 1, 2]], dtype=object)

BAD: dict[str, tuple[Callable[[Path], str], list[Value], str]] = {
    "missing": (lambda folder: str(folder / "x.npy"), [X], "no such file or folder"),
    "empty file": (written("x.npy", b""), [X], "cannot be read"),
    "garbage": (written("x.npz", b"garbage" * 99), [X], "cannot be read"),
    "no known kind": (written("x.txt", b"1 2 3"), [X], "cannot be read"),
    "a script without a function": (written("x.py", b""), [X], "cannot be read"),
    "object array": (npy(OBJECTS), [X], "allow_pickle=False"),
    "object array in npz": (npz(x=OBJECTS), [X], "allow_pickle=False"),
    "object array in a folder": (folder_of(npy(OBJECTS)), [X], "allow_pickle=False"),
    "pickle": (pickled, [X], "cannot be read"),
    "no array in npz": (zipped, [X], "has the shape"),
    "wrong name": (npz(y=rows(2, 3)), [X], "no array for input ['x']; it has ['y']"),
    "one name missing": (npz(x=rows(2, 3)), [X, TOKENS], "no array for input ['tokens']"),
    "npy for two inputs": (npy(rows(2, 3)), [X, TOKENS], "use .npz"),
    "wrong size": (npy(rows(2, 4)), [X], "has the shape ['N', 3], the array [2, 4]"),
    "wrong rank": (npy(rows(2, 3, 1)), [X], "the array [2, 3, 1]"),
    "floats for whole numbers": (npz(tokens=rows(2, 2)), [TOKENS], "is int64, the array float32"),
    "complex": (npy(rows(2, 3) * 1j), [X], "the array complex64"),
    "text": (npy(np.full((2, 3), "1")), [X], "the array <U1"),
    "not a multiple of the batch": (npy(rows(5, 3)), [value(shape=(2, 3))], "5 samples do not divide"),
    "no samples": (npy(rows(0, 3)), [X], "no samples"),
    "empty folder": (folder_of(), [X], "no .npz, .npy, input_*.pb or image files"),
    "input_0 missing": (protobufs(input_1=rows(2, 3)), [X], "no array for input ['x']"),
    "input_1 missing": (protobufs(input_0=rows(2, 3)), [X, TOKENS], "no array for input ['tokens']"),
    "input without a number": (protobufs(input_a=rows(2, 3)), [X], "no array for input ['x']"),
    "damaged protobuf": (
        folder_of(written("input_0.pb", b"\xff\xff garbage")),
        [X],
        "cannot be read as a tensor",
    ),
    "script missing": (lambda folder: f"{folder / 'no.py'}:feeds", [X], "FileNotFoundError"),
    "script without the function": (script("x = 1"), [X], "has no function 'feeds'"),
    "script that is no function": (script("feeds = 1"), [X], "failed: TypeError"),
    "script that fails": (script("def feeds(): raise ValueError('why')"), [X], "failed: ValueError: why"),
    "script that fails on a key": (script("def feeds(): yield {'x': {}['k']}"), [X], "failed: KeyError: 'k'"),
    "script that exits": (script("raise SystemExit(0)"), [X], "failed: SystemExit"),
    "script that fails later": (
        script("def feeds():\n    yield {'x': np.ones((1, 3))}\n    raise ValueError('late')"),
        [X],
        "failed: ValueError: late",
    ),
    "script with a syntax error": (script("def feeds(:"), [X], "failed: SyntaxError"),
    "script that yields arrays": (
        script("def feeds(): yield np.ones((1, 3))"),
        [X],
        "failed: AttributeError",
    ),
    "script that yields one feed": (
        script("def feeds(): return {'x': np.ones((1, 3))}"),
        [X],
        "AttributeError",
    ),
    "script that yields nothing": (script("def feeds(): return []"), [X], "no samples"),
    "script that yields ragged lists": (script("def feeds(): yield {'x': [[1], [1, 2]]}"), [X], "ValueError"),
    "script with a wrong name": (script("def feeds(): yield {'y': [[1, 2, 3]]}"), [X], "no array for input"),
}


@pytest.mark.parametrize(("write", "inputs", "reason"), BAD.values(), ids=BAD.keys())
def test_refused(tmp_path: Path, write: Callable[[Path], str], inputs: list[Value], reason: str) -> None:
    source = write(tmp_path)
    with pytest.raises(DataError) as error:
        load_feeds(source, inputs)
    assert reason in str(error.value)
    assert str(tmp_path) in str(error.value)
    assert not Bomb.exploded


def test_the_bomb_works() -> None:
    """Otherwise nothing would be proved by its not going off."""
    pickle.loads(pickle.dumps(Bomb()))  # noqa: S301 - its own
    exploded, Bomb.exploded = Bomb.exploded, False
    assert exploded


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [([(5, 3)], 5), ([(), (4, 3)], 4), ([(), ()], 1), ([], 1), ([(0, 3)], 0)],
)
def test_batch_size(shapes: list[tuple[int, ...]], expected: int) -> None:
    feed = {f"x{i}": np.zeros(shape) for i, shape in enumerate(shapes)}
    assert batch_size(feed) == expected
    assert Feeds([feed, feed], "twice").samples == 2 * expected


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.int64])
def test_labels(tmp_path: Path, dtype: Any) -> None:
    np.save(tmp_path / "labels.npy", np.array([3, 1, 2], dtype))
    labels = load_labels(str(tmp_path / "labels.npy"))
    assert labels.dtype == np.int64
    assert labels.tolist() == [3, 1, 2]


BAD_LABELS: dict[str, Callable[[Path], str]] = {
    "missing": lambda folder: str(folder / "x.npy"),
    "floats": npy(np.zeros(3)),
    "a matrix": npy(np.zeros((3, 2), np.int64)),
    "one-hot booleans": npy(np.zeros(3, bool)),
    "npz": npz(labels=np.zeros(3, np.int64)),
    "objects": npy(OBJECTS),
    "garbage": written("x.npy", b"garbage"),
}


@pytest.mark.parametrize("write", BAD_LABELS.values(), ids=BAD_LABELS.keys())
def test_labels_refused(tmp_path: Path, write: Callable[[Path], str]) -> None:
    source = write(tmp_path)
    with pytest.raises(DataError) as error:
        load_labels(source)
    assert source in str(error.value)
    assert not Bomb.exploded


RANDOM: dict[str, tuple[list[Value], dict[str, list[int]] | None, list[tuple[int, ...]]]] = {
    "symbolic batch": ([X], None, [(8, 3)]),
    "fixed": ([value(shape=(1, 3))], None, [(1, 3)]),
    "image": ([value(shape=("N", 3, "H", None))], None, [(8, 3, 224, 224)]),
    "image of fixed height": ([value(shape=("N", 3, 32, "W"))], None, [(8, 3, 32, 224)]),
    "sizes given": ([value(shape=("N", 3, "H", "W"))], {"x": [2, 3, 5, 7]}, [(2, 3, 5, 7)]),
    "scalar": ([SCALE, X], None, [(), (8, 3)]),
    "several": ([X, TOKENS], {"tokens": [4, 6]}, [(8, 3), (4, 6)]),
}


@pytest.mark.parametrize(("inputs", "shapes", "expected"), RANDOM.values(), ids=RANDOM.keys())
def test_random_shapes(
    inputs: list[Value], shapes: dict[str, list[int]] | None, expected: list[tuple[int, ...]]
) -> None:
    feeds = random_feeds(inputs, shapes)
    (batch,) = feeds.batches
    assert [array.shape for array in batch.values()] == expected
    assert [array.dtype for array in batch.values()] == [i.dtype for i in inputs]


def test_random_feeds_say_so() -> None:
    image = value("image", ("N", 3, "H", "W"))
    assert random_feeds([X], seed=3).source == "seeded random numbers (seed 3), not real data"
    assert "size assumed: image as 8×3×224×224" in random_feeds([X, image]).source
    assert "assumed" not in random_feeds([image], {"image": [1, 3, 9, 9]}).source


@pytest.mark.parametrize("shape", [("N", "S"), ("N", None), ("N", "C", 8, 8), ("N", 3, "L")])
def test_random_feeds_need_sizes(shape: Shape) -> None:
    with pytest.raises(UsageError, match="give --input-shape x:SIZES"):
        random_feeds([value(shape=shape)])


def test_random_numbers() -> None:
    inputs = [value(shape=(500, 40), dtype=dtype, name=str(dtype)) for dtype in ("float64", "int64", "bool")]
    first, again, other = (random_feeds(inputs, seed=seed).batches[0] for seed in (0, 0, 1))
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])
        assert (first[name] != other[name]).any()
    normal = first["float64"]
    assert abs(normal.mean()) < 0.05
    assert abs(normal.std() - 1) < 0.05
    assert sorted(np.unique(first["int64"])) == [0, 1]
    assert sorted(np.unique(first["bool"])) == [False, True]
