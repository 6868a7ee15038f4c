"""Files that are not there, are no files, or cannot be written; and models that do not fit each other."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto

import onnxlr
from tests.builders import conv_model, gemm_model, weight
from tests.hostile.cases import Case, external_model, good_model, in_turn

__all__ = ["PATHS"]


def _nothing(_: Path) -> None:
    pass


def _make(name: str, how: str) -> Callable[[Path], object]:
    """A thing of a name that is no file."""
    return {
        "folder": lambda folder: (folder / name).mkdir(),
        "fifo": lambda folder: os.mkfifo(folder / name),
        "dangling-link": lambda folder: os.symlink("nowhere", folder / name),
        "loop": lambda folder: os.symlink(name, folder / name),
        "link-to-device": lambda folder: os.symlink("/dev/zero", folder / name),
    }[how]


KINDS = ("folder", "fifo", "dangling-link", "loop", "link-to-device")


def _inputs() -> Iterator[Case]:
    for command in ("inspect", "optimize"):
        yield Case(f"{command}-nothing", _nothing, (command, "n.onnx"), 3, "n.onnx: no such file")
        yield Case(f"{command}-device", _nothing, (command, "/dev/null"), 3, "/dev/null: not a regular file")
        for kind in KINDS:
            yield Case(f"{command}-{kind}", _make("n.onnx", kind), (command, "n.onnx"), 3, "n.onnx: no")
    yield Case("model-name-too-long", _nothing, ("inspect", "m" * 5000), 3, "no such file")
    for kind in KINDS:
        yield Case(f"plan-{kind}", _make("p.json", kind), ("apply", "m.onnx", "p.json"), 3, "p.json")
    yield Case("plan-nothing", _nothing, ("apply", "m.onnx", "p.json"), 3, "p.json")
    yield Case("plan-device", _nothing, ("apply", "m.onnx", "/dev/zero"), 3, "/dev/zero")


def _other_name(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "m.onnx").rename(folder / name)


def _outputs() -> Iterator[Case]:
    optimize = ("optimize", "m.onnx", "--scheme", "spatial", "-o")
    missing = "does not exist"
    yield Case("output-in-no-folder", _nothing, (*optimize, "no/o.onnx"), 2, missing)
    yield Case("output-in-a-file", _nothing, (*optimize, "m.onnx/o.onnx"), 2, missing)
    yield Case("output-is-a-folder", _make("o.onnx", "folder"), (*optimize, "o.onnx"), 2, "is a folder")
    yield Case("output-without-a-name", _nothing, (*optimize, ""), 2, "folder")
    yield Case("output-name-too-long", _nothing, (*optimize, "o" * 300), 2, "cannot write there")
    for name in ("full", "null", "stdout"):
        yield Case(f"output-is-dev-{name}", _nothing, (*optimize, f"/dev/{name}"), 2, "not a regular file")
    for kind in ("fifo", "link-to-device"):
        yield Case(f"output-is-{kind}", _make("o.onnx", kind), (*optimize, "o.onnx"), 2, "not a regular file")
    yield Case("output-in-proc", _nothing, (*optimize, "/proc/o.onnx"), 2, "cannot write there")
    report = ("optimize", "m.onnx", "--report")
    yield Case("report-of-unknown-kind", _nothing, (*report, "r.pdf"), 2, "written as .json or .html")
    yield Case("report-in-no-folder", _nothing, (*report, "no/r.json"), 2, missing)
    yield Case("report-is-a-folder", _make("r.json", "folder"), (*report, "r.json"), 2, "is a folder")
    yield Case("plan-in-no-folder", _nothing, ("plan", "m.onnx", "-o", "no/p.json"), 2, missing)
    yield Case("sweep-in-no-folder", _nothing, ("sweep", "m.onnx", "-o", "no/curve"), 2, missing)
    yield Case("sweep-into-a-file", _nothing, ("sweep", "m.onnx", "-o", "m.onnx"), 2, "is a file")
    lost = "is another file of this command"
    yield Case(
        "report-onto-the-model", _other_name("r.json"), ("optimize", "r.json", "--report", "r.json"), 2, lost
    )
    yield Case("report-onto-the-output", _nothing, (*report, "out.json", "-o", "out.json"), 2, lost)
    yield Case("report-twice", _nothing, (*report, "r.json", "--report", "./r.json"), 2, lost)
    yield Case("plan-onto-the-model", _nothing, ("plan", "m.onnx", "-o", "m.onnx"), 2, lost)
    yield Case("output-onto-the-plan", _plan, ("apply", "m.onnx", "p.json", "-o", "p.json"), 2, lost)
    yield Case("curve-nowhere", _nothing, ("optimize", "m.onnx", "--curve", "no"), 3, "cannot be read")


def _other(model: ModelProto) -> Callable[[Path], object]:
    return lambda folder: onnx.save(model, folder / "n.onnx")


def _renamed(what: str) -> ModelProto:
    model = good_model()
    getattr(model.graph, what)[0].name = "other"
    for node in model.graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                if name == {"input": "x", "output": "y"}[what]:
                    names[i] = "other"
    return model


def _signatures() -> Iterator[Case]:
    wider = conv_model(weight(16, 16, 3, 3), size=(9, 7))
    others = {
        "more-outputs": (_with_output(good_model()), "outputs differ"),
        "another-output": (_renamed("output"), "outputs differ"),
        "another-shape": (wider, "y"),
        "another-input": (_renamed("input"), "x"),
        "another-rank": (gemm_model(weight(16, 32)), "n.onnx"),
    }
    for name, (model, says) in others.items():
        yield Case(f"validate-{name}", _other(model), ("validate", "m.onnx", "n.onnx"), 3, says)
    compared = ("compare", "m.onnx", "n.onnx")
    yield Case("compare-more-outputs", _other(_with_output(good_model())), compared, 0, "")  # it says so
    yield Case("compare-another-shape", _other(wider), compared, 3, "has no output that fits 'y'")
    yield Case(
        "compare-another-rank", _other(gemm_model(weight(16, 32))), compared, 3, "has no input that fits 'x'"
    )
    yield Case("compare-one", _nothing, ("compare", "m.onnx"), 2, "two")
    yield Case("compare-nothing", _nothing, ("compare",), 2, "Missing argument")


def _with_output(model: ModelProto) -> ModelProto:
    value = onnx.helper.make_tensor_value_info("c", onnx.TensorProto.FLOAT, ["N", 32, 7, 5])
    model.graph.output.append(value)
    return model


def _forbid(name: str) -> Callable[[Path], None]:
    def forbid(folder: Path) -> None:
        (folder / name).chmod(0)

    return forbid


def _data(folder: Path) -> None:
    np.savez(folder / "d.npz", x=np.zeros((4, 16, 9, 7), np.float32))


def _plan(folder: Path) -> None:
    onnxlr.write_plan(onnxlr.plan(good_model(), energy=0.5, align=4, gate="none"), folder / "p.json")


SWEEP = ("sweep", "m.onnx", "--points", "1", "--align", "1", "--gate", "none", "--latency-seconds", "0")


def _forbidden() -> Iterator[Case]:
    """Files that may not be read, and folders that may not be written to."""
    reading: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
        "model": (_forbid("m.onnx"), ("inspect", "m.onnx")),
        "model-to-optimize": (_forbid("m.onnx"), ("optimize", "m.onnx")),
        "external-data": (in_turn(external_model(), _forbid("m.data")), ("optimize", "m.onnx")),
        "plan": (in_turn(_plan, _forbid("p.json")), ("apply", "m.onnx", "p.json")),
        "inputs": (in_turn(_data, _forbid("d.npz")), ("validate", "m.onnx", "m.onnx", "--inputs", "d.npz")),
        "calibration": (in_turn(_data, _forbid("d.npz")), ("optimize", "m.onnx", "--calibration", "d.npz")),
        "folder-of-data": (
            in_turn(_make("d", "folder"), _forbid("d")),
            ("optimize", "m.onnx", "--calibration", "d"),
        ),
        "curve": (in_turn(_make("cv", "folder"), _forbid("cv")), ("optimize", "m.onnx", "--curve", "cv")),
    }
    for name, (make, command) in reading.items():
        says = "cannot be read" if name == "curve" else "ermission denied"
        yield Case(f"unreadable-{name}", make, command, 3, says, unprivileged=True)
    shut = in_turn(_make("shut", "folder"), lambda folder: (folder / "shut").chmod(0o555))
    writing = {
        "model": ("optimize", "m.onnx", "-o", "shut/o.onnx"),
        "report": ("optimize", "m.onnx", "--report", "shut/r.json"),
        "plan": ("plan", "m.onnx", "--energy", "0.5", "-o", "shut/p.json"),
        "sweep": (*SWEEP, "-o", "shut/curve"),
        "comparison": ("compare", "m.onnx", "m.onnx", "--report", "shut/c.json"),
    }
    for name, command in writing.items():
        yield Case(f"unwritable-{name}", shut, command, 2, "ermission denied", unprivileged=True)


def _full() -> Iterator[Case]:
    """A disk that has no more room."""
    told = "cannot write there"
    writing: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
        "model": (_nothing, ("optimize", "m.onnx")),
        "external-data": (_nothing, ("optimize", "m.onnx", "--external-data", "always")),
        "external-data-of-both": (external_model(), ("optimize", "m.onnx")),
        "report": (_nothing, ("optimize", "m.onnx", "--report", "r.html")),
        "applied": (_plan, ("apply", "m.onnx", "p.json")),
        "plan": (_nothing, ("plan", "m.onnx", "--energy", "0.5", "--align", "4", "-o", "p.json")),
        "sweep": (_nothing, (*SWEEP, "-o", "curve")),
        "comparison": (_nothing, ("compare", "m.onnx", "m.onnx", "--report", "c.html")),
    }
    for name, (make, command) in writing.items():
        yield Case(f"full-disk-{name}", make, command, 2, told, disk=64)
    page = ("optimize", "m.onnx", "--report", "r.html")
    yield Case("full-disk-after-the-model", _nothing, page, 2, f"r.html: {told}", disk=8192)


PATHS = [*_inputs(), *_outputs(), *_forbidden(), *_full(), *_signatures()]
