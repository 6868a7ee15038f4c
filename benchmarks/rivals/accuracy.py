"""ResNet-20 and -56 for CIFAR-10 by every tool, at 0.7, 0.5 and 0.35 of their Conv MACs.

The networks are pretrained; all tools calibrate on the same 1,024 training images, and what asks for labels
gets those of the first 512. Nothing is trained. Tools that have a ratio are brought as near to a target as it
can be, from either side; onnxlr and BALF's method stay below. Two tables:

* accuracy: on the first 1,000 test images. Seconds are of the compression alone;
* latency: of the same files, each in one run with the original, one image, one thread.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.accuracy_data import INPUT, Network, load_network
from benchmarks.accuracy_measures import run
from benchmarks.rivals.asking import METHODS, Asker, Method
from benchmarks.rivals.measuring import Row, Yardstick, prepared, rounded, time_all
from benchmarks.rivals.protocol import Answer, Outcome, Request

__all__ = ["accuracy_rows"]

NETWORKS = ("resnet20", "resnet56")

TARGETS = (0.7, 0.5, 0.35)

LABELLED = 512

AT_FULL_RANK = {("fasterai", "spatial"), ("fasterai", "cp")}
"""What is no approximation of a layer at any rank: it is held against it at full rank instead."""

ELSEWHERE = {"given"}

BEFORE = ("model", "tool", "method", "version", "target", "knob", "Conv MACs %", "params %")
AFTER = ("top-1", "top-1 lost", "agreement", "rel. L2", "seconds", "CPU s", "failure")

TIMING_SECONDS = 40.0


def accuracy_rows(asker: Asker, data: Path, scratch: Path, tools: tuple[str, ...]) -> Iterator[Row]:
    """Rows of both tables.

    Args:
        asker: asks the tools.
        data: folder of networks and images.
        scratch: a temporary folder.
        tools: names of those to ask.
    """
    for name in NETWORKS:
        network = load_network(f"cifar10_{name}", data)
        images = prepared(network)
        yardstick = Yardstick(network.path, images, network.test.labels)
        request = _request(name, network, scratch / name)
        yield _row({"model": name, "tool": "original", **yardstick.original()})
        files: dict[tuple[str, str, float | str], Path] = {}
        for method in METHODS:
            if method.tool in tools and method.name not in ELSEWHERE:
                answer = _ask(asker, method, request)
                for outcome in answer.outcomes:
                    row = _measured(method, answer, outcome, yardstick)
                    yield _row({"model": name, **row})
                    if not row.get("failure"):
                        files[method.tool, method.label, row["target"]] = Path(outcome.file)
        for key, times in time_all(network.path, files, images[:1], TIMING_SECONDS):
            found = dict(zip(("tool", "method", "target"), key, strict=True))
            yield {"table": "latency", "model": name, **found, **times}


def _ask(asker: Asker, method: Method, request: Request) -> Answer:
    print(f"{request.network}: {method.tool}, {method.label}", file=sys.stderr, flush=True)
    wanted = replace(request, method=method.name, folder=f"{request.folder}/{method.tool}_{method.name}")
    if (method.tool, method.name) in AT_FULL_RANK:
        wanted = replace(wanted, targets=(1.0,), is_knob=True)
    return asker.ask(method, wanted)


def _measured(method: Method, answer: Answer, outcome: Outcome, yardstick: Yardstick) -> Row:
    found: Row = {"failure": outcome.failure}
    if outcome.file:
        try:
            found = yardstick.measure(Path(outcome.file), outcome.kept)
        except Exception as error:  # a file that cannot be run is a result
            found = {"failure": f"{type(error).__name__}: {error}"}
    at_full_rank = (method.tool, method.name) in AT_FULL_RANK
    return {
        "tool": method.tool,
        "method": method.label,
        "version": answer.version,
        "target": "full rank" if at_full_rank else outcome.target,
        "knob": rounded(outcome.knob, 4),
        **found,
        "seconds": rounded(outcome.seconds, 2),
        "CPU s": rounded(outcome.cpu_seconds, 2),
    }


def _row(found: Row) -> Row:
    return {"table": "accuracy", **{column: found.get(column, "") for column in (*BEFORE, *AFTER)}}


def _request(name: str, network: Network, folder: Path) -> Request:
    """What all tools are told, with its files: the same images for all, those with labels among them."""
    folder.mkdir(parents=True, exist_ok=True)
    calibration, labelled, probe = (folder / f"{part}.npz" for part in ("calibration", "labelled", "probe"))
    network.write_calibration(calibration)
    with np.load(calibration) as arrays:
        inputs = arrays[INPUT]
    np.savez(labelled, input=inputs[:LABELLED], labels=network.calibration.labels[:LABELLED])
    few = replace(network, test=network.test.take(np.arange(2)))
    np.savez(probe, input=prepared(few), expected=run(network.path, few))
    return Request(
        name,
        str(network.path.resolve()),
        "",
        TARGETS,
        str(folder),
        probe=str(probe),
        calibration=str(calibration),
        labelled=str(labelled),
    )
