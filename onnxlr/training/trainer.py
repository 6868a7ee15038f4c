"""`Trainer`: a network, an objective and data -> the trained network; it can be interrupted and go on."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from onnxlr.errors import ModelError
from onnxlr.training.checkpoint import Progressed, read_checkpoint, write_checkpoint
from onnxlr.training.constraint import Constraint
from onnxlr.training.dataset import Augmentation, Dataset
from onnxlr.training.module import GraphModule
from onnxlr.training.objective import Objective, Scores
from onnxlr.training.options import TrainingOptions

__all__ = ["Epoch", "Trainer", "ignore_epoch"]

_SAVED_EVERY = 30.0
"""Seconds between checkpoints."""

_CLIPPED = 5.0
"""Norm of the gradient beyond which it is scaled down."""


@dataclass(frozen=True, slots=True)
class Epoch:
    """What one pass over the data came to.

    Attributes:
        number: from 1.
        seconds: since training began.
        learning_rate: at its end.
        loss: mean over its samples.
        held_out_loss: of the samples held out; None if there are none.
        rel_l2: of the outputs by the teacher's, on held-out samples; None without them or without a teacher.
        agreement: fraction of held-out samples with the teacher's class; None as before, or without classes.
        accuracy: fraction of held-out samples with the class of their label; None without labels.
        violation: of what the method asks of the weights; None if it asks nothing that is measured.
    """

    number: int
    seconds: float
    learning_rate: float
    loss: float
    held_out_loss: float | None = None
    rel_l2: float | None = None
    agreement: float | None = None
    accuracy: float | None = None
    violation: float | None = None


def ignore_epoch(_: Epoch) -> None:
    """Hears of an epoch, and does nothing."""


class Trainer:
    """See the module.

    Args:
        student: is trained in place.
        objective: what is minimized.
        dataset: samples.
        augmentation: of those that are trained on.
        options: how.
        checkpoint: file to keep the state in, and to go on from; None: nowhere.
        run: what tells this training from others.
        on_epoch: told about every epoch.
        constraint: on the weights, if any; only states that meet it are chosen by held-out data.
    """

    def __init__(
        self,
        student: GraphModule,
        objective: Objective,
        dataset: Dataset,
        augmentation: Augmentation,
        options: TrainingOptions,
        checkpoint: Path | None = None,
        run: str = "",
        on_epoch: Callable[[Epoch], None] = ignore_epoch,
        constraint: Constraint | None = None,
    ) -> None:
        self._student, self._objective = student, objective
        self._constraint = constraint or Constraint()
        self._dataset, self._augmentation, self._options = dataset, augmentation, options
        self._checkpoint, self._run, self._on_epoch = checkpoint, run, on_epoch
        self._rows, self._held = dataset.split(options.held_out, options.seed)
        self._steps = -(-len(self._rows) // options.batch_size)
        self._optimizer = _optimizer(student, options)
        self._at = Progressed()
        self._best: dict[str, Any] | None = None
        self._saved = monotonic()

    def train(self) -> list[Epoch]:
        """Train to the end; the student is then in evaluation mode, in its best state on held-out data.

        Returns:
            What every epoch came to, those before an interruption included.

        Raises:
            ModelError: the loss is not finite.
            DataError: the checkpoint is of another training.
        """
        self._resume()
        self._began = monotonic() - self._at.seconds
        while not self._is_over():
            self._finish_epoch(self._train_epoch())
        if self._best is not None:
            self._student.load_state_dict(self._best)
        self._student.eval()
        return [Epoch(**entry) for entry in self._at.history]

    def _is_over(self) -> bool:
        options = self._options
        too_long = options.time_budget is not None and self._seconds() >= options.time_budget
        most = options.most_epochs
        too_many = most is not None and self._at.epoch >= most
        waited = options.patience is not None and self._at.waited >= options.patience
        return too_long or too_many or waited

    def _train_epoch(self) -> Scores:
        """The rest of one pass over the data, or as much of it as time allows."""
        options, scores = self._options, Scores()
        order = np.random.default_rng([options.seed, 1, self._at.epoch]).permutation(self._rows)
        self._student.train()
        for step in range(self._at.step, self._steps):
            if options.time_budget is not None and self._seconds() >= options.time_budget:
                break
            self._step(order[step * options.batch_size : (step + 1) * options.batch_size], step, scores)
            self._at.step = step + 1
            self._save_now_and_then()
        return scores

    def _step(self, rows: NDArray[np.intp], step: int, scores: Scores) -> None:
        seed = [self._options.seed, 2, self._at.epoch, step]
        rng = np.random.default_rng(seed)
        torch.manual_seed(int(rng.integers(2**31)))
        batch = self._dataset.take(rows)
        batch = replace(batch, feed=self._augmentation.apply(batch.feed, rng))
        done = self._done()
        self._set_rate(done)
        self._optimizer.zero_grad(set_to_none=True)
        loss = self._objective.loss(self._student, batch, scores)
        if not math.isfinite(scores.loss):
            raise ModelError("the loss is not finite; try a smaller learning rate")
        asked = self._constraint.loss()
        (loss if asked is None else loss + asked).backward()
        nn.utils.clip_grad_norm_(self._student.parameters(), _CLIPPED)
        self._optimizer.step()
        with torch.no_grad():
            self._constraint.after_step(done)

    def _done(self) -> float:
        """The fraction that is behind, of the epochs or the time budget, whichever is further on."""
        options, done = self._options, 0.0
        if options.most_epochs is not None:
            done = (self._at.epoch + self._at.step / self._steps) / options.most_epochs
        if options.time_budget is not None:
            done = max(done, self._seconds() / options.time_budget)
        return min(done, 1.0)

    def _set_rate(self, done: float) -> None:
        """Half a cosine."""
        rate = self._options.rate * 0.5 * (1 + math.cos(math.pi * done))
        for group in self._optimizer.param_groups:
            group["lr"] = rate

    def _finish_epoch(self, trained: Scores) -> None:
        at = self._at
        held = self._evaluate() if len(self._held) else None
        rate = float(self._optimizer.param_groups[0]["lr"])
        epoch = _describe(at.epoch + 1, self._seconds(), rate, trained, held, self._objective)
        epoch = replace(epoch, violation=self._constraint.violation)
        if held is not None and self._constraint.is_met:
            self._choose(held.mean_loss)
        at.history.append(asdict(epoch))
        at.epoch, at.step = at.epoch + 1, 0
        self._save()
        self._on_epoch(epoch)

    def _choose(self, loss: float) -> None:
        """Keep the state if none was as good on held-out data."""
        if loss < self._at.best:
            self._at.best, self._at.waited = loss, 0
            self._best = copy.deepcopy(self._student.state_dict())
        else:
            self._at.waited += 1

    def _evaluate(self) -> Scores:
        scores = Scores()
        self._student.eval()
        with torch.no_grad():
            for batch in self._dataset.batches(self._held, self._options.batch_size):
                self._objective.loss(self._student, batch, scores)
        return scores

    def _seconds(self) -> float:
        return monotonic() - self._began

    def _save_now_and_then(self) -> None:
        if monotonic() - self._saved >= _SAVED_EVERY:
            self._save()

    def _save(self) -> None:
        if self._checkpoint is None:
            return
        self._at.seconds = self._seconds()
        state = {
            "at": asdict(self._at),
            "student": self._student.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "best": self._best,
            "constraint": self._constraint.state(),
        }
        write_checkpoint(self._checkpoint, self._run, state)
        self._saved = monotonic()

    def _resume(self) -> None:
        state = None if self._checkpoint is None else read_checkpoint(self._checkpoint, self._run)
        if state is None:
            return
        self._at = Progressed(**state["at"])
        self._student.load_state_dict(state["student"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._best = state["best"]
        self._constraint.load_state(state["constraint"])


def _optimizer(student: GraphModule, options: TrainingOptions) -> torch.optim.Optimizer:
    """Weight decay is for weights, which have two axes or more."""
    parameters = list(student.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": options.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if options.optimizer == "sgd":
        return torch.optim.SGD(groups, options.rate, momentum=0.9)
    return torch.optim.AdamW(groups, options.rate)


def _describe(
    number: int, seconds: float, rate: float, trained: Scores, held: Scores | None, objective: Objective
) -> Epoch:
    if held is None:
        return Epoch(number, seconds, rate, trained.mean_loss)
    taught = objective.teacher is not None
    return Epoch(
        number,
        seconds,
        rate,
        trained.mean_loss,
        held.mean_loss,
        (held.gap / held.size) ** 0.5 if taught and held.size else None,
        held.agreeing / held.samples if taught and held.classes else None,
        held.right / held.samples if held.classes and objective.has_labels else None,
    )
