"""Holds exported files to a checkpoint, in ONNX Runtime and whatever their layout."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort

from models.exports.checkpoint import TOLERANCE, Array, Checkpoint
from models.exports.networks import IMAGE

__all__ = ["Outcome", "check", "run_file"]


@dataclass(frozen=True)
class Outcome:
    """Whether a file computes what it should, and what there is to say about it."""

    passed: bool
    text: str


def check(path: Path, checkpoint: Checkpoint) -> Outcome:
    """Compare the logits of a file that an exporter may have written."""
    if not path.is_file():
        return Outcome(False, "nothing written")
    try:
        difference = checkpoint.difference(run_file(path, checkpoint.images))
    except Exception as error:  # ONNX Runtime's have no common base class
        return Outcome(False, f"does not run: {error}")
    text = f"{path.stat().st_size:,} bytes, max difference {difference:.1e}"
    return Outcome(difference <= TOLERANCE, text)


def run_file(path: Path, images: Array) -> Array:
    """Logits for images (N, C, H, W), N at least 2; they are transposed where the file takes (N, H, W, C).

    The first image runs alone: a file with a fixed batch size fails.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors: jax2onnx writes wrong shapes, of which ONNX Runtime warns
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (taken,) = session.get_inputs()
    x = images if tuple(taken.shape[1:]) == IMAGE else images.transpose(0, 2, 3, 1)
    return np.concatenate([session.run(None, {taken.name: part})[0] for part in (x[:1], x[1:])])
