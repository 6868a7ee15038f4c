"""The cases of `benchmarks.training --cpu`: pretrained networks, without labels, and NIN from scratch.

* `FineTuning`: optimized with calibration, then trained to do what the original does;
* `AdaptiveRank`: trained at full rank to do what the original does, until the cut costs nothing; beside it
  the same plan applied to the weights as they are;
* NIN of random weights, two epochs on JPEG images: see `benchmarks.training_scratch`.

Labels of the first two only serve to measure.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnxlr
from benchmarks.training_data import Bench, Case, Lossless, Row, load_lossless, percent
from benchmarks.training_scratch import FromScratch
from onnxlr.cli.app import tell_epoch
from onnxlr.training import TrainingData, TrainingOptions, all_methods, finetune_result, train
from onnxlr.validation import Validation

__all__ = ["CASES", "AdaptiveRank", "FineTuning"]

ROUNDING = 1e-6
"""Of accuracies in percent, which are compared."""


@dataclass(frozen=True, slots=True)
class FineTuning:
    """A network is optimized and then trained for a time.

    Attributes:
        network: `resnet20` or `resnet56`.
        unit: what is budgeted, `macs` or `params`.
        kept: fraction of it to keep.
        allowed: points of top-1 that may be lost in the end.
        seconds: to train for.
    """

    network: str
    unit: str
    kept: float
    allowed: float
    seconds: float = 600.0
    table: str = "fine-tuning"

    @property
    def name(self) -> str:
        """As in `Case`."""
        unit = {"macs": "MACs", "params": "params"}[self.unit]
        return f"{self.network} at {self.kept:.0%} {unit}".replace("%", " %")

    def run(self, bench: Bench) -> Row:
        """As in `Case`."""
        files = load_lossless(bench, self.network)
        checks, start = _checks(files), time.perf_counter()
        cut = onnxlr.optimize(
            files.model,
            target_macs=self.kept if self.unit == "macs" else None,
            target_params=self.kept if self.unit == "params" else None,
            calibration=onnxlr.Calibration(files.calibration.inputs, device="cpu"),
            checks=checks,
            keep_slower=True,  # noise in timing must not revert what is to be trained
        )
        options = TrainingOptions(time_budget=self.seconds * bench.scale, flip=True, crop=4)
        data = TrainingData(files.train.inputs)
        trained = finetune_result(cut, files.model, data, options, checks, device="cpu", on_epoch=tell_epoch)
        before, after = (_accuracy(result.report.validation) for result in (cut, trained))
        asked = before["top1_before"] - self.allowed
        return {
            "asked top-1": round(asked, 2),
            "top-1 original": before["top1_before"],
            "top-1 optimized": before["top1_after"],
            "top-1 trained": after["top1_after"],
            **_costs(trained, start),
            "kept": after["top1_after"] >= asked - ROUNDING,
        }


@dataclass(frozen=True, slots=True)
class AdaptiveRank:
    """A network is trained at full rank towards the ranks of a plan, and cut.

    Attributes:
        network: `resnet20` or `resnet56`.
        kept: fraction of the parameters to keep.
        allowed: points of top-1 that the cut may cost.
        seconds: to train for.
    """

    network: str
    kept: float
    allowed: float
    seconds: float = 600.0
    table: str = "adaptive-rank"

    @property
    def name(self) -> str:
        """As in `Case`."""
        return f"{self.network} adaptive-rank at {self.kept:.0%} params".replace("%", " %")

    def run(self, bench: Bench) -> Row:
        """As in `Case`."""
        files = load_lossless(bench, self.network)
        checks, start = _checks(files), time.perf_counter()
        schemes = all_methods()["adaptive-rank"].schemes
        plan = onnxlr.plan(files.model, target_params=self.kept, schemes=schemes)
        plain = onnxlr.validate(files.model, onnxlr.apply(files.model, plan).model, checks)
        result = train(
            files.model,
            "adaptive-rank",
            plan,
            TrainingData(files.train.inputs),
            TrainingOptions(time_budget=self.seconds * bench.scale, flip=True, crop=4),
            teacher=files.model,
            device="cpu",
            checks=checks,
            on_epoch=tell_epoch,
        )
        cut = _percents(_told(result)["cut"]["outputs"][0])
        lost = round(cut["top1_before"] - cut["top1_after"], 2)
        return {
            "asked at the cut": self.allowed,
            "lost at the cut": lost,
            "top-1 original": _accuracy(result.report.validation)["top1_before"],
            "top-1 plain cut": _accuracy(plain.validation)["top1_after"],
            "top-1 before the cut": cut["top1_before"],
            "top-1 after the cut": cut["top1_after"],
            **_costs(result, start),
            "kept": lost <= self.allowed + ROUNDING,
        }


CASES: Sequence[Case] = (
    FineTuning("resnet20", "macs", 0.5, allowed=0.5),
    FineTuning("resnet20", "macs", 0.35, allowed=1.5),
    FineTuning("resnet56", "params", 0.35, allowed=1.0),
    AdaptiveRank("resnet20", 0.5, allowed=0.3),
    *(FromScratch("nin", method, 0.4, epochs=2, learning_rate=0.05) for method in ("tai", "elrt")),
)


def _checks(files: Lossless) -> onnxlr.Checks:
    return onnxlr.Checks(files.test.inputs, files.test.labels, device="cpu", latency_seconds=2)


def _costs(result: onnxlr.Result, start: float) -> Row:
    """What is left of the network, and what it took; minutes are those since `start`."""
    totals, latency = result.report.totals, result.report.latency
    history = _told(result)["history"]
    return {
        "params %": percent(totals.params),
        "MACs %": percent(totals.macs),
        "speed-up": None if latency is None else round(latency.speedup, 2),
        "epochs": len(history),
        "minutes": round((time.perf_counter() - start) / 60, 1),
    }


def _told(result: onnxlr.Result) -> Mapping[str, Any]:
    """What the report says of the training."""
    if result.report.training is None:
        raise RuntimeError(f"nothing was trained: {'; '.join(result.report.notes)}")
    return result.report.training


def _accuracy(validation: Validation | None) -> Mapping[str, float]:
    """Accuracies of the original and of the result, in percent."""
    if validation is None:
        raise RuntimeError("nothing was measured")
    return _percents(validation.to_dict()["outputs"][0])


def _percents(output: Mapping[str, Any]) -> Mapping[str, float]:
    return {key: round(100 * output[key], 2) for key in ("top1_before", "top1_after")}
