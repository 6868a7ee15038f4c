"""Constants of the main graph, for passes that put new ones in their place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from onnx import ModelProto, TensorProto

from passes.constants import Constant, Constants
from passes.graph import (
    add_initializers,
    copy_model,
    count_reads,
    free_name,
    scopes,
    trained_names,
    value_names,
)

__all__ = ["Weights"]


class Weights:
    """The constants of a model's main graph that can be computed with.

    Args:
        model: the model.
        base_dir: the folder that locations of external data are relative to.

    Attributes:
        reads: how often each value is read: by nodes and their bodies, as an output, by training_info.
    """

    def __init__(self, model: ModelProto, base_dir: str = "") -> None:
        self._model = model
        self._constants = Constants(next(scopes(model)), base_dir)
        self._trained = trained_names(model)
        self._taken = value_names(model)
        self.reads = count_reads(model.graph) + Counter(self._trained)

    def find(self, name: str) -> Constant | None:
        """The constant, if the value is one of a floating-point type that training_info does not refer to."""
        return self._constants.find_float(name, self._trained)

    def has_one_reader(self, constant: Constant) -> bool:
        """Whether one node alone depends on it, under any of its names and on what it is computed from."""
        return constant.has_one_reader(self.reads)

    def new_name(self, wanted: str) -> str:
        """`wanted`, or the first name like it that is free in the model; each is given out once."""
        return free_name(wanted, self._taken)

    def exchanged(self, old: Iterable[str], new: Iterable[TensorProto]) -> ModelProto:
        """A copy of the model with further initializers.

        Args:
            old: names, each as often as a node no longer reads it. Initializers among them that nothing reads
                any more are not copied, but for those that are graph inputs too: `remove_unused` takes both.
            new: the initializers to add.
        """
        inputs = {value.name for value in self._model.graph.input}
        lost = Counter(old)
        unread = {name for name, count in lost.items() if self.reads[name] == count}
        result = copy_model(self._model, unread - inputs)
        add_initializers(result, new)
        return result
