"""What `benchmarks.accuracy` runs: pretrained networks and images of a data folder, preprocessed as it says.

`models.json` in that folder has each network's mean and standard deviation. No image is in both parts:

* CIFAR-10: the first 1,024 training images to calibrate on, the first 1,000 test images to test on;
* ImageNet: the folder has one sample of 1,000 images; 256 evenly spaced ones to calibrate on, the other 744
  to test on;
* HED's VGG-16 trunk, which is HED cut behind the Relu of `conv5_3`: of that sample 32 and 16 evenly spaced
  ones.
"""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.utils import extract_model
from PIL import Image

__all__ = [
    "CIFAR10",
    "IMAGENET",
    "INPUT",
    "TRUNK",
    "Images",
    "Network",
    "load_network",
    "load_trunk",
    "read_arrays",
]

CIFAR10 = ("cifar10_resnet20", "cifar10_resnet56", "cifar10_cnn6")
IMAGENET = ("imagenet_mobilenet_v2", "imagenet_squeezenet10_dc")
TRUNK = "hed_vgg16_trunk"

INPUT = "input"
"""Name of every network's input."""

_BATCH = 32

Array = NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Images:
    """Some images.

    Attributes:
        pixels: `(images, height, width, 3)`, uint8, RGB.
        labels: `(images,)`, classes.
    """

    pixels: Array
    labels: Array

    def take(self, rows: Array) -> Images:
        """Some of them."""
        return Images(self.pixels[rows], self.labels[rows])

    def spread(self, count: int) -> tuple[Images, Images]:
        """So many evenly spaced ones, and all others."""
        chosen = np.arange(count) * len(self.labels) // count
        return self.take(chosen), self.take(np.setdiff1d(np.arange(len(self.labels)), chosen))

    def resized(self, size: int) -> Images:
        """The same as squares of a size (bicubic)."""
        resized = [Image.fromarray(p).resize((size, size), Image.Resampling.BICUBIC) for p in self.pixels]
        return Images(np.stack([np.asarray(image) for image in resized]), self.labels)


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """A model and its images.

    Attributes:
        name: of its rows.
        path: of its file.
        mean: of a channel, in RGB values from 0 to 255.
        std: of a channel.
        calibration: what it may be fitted on.
        test: what it is judged by.
        has_classes: whether its output is that of a classifier, so that the labels say something.
    """

    name: str
    path: Path
    mean: tuple[float, ...]
    std: tuple[float, ...]
    calibration: Images
    test: Images
    has_classes: bool = True

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one image, `(1, 3, height, width)`."""
        _, height, width, channels = self.test.pixels.shape
        return 1, channels, height, width

    def batches(self) -> Iterator[dict[str, Array]]:
        """The images to test on, a few at a time."""
        for start in range(0, len(self.test.labels), _BATCH):
            yield {INPUT: self._prepared(self.test.pixels[start : start + _BATCH])}

    def write_calibration(self, path: Path) -> None:
        """Write the images to calibrate on as an `.npz` file, preprocessed, without labels."""
        np.savez(path, input=self._prepared(self.calibration.pixels))

    def _prepared(self, pixels: Array) -> Array:
        mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
        return np.ascontiguousarray(((pixels - mean) / std).transpose(0, 3, 1, 2))


def load_network(name: str, data: Path) -> Network:
    """A network by the name of its file, with CIFAR-10 images or those of ImageNet."""
    mean, std = _preprocessing(data, name)
    calibration, test = _cifar10(data) if name.startswith("cifar10") else _imagenet(data).spread(256)
    return Network(name, data / "models" / f"{name}.onnx", mean, std, calibration, test)


def load_trunk(data: Path, scratch: Path, size: int, images: int) -> Network:
    """HED's VGG-16 trunk.

    Args:
        data: the data folder.
        scratch: a folder for its file.
        size: of the images, in pixels along each side.
        images: number of those to calibrate on.
    """
    calibration, rest = _imagenet(data).spread(images)
    test, _ = rest.spread(16)
    if size != calibration.pixels.shape[1]:
        calibration, test = calibration.resized(size), test.resized(size)
    mean, std = _preprocessing(data, "hed_vgg16_bsds500")
    return Network(TRUNK, _cut_trunk(data, scratch), mean, std, calibration, test, has_classes=False)


def _preprocessing(data: Path, name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    entry = json.loads((data / "models.json").read_text(encoding="utf-8"))[f"models/{name}.onnx"]
    return tuple(entry["mean"]), tuple(entry["std"])


@cache
def _cifar10(data: Path) -> tuple[Images, Images]:
    train, test = (read_arrays(data / f"cifar10_{part}.npz") for part in ("train_4k", "test_1k"))
    return train.take(np.arange(1024)), test


def read_arrays(path: Path) -> Images:
    """All images of a file of the data folder."""
    with np.load(path) as arrays:
        return Images(arrays["images"], arrays["labels"].astype(np.int64))


@cache
def _imagenet(data: Path) -> Images:
    with ZipFile(data / "imagenet_sample_1k.zip") as archive:
        rows = list(csv.DictReader(io.StringIO(archive.read("labels.csv").decode())))
        pixels = [_decode(archive.read(row["file"])) for row in rows]
    return Images(np.stack(pixels), np.array([int(row["label"]) for row in rows]))


def _decode(file: bytes) -> Array:
    with Image.open(io.BytesIO(file)) as image:
        return np.asarray(image.convert("RGB"))


@cache
def _cut_trunk(data: Path, scratch: Path) -> Path:
    """Path of the trunk, made of HED, which the data folder has in half precision."""
    whole, trunk = scratch / "hed.onnx", scratch / f"{TRUNK}.onnx"
    subprocess.run([sys.executable, data / "unpack.py", whole], check=True)  # noqa: S603 - of the data folder
    nodes = onnx.load(whole).graph.node
    (conv,) = (node for node in nodes if "conv5_3" in node.name)
    (relu,) = (node for node in nodes if conv.output[0] in node.input)
    extract_model(whole, trunk, [INPUT], [relu.output[0]])
    return trunk
