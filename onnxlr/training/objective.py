"""What is minimized: distance from a teacher, in outputs and behind layers, and from labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from onnxlr.errors import DataError
from onnxlr.training.dataset import Batch
from onnxlr.training.module import GraphModule

__all__ = ["Objective", "Scores"]

Values = Mapping[str, Tensor]


@dataclass(slots=True)
class Scores:
    """Sums over samples.

    Attributes:
        samples: how many.
        loss: of the objective, times samples.
        gap: Σ‖s − t‖² of the outputs s of the student and t of the teacher.
        size: Σ‖t‖².
        agreeing: samples with the same largest output.
        right: samples whose largest output is that of the label.
        classes: whether outputs are class-like.
    """

    samples: int = 0
    loss: float = 0.0
    gap: float = 0.0
    size: float = 0.0
    agreeing: int = 0
    right: int = 0
    classes: bool = False

    @property
    def mean_loss(self) -> float:
        """Loss a sample."""
        return self.loss / max(self.samples, 1)


@dataclass(frozen=True, eq=False)
class Objective:
    """A loss, summed over what is given.

    1. ‖s − t‖² / ‖t‖² of every output, against the teacher (Hinton et al., arXiv 1503.02531, match logits);
    2. `features` times the mean of that of values behind replaced layers (after FitNets, arXiv 1412.6550);
    3. cross-entropy of the first class-like output, against labels.

    Attributes:
        teacher: in evaluation mode; None: labels alone.
        outputs: names of the student's outputs -> the teacher's.
        values: names of values behind layers, the student's -> the teacher's.
        features: weight of 2.
        labels: weight of 3; 0 where there are none.
    """

    teacher: GraphModule | None
    outputs: Mapping[str, str]
    values: Mapping[str, str]
    features: float = 1.0
    labels: float = 1.0

    @property
    def has_labels(self) -> bool:
        """Whether labels count."""
        return self.labels > 0

    def wanted(self, training: bool) -> list[str]:
        """Values of the student that are needed."""
        return [*self.outputs, *(self.values if training and self.teacher is not None else ())]

    def loss(self, student: GraphModule, batch: Batch, scores: Scores | None = None) -> Tensor:
        """The loss of one batch; what it is made of is added to `scores`.

        Raises:
            DataError: there are labels, and no class-like output.
        """
        training = student.training
        found = student(batch.feed, self.wanted(training))
        targets = self._targets(batch, training)
        parts: list[Tensor] = []
        if targets:
            parts += [_relative(found[mine], targets[its]) for mine, its in self.outputs.items()]
            if training and self.values and self.features:
                gaps = [_relative(found[mine], targets[its]) for mine, its in self.values.items()]
                parts.append(self.features * torch.stack(gaps).mean())
        if batch.labels is not None and self.labels:
            parts.append(self.labels * _cross_entropy(self._logits(found), batch.labels))
        total = torch.stack(parts).sum()
        if scores is not None:
            self._score(scores, float(total.detach()), found, targets, batch)
        return total

    def _targets(self, batch: Batch, training: bool) -> Values:
        if self.teacher is None:
            return {}
        wanted = [*self.outputs.values(), *(self.values.values() if training else ())]
        with torch.no_grad():
            return self.teacher(batch.feed, list(dict.fromkeys(wanted)))

    def _logits(self, found: Values) -> Tensor:
        for name in self.outputs:
            if found[name].ndim == 2 and found[name].shape[1] > 1 and found[name].is_floating_point():
                return found[name]
        raise DataError("labels were given, but no output is class-like: (samples, classes)")

    def _score(self, scores: Scores, loss: float, found: Values, targets: Values, batch: Batch) -> None:
        count = len(next(iter(batch.feed.values())))
        scores.samples += count
        scores.loss += loss * count
        with torch.no_grad():
            for mine, its in self.outputs.items():
                if targets:
                    scores.gap += float((found[mine] - targets[its]).double().square().sum())
                    scores.size += float(targets[its].double().square().sum())
            first = next(iter(self.outputs))
            if found[first].ndim == 2 and found[first].shape[1] > 1:
                scores.classes = True
                chosen = found[first].argmax(1)
                if targets:
                    scores.agreeing += int((chosen == targets[self.outputs[first]].argmax(1)).sum())
                if batch.labels is not None:
                    scores.right += int((chosen.cpu() == torch.from_numpy(batch.labels)).sum())


def _relative(value: Tensor, target: Tensor) -> Tensor:
    """‖s − t‖² / ‖t‖²."""
    return (value - target).square().sum() / target.square().sum().clamp_min(1e-12)


def _cross_entropy(logits: Tensor, labels: Any) -> Tensor:
    return functional.cross_entropy(logits, torch.from_numpy(labels).to(logits.device))
