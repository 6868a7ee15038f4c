"""`TrainingOptions`: how a network is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from onnxlr.errors import UsageError

__all__ = ["OPTIMIZERS", "TrainingOptions"]

OPTIMIZERS = ("adamw", "sgd")

_RATES: Mapping[str, float] = {"adamw": 1e-3, "sgd": 0.01}
"""Learning rates where none is given."""


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """How a network is trained.

    Attributes:
        epochs: passes over the data; None: as many as the time budget allows, or 30 without one.
        time_budget: seconds to train for; None: as long as the epochs take.
        optimizer: adamw or sgd (with momentum 0.9).
        learning_rate: at the start; it falls to 0 as half a cosine. None: 1e-3 for adamw, 0.01 for sgd.
        weight_decay: decoupled for adamw, added to the gradient for sgd; of weights, not of vectors.
        batch_size: samples a step.
        flip: whether images are mirrored, every second one.
        crop: images are shifted by up to so many pixels, zeros come in; 0: not at all.
        held_out: fraction of the data to stop and to choose by; 0: none, the last state is the result.
        patience: epochs without improvement on held-out data before it stops; None: never.
        seed: of the order of samples, of augmentation and of dropout.
        autocast: float16 or bfloat16 on a GPU; None: single precision.

    Raises:
        UsageError: a number is out of range.
    """

    epochs: int | None = None
    time_budget: float | None = None
    optimizer: str = "adamw"
    learning_rate: float | None = None
    weight_decay: float = 1e-4
    batch_size: int = 64
    flip: bool = False
    crop: int = 0
    held_out: float = 0.1
    patience: int | None = None
    seed: int = 0
    autocast: str | None = None

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise UsageError(f"optimizer must be one of {', '.join(OPTIMIZERS)}; got '{self.optimizer}'")
        least = (("epochs", 1), ("batch_size", 1), ("crop", 0), ("patience", 1), ("weight_decay", 0))
        for name, smallest in least:
            value = getattr(self, name)
            if value is not None and not value >= smallest:
                raise UsageError(f"{name} must be at least {smallest}, got {value}")
        for name in ("time_budget", "learning_rate"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise UsageError(f"{name} must be above 0, got {value}")
        if not 0 <= self.held_out < 1:
            raise UsageError(f"held_out must be at least 0 and below 1, got {self.held_out}")

    @property
    def rate(self) -> float:
        """The learning rate at the start."""
        return _RATES[self.optimizer] if self.learning_rate is None else self.learning_rate

    @property
    def most_epochs(self) -> int | None:
        """Where training ends at the latest; None: only the time budget ends it."""
        return 30 if self.epochs is None and self.time_budget is None else self.epochs

    def to_dict(self) -> dict[str, Any]:
        """Plain data for reports and checkpoints."""
        return asdict(self)
