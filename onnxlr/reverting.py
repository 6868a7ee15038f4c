"""A result that is not faster -> fewer replacements, or the original.

1. A result that is faster beyond noise stays as it is. Where it is so by less than a tenth it is timed once
   more and has to be so again: sessions of one model differ by where their memory lies.
2. Of any other, replacements are reverted whose chain takes at least as long in place as its layer did; where
   there is none, the half of them that saves least. What cannot be timed in place counts as saving least, in
   the order of the MACs saved.
3. The rest is applied and checked again. After four such rounds, all is reverted.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from onnxlr.checking import Reference
from onnxlr.job import Job
from onnxlr.layer import Skipped
from onnxlr.plan import PlannedLayer
from onnxlr.report.schema import LayerTime
from onnxlr.searching import Trial

__all__ = ["describe_times", "keep_faster", "time_layers"]

_ROUNDS = 4
_CLOSE = 1.1
"""Speed-up below which a result is timed twice."""

_KEPT = "the result is not faster than the original on this machine; it was kept, as size was asked for"


def keep_faster(job: Job, trial: Trial, reference: Reference, sized: bool = False) -> Trial:
    """A trial that is faster than the original, with a note on what was reverted; else one without layers.

    Args:
        job: the model.
        trial: checked, with its latency; without one it stays as it is.
        reference: the original, with data.
        sized: whether size was asked for: then nothing is reverted, and only a note says what is slow.

    Raises:
        ModelError: a model cannot be run.
    """
    if sized:
        return replace(trial, notes=(*trial.notes, *([_KEPT] if _is_slow(trial) else [])))
    asked = len(trial.plan.layers)
    for left in reversed(range(_ROUNDS)):
        trial = _confirmed(trial, reference)
        if not _is_slow(trial):  # case 1
            break
        times = time_layers(job, trial, reference)
        doomed = _least_valuable(trial.plan.layers, times) if left else {x.name for x in trial.plan.layers}
        trial = _without(job, trial, reference, doomed, times)
    kept = len(trial.plan.layers)
    return replace(trial, notes=(*trial.notes, *_describe_reverted(asked, kept)))


def _confirmed(trial: Trial, reference: Reference) -> Trial:
    """The trial, timed again if it was faster by little."""
    latency = trial.checked.latency
    if latency is None or latency.verdict != "faster" or latency.interval[0] >= _CLOSE:
        return trial
    return replace(trial, checked=reference.check(trial.model))


def _is_slow(trial: Trial) -> bool:
    """Whether something was replaced, timed, and not found to be faster."""
    latency = trial.checked.latency
    return bool(trial.plan.layers) and latency is not None and latency.verdict != "faster"


def time_layers(job: Job, trial: Trial, reference: Reference) -> tuple[LayerTime, ...]:
    """Time the layers that were replaced, in the prepared model, and the chains in their place.

    What cannot be told apart in ONNX Runtime's profile of both models is left out.

    Raises:
        ModelError: a model cannot be run.
    """
    chains = job.chains(trial.plan)
    before = reference.time_layers(job.prepared, {key: 1 for key, _ in chains.values()})
    after = reference.time_layers(trial.model, dict(chains.values()))
    return tuple(
        LayerTime(name, before[key] * 1e3, after[key] * 1e3)
        for name, (key, _) in chains.items()
        if key in before and key in after
    )


def describe_times(layers: Sequence[PlannedLayer], times: Sequence[LayerTime]) -> Iterator[str]:
    """What to tell of replaced layers and the times of those that could be timed."""
    for entry in times:
        if entry.after >= entry.before:
            yield f"'{entry.name}' became slower: {_took(entry)}"
    timed = {entry.name for entry in times}
    lost = [layer.name for layer in layers if layer.name not in timed]
    if lost:
        yield f"cannot be timed in place: {', '.join(lost)}"


def _least_valuable(layers: Sequence[PlannedLayer], times: Sequence[LayerTime]) -> set[str]:  # case 2
    """Names of the replacements to revert first; at least one."""
    slower = {entry.name for entry in times if entry.after >= entry.before}
    if slower:
        return slower
    saved = {entry.name: entry.before - entry.after for entry in times}
    ranked = sorted(
        layers, key=lambda layer: (layer.name in saved, saved.get(layer.name, _saved_macs(layer)))
    )
    return {layer.name for layer in ranked[: math.ceil(len(layers) / 2)]}


def _saved_macs(layer: PlannedLayer) -> int:
    return (layer.macs.before or 0) - (layer.macs.after or 0)


def _without(
    job: Job, trial: Trial, reference: Reference, doomed: Collection[str], times: Sequence[LayerTime]
) -> Trial:
    """The trial of a plan that lacks some layers."""
    timed = {entry.name: entry for entry in times}
    reverted = (Skipped(layer.name, _reason(timed.get(layer.name))) for layer in trial.plan.layers)
    plan = replace(
        trial.plan,
        layers=tuple(layer for layer in trial.plan.layers if layer.name not in doomed),
        skipped=(*trial.plan.skipped, *(item for item in reverted if item.name in doomed)),
    )
    model = job.apply(plan)
    return replace(trial, plan=plan, model=model, checked=reference.check(model))


def _reason(time: LayerTime | None) -> str:
    if time is None:
        return "reverted, not shown to be faster here: cannot be timed in place"
    why = "not faster here" if time.after >= time.before else "saves too little time here"
    return f"reverted, {why}: {_took(time)}"


def _took(time: LayerTime) -> str:
    return f"its chain takes {time.after:.3g} ms, the layer took {time.before:.3g} ms"


def _describe_reverted(asked: int, kept: int) -> Iterator[str]:
    if not kept and asked:
        yield (
            "low rank does not pay for this model on this machine: no selection of its replacements was"
            " faster, so the original is kept (--keep-slower keeps the replacements)"
        )
    elif kept < asked:
        yield (
            f"{asked - kept} of {asked} replacements were reverted, as the model with them was not faster on"
            " this machine (--keep-slower keeps them)"
        )
