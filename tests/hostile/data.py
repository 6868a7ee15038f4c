"""Data that something is wrong with."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.hostile.cases import Case

__all__ = ["DATA"]

INPUTS = ("validate", "m.onnx", "m.onnx", "--inputs", "d.npz")
CALIBRATE = ("optimize", "m.onnx", "--calibration", "d.npz")


class _Bomb:
    """Unpickled, it leaves a file behind."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("unpickled"),)


def _good(count: int = 4) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((count, 16, 9, 7)).astype(np.float32)


def _npz(**arrays: Any) -> Callable[[Path], object]:
    return lambda folder: np.savez(folder / "d.npz", **arrays)


def _raw(content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / "d.npz").write_bytes(content)


def _spoiled(value: float) -> NDArray[np.float32]:
    array = _good()
    array[2, 3, 4, 5] = value
    return array


def _npy(array: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def _zip(entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return file.getvalue()


def _header(shape: str, descr: str = "'<f4'") -> bytes:
    """A .npy file without its numbers."""
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def _bomb(size: int, says: int | None = None) -> bytes:
    """A small archive that unpacks to so many bytes, or says so."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", _header("(1048576, 16, 9, 7)") + bytes(min(size, 2**27)))
        archive.filelist[0].file_size = says or size
    return file.getvalue()


def _arrays() -> Iterator[tuple[str, Callable[[Path], object], str | None]]:
    yield "wrong-name", _npz(y=_good()), "no array for input ['x']"
    yield "no-arrays", _npz(), "d.npz"
    yield "too-few-channels", _npz(x=_good()[:, :8]), "x"
    yield "too-few-axes", _npz(x=_good()[0]), "x"
    yield "too-many-axes", _npz(x=_good()[None]), "x"
    yield "no-axes", _npz(x=np.float32(3)), "x"
    yield "other-size", _npz(x=np.zeros((4, 16, 90, 7), np.float32)), "x"
    yield "no-samples", _npz(x=_good()[:0]), "no samples"
    yield "float64", _npz(x=_good().astype(np.float64)), None
    yield "int64", _npz(x=_good().astype(np.int64)), None
    yield "of-text", _npz(x=np.full((4, 16, 9, 7), "a")), "x"
    yield "complex", _npz(x=_good().astype(np.complex64)), "complex64"
    yield "bool", _npz(x=_good() > 0), None
    yield "nan", _npz(x=_spoiled(np.nan)), "NaN or infinite"
    yield "infinite", _npz(x=_spoiled(np.inf)), "NaN or infinite"
    yield "objects", _npz(x=np.array([_Bomb()] * 4, object)), "d.npz"
    yield "structured", _npz(x=np.zeros(4, [("a", "f4"), ("b", "f4")])), "x"


def _files() -> Iterator[tuple[str, Callable[[Path], object], str | None]]:
    unread = "cannot be read as .npz or .npy"
    whole = _zip({"x.npy": _npy(_good())})
    yield "missing", lambda _: None, "no such file or folder"
    yield "empty", _raw(b""), "d.npz"
    yield "text", _raw(b"hello"), "d.npz"
    yield "a-pickle", _raw(pickle.dumps(_Bomb())), "d.npz"
    yield "npy-of-objects", _raw(_npy(np.array([_Bomb()], object))), "d.npz"
    yield "zip-of-pickle", _raw(_zip({"x.npy": pickle.dumps(_Bomb())})), "d.npz"
    yield "zip-of-text", _raw(_zip({"x.npy": b"hello"})), "d.npz"
    yield "zip-of-nothing", _raw(_zip({})), "d.npz"
    yield "zip-cut-off", _raw(whole[: len(whole) // 2]), unread
    yield "zip-with-a-flipped-bit", _raw(whole[:500] + bytes([whole[500] ^ 4]) + whole[501:]), unread
    yield "zip-bomb", _raw(_bomb(2**35)), "unpacks to 32.0 GiB"
    yield "zip-that-lies", _raw(_bomb(2**27, says=2**20)), "d.npz"
    yield "npy-cut-off", _raw(_zip({"x.npy": _npy(_good())[:300]})), unread
    yield "huge-header", _raw(_zip({"x.npy": _header("(1099511627776, 16, 9, 7)")})), "d.npz"
    yield "negative-header", _raw(_zip({"x.npy": _header("(-4, 16, 9, 7)")})), "d.npz"
    yield "code-in-header", _raw(_zip({"x.npy": _header("(__import__('os').getpid(), 16, 9, 7)")})), "d.npz"
    yield "object-header", _raw(_zip({"x.npy": _header("(4,)", "'|O'")})), "d.npz"
    yield "outside-name", _raw(_zip({"../x.npy": _npy(_good())})), "no array for input ['x']"


def _labels() -> Iterator[Case]:
    labelled = (*INPUTS, "--labels", "l.npy")
    says = "labels must be a .npy vector of whole numbers"
    wrong: dict[str, tuple[bytes, str]] = {
        "text-file": (b"1\n2\n", "cannot be read as .npz or .npy"),
        "pickle": (pickle.dumps([1, 2]), "cannot be read as .npz or .npy"),
        "floats": (_npy(np.array([0.5, 1, 2, 3])), says),
        "matrix": (_npy(np.zeros((4, 1), np.int64)), says),
        "objects": (_npy(np.array([_Bomb()] * 4, object)), "Object arrays cannot be loaded"),
        "too-few": (_npy(np.zeros(3, np.int64)), "3 labels for 4 samples"),
        "too-many": (_npy(np.zeros(5, np.int64)), "5 labels for 4 samples"),
        "none": (_npy(np.zeros(0, np.int64)), "0 labels for 4 samples"),
        "no-classes": (_npy(np.zeros(4, np.int64)), "no output is class-like"),
    }
    for name, (content, told) in wrong.items():

        def make(folder: Path, content: bytes = content) -> None:
            np.savez(folder / "d.npz", x=_good())
            (folder / "l.npy").write_bytes(content)

        yield Case(f"labels-{name}", make, labelled, 3, told)


def _cases() -> Iterator[Case]:
    for name, make, says in (*_arrays(), *_files()):
        fits = says is None  # other numbers are cast
        allowed = fits or name in ("nan", "infinite")  # a network may be asked what it makes of them
        yield Case(f"inputs-{name}", make, INPUTS, 0 if allowed else 3, "" if allowed else str(says))
        yield Case(f"calibration-{name}", make, CALIBRATE, 0 if fits else 3, says or "")
    yield from _labels()


DATA = list(_cases())
