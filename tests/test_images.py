"""Folders of images: which files, which pixels go where, normalization, laziness, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import onnxlr.images
from onnxlr.errors import DataError, UsageError
from onnxlr.feeds import load_feeds
from onnxlr.images import ImageBatches, ImageOptions
from onnxlr.runtime import Value

Shape = tuple[int | str | None, ...]

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
WHITE = (255, 255, 255)
RGB_MEAN, RGB_STD = (123.5, 116.25, 103.5), (58.5, 57.125, 57.375)


def value(shape: Shape = ("N", 3, 4, 6), dtype: Any = np.float32, name: str = "x") -> Value:
    return Value(name, np.dtype(dtype), shape)


def noise(height: int, width: int, seed: int = 0) -> Any:
    """Random RGB pixels `(height, width, 3)`."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def write(path: Path, pixels: Any, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def flat(height: int, width: int, colour: tuple[int, int, int]) -> Any:
    return np.full((height, width, 3), colour, np.uint8)


def load(folder: Path, model_input: Value, **options: Any) -> Any:
    """All images as one array."""
    feeds = load_feeds(str(folder), [model_input], images=ImageOptions(**options))
    return np.concatenate([feed[model_input.name] for feed in feeds.batches])


# shape and type of the input, options; whether channels come first
LAYOUTS: dict[str, tuple[Shape, Any, dict[str, Any], bool]] = {
    "NCHW": (("N", 3, 4, 6), np.float32, {}, True),
    "NHWC": (("N", 4, 6, 3), np.float32, {}, False),
    "half": (("N", 3, 4, 6), np.float16, {}, True),
    "double": (("N", 4, 6, 3), np.float64, {}, False),
    "bytes": (("N", 3, 4, 6), np.uint8, {}, True),
    "bytes NHWC": (("N", 4, 6, 3), np.uint8, {}, False),
    "open sizes": (("N", 3, "H", None), np.float32, {"size": (4, 6)}, True),
    "open sizes NHWC": (("N", None, None, 3), np.float32, {"size": (4, 6)}, False),
    "half open": (("N", 3, 4, "W"), np.float32, {"size": (4, 6)}, True),
    "sizes given again": (("N", 3, 4, 6), np.float32, {"size": (4, 6)}, True),
    "all open": (("N", None, None, None), np.float32, {"size": (4, 6)}, True),
    "all open, NHWC given": ((None,) * 4, np.float32, {"size": (4, 6), "layout": "NHWC"}, False),
    "open channels": (("N", "C", 4, 6), np.float32, {}, True),
    "open channels NHWC": (("N", 4, 6, "C"), np.float32, {}, False),
    "NCHW given": (("N", 3, 4, 6), np.float32, {"layout": "NCHW"}, True),
    "NHWC given": (("N", 4, 6, 3), np.float32, {"layout": "NHWC"}, False),
}


@pytest.mark.parametrize(("shape", "dtype", "options", "first"), LAYOUTS.values(), ids=LAYOUTS.keys())
def test_pixels_as_they_are(
    tmp_path: Path, shape: Shape, dtype: Any, options: dict[str, Any], first: bool
) -> None:
    pixels = noise(4, 6)
    write(tmp_path / "a.png", pixels)
    array = load(tmp_path, value(shape, dtype), **options)
    assert array.dtype == dtype
    assert array.flags.c_contiguous
    np.testing.assert_array_equal(array, [np.moveaxis(pixels, 2, 0) if first else pixels])


@pytest.mark.parametrize("suffix", ["png", "bmp", "ppm", "webp", "PNG"])
def test_lossless_formats(tmp_path: Path, suffix: str) -> None:
    pixels = noise(4, 6)
    write(tmp_path / f"a.{suffix}", pixels, lossless=True)
    np.testing.assert_array_equal(load(tmp_path, value(("N", 4, 6, 3))), [pixels])


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "JPEG"])
def test_jpeg(tmp_path: Path, suffix: str) -> None:
    write(tmp_path / f"a.{suffix}", flat(4, 6, (200, 100, 50)), quality=95)
    np.testing.assert_allclose(load(tmp_path, value(("N", 4, 6, 3))), [flat(4, 6, (200, 100, 50))], atol=2)


@pytest.mark.parametrize(
    ("mean", "std"),
    [(RGB_MEAN, RGB_STD), ((0.0,), (255.0,)), ((127.5,), (127.5,)), (RGB_MEAN, (1.0,)), ((0.0,), RGB_STD)],
)
@pytest.mark.parametrize("shape", [("N", 3, 4, 6), ("N", 4, 6, 3)])
def test_normalization(tmp_path: Path, mean: tuple[float, ...], std: tuple[float, ...], shape: Shape) -> None:
    pixels = noise(4, 6)
    write(tmp_path / "a.png", pixels)
    array = load(tmp_path, value(shape), mean=mean, std=std)[0]
    for channel in range(3):
        found = array[channel] if shape[1] == 3 else array[..., channel]
        m, s = mean[channel % len(mean)], std[channel % len(std)]
        expected = [[(int(v) - m) / s for v in row] for row in pixels[..., channel]]
        np.testing.assert_array_equal(found, np.array(expected, np.float32))


def test_grey(tmp_path: Path) -> None:
    """Colours become grey by ITU-R 601-2: 0.299 R + 0.587 G + 0.114 B."""
    pixels = noise(4, 6)
    write(tmp_path / "a.png", pixels)
    write(tmp_path / "b.png", pixels[..., 0])  # grey already
    luma = pixels @ np.array([0.299, 0.587, 0.114])
    for shape, axis in (("N", 1, 4, 6), 1), (("N", 4, 6, 1), 3):
        array = load(tmp_path, value(shape), mean=(100.0,), std=(50.0,)).squeeze(axis) * 50 + 100
        np.testing.assert_allclose(array[0], luma, atol=1)
        np.testing.assert_allclose(array[1], pixels[..., 0], atol=1e-4)


def test_modes_become_rgb(tmp_path: Path) -> None:
    grey = noise(4, 6)[..., 0]
    write(tmp_path / "a.png", grey)
    write(tmp_path / "b.png", np.dstack([noise(4, 6), grey]))  # with transparency
    Image.fromarray(flat(4, 6, GREEN)).convert("P").save(tmp_path / "c.png")
    Image.new("1", (6, 4), 1).save(tmp_path / "d.png")
    expected = [np.dstack([grey] * 3), noise(4, 6), flat(4, 6, GREEN), flat(4, 6, WHITE)]
    np.testing.assert_array_equal(load(tmp_path, value(("N", 4, 6, 3))), expected)


def bands(height: int, width: int, axis: int, edges: tuple[int, int]) -> Any:
    """Red, then green, then blue along an axis."""
    pixels = flat(height, width, GREEN)
    along = np.moveaxis(pixels, axis, 0)
    along[: edges[0]], along[edges[1] :] = RED, BLUE
    return pixels


# size of the image, axis of its bands and where the middle one lies
CROPS: dict[str, tuple[tuple[int, int], int, tuple[int, int]]] = {
    "wide": ((8, 20), 1, (6, 14)),
    "tall": ((20, 8), 0, (6, 14)),
    "very wide, twice as large": ((16, 60), 1, (22, 38)),
    "small and tall": ((12, 4), 0, (4, 8)),
}


@pytest.mark.parametrize(("size", "axis", "edges"), CROPS.values(), ids=CROPS.keys())
def test_the_centre_is_cropped(
    tmp_path: Path, size: tuple[int, int], axis: int, edges: tuple[int, int]
) -> None:
    """The middle band fills the 8×8 crop; where the image was scaled, its neighbours blur into the edges."""
    write(tmp_path / "a.png", bands(*size, axis, edges))
    (array,) = load(tmp_path, value(("N", 8, 8, 3)))
    blurred = 0 if min(size) == 8 else 2
    inner = np.moveaxis(array, axis, 0)[blurred : 8 - blurred]
    np.testing.assert_array_equal(inner, np.full(inner.shape, GREEN))


def test_crop_without_scaling_is_a_slice(tmp_path: Path) -> None:
    pixels = noise(8, 15)
    write(tmp_path / "a.png", pixels)
    np.testing.assert_array_equal(load(tmp_path, value(("N", 8, 8, 3))), [pixels[:, 4:12]])  # 3.5 -> 4, even


def bicubic(length: int, size: int) -> Any:
    """Antialiased bicubic interpolation (a = −0.5) as a matrix `(size, length)`, from its definition."""
    scale = length / size
    x = np.abs((np.arange(length) + 0.5)[None] - (np.arange(size)[:, None] + 0.5) * scale) / max(scale, 1)
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    weights = np.where(x < 1, near, np.where(x < 2, far, 0))
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("size", [(16, 24), (2, 3), (11, 13)])
def test_scaling_is_bicubic_and_antialiased(tmp_path: Path, size: tuple[int, int]) -> None:
    """An image of smooth colours, against the formula; then the columns that the centre crop keeps."""
    y, x = np.mgrid[: size[0], : size[1]] / max(size)
    pixels = np.dstack([60 + 120 * y, 60 + 120 * x, 120 + 40 * np.sin(3 * x)]).round().astype(np.uint8)
    write(tmp_path / "a.png", pixels)
    (array,) = load(tmp_path, value(("N", 8, 8, 3)))
    width = 8 * size[1] // size[0]
    rows, columns = bicubic(size[0], 8), bicubic(size[1], width)
    left = round((width - 8) / 2)
    expected = np.einsum("iy,jx,yxc->ijc", rows, columns, pixels)[:, left : left + 8]
    np.testing.assert_allclose(array, expected, atol=1.01)  # Pillow rounds after each axis


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, orientation: int) -> None:
    """The picture is upright whichever way it was stored: red at the upper left, green at the upper right."""
    upright = flat(16, 24, BLUE)
    upright[:8, :8], upright[:8, 16:] = RED, GREEN
    undo: dict[int, Callable[[Any], Any]] = {  # what turns an upright picture into the stored one
        1: lambda p: p,
        2: lambda p: p[:, ::-1],
        3: lambda p: p[::-1, ::-1],
        4: lambda p: p[::-1],
        5: lambda p: p.swapaxes(0, 1),
        6: lambda p: np.rot90(p, 1),
        7: lambda p: p[::-1, ::-1].swapaxes(0, 1),
        8: lambda p: np.rot90(p, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(undo[orientation](upright))
    write(tmp_path / "a.png", stored, exif=exif)
    np.testing.assert_array_equal(load(tmp_path, value(("N", 16, 24, 3))), [upright])


def shades(folder: Path, names: list[str]) -> None:
    """One image a name; all pixels are its place in the list."""
    for i, name in enumerate(names):
        write(folder / name, flat(4, 6, (i, i, i)))


def shown(folder: Path, **options: Any) -> list[int]:
    feeds = load_feeds(str(folder), [value()], **options)
    return [int(image[0, 0, 0]) for feed in feeds.batches for image in feed["x"]]


def test_subfolders_in_the_order_of_paths(tmp_path: Path) -> None:
    names = ["cat/1.png", "cat/2.png", "cat/more/0.png", "cat b/1.png", "dog/1.png", "z.png"]
    shades(tmp_path, names)
    shades(tmp_path, [".hidden.png", ".thumbnails/1.png", "cat/._1.png"])
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    (tmp_path / "folder.png").mkdir()
    assert shown(tmp_path) == [0, 1, 2, 3, 4, 5]


def test_arrays_in_the_folder_come_first(tmp_path: Path) -> None:
    shades(tmp_path, ["preview.png"])
    np.save(tmp_path / "x.npy", np.full((2, 3, 4, 6), 7, np.float32))
    assert shown(tmp_path) == [7, 7]


# number of images in each class, the model's batch, samples; those taken, and what the source ends with
SAMPLED: dict[str, tuple[list[int], int | str, int | None, list[int], str]] = {
    "all": ([2, 3], "N", None, [0, 1, 2, 3, 4], ""),
    "all, more asked for": ([2, 3], "N", 9, [0, 1, 2, 3, 4], ""),
    "every class": ([4, 4, 4], "N", 3, [0, 4, 8], " (3 of 12 samples)"),
    "uneven": ([4, 3], "N", 5, [0, 1, 2, 4, 5], " (5 of 7 samples)"),
    "fixed batch": ([4, 5], 2, 5, [0, 2, 4, 6], " (4 of 9 samples)"),
    "fixed batch, one at least": ([9], 3, 1, [0, 3, 6], " (3 of 9 samples)"),
    "fixed batch, all": ([2, 4], 3, None, [0, 1, 2, 3, 4, 5], ""),
}


@pytest.mark.parametrize(
    ("classes", "batch", "samples", "expected", "source"), SAMPLED.values(), ids=SAMPLED.keys()
)
def test_samples(
    tmp_path: Path,
    classes: list[int],
    batch: int | str,
    samples: int | None,
    expected: list[int],
    source: str,
) -> None:
    shades(tmp_path, [f"{c}/{i:02}.png" for c, count in enumerate(classes) for i in range(count)])
    feeds = load_feeds(str(tmp_path), [value((batch, 3, 4, 6))], samples=samples)
    assert [int(i[0, 0, 0]) for feed in feeds.batches for i in feed["x"]] == expected
    assert feeds.samples == len(expected)
    assert feeds.source == f"{tmp_path}{source}"
    assert {len(feed["x"]) for feed in feeds.batches} == {batch if isinstance(batch, int) else len(expected)}


@pytest.mark.parametrize(("batch", "sizes"), [(None, [32, 3]), (20, [20, 15]), (100, [35])])
def test_batches(tmp_path: Path, batch: int | None, sizes: list[int]) -> None:
    shades(tmp_path, [f"{i:02}.png" for i in range(35)])
    feeds = load_feeds(str(tmp_path), [value()], batch=batch)
    assert [len(feed["x"]) for feed in feeds.batches] == sizes
    assert feeds.samples == 35


def test_batches_are_a_sequence(tmp_path: Path) -> None:
    shades(tmp_path, [f"{i}.png" for i in range(5)])
    batches = load_feeds(str(tmp_path), [value()], batch=2).batches
    assert isinstance(batches, ImageBatches)
    assert len(batches) == 3
    assert int(batches[-1]["x"].max()) == 4
    assert [int(feed["x"].max()) for feed in batches[1:]] == [3, 4]
    for index in (3, -4):
        with pytest.raises(IndexError):
            batches[index]


@pytest.mark.parametrize("cache", [0, 5 * 4 * 6 * 3 - 1, 5 * 4 * 6 * 3])
def test_repeated_passes_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: int) -> None:
    """Images are read when they are asked for, and again only where their pixels were too many to keep."""
    monkeypatch.setattr(onnxlr.images, "_CACHE_BYTES", cache)
    for i in range(5):
        write(tmp_path / f"{i}.png", noise(4, 6, seed=i))
    feeds = load_feeds(str(tmp_path), [value()], batch=2, images=ImageOptions(None, RGB_MEAN, RGB_STD))
    last = (tmp_path / "4.png").read_bytes()
    (tmp_path / "4.png").unlink()
    assert feeds.samples == 5
    first = [feeds.batches[i]["x"] for i in (0, 1)]
    with pytest.raises(DataError, match=r"4\.png: cannot be read"):
        feeds.batches[2]
    (tmp_path / "4.png").write_bytes(last)
    passes = [np.concatenate([feed["x"] for feed in feeds.batches]) for _ in range(2)]
    np.testing.assert_array_equal(passes[0], passes[1])
    np.testing.assert_array_equal(passes[0][:4], np.concatenate(first))
    for path in tmp_path.iterdir():
        path.unlink()
    if cache == 5 * 4 * 6 * 3:
        np.testing.assert_array_equal(np.concatenate([feed["x"] for feed in feeds.batches]), passes[0])
    else:
        with pytest.raises(DataError, match=r"0\.png: cannot be read"):
            next(iter(feeds.batches))


# inputs, options; the error and what it says
REFUSED: dict[str, tuple[list[Value], dict[str, Any], type[Exception], str]] = {
    "two inputs": ([value(), value(name="y")], {}, DataError, "4 axes, this one has 'x' ['N', 3, 4, 6], 'y'"),
    "not 4 axes": ([value(("N", 3, 6))], {}, DataError, "one input of 4 axes, this one has 'x' ['N', 3, 6]"),
    "no inputs": ([], {}, DataError, "one input of 4 axes"),
    "whole numbers": ([value(dtype=np.int64)], {}, DataError, "uint8 and float inputs, 'x' is int64"),
    "4 channels": ([value(("N", 4, 8, 6))], {}, DataError, "has the shape ['N', 4, 8, 6]"),
    "channels elsewhere": ([value()], {"layout": "NHWC"}, DataError, "images have 3 channels or 1"),
    "open sizes": ([value(("N", 3, "H", "W"))], {}, DataError, "['N', 3, 'H', 'W']; give --image-size"),
    "an open size": ([value(("N", 3, 4, None))], {}, DataError, "give --image-size HEIGHT,WIDTH"),
    "another size": ([value()], {"size": (6, 4)}, UsageError, "image size 6×4 was given, input 'x' has"),
    "mean of 2": ([value()], {"mean": (1, 2)}, UsageError, "mean has 2 numbers, input 'x' 3 channels"),
    "std of 3": ([value(("N", 1, 4, 6))], {"std": RGB_STD}, UsageError, "std has 3 numbers, input 'x' 1"),
    "bytes with mean": ([value(dtype=np.uint8)], {"mean": RGB_MEAN}, UsageError, "leave out mean and std"),
    "bytes with std": ([value(dtype=np.uint8)], {"std": (255,)}, UsageError, "leave out mean and std"),
    "not a multiple": ([value((2, 3, 4, 6))], {}, DataError, "1 samples do not divide into the model's"),
}  # fmt: skip


@pytest.mark.parametrize(("inputs", "options", "error", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(
    tmp_path: Path, inputs: list[Value], options: dict[str, Any], error: type[Exception], message: str
) -> None:
    write(tmp_path / "a.png", noise(4, 6))
    with pytest.raises(error) as raised:
        load_feeds(str(tmp_path), inputs, images=ImageOptions(**options))
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": (0, 4)}, "image size must be"),
        ({"size": (4,)}, "image size must be"),
        ({"mean": (np.nan,)}, "mean must be finite"),
        ({"std": (1, 0, 1)}, "std must be positive"),
        ({"std": (np.inf,)}, "std must be positive"),
        ({"layout": "CHW"}, "layout must be one of auto, NCHW, NHWC; got 'CHW'"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ImageOptions(**options)


def truncated(path: Path) -> None:
    path.write_bytes(write(path, noise(40, 60)).read_bytes()[:900])


def deep(path: Path) -> None:
    write(path, np.full((4, 6), 40000, np.uint16))


DAMAGED: dict[str, tuple[Callable[[Path], object], str]] = {
    "garbage": (lambda path: path.write_bytes(b"garbage" * 9), "cannot be read as an image"),
    "empty": (lambda path: path.write_bytes(b""), "cannot be read as an image"),
    "truncated": (truncated, "cannot be read as an image"),
    "16 bits": (deep, "has more than 8 bits of grey"),
    "another format": (
        lambda path: Image.new("RGB", (6, 4)).save(path, "TIFF"), "cannot be read as an image",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "message"), DAMAGED.values(), ids=DAMAGED.keys())
def test_damaged_images_are_named(tmp_path: Path, damage: Callable[[Path], object], message: str) -> None:
    shades(tmp_path, ["0.png", "1.png", "2.png"])
    damage(tmp_path / "1.png")
    feeds = load_feeds(str(tmp_path), [value()])
    with pytest.raises(DataError) as error:
        feeds.batches[0]
    assert f"{tmp_path / '1.png'}: {message}" in str(error.value)


def test_without_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shades(tmp_path, ["0.png"])
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.delitem(sys.modules, "onnxlr.decoding", raising=False)
    with pytest.raises(DataError, match=r"reading images needs Pillow: pip install 'onnxlr\[images\]'"):
        load_feeds(str(tmp_path), [value()])


def test_pillow_is_not_imported_before_images_are_read() -> None:
    command = "import onnxlr.cli, sys; sys.exit('PIL' in sys.modules)"
    subprocess.run([sys.executable, "-c", command], check=True)
