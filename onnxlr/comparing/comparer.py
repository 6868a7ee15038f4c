"""`Comparer`: several exports of one network on their way to a `Comparison`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxlr.calibration_data import Calibration
from onnxlr.comparing.differences import PairDifference, compare_pairs
from onnxlr.comparing.matching import Matching, match_layers
from onnxlr.comparing.opening import find_feeds, open_exports
from onnxlr.comparing.options import CompareOptions
from onnxlr.comparing.results import OptimizedExport, Outcome, judge_results
from onnxlr.comparing.running import Export, take_samples
from onnxlr.comparing.schema import BoundPort, Comparison
from onnxlr.comparing.sides import Side
from onnxlr.comparing.timing import ExportLatency, time_exports
from onnxlr.comparing.traits import Exported, find_traits, operator_counts
from onnxlr.comparing.walking import Prepared, Walk, walk
from onnxlr.feeds import Feed, Feeds, batch_size
from onnxlr.model_file import Model
from onnxlr.parallel import Progress
from onnxlr.report import installed_versions
from onnxlr.result import Result
from onnxlr.sampling import Batching
from onnxlr.validation import DifferenceSums
from passes import prepare

__all__ = ["Comparer"]

_WALKED = 8
"""Samples that values inside the graph are compared on."""


class Comparer:
    """See the module.

    Args:
        models: two or more; all others are held against the first.
        options: how to compare.
        progress: told about the steps of long work.

    Raises:
        UsageError: there are less than two models, or inputs or outputs can be matched in several ways.
        ModelError: ONNX Runtime cannot load a model, or inputs or outputs cannot be matched.
        DataError: data do not fit the first model.
        ProviderError: the device is not there.
    """

    def __init__(self, models: Sequence[Model], options: CompareOptions, progress: Progress) -> None:
        self._options, self._progress = options, progress
        self.exports = open_exports(models, options)
        self._feeds = find_feeds(self.exports, options)

    def compare(self) -> Comparison:
        """Outputs, layers and files; nothing is optimized.

        Raises:
            ModelError: ONNX Runtime fails, outputs have different shapes, or none is numeric.
        """
        exported = self._exported()
        self._progress("Comparing outputs", 0, 1)
        pairs = compare_pairs(self.exports, self._feeds.batches, self._options.tolerance)
        self._progress("Comparing outputs", 1, 1)
        return Comparison(
            models=tuple(export.name for export in self.exports),
            settings=self._options.to_dict(),
            ports=tuple(self._bound_ports()),
            data=self._feeds.source,
            samples=self._feeds.samples,
            pairs=tuple(pairs),
            walks=tuple(self._walks(pairs)),
            traits=tuple(find_traits(exported)),
            operators=_unequal([model.operators for model in exported]),
            notes=tuple(self._notes()),
            versions=installed_versions(),
        )

    def arguments(self, given: Mapping[str, Any], folder: Path) -> Iterator[tuple[Export, dict[str, Any]]]:
        """Every model, and arguments to optimize it by: with shapes and calibration data of its own.

        Args:
            given: arguments for the first model.
            folder: to write data to.

        Raises:
            DataError: calibration data do not fit the first model.
        """
        calibration = given.get("calibration")
        if isinstance(calibration, str):
            calibration = Calibration(calibration)
        feeds = None if calibration is None else calibration.feeds(self.exports[0].session.inputs)
        for i, export in enumerate(self.exports):
            own = {**given, "input_shapes": self._shapes[i], "calibration": calibration}
            if calibration is not None and feeds is not None:
                path = folder / f"{i}.npz"
                np.savez(path, allow_pickle=False, **_joined(export, feeds))
                own["calibration"] = replace(calibration, inputs=str(path), samples=None)
            yield export, own

    def compare_results(self, results: Sequence[Result]) -> tuple[OptimizedExport, ...]:
        """Hold optimized versions of all models against each other.

        Args:
            results: of all models, in their order.

        Raises:
            ModelError: ONNX Runtime fails.
        """
        optimized = [replace(r.loaded, name=e.name) for e, r in zip(self.exports, results, strict=True)]
        latencies: Sequence[ExportLatency | None] = [None] * len(optimized)
        if self._options.latency_seconds > 0:
            seconds, seed = self._options.latency_seconds, self._options.seed
            latencies = time_exports(self.exports, optimized, self._timed, seconds, self._progress, seed)
        outcomes = [
            Outcome(
                export.name, result.report, self._error(export, model), latency, names, operator_counts(model)
            )
            for export, result, model, latency, names in zip(
                self.exports, results, optimized, latencies, self._layer_names(), strict=True
            )
        ]
        return judge_results(outcomes)

    def _walks(self, pairs: Sequence[PairDifference]) -> Iterator[Walk]:
        """The layers of the first model beside those of each other one, whose pairs are the first ones."""
        first, *others = [Prepared(e, side) for e, side in zip(self.exports, self._sides, strict=True)]
        for i, (other, matching) in enumerate(zip(others, self._matchings, strict=True)):
            self._progress("Comparing layers", i, len(others))
            yield walk(first, other, matching, self._walked, pairs[i].tolerance)
            self._progress("Comparing layers", i + 1, len(others))

    @property
    def _first_batch(self) -> Feed:
        return self._feeds.batches[0]

    @cached_property
    def _walked(self) -> list[Feed]:
        """A few samples, one by one: all values inside the graph are held at the same time."""
        if not self._can_be_cut:
            return [self._first_batch]
        count = min(batch_size(self._first_batch), _WALKED)
        return [take_samples(self._first_batch, np.array([i])) for i in range(count)]

    @cached_property
    def _can_be_cut(self) -> bool:
        """Whether the first model takes single samples."""
        batching = Batching.of(self.exports[0].session.inputs)
        return not batching.fixed and batching.length(self._first_batch) is not None

    @cached_property
    def _timed(self) -> Feed:
        """What to time with: as many samples as a model insists on, else one."""
        if not self._can_be_cut:
            return self._first_batch
        fixed = [export.fixed_batch for export in self.exports]
        size = max((size for size in fixed if size is not None), default=1)
        return take_samples(self._first_batch, np.arange(size) % batch_size(self._first_batch))

    @cached_property
    def _shapes(self) -> list[dict[str, tuple[int, ...]]]:
        """Shapes of the inputs of each model for one sample, or for as many as it insists on."""
        feeds = [export.feeds(self._walked[0])[0] for export in self.exports]
        return [{name: array.shape for name, array in feed.items()} for feed in feeds]

    @cached_property
    def _prepared(self) -> list[Model]:
        models = [export.model for export in self.exports]
        return [model.with_proto(prepare(model.proto, str(model.folder))) for model in models]

    @cached_property
    def _sides(self) -> list[Side]:
        return [Side.of(model, shapes) for model, shapes in zip(self._prepared, self._shapes, strict=True)]

    @cached_property
    def _matchings(self) -> list[Matching]:
        first, *others = self._sides
        return [match_layers(first, other) for other in others]

    def _layer_names(self) -> Iterator[Mapping[str, str]]:
        """For each model: names of the first one's layers -> its own."""
        first, *others = self._sides
        yield {layer.name: layer.name for layer in first.layers}
        for side, matching in zip(others, self._matchings, strict=True):
            yield {first.layers[m.first[-1]].name: side.layers[m.other[-1]].name for m in matching.matches}

    def _exported(self) -> list[Exported]:
        found = zip(self.exports, self._prepared, self._shapes, strict=True)
        return [Exported(export, prepared, shapes) for export, prepared, shapes in found]

    def _bound_ports(self) -> Iterator[BoundPort]:
        for kind in ("inputs", "outputs"):
            for bindings in zip(*(getattr(export, kind) for export in self.exports), strict=True):
                names = tuple(binding.other.name for binding in bindings)
                yield BoundPort(kind.removesuffix("s"), names, tuple(binding.perm for binding in bindings))

    def _notes(self) -> Iterator[str]:
        if self._options.inputs is None:
            yield "outputs were compared on random numbers; give real data with --inputs"
        for export in self.exports:
            compared = {binding.other.name for binding in export.outputs}
            left = [name for name in export.session.output_names if name not in compared]
            if left:
                yield f"{export.name} has outputs that were not compared: {', '.join(left)}"

    def _error(self, export: Export, optimized: Model) -> float:
        """Largest relative L2 error of an output of an optimized version."""
        session = export.open(optimized)
        names = export.session.output_names
        sums = [DifferenceSums(name) for name in names]
        for feed in self._feeds.batches:
            found = zip(
                export.values(export.session, feed, names), export.values(session, feed, names), strict=True
            )
            for entry, (before, after) in zip(sums, found, strict=True):
                entry.add(before, after, batch_size(feed))
        return max((entry.difference().rel_l2 for entry in sums if entry.is_numeric), default=0.0)


def _joined(export: Export, feeds: Feeds) -> dict[str, NDArray[Any]]:
    """All data of the first model as one array an input of another one."""
    parts = [part for feed in feeds.batches for part in export.feeds(feed)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _unequal(counts: Sequence[Mapping[str, int]]) -> dict[str, tuple[int, ...]]:
    """Counts of all models by operator, of those that differ."""
    names = sorted({name for count in counts for name in count})
    found = {name: tuple(count.get(name, 0) for count in counts) for name in names}
    return {name: numbers for name, numbers in found.items() if len(set(numbers)) > 1}
