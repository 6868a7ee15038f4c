"""How much an error of one layer changes the outputs of the network: measured, without labels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from onnxlr.network import Network, Piece, State
from onnxlr.parallel import map_in_order
from onnxlr.positions import held_out_runs

__all__ = ["Probes"]

_RUNS = 8
"""Runs to measure on, at most."""


class Probes:
    """Some runs of the original that nothing is fitted on, and its outputs in them.

    Args:
        network: the original.
        states: of all runs, before the first piece.
    """

    def __init__(self, network: Network, states: Sequence[State]) -> None:
        self._network = network
        held_out = held_out_runs(len(states))
        count = min(_RUNS, len(held_out))
        self._runs = [held_out[i * len(held_out) // count] for i in range(count)]
        whole = network.piece(0, states[0], until=len(network.order))
        self._expected = list(self._outputs_of(whole, states))

    def measure(
        self, index: int, states: Sequence[State], change: Callable[[ModelProto], ModelProto]
    ) -> float:
        """Mean over the outputs of their relative squared error, ‖o − ô‖² / ‖o‖².

        Args:
            index: of the piece that begins with the changed layer.
            states: of all runs, before that piece.
            change: what is done to the layer.
        """
        piece = self._network.piece(index, states[0], change=change, until=len(self._network.order))
        wrong: defaultdict[str, float] = defaultdict(float)
        right: defaultdict[str, float] = defaultdict(float)
        for found, expected in zip(self._outputs_of(piece, states), self._expected, strict=True):
            for name, value in found.items():
                reference = expected[name]
                wrong[name] += _energy(_difference(value, reference))
                right[name] += _energy(reference)
        ratios = [wrong[name] / right[name] for name in wrong if right[name] > 0]
        return float(np.mean(ratios)) if ratios else 0.0

    def _outputs_of(self, piece: Piece, states: Sequence[State]) -> Iterator[dict[str, NDArray[np.float64]]]:
        ahead = [states[run] for run in self._runs]
        return map_in_order(lambda state: self._outputs(piece.run(state)), ahead, self._network.abreast)

    def _outputs(self, state: State) -> dict[str, NDArray[np.float64]]:
        """The outputs that are numbers."""
        values = {name: state.get(name) for name in self._network.outputs}
        numeric = {n: v for n, v in values.items() if isinstance(v, np.ndarray) and v.dtype.kind == "f"}
        return {name: value.astype(np.float64) for name, value in numeric.items()}


def _difference(value: NDArray[np.float64], reference: NDArray[np.float64]) -> NDArray[np.float64]:
    """What is wrong with a value: all of it where its shape is another, or where it is not finite."""
    if value.shape != reference.shape:
        return reference
    with np.errstate(invalid="ignore"):  # inf - inf
        return np.where(np.isfinite(value), value - reference, reference)


def _energy(values: NDArray[np.float64]) -> float:
    """Sum of the squares of what is finite."""
    return float(np.square(values, where=np.isfinite(values), out=np.zeros_like(values)).sum())
