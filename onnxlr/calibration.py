"""Inputs -> what layers do with them: errors of every scheme and rank, sensitivities, fitted factors.

1. `Calibrator.survey` runs the original once, layer by layer, and keeps of each layer y at some positions,
   the error of every scheme and rank, and how much such an error changes the network's outputs.
2. `Calibrator.fit` runs the network that the choices make, layer by layer: each is regressed from the input
   x̂ that it gets there to the y that it had in the original, and takes its place before the next one runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxlr.factorization import compose
from onnxlr.feeds import Feeds
from onnxlr.fitting import Fit, fit_layer, fit_of, refit_layer
from onnxlr.layer import Layer
from onnxlr.model_file import Model
from onnxlr.moments import Moments, Sample
from onnxlr.network import Activations, Network, Piece, State
from onnxlr.parallel import Progress, map_layers, no_progress, one_blas_thread
from onnxlr.positions import Positions
from onnxlr.replacement import Replacement
from onnxlr.runtime import Device
from onnxlr.schemes import Rank, Regression, Scheme
from onnxlr.sensitivity import Probes
from onnxlr.shelf import Shelf
from onnxlr.subject import Change, Subject
from passes.constants import all_constants
from passes.graph import Key, opset

__all__ = ["Calibrator", "Survey", "Task"]

Array = NDArray[Any]

_PROBE = 0.03
"""Relative squared error of a layer's output whose effect on the network's outputs is measured."""


_SMALL = 2**22
"""Bytes of a run's inputs up to which several runs are in memory at the same time."""


@dataclass(frozen=True, slots=True)
class Task:
    """A layer to look at, and the schemes to try, each with the highest rank of interest."""

    layer: Layer
    schemes: Sequence[tuple[Scheme, Rank]] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Survey:
    """What was seen in the original.

    Attributes:
        residuals: E‖y − ŷ‖² on held-out pairs at every rank, by layer and name of the scheme.
        sensitivity: by layer, relative squared error of the network's outputs for each unit of that of the
            layer's output.
        problems: layers that could not be looked at, and why.
    """

    residuals: dict[tuple[Key, str], NDArray[np.float64]] = field(default_factory=dict)
    sensitivity: dict[Key, float] = field(default_factory=dict)
    problems: dict[Key, str] = field(default_factory=dict)


class Calibrator:
    """A prepared model, and data to run it on.

    Args:
        model: BatchNormalization folded; left alone.
        feeds: one run each.
        device: where to run.
        threads: of ONNX Runtime, 0 for its default.
        seed: of the positions.
        refine: see `onnxlr.schemes.base.Scheme.regress`.
        workers: number of cores to use.
        progress: told the number of layers done.
    """

    def __init__(
        self,
        model: Model,
        feeds: Feeds,
        device: Device,
        threads: int = 0,
        seed: int = 0,
        refine: int = 0,
        workers: int = 1,
        progress: Progress = no_progress,
    ) -> None:
        self._model, self._feeds, self._device, self._threads = model.with_spill(), feeds, device, threads
        self._refine, self._workers, self._progress = refine, workers, progress
        self._positions = Positions(seed, len(feeds.batches))
        self._records: dict[Key, _Record] = {}
        self._problems: set[Key] = set()
        self._shelf = Shelf()
        self._nodes = {("", next(iter(n.output), "")): n for n in model.proto.graph.node}
        self._constants = next(iter(all_constants(model.proto, str(model.folder))))

    @property
    def input_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the inputs in a run with one sample, or with as many as the model is fixed to."""
        first = self._feeds.batches[0]
        dims = {value.name: value.type.tensor_type.shape.dim for value in self._model.proto.graph.input}
        return {
            name: (array.shape[0] if dims[name][0].HasField("dim_value") else 1, *array.shape[1:])
            for name, array in first.items()
            if array.ndim and len(dims[name]) == array.ndim
        }

    @one_blas_thread
    def survey(self, tasks: Sequence[Task], sensitivity: bool = True) -> Survey:
        """See the module; layers in bodies and functions, and those that share a weight, are problems."""
        survey = Survey(problems=_out_of_reach([task.layer for task in tasks]))
        self._problems |= survey.problems.keys()
        by_key = {task.layer.key: task for task in tasks if task.layer.key not in survey.problems}
        if not by_key:
            return survey
        network = self._network(by_key, self._workers)
        activations = Activations(self._feeds.batches, network.abreast)
        probes = Probes(network, activations.states) if sensitivity else None
        activations.advance(network.piece(0, activations.states[0]))
        for i, key in enumerate(network.order, 1):
            before = list(activations.states)
            task = by_key[key]
            subject = Subject.of(task.layer, self._nodes[key], self._constants, opset(self._model.proto))
            record, samples = self._observe(subject, network, i, activations)
            if isinstance(samples, str):
                survey.problems[key] = samples
            else:
                self._records[key] = record
                probe = self._judge(task, subject, samples, survey)
                if probes is not None and probe is not None and probe.error > 0:
                    change = subject.change((task.layer.conv,), probe, self._model.store)
                    survey.sensitivity[key] = probes.measure(i, before, change) / probe.error
            self._progress("Calibrating", i, len(network.order))
        self._problems |= survey.problems.keys()
        return survey

    @one_blas_thread
    def fit(self, chosen: Sequence[Replacement], workers: int | None = None) -> dict[Key, Fit]:
        """Fits of layers, each with the fits of those before it in place.

        Layers with problems have none, nor has one that is to stay one node and would be no better for it.
        Several threads may fit at the same time what the survey saw.

        Args:
            chosen: what shall replace what.
            workers: number of cores to use; None: all that the calibrator has.
        """
        workers = workers or self._workers
        seen = self._records.keys() | self._problems
        unknown = [item for item in chosen if item.layer.key not in seen]
        if unknown:  # a plan that was made elsewhere
            self.survey([Task(item.layer) for item in unknown], sensitivity=False)
        known = {item.layer.key: item for item in chosen if item.layer.key in self._records}
        network = self._network(known, workers)
        activations = Activations(self._feeds.batches, network.abreast)
        fits: dict[Key, Fit] = {}
        change: Change | None = None
        for i, key in enumerate(network.order):
            item, record = known[key], self._records[key]
            subject = replace(record.subject)
            piece = network.piece(i, activations.states[0], change=change)
            samples = self._collect(subject, record, piece, activations)
            fit = None if samples is None else self._fit(item, subject, samples, workers)
            change = None
            if fit is not None:
                fits[key] = fit
                change = subject.change(item.links, fit, self._model.store)
            self._progress("Fitting", i + 1, len(network.order))
        return fits

    def _network(self, keys: Iterable[Key], workers: int) -> Network:
        """Small runs go on side by side; a large one ONNX Runtime shares out by itself."""
        size = sum(array.nbytes for array in self._feeds.batches[0].values())
        if self._device.name != "cpu" or size > _SMALL:
            return Network(self._model, keys, self._device, self._threads)
        return Network(self._model, keys, self._device, 1, min(self._threads or workers, workers))

    def _observe(
        self, subject: Subject, network: Network, index: int, activations: Activations
    ) -> tuple[_Record, list[Sample] | str]:
        """Run the piece that begins with a layer: its record, and its samples or what is wrong with them."""
        record, moments = _Record(replace(subject)), Moments(subject.offset is not None)

        def look(run: int, before: State, after: State) -> tuple[_Run, Array] | str:
            value, output = before[subject.input_name], after[subject.output_name]
            positions, fitted = self._positions.of(subject.layer, run, output.shape)
            try:
                x, y = subject.pairs(value, output, positions)
            except ValueError as error:
                return str(error)
            return _Run(value.shape, output.shape, positions, fitted, y), x

        problems: list[str] = []
        piece = network.piece(index, activations.states[0], [subject.output_name])
        for seen in activations.watch(piece, look):
            if isinstance(seen, str):
                problems.append(seen)
                continue
            run, x = seen
            record.runs.append(replace(run, y=self._shelf.put(run.y)))
            run.add_to(moments, x)
        if problems:
            return record, problems[0]
        try:
            samples = subject.samples(moments)
        except ValueError as error:
            return record, str(error)
        return record, subject.problem(samples) or samples

    def _judge(self, task: Task, subject: Subject, samples: list[Sample], survey: Survey) -> Fit | None:
        """Enter the errors of every scheme; a fit with about the error to probe with, as one Conv."""
        weight = subject.weight()
        schemes = [entry for entry in task.schemes if subject.accepts(entry[0])]
        regressions = map_layers(
            lambda entry: entry[0].regress(subject.conv, weight, samples, entry[1]),
            schemes,
            lambda entry: float(np.prod(entry[1])),
            self._workers,
            lambda _: None,
        )
        probes = []
        for (scheme, _), regression in zip(schemes, regressions, strict=True):
            survey.residuals[task.layer.key, scheme.name] = regression.residuals
            distance, rank = _nearest(regression, _PROBE)
            probes.append((distance, scheme, regression, rank))
        if not probes:
            return None
        _, scheme, regression, rank = min(probes, key=lambda probe: probe[0])
        fit = fit_of(regression.factors(rank), scheme.chain(subject.conv, rank), subject.conv, samples)
        finished, own = subject.finished(fit), task.layer.conv
        composed = compose(finished.factors, scheme.chain(own, rank), own.group)
        return replace(finished, factors=(composed.astype(finished.factors[0].dtype),))

    def _collect(
        self, subject: Subject, record: _Record, piece: Piece, activations: Activations
    ) -> list[Sample] | None:
        """Run the piece that ends before a layer: x̂ with the y of the original; None if too few are left."""
        moments = Moments(subject.offset is not None)

        def look(run: int, _: State, after: State) -> Array | None:
            value, seen = after[subject.input_name], record.runs[run]
            if value.shape != seen.input_shape:  # it depends on values, and its rows are not those of y
                return None
            return subject.inputs(value, seen.output_shape, seen.positions)

        for run, x in zip(record.runs, activations.watch(piece, look), strict=True):
            if x is not None:
                run.add_to(moments, x)
        try:
            return subject.samples(moments)
        except ValueError:
            return None

    def _fit(self, item: Replacement, subject: Subject, samples: list[Sample], workers: int) -> Fit | None:
        weight = subject.weight()
        if item.scheme is None:
            fit = refit_layer(subject.conv, weight, samples)
            return None if fit is None else subject.finished(fit)
        return subject.finished(
            fit_layer(subject.conv, weight, samples, item.scheme, item.rank, self._refine, workers)
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Run:
    """What is kept of one run: `fitted` of the positions, from the first on, are to fit on."""

    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    positions: NDArray[Any]
    fitted: int
    y: Array

    def add_to(self, moments: Moments, x: Array) -> None:
        """Enter y with what is x there."""
        moments.add(x[: self.fitted], self.y[: self.fitted])
        moments.hold_out(x[self.fitted :], self.y[self.fitted :])


@dataclass(frozen=True, slots=True, eq=False)
class _Record:
    """What is kept of a layer in the original.

    Its subject is a copy that has read no weight; a pass works on a copy of its own.
    """

    subject: Subject
    runs: list[_Run] = field(default_factory=list)


def _out_of_reach(layers: Sequence[Layer]) -> dict[Key, str]:
    readers = Counter(layer.weight for layer in layers)
    inside = {layer.key: "not in the main graph" for layer in layers if layer.key[0]}
    shared = {x.key: "shares its weight with another layer" for x in layers if readers[x.weight] > 1}
    return shared | inside


def _nearest(regression: Regression, error: float) -> tuple[float, Rank]:
    """The rank whose relative squared error comes nearest to `error`, and how near, in logarithms."""
    residuals = regression.residuals
    chosen = residuals[(slice(1, None),) * residuals.ndim]  # rank 0 is none
    relative = np.maximum(chosen / max(residuals.flat[0], np.finfo(np.float64).tiny), 1e-9)
    distance = np.abs(np.log(relative / error))
    rank = np.unravel_index(int(distance.argmin()), distance.shape)
    return float(distance[rank]), tuple(int(r) + 1 for r in rank)
