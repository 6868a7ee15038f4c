"""ResNet-18 and VGG-16 at half their Conv MACs: seconds to compress, and the time of a run of the result.

Weights are those of `models/`, seeded and with decaying spectra: accuracy means nothing here. Three tables:

* beside AIMET: its spatial SVD at one ratio for all layers, and onnxlr's at the ranks that come out of it.
  (The factors differ a little: for onnxlr errors of all output channels count alike.) Their processes take
  turns, with one BLAS thread each, and with what each takes by default; ratios are AIMET / onnxlr in a turn;
* seconds: every tool once, one thread; of those two the medians;
* latency: of all files, all in one run with the original, one image, one thread.

Seconds are those of the compression alone, from a network in memory to a network in memory; those of the
process include its start, imports, reading the network, checking what it computes (rivals), searching for a
ratio (all rivals but AIMET), and writing ONNX.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

from benchmarks.rivals.asking import BALF, METHODS, OURS, Asker, Method
from benchmarks.rivals.measuring import Row, rounded, time_all
from benchmarks.rivals.protocol import Answer
from benchmarks.rivals.same_ranks import write_plan_with
from benchmarks.rivals.subjects import Subject, make_subject

__all__ = ["speed_rows"]

RATIO = 0.5

BY_NAME = {(method.tool, method.name): method for method in METHODS}

AIMET, GIVEN = BY_NAME["aimet-torch", "manual"], BY_NAME[OURS, "given"]

ONCE = (
    *(BY_NAME[OURS, "weights"], BY_NAME[BALF, "pca"]),
    *(BY_NAME["tensorly-torch", name] for name in ("tucker", "cp")),
    *(BY_NAME["fasterai", name] for name in ("svd", "tucker")),
)
"""AIMET's greedy needs labels; what calibration costs onnxlr is in the accuracy part."""

NOT_ON = {("vgg16", "cp")}
"""It is not done in time on the smaller network."""

LIMIT, LIMITS = 300.0, {"cp": 90.0}
"""Seconds for what is asked once, and exceptions by method."""

TIMING_SECONDS = {"resnet18": 30.0, "vgg16": 60.0}

MEASURES = ("seconds", "CPU s", "process s", "process CPU s")

Runs = Mapping[Method, Sequence[Answer]]


def speed_rows(asker: Asker, scratch: Path, tools: Sequence[str], repetitions: int) -> Iterator[Row]:
    """Rows of all three tables.

    Args:
        asker: asks the tools.
        scratch: a temporary folder.
        tools: names of those to ask.
        repetitions: of ResNet-18 beside AIMET; VGG-16 has half as many, and so have the default threads.
    """
    for name, count in (("resnet18", repetitions), ("vgg16", max(1, repetitions // 2))):
        subject = make_subject(name, scratch / name, RATIO)
        files: dict[Method, Path] = {}
        for row, method, file in _seconds(asker, subject, tools, count):
            yield row
            if file and not row["failure"]:
                files[method] = Path(file)
        model, seconds = Path(subject.request.model), TIMING_SECONDS[name]
        for method, times in time_all(model, files, subject.image, seconds):
            yield {"table": "latency", "model": name, "tool": method.tool, "method": method.label, **times}


def _seconds(
    asker: Asker, subject: Subject, tools: Sequence[str], count: int
) -> Iterator[tuple[Row, Method, str]]:
    """Rows of the first two tables; those of the second with the file that is to be timed."""
    if {OURS, AIMET.tool} <= set(tools):
        first = _ask(asker, AIMET, subject, is_knob=True)
        (outcome,) = first.outcomes
        if outcome.failure:
            yield _row(subject, AIMET, [first]), AIMET, ""
        else:
            plan = Path(subject.request.folder) / "plan.json"
            write_plan_with(outcome.ranks, subject.request.model, plan)
            alone = _take_turns(asker, subject, plan, count, threads=1)
            yield _compared(subject, alone, "1"), GIVEN, ""
            for method, answers in alone.items():
                yield _row(subject, method, answers), method, answers[-1].outcomes[0].file
            default = _take_turns(asker, subject, plan, max(1, count // 2), threads=0)
            yield _compared(subject, default, "default"), GIVEN, ""
    for method in ONCE:
        if method.tool in tools and (subject.name, method.name) not in NOT_ON:
            patient = replace(asker, limit=LIMITS.get(method.name, LIMIT))
            answer = _ask(patient, method, subject)
            yield _row(subject, method, [answer]), method, answer.outcomes[0].file


def _take_turns(asker: Asker, subject: Subject, plan: Path, count: int, threads: int) -> Runs:
    """AIMET and onnxlr at the same ranks; who is first changes from turn to turn."""
    changes: Mapping[Method, Row] = {AIMET: {"is_knob": True}, GIVEN: {"plan": str(plan)}}
    runs: dict[Method, list[Answer]] = {AIMET: [], GIVEN: []}
    for i in range(count):
        for method in (AIMET, GIVEN) if i % 2 else (GIVEN, AIMET):
            runs[method].append(_ask(asker, method, subject, threads, **changes[method]))
    return runs


def _ask(asker: Asker, method: Method, subject: Subject, threads: int = 1, **changes: object) -> Answer:
    print(f"{subject.name}: {method.tool}, {method.label}", file=sys.stderr, flush=True)
    return asker.ask(method, subject.asked(method, threads, **changes))


def _compared(subject: Subject, runs: Runs, threads: str) -> Row:
    """The row beside AIMET: medians, and ratios within a turn."""
    row: Row = {
        "table": "beside AIMET",
        "model": subject.name,
        "tool": AIMET.tool,
        "threads": threads,
        "turns": len(runs[GIVEN]),
    }
    theirs, ours = ([_costs(answer) for answer in runs[method]] for method in (AIMET, GIVEN))
    for measure in MEASURES:
        known = [(a[measure], b[measure]) for a, b in zip(theirs, ours, strict=True) if a and b]
        ratios = sorted(a / b for a, b in known)
        row |= {
            f"{measure}, AIMET": _median([a for a, _ in known]),
            f"{measure}, onnxlr": _median([b for _, b in known]),
            f"{measure}, ratio": _median(ratios),
            f"{measure}, ratios": f"{ratios[0]:.2f} to {ratios[-1]:.2f}" if ratios else "",
        }
    failures = {o.failure for answers in runs.values() for answer in answers for o in answer.outcomes}
    return {**row, "failure": "; ".join(sorted(failures - {""}))}


def _row(subject: Subject, method: Method, answers: Sequence[Answer]) -> Row:
    """The row of the table of seconds."""
    (outcome,) = answers[-1].outcomes
    found: Row = {"Conv MACs %": "", "params %": "", "rel. L2": ""}
    failure = outcome.failure
    if outcome.file:
        try:
            found |= subject.yardstick.measure(Path(outcome.file), outcome.kept)
        except Exception as error:  # a file that cannot be run is a result
            failure = f"{type(error).__name__}: {error}"
    costs = [cost for answer in answers if (cost := _costs(answer))]
    return {
        "table": "seconds",
        "model": subject.name,
        "tool": method.tool,
        "method": method.label,
        "version": answers[-1].version,
        **found,
        **{measure: _median([cost[measure] for cost in costs]) for measure in MEASURES},
        "runs": len(answers),
        "failure": failure,
    }


def _costs(answer: Answer) -> Mapping[str, float] | None:
    """Of one run; None after a failure."""
    (outcome,) = answer.outcomes
    if outcome.seconds is None or outcome.cpu_seconds is None:
        return None
    spent = outcome.seconds, outcome.cpu_seconds, answer.process_seconds, answer.process_cpu
    return dict(zip(MEASURES, spent, strict=True))


def _median(values: Sequence[float]) -> float | str:
    return rounded(median(values) if values else None, 2)
