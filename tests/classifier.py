"""A small classifier whose weights have falling spectra: there is something between all ranks and none."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import ModelProto, helper

import onnxlr
from tests.builders import Array, make_model, run

__all__ = ["SIZE", "Data", "classifier", "decaying", "write_data"]

SIZE = (6, 8)
"""Height and width of its images."""


def decaying(*shape: int, seed: int = 0) -> Array:
    """A weight whose unfolding `shape[0] × rest` has singular values that fall by a quarter each."""
    left, _, right = np.linalg.svd(
        np.random.default_rng(seed).standard_normal((shape[0], int(np.prod(shape[1:])))), full_matrices=False
    )
    return (1.5 * left * 0.75 ** np.arange(left.shape[1]) @ right).reshape(shape).astype(np.float32)


def classifier(size: tuple[int | str, int | str] = SIZE) -> ModelProto:
    """Two Convs, pooling, and a Gemm with 5 classes; images `(N, 8, *size)`."""
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], "conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"], "relu1"),
        helper.make_node("Conv", ["b", "w2", "b2"], ["c"], "conv2", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["d"], "relu2"),
        helper.make_node("GlobalAveragePool", ["d"], ["e"], "pool"),
        helper.make_node("Flatten", ["e"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "w3"], ["y"], "fc"),
    ]
    weights = {
        "w1": decaying(24, 8, 3, 3, seed=1),
        "w2": decaying(32, 24, 3, 3, seed=2),
        "b2": np.linspace(-0.1, 0.1, 32, dtype=np.float32),
        "w3": np.random.default_rng(3).standard_normal((32, 5)).astype(np.float32),
    }
    return make_model(nodes, {"x": ["N", 8, *size]}, ["y"], weights)


@dataclass(frozen=True)
class Data:
    """Files of samples: to fit to, to compare on, and their labels, of which a tenth is wrong."""

    calibration: str
    inputs: str
    labels: str

    @property
    def checks(self) -> onnxlr.Checks:
        """Checks on the samples to compare on, with labels, without timing."""
        return onnxlr.Checks(self.inputs, self.labels, device="cpu", threads=1, latency_seconds=0)


def write_data(folder: Path, model: ModelProto) -> Data:
    """Images of random mixtures of few patterns, as a network would see them."""
    rng = np.random.default_rng(4)
    patterns = rng.standard_normal((12, 8, *SIZE))
    images = np.tensordot(rng.standard_normal((160, 12)), patterns, 1).astype(np.float32)
    data = Data(str(folder / "calibration.npz"), str(folder / "test.npz"), str(folder / "labels.npy"))
    np.savez(data.calibration, x=images[:80])
    np.savez(data.inputs, x=images[80:])
    (logits,) = run(model, x=images[80:])
    labels = logits.argmax(axis=1)
    labels[::10] = (labels[::10] + 1) % 5
    np.save(data.labels, labels)
    return data
