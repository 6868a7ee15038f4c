"""`FromScratch`: a network of `models/` with random weights, trained by any method, on JPEGs with labels.

Schemes and ranks are those that `onnxlr.plan` chooses for the builder's random weights. No images are held
out: the result is the last state. SGD with momentum 0.9, batches of 128, mirrored and shifted images; on a
GPU in bfloat16.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import onnx

import models
import onnxlr
from benchmarks.training_data import Bench, Row, load_jpegs, percent
from onnxlr.cli.app import tell_epoch
from onnxlr.training import TrainingData, TrainingOptions, all_methods, train

__all__ = ["FromScratch"]


@dataclass(frozen=True, slots=True)
class FromScratch:
    """A network, a method, and how it is trained.

    Attributes:
        network: a builder of `models/`.
        method: of `onnxlr.training.train`.
        kept: fraction of the parameters that the plan keeps; 1.0 for `full`, which has no plan.
        epochs: passes over the images.
        learning_rate: at the start.
        weight_decay: of weights.
    """

    network: str
    method: str
    kept: float
    epochs: int
    learning_rate: float
    weight_decay: float = 5e-4
    table: str = "from scratch"

    @property
    def name(self) -> str:
        """As in `Case`."""
        return f"{self.network} {self.method}"

    def run(self, bench: Bench) -> Row:
        """As in `Case`."""
        model = self._build(bench.scratch)
        epochs, share = bench.epochs(self.epochs)
        images, test = load_jpegs(bench, "train", share), load_jpegs(bench, "test")
        start = time.perf_counter()
        result = train(
            str(model),
            self.method,
            self._plan(model),
            TrainingData(images.inputs, images.labels),
            self._options(epochs, bench.device),
            start="scratch",
            device=bench.device,
            checks=onnxlr.Checks(test.inputs, test.labels, device=_check_device(bench), latency_seconds=0),
            on_epoch=tell_epoch,
        )
        return {
            "network": self.network,
            "method": self.method,
            **_accuracies(result),
            "params %": percent(result.report.totals.params),
            "MACs %": percent(result.report.totals.macs),
            "epochs": epochs,
            "images": images.count,
            "minutes": round((time.perf_counter() - start) / 60, 1),
        }

    def _build(self, folder: Path) -> Path:
        path = folder / f"{self.network}.onnx"
        if not path.exists():
            onnx.save(models.build(self.network, seed=0), path)
        return path

    def _plan(self, model: Path) -> onnxlr.Plan | None:
        schemes = all_methods()[self.method].schemes
        return onnxlr.plan(model, target_params=self.kept, schemes=schemes) if schemes else None

    def _options(self, epochs: int, device: str) -> TrainingOptions:
        return TrainingOptions(
            epochs=epochs,
            optimizer="sgd",
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            batch_size=128,
            flip=True,
            crop=4,
            held_out=0,
            autocast="bfloat16" if device == "cuda" else None,
        )


def _check_device(bench: Bench) -> str:
    """Beside a GPU, whatever ONNX Runtime has."""
    return "cpu" if bench.device == "cpu" else "auto"


def _accuracies(result: onnxlr.Result) -> Row:
    """Of the trained network; before the cut only where there is one."""
    validation, told = result.report.validation, result.report.training
    if validation is None or told is None:
        raise RuntimeError("nothing was trained or measured")
    accuracy, cut = validation.outputs[0].top1_after, told["cut"]
    before = "" if cut is None else round(100 * cut["outputs"][0]["top1_before"], 2)
    return {"top-1": round(100 * (accuracy or 0.0), 2), "before the cut": before}
