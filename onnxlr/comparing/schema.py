"""`Comparison`: what was found about several exports, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from onnxlr.comparing.differences import PairDifference
from onnxlr.comparing.results import OptimizedExport
from onnxlr.comparing.traits import Trait
from onnxlr.comparing.walking import Walk

__all__ = ["BoundPort", "Comparison"]

SCHEMA_VERSION = 1
"""Fields are only ever added within a version."""


@dataclass(frozen=True, slots=True)
class BoundPort:
    """An input or output of the first model, and what it is in each model.

    Attributes:
        kind: input or output.
        names: in each model, in their order.
        perms: axes of the first model's array in the order of each model; None: the same.
    """

    kind: str
    names: tuple[str, ...]
    perms: tuple[tuple[int, ...] | None, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Several exports of one network.

    Attributes:
        models: their names, the first one first: all others are held against it.
        settings: the options it ran with.
        ports: how inputs and outputs belong together.
        data: where the inputs came from; random ones say so.
        samples: number of samples.
        pairs: outputs of every two models.
        walks: layers of the first model and of each other one.
        traits: facts of the files.
        operators: nodes by operator, for each model; those that not all models have equally many of.
        optimized: what `optimize` made of each; None if it was not asked for.
        notes: what the user should know, one line each.
        versions: of onnxlr and what it stands on, and the machine.
    """

    models: tuple[str, ...]
    settings: Mapping[str, Any]
    ports: tuple[BoundPort, ...]
    data: str
    samples: int
    pairs: tuple[PairDifference, ...]
    walks: tuple[Walk, ...]
    traits: tuple[Trait, ...]
    operators: Mapping[str, tuple[int, ...]]
    notes: tuple[str, ...]
    versions: Mapping[str, str]
    optimized: tuple[OptimizedExport, ...] | None = None

    @property
    def same(self) -> bool:
        """Whether all models are the same function within tolerance."""
        return all(pair.same for pair in self.pairs)

    @property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        """Models that are the same function: each is the same as the first of its group."""
        same = {(pair.first, pair.other) for pair in self.pairs if pair.same}
        groups: list[list[str]] = []
        for name in self.models:
            home = next((group for group in groups if (group[0], name) in same), None)
            groups.append([name]) if home is None else home.append(name)
        return tuple(map(tuple, groups))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; see docs/compare.md for the schema."""
        traits = [{**asdict(trait), "differs": trait.differs} for trait in self.traits]
        found = {**asdict(self), "traits": traits, "same": self.same, "groups": self.groups}
        return {"schema_version": SCHEMA_VERSION, **found}
