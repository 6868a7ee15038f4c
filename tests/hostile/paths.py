"""Files that are not there, are no files, or cannot be written; and models that do not fit each other."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
from onnx import ModelProto

from tests.builders import conv_model, gemm_model, weight
from tests.hostile.cases import Case, good_model

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
        "another-rank": (gemm_model(weight(16, 32)), ""),
    }
    for name, (model, says) in others.items():
        yield Case(f"validate-{name}", _other(model), ("validate", "m.onnx", "n.onnx"), 3, says)
    compared = ("compare", "m.onnx", "n.onnx")
    yield Case("compare-more-outputs", _other(_with_output(good_model())), compared, 0, "")  # it says so
    yield Case("compare-another-shape", _other(wider), compared, 3, "")
    yield Case("compare-another-rank", _other(gemm_model(weight(16, 32))), compared, 3, "")
    yield Case("compare-one", _nothing, ("compare", "m.onnx"), 2, "two")
    yield Case("compare-nothing", _nothing, ("compare",), 2, "")


def _with_output(model: ModelProto) -> ModelProto:
    value = onnx.helper.make_tensor_value_info("c", onnx.TensorProto.FLOAT, ["N", 32, 7, 5])
    model.graph.output.append(value)
    return model


def _options() -> Iterator[Case]:
    wrong = {
        "energy-zero": ["--energy", "0"],
        "energy-above-1": ["--energy", "1.1"],
        "energy-nan": ["--energy", "nan"],
        "target-zero": ["--target-macs", "0"],
        "target-negative": ["--target-params", "-1"],
        "target-infinite": ["--target-macs", "inf"],
        "two-rules": ["--energy", "0.9", "--evbmf"],
        "align-zero": ["--align", "0"],
        "unknown-scheme": ["--scheme", "svd"],
        "bad-expression": ["--exclude", "("],
        "unknown-input": ["--input-shape", "y:1,2"],
        "shape-text": ["--input-shape", "x:a"],
        "other-axes": ["--input-shape", "x:1,16"],
        "other-channels": ["--input-shape", "x:1,3,9,7"],
        "no-workers": ["--workers", "0"],
        "no-such-option": ["--frobnicate"],
        "limit-negative": ["--max-rel-l2", "-1"],
        "drop-without-labels": ["--max-drop", "0.1"],
        "agreement-above-1": ["--min-agreement", "2"],
        "std-zero": ["--std", "0"],
        "std-nan": ["--std", "nan"],
        "batch-zero": ["--batch", "0"],
        "batch-twice": ["--batch", "1,1"],
        "unknown-device": ["--device", "tpu"],
    }
    for name, options in wrong.items():
        given = [] if "--energy" in options or "--target" in options[0] else ["--energy", "0.5"]
        yield (
            Case(f"option-{name}", _nothing, ("plan", "m.onnx", "-o", "p.json", *given, *options), 2, "")
            if (options[0] not in ("--max-rel-l2", "--max-drop", "--min-agreement", "--batch"))
            else Case(f"option-{name}", _nothing, ("optimize", "m.onnx", *options), 2, "")
        )


PATHS = [*_inputs(), *_outputs(), *_signatures(), *_options()]
