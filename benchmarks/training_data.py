"""What the cases of `benchmarks.training` share: the images of a data folder, as files that onnxlr reads.

* lossless: the first 4,000 training images of CIFAR-10, of which the first 1,024 to calibrate on, and the
  first 1,000 test images;
* JPEG: the first 2,500 training images of each class and all 10,000 test images, in the same JPEG quality.

Preprocessed as `models.json` says for the network; for networks from scratch as for ResNet-20.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol
from zipfile import ZipFile

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.accuracy_data import Images, Network, load_network
from onnxlr.plan import BeforeAfter

__all__ = [
    "Bench",
    "Case",
    "Lossless",
    "Row",
    "Samples",
    "load_jpegs",
    "load_lossless",
    "percent",
]

JPEGS = {"train": "cifar10_train_25k_jpeg.zip", "test": "cifar10_test_10k_jpeg.zip"}

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Bench:
    """Where and how cases run.

    Attributes:
        data: the data folder.
        scratch: a temporary folder.
        scale: of all time budgets and numbers of epochs.
        device: of the training, `cpu` or `cuda`.
        most: JPEG images to train and to test on, at most; None: all. For tests of the program.
    """

    data: Path
    scratch: Path
    scale: float = 1.0
    device: str = "cpu"
    most: int | None = None

    def epochs(self, whole: int) -> tuple[int, float]:
        """A number of epochs in this scale, and the share of the images that less than one epoch takes."""
        wanted = whole * self.scale
        return max(1, round(wanted)), min(1.0, wanted)


class Case(Protocol):
    """One run, which comes to one row."""

    @property
    def name(self) -> str:
        """What `--only` finds."""

    @property
    def table(self) -> str:
        """Where its row goes."""

    def run(self, bench: Bench) -> Row:
        """Train and measure."""


@dataclass(frozen=True, slots=True)
class Samples:
    """Files of images and of their labels.

    Attributes:
        inputs: an `.npz` file with the network's input `(images, 3, 32, 32)`.
        labels: an `.npy` file of int64 `(images,)`.
        count: number of images.
    """

    inputs: str
    labels: str
    count: int


@dataclass(frozen=True, slots=True)
class Lossless:
    """A pretrained network and its images; labels of those to train on are not used.

    Attributes:
        model: path of the network.
        calibration: what it is optimized on.
        train: what it is trained on.
        test: what it is judged by.
    """

    model: str
    calibration: Samples
    train: Samples
    test: Samples


def load_lossless(bench: Bench, name: str) -> Lossless:
    """One of the pretrained networks, `resnet20` or `resnet56`."""
    network = load_network(f"cifar10_{name}", bench.data)
    with np.load(bench.data / "cifar10_train_4k.npz") as arrays:
        train = Images(arrays["images"], arrays["labels"].astype(np.int64))
    parts = {"calibration": network.calibration, "train": train, "test": network.test}
    written = {part: _write(bench, f"{name}_{part}", images, network) for part, images in parts.items()}
    return Lossless(str(network.path), **written)


def load_jpegs(bench: Bench, part: str, share: float = 1.0) -> Samples:
    """Evenly spaced JPEG images; they come class by class.

    Args:
        bench: tells where.
        part: `train` or `test`.
        share: of the images to take.
    """
    with ZipFile(bench.data / JPEGS[part]) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
        count = max(1, round(share * min(len(names), bench.most or len(names))))
        stem = f"jpeg_{part}_{count}"
        if (found := _samples(bench, stem, count)) is not None:
            return found
        images = _decode(archive, [names[i * len(names) // count] for i in range(count)])
    return _write(bench, stem, images, load_network("cifar10_resnet20", bench.data))


def percent(value: BeforeAfter) -> float:
    """What is left of a size, in percent."""
    if not value.before or value.after is None:
        raise ValueError("sizes are unknown")
    return round(100 * value.after / value.before, 2)


def _decode(archive: ZipFile, names: Sequence[str]) -> Images:
    """Images of entries `<label>/<index in the class>.jpg`."""
    pixels: list[NDArray[Any]] = []
    for name in names:
        with archive.open(name) as file, Image.open(file) as image:
            pixels.append(np.asarray(image.convert("RGB")))
    return Images(np.stack(pixels), np.array([int(name.split("/")[0]) for name in names], np.int64))


def _write(bench: Bench, stem: str, images: Images, network: Network) -> Samples:
    """Files of images, preprocessed as the network takes them."""
    replace(network, calibration=images).write_calibration(bench.scratch / f"{stem}.npz")
    np.save(bench.scratch / f"{stem}_labels.npy", images.labels)
    return _named(bench, stem, len(images.labels))


def _samples(bench: Bench, stem: str, count: int) -> Samples | None:
    """Files that are there already; labels are written last."""
    found = _named(bench, stem, count)
    return found if Path(found.labels).exists() else None


def _named(bench: Bench, stem: str, count: int) -> Samples:
    return Samples(str(bench.scratch / f"{stem}.npz"), str(bench.scratch / f"{stem}_labels.npy"), count)
