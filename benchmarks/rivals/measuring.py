"""What a compressed network costs and computes, measured by the same code whatever tool it is from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks.accuracy_data import INPUT, Network
from benchmarks.accuracy_measures import compare, conv_macs
from onnxlr.latency import median_interval, noise_floor, time_rounds
from onnxlr.model_file import load
from onnxlr.parallel import no_progress
from onnxlr.runtime import Session, find_device
from onnxlr.sizes import count_params

__all__ = ["Row", "Yardstick", "prepared", "rounded", "time_all"]

Array = NDArray[Any]
Row = dict[str, Any]
Key = TypeVar("Key")

TOLERANCE = 1e-3


class Yardstick:
    """Holds compressed versions against one original; all run with one image at a time, on one thread.

    Args:
        original: file of the original.
        images: `(n, 3, H, W)`, preprocessed.
        labels: of the images; None for a network that classifies nothing.
    """

    def __init__(self, original: Path, images: Array, labels: Array | None) -> None:
        self._images, self._labels = images, labels
        self._shape = (1, *images.shape[1:])
        self._macs = conv_macs(onnx.load(original), self._shape)
        self._params = count_params(load(original))
        self._expected = self._run(original)

    def original(self) -> Row:
        """The row of the original."""
        return {"Conv MACs %": 100.0, "params %": 100.0, **self._compared(self._expected)}

    def measure(self, file: Path, counted: float | None) -> Row:
        """Costs and outputs of a compressed version.

        Args:
            file: of it.
            counted: fraction of the Conv MACs that its tool counted, if it did.

        Raises:
            ValueError: ONNX's shapes tell another number of MACs.
        """
        kept = conv_macs(onnx.load(file), self._shape) / self._macs
        if counted is not None and abs(kept - counted) > TOLERANCE:
            raise ValueError(f"{file}: Conv MACs are {kept:.4f} by ONNX's shapes, {counted:.4f} by torch's")
        params = count_params(load(file)) / self._params
        sizes = {"Conv MACs %": rounded(100 * kept, 2), "params %": rounded(100 * params, 2)}
        return {**sizes, **self._compared(self._run(file))}

    def _compared(self, actual: Array) -> Row:
        return compare(actual, self._expected, self._labels)

    def _run(self, file: Path) -> Array:
        session = Session(load(file), find_device("cpu"), 1)
        return np.concatenate([session.run({INPUT: image[None]})[0] for image in self._images])


def prepared(network: Network) -> Array:
    """A network's images to test on, preprocessed."""
    return np.concatenate([feed[INPUT] for feed in network.batches()])


def time_all(
    original: Path, files: Mapping[Key, Path], image: Array, seconds: float
) -> Iterator[tuple[Key, Row]]:
    """Time of one run of each file, one thread, all of them and the original twice in every round.

    Args:
        original: file of the original.
        files: by what tells them apart.
        image: `(1, 3, H, W)`.
        seconds: to spend.
    """
    rng = np.random.default_rng(0)
    opened = [Session(load(path), find_device("cpu"), 1) for path in (original, original, *files.values())]
    runs = [session.repeat({INPUT: image}) for session in opened]
    before, again, *others = time_rounds(runs, seconds, rng, no_progress)[..., 0].T
    noise = noise_floor(before / again, rng)
    for key, after in zip(files, others, strict=True):
        ratios = np.sqrt(before * again) / after
        found: Row = {
            "ms before": rounded(1e3 * float(np.median(before)), 2),
            "ms after": rounded(1e3 * float(np.median(after)), 2),
            "speed-up": rounded(float(np.median(ratios)), 3),
            "95 % interval": _described(median_interval(ratios, rng)),
            "noise floor": rounded(noise, 3),
            "rounds": len(before),
        }
        yield key, found


def _described(interval: Sequence[float]) -> str:
    return " to ".join(f"{bound:.3f}" for bound in interval)


def rounded(value: float | None, digits: int) -> float | str:
    """For a table; an empty string for what is not known."""
    return "" if value is None else round(value, digits)
