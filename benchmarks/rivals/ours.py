"""onnxlr's end of the protocol, and that of our build of BALF's method, which is made of onnxlr's parts.

`python -m benchmarks.rivals.ours REQUEST.json`
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnxlr
from benchmarks.accuracy_rivals import output_pca
from benchmarks.rivals.protocol import Answer, Outcome, Request
from onnxlr.model_file import Model, load

__all__: list[str] = []

SAMPLES = 1024
"""To calibrate on, at most."""

LARGE_GEMMS = "^fc"
"""Those of ResNet-18 and VGG-16: no rival touches them."""


def main() -> None:
    """Do what the request in the first argument asks for; the answer goes beside it."""
    path = Path(sys.argv[1])
    request = Request.read(path)
    outcomes = tuple(_outcome(request, target) for target in request.targets)
    Answer(f"onnxlr {version('onnxlr')}", outcomes).write(path.with_suffix(".answer.json"))


def _outcome(request: Request, target: float) -> Outcome:
    """Seconds are those from a network in memory to a network in memory, as the rivals'."""
    model = load(request.model)
    start, cpu = time.perf_counter(), time.process_time()
    try:
        result = _METHODS[request.method](model, request, target)
    except onnxlr.OnnxlrError as error:
        return Outcome(target, failure=f"{type(error).__name__}: {error}")
    spent = time.perf_counter() - start, time.process_time() - cpu
    file = Path(request.folder) / f"{request.method}_{target:g}.onnx"
    result.save(str(file))
    ranks = {layer.name: list(layer.rank) for layer in result.plan.layers}
    return Outcome(target, str(file), None, None, *spent, ranks=ranks)


def _calibrated(model: Model, request: Request, target: float, align: int | None) -> onnxlr.Result:
    inputs = onnxlr.Calibration(request.calibration, SAMPLES, device="cpu", threads=request.threads)
    return _optimized(model, request, {"target_macs": target, "calibration": inputs, "align": align})


def _by_weights(model: Model, request: Request, target: float) -> onnxlr.Result:
    return _optimized(model, request, {"target_macs": target})


def _by_pca(model: Model, request: Request, target: float) -> onnxlr.Result:
    options = output_pca(target, request.calibration, SAMPLES)
    inputs = replace(options["calibration"], threads=request.threads)
    return _optimized(model, request, {**options, "calibration": inputs, "align": 1})


def _given(model: Model, request: Request, _: float) -> onnxlr.Result:
    """The ranks of a plan, factors by the weights."""
    return onnxlr.apply(model, onnxlr.read_plan(request.plan), workers=request.threads or None)


def _optimized(model: Model, request: Request, options: Mapping[str, Any]) -> onnxlr.Result:
    """Without a look at the outcome, as the rivals."""
    shapes = {"input": (1, *_image_shape(request.network))}
    return onnxlr.optimize(
        model,
        checks=None,
        input_shapes=shapes,
        workers=request.threads or None,
        exclude=LARGE_GEMMS,
        **options,
    )


def _image_shape(network: str) -> tuple[int, int, int]:
    size = 32 if network in ("resnet20", "resnet56") else 224
    return 3, size, size


_METHODS: Mapping[str, Callable[[Model, Request, float], onnxlr.Result]] = {
    "calibrated": partial(_calibrated, align=None),
    "calibrated-any-rank": partial(_calibrated, align=1),
    "weights": _by_weights,
    "pca": _by_pca,
    "given": _given,
}

if __name__ == "__main__":
    main()
