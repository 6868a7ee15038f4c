"""What each scheme offers for a layer: its ranks and what their chains cost. Errors are not known yet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from onnxlr.clock import Clock
from onnxlr.conv import ConvSpec, chain_params
from onnxlr.cost import chain_costs, interpolate
from onnxlr.layer import Layer, Skipped
from onnxlr.schemes import Rank, Scheme
from onnxlr.selectors import Candidate

__all__ = ["GATES", "Offer", "Prospect", "aligned_ranks", "edge_spectra", "find_prospects"]

GATES: Mapping[str, float] = {"macs": 0.9, "latency": 0.95, "none": np.inf}
"""Cost below which a chain may replace its layer, by the name of the gate.

The margin of 10 % is what efficiencies of schemes differ by between machines; less is not worth an error.
What is predicted for one machine is closer: 5 % is the median error of its cost model.
"""


class Offer:
    """One scheme for one layer.

    Args:
        layer: the layer.
        scheme: one that accepts it.
        align: ranks are multiples of it, or full.
        gate: a name in `GATES`.
        clock: to predict times with; the cost is the time if the gate is `latency`.

    Attributes:
        lowest: cost of the cheapest chain by that of the layer.
        top: the highest rank, entry by entry, of the chains below the limit; full rank if there are none.
    """

    def __init__(
        self, layer: Layer, scheme: Scheme, align: int, gate: str, clock: Clock | None = None
    ) -> None:
        self.scheme = scheme
        self._layer, self._limit = layer, GATES[gate]
        # the channels between depthwise Convs are a multiple of the layer's at any rank
        step = 1 if layer.conv.is_depthwise else align
        full = scheme.max_rank(layer.conv)
        self._ranks = aligned_ranks(full, step)
        self._macs, self._cost = chain_costs(layer, scheme, self._ranks)
        self._time = None if clock is None else clock.chain_times(layer, scheme, self._ranks)
        if gate == "latency" and self._time is not None:
            self._cost = self._time
        self.lowest = float(self._cost.min())
        allowed = np.array(self._ranks)[self._cost < self._limit]
        self.top = tuple(int(r) for r in allowed.max(axis=0)) if len(allowed) else full

    def candidate(self, residuals: NDArray[np.float64], has_spectra: bool) -> Candidate:
        """The candidate.

        Args:
            residuals: squared error at every rank, one axis a rank entry, index = rank; what lies beyond has
                the error of the last one.
            has_spectra: whether they are of the weight, at all ranks.
        """
        layer, full = self._layer, self.scheme.max_rank(self._layer.conv)
        total = residuals[(0,) * residuals.ndim]
        last = np.array(residuals.shape) - 1
        return Candidate(
            layer=layer.name,
            scheme=self.scheme.name,
            ranks=self._ranks,
            macs=self._macs,
            params=interpolate(self._params, full, self._ranks) / layer.conv.params,
            cost=self._cost,
            error=residuals[tuple(np.minimum(self._ranks, last).T)] / (total if total > 0 else 1.0),
            limit=self._limit,
            spectra=edge_spectra(residuals) if has_spectra else (),
            groups=max(link.group for link in self.scheme.chain(layer.conv, full)),
            time=self._time,
        )

    def _params(self, rank: Rank) -> NDArray[np.float64]:
        return np.array(chain_params(self.scheme.chain(self._layer.conv, rank)), np.float64)


@dataclass(frozen=True, slots=True)
class Prospect:
    """A layer and the schemes that may make it cheaper; at least one."""

    layer: Layer
    offers: Sequence[Offer]


def find_prospects(
    found: Sequence[Layer | Skipped],
    schemes: Iterable[Scheme],
    align: int,
    gate: str,
    clock: Clock | None = None,
) -> list[Prospect | Skipped]:
    """What every layer is offered, or why nothing; in the order of `found`.

    Of schemes whose chains have the same shapes only the first is tried: over one function class, closed-form
    optima have the same error. A scheme that the gate would not let pass at any rank is not tried either.

    Args:
        found: layers and what was skipped.
        schemes: in order of preference between equals.
        align: ranks are multiples of it, or full.
        gate: a name in `GATES`; `latency` needs a clock.
        clock: to predict times with, if they are asked for.
    """
    known = list(schemes)
    return [
        item if isinstance(item, Skipped) else _prospect(item, known, align, gate, clock) for item in found
    ]


def _prospect(
    layer: Layer, schemes: Iterable[Scheme], align: int, gate: str, clock: Clock | None
) -> Prospect | Skipped:
    if clock is not None and not clock.knows(layer):
        return Skipped(layer.name, "its sizes are unknown, and so is its time")
    accepted: dict[tuple[ConvSpec, ...], Scheme] = {}
    reasons: dict[str, str] = {}
    for scheme in schemes:
        reason = scheme.refuses(layer.conv)
        if reason is not None:
            reasons[scheme.name] = reason
            continue
        lowest = scheme.chain(layer.conv, (1,) * len(scheme.max_rank(layer.conv)))
        accepted.setdefault(lowest, scheme)
    if not accepted:
        return Skipped(layer.name, _join(reasons))
    offers = [Offer(layer, scheme, align, gate, clock) for scheme in accepted.values()]
    promising = [offer for offer in offers if offer.lowest < GATES[gate]]
    if promising:
        return Prospect(layer, promising)
    cost = min(offer.lowest for offer in offers)
    return Skipped(layer.name, f"too small to gain: at the lowest rank a chain costs {cost:.2f} of the layer")


@lru_cache(maxsize=256)  # layers of equal shape share them: there may be thousands for Tucker-2
def aligned_ranks(max_rank: Rank, align: int) -> tuple[Rank, ...]:
    """Every rank whose entries are multiples of `align` or full.

    >>> aligned_ranks((27,), 8)
    ((8,), (16,), (24,), (27,))
    """
    axes = [[*range(align, full, align), full] for full in max_rank]
    return tuple(product(*axes))


def edge_spectra(residuals: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """What each rank entry discards, σ² by σ², with all others at full rank."""
    edges = (
        np.moveaxis(residuals, axis, -1).reshape(-1, size)[-1] for axis, size in enumerate(residuals.shape)
    )
    return tuple(np.maximum(-np.diff(edge), 0.0) for edge in edges)


def _join(reasons: Mapping[str, str]) -> str:
    """One reason if all schemes agree, else each with its scheme."""
    if len(set(reasons.values())) == 1:
        return next(iter(reasons.values()))
    return "no scheme accepts it: " + "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
