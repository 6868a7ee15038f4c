"""`Export`: one of the models that are compared; it runs on what the first one runs on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxlr.comparing.ports import Binding
from onnxlr.feeds import Feed, batch_size
from onnxlr.model_file import Model
from onnxlr.runtime import Session

__all__ = ["Export", "take_samples"]

Array = NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Export:
    """A model, and what the first model's inputs and outputs are in it.

    Attributes:
        model: the model.
        session: it loaded.
        inputs: one an input.
        outputs: those that are compared.
        open: makes a session of another version of the model.
    """

    model: Model
    session: Session
    inputs: Sequence[Binding]
    outputs: Sequence[Binding]
    open: Callable[[Model], Session]

    @property
    def name(self) -> str:
        """Of the model."""
        return self.model.name

    @property
    def fixed_batch(self) -> int | None:
        """The only batch size that the model takes, if there is one."""
        sizes = (binding.other.value.shape[:1] for binding in self.inputs)
        return next((size[0] for size in sizes if size and isinstance(size[0], int)), None)

    def feeds(self, feed: Feed) -> list[Feed]:
        """A batch of the first model as batches of this one, the last filled up where the size is fixed."""
        own = {binding.other.name: binding.to_other(feed[binding.first.name]) for binding in self.inputs}
        size = self.fixed_batch
        count = batch_size(feed)
        if size is None or size == count:
            return [own]
        rows = [np.arange(start, start + size) % count for start in range(0, count, size)]
        return [take_samples(own, chosen) for chosen in rows]

    def run(self, feed: Feed) -> list[Array]:
        """The outputs for a batch of the first model, as the first model would give them."""
        found = self.values(self.session, feed, [binding.other.name for binding in self.outputs])
        return [binding.to_first(array) for binding, array in zip(self.outputs, found, strict=True)]

    def values(self, session: Session, feed: Feed, wanted: Sequence[str]) -> list[Array]:
        """Outputs of a version of this model for a batch of the first model, with the samples of that batch.

        Args:
            session: of the version.
            feed: the batch.
            wanted: names of outputs.
        """
        count = batch_size(feed)
        runs = [dict(zip(session.output_names, session.run(own), strict=True)) for own in self.feeds(feed)]
        if len(runs) == 1:
            return [_cut(runs[0][name], count) for name in wanted]
        return [np.concatenate([run[name] for run in runs])[:count] for name in wanted]


def take_samples(feed: Feed, rows: NDArray[np.intp]) -> Feed:
    """Some samples of a batch; what has no axis of samples stays as it is."""
    count = batch_size(feed)
    return {
        name: array[rows] if array.ndim and len(array) == count else array for name, array in feed.items()
    }


def _cut(array: Array, count: int) -> Array:
    """The samples that were asked for; of a value that has no axis of samples all there is."""
    return array[:count] if array.ndim and len(array) > count else array
