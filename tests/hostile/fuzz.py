"""Coverage-guided fuzzing of what reads files: models (`load` and the passes) and plans.

    python -m tests.hostile.fuzz model|plan [SECONDS] [FOLDER]

Needs atheris. Any error but an `OnnxlrError` is a crash: its input is kept in the folder, and the exit code
is not 0. The last line tells how many inputs were tried.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["onnxlr", "passes"]):
    import onnxlr
    from onnxlr.plan import Plan

from tests.builders import conv_bn_model, conv_model, gemm_model, left_gemm_model, weight
from tests.hostile.cases import good_model
from tests.hostile.mutation import mutate_model

__all__ = ["TARGETS"]


def optimize_model(folder: Path, data: bytes) -> None:
    """A model from bytes, prepared, analysed, planned and rewritten, but not run."""
    path = folder / "m.onnx"
    path.write_bytes(data)
    try:
        onnxlr.optimize(path, energy=0.5, align=1, gate="none", workers=1, checks=None)
    except onnxlr.OnnxlrError:
        return


def read_plan(folder: Path, data: bytes) -> None:
    """A plan from bytes, and the plan that it is written as."""
    path = folder / "p.json"
    path.write_bytes(data)
    try:
        plan = onnxlr.read_plan(path)
    except onnxlr.OnnxlrError:
        return
    again = Plan.from_dict(json.loads(json.dumps(plan.to_dict())))
    assert json.dumps(again.to_dict()) == json.dumps(plan.to_dict())


def seeds(target: str) -> list[bytes]:
    """Good inputs to start from: small ones, so that most of what changes is structure."""
    if target == "model":
        small = weight(4, 4, 1, 1)
        started = [conv_bn_model(small), conv_model(small), gemm_model(weight(4, 4), weight(4))]
        return [model.SerializeToString() for model in (*started, left_gemm_model(weight(4, 4)))]
    model = good_model()
    plan = onnxlr.plan(model, energy=0.5, align=4, gate="none")
    return [json.dumps(plan.to_dict()).encode()]


def change_model(data: bytes, max_size: int, seed: int) -> bytes:
    """As a model, mostly; some times, and where it is none, as bytes."""
    if seed % 4:
        with contextlib.suppress(ValueError):
            return mutate_model(data, seed)
    return bytes(atheris.Mutate(data, max_size))


TARGETS: dict[str, Callable[[Path, bytes], None]] = {"model": optimize_model, "plan": read_plan}


def main() -> None:
    """Fuzz one target for so many seconds."""
    logging.disable()  # sizes that are unknown are no news here
    target, *rest = sys.argv[1:]
    seconds = int(rest[0]) if rest else 60
    folder = Path(rest[1]) if len(rest) > 1 else Path(tempfile.mkdtemp(prefix="onnxlr-fuzz-"))
    corpus, scratch = folder / "corpus", folder / "scratch"
    for made in (corpus, scratch):
        made.mkdir(parents=True, exist_ok=True)
    for i, content in enumerate(seeds(target)):
        (corpus / f"seed{i}").write_bytes(content)
    options = [
        f"-max_total_time={seconds}",
        "-max_len=200000",
        "-timeout=60",
        "-rss_limit_mb=6000",
        f"-artifact_prefix={folder}/",
    ]
    change = {"custom_mutator": change_model} if target == "model" else {}
    atheris.Setup([sys.argv[0], *options, str(corpus)], partial(TARGETS[target], scratch), **change)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
