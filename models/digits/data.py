"""Scikit-learn's 1,797 handwritten digits (UCI, 8x8 pixels, 0..16) as 32x32 images in [0, 1], split once.

    python -m models.digits.data -o DIR

writes the files that calibration and evaluation need:

    calibration.npz  image  (256, 1, 32, 32) float32, from the training split
    test.npz         image  (797, 1, 32, 32) float32
    test_labels.npy         (797,) int64
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from models.digits.architecture import CLASSES, SIZE

__all__ = ["CALIBRATION", "TRAIN", "Digits", "load", "main", "upsample", "write"]

TRAIN = 1000
CALIBRATION = 256

Images = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Digits:
    """Images (N, 1, 32, 32) in [0, 1], labels (N,), and each image's row in scikit-learn's data set (N,)."""

    images: Images
    labels: Labels
    rows: Labels


def load() -> tuple[Digits, Digits]:
    """The training split (1,000 images) and the test split (797), stratified, always the same.

    Raises:
        ModuleNotFoundError: scikit-learn is missing.
    """
    pixels, labels = _raw()
    order = _stratified_order(labels)
    images = upsample(pixels / 16.0)
    parts = order[:TRAIN], order[TRAIN:]
    train, test = (Digits(images[rows], labels[rows], rows) for rows in parts)
    return train, test


def _raw() -> tuple[npt.NDArray[np.float64], Labels]:
    try:
        from sklearn.datasets import load_digits  # noqa: PLC0415 (optional)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("the digits come with scikit-learn: pip install scikit-learn") from error
    digits = load_digits()
    return np.asarray(digits.images, np.float64), np.asarray(digits.target, np.int64)


def _stratified_order(labels: Labels) -> Labels:
    """Row numbers such that every prefix has the classes in proportion: each shuffled, all interleaved."""
    rng = np.random.default_rng(0)
    position = np.empty(len(labels))
    for label in range(CLASSES):
        rows = rng.permutation(np.flatnonzero(labels == label))
        position[rows] = (np.arange(len(rows)) + 0.5) / len(rows)
    return np.argsort(position, kind="stable").astype(np.int64)


def upsample(images: npt.NDArray[np.float64]) -> Images:
    """(N, 8, 8) to (N, 1, 32, 32), bilinear between pixel centres, edges repeated."""
    factor = SIZE // images.shape[1]
    centres = (np.arange(SIZE) + 0.5) / factor - 0.5
    grid = np.meshgrid(np.arange(len(images)), centres, centres, indexing="ij")
    return ndimage.map_coordinates(images, grid, order=1, mode="nearest")[:, None].astype(np.float32)


def write(folder: Path) -> None:
    """Write the three files of the module's docstring into `folder`, which is made if need be."""
    train, test = load()
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / "calibration.npz", image=train.images[:CALIBRATION])
    np.savez_compressed(folder / "test.npz", image=test.images)
    np.save(folder / "test_labels.npy", test.labels)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the files; exit status 1, with one line on stderr, when that fails."""
    parser = argparse.ArgumentParser(prog="python -m models.digits.data", description=__doc__.split("\n")[0])
    parser.add_argument("-o", "--output", metavar="DIR", type=Path, required=True)
    folder = parser.parse_args(argv).output
    try:
        write(folder)
    except (ModuleNotFoundError, OSError) as error:
        print(f"models.digits.data: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
