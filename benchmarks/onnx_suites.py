"""Outputs of the ONNX package's own test models after a rewrite in which every layer keeps full rank.

Each model goes through `optimize` at energy 1 with gate `none`, once with all schemes in competition and once
with each scheme alone (`light`: only all), and has to give its outputs as before. Suites:
1. `pytorch-converted`, `pytorch-operator`, `simple`: files of the installed package with stored outputs.
2. `light`: real architectures that come without weights. They get seeded random ones (He's scale), so there
   are no stored outputs either: expected is what the original gives in ONNX Runtime on seeded inputs. The
   output is taken before a final Softmax, which hides errors where it is saturated.
3. `node`: test cases of operators that are, or expand to, Conv, ConvTranspose, Gemm or MatMul. Their second
   input, where it is an input of the graph, becomes an initializer. `node-left`: the same for the first input
   of Gemm and MatMul.

Both models run in ONNX Runtime on the CPU, its optimizations off; in ONNX's reference evaluator where ONNX
Runtime does not run the original ("not in ORT"). Errors are relative, ‖y − ŷ‖ / ‖y‖, the largest of all
outputs; y is the stored output, or the original's where that itself is further away than the limit ("stored
differs"). A result that onnx.checker rejects is a failure, unless it rejects the original too.

`python -m benchmarks.onnx_suites [--suite NAME ...] [--align 1]`; exit code 1 on a mismatch or failure.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from math import inf, prod
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, ValueInfoProto, helper, numpy_helper
from onnx.backend.test import loader
from onnx.reference import ReferenceEvaluator

import onnxlr
from benchmarks.results import print_rows, write_results
from onnxlr.model_file import load
from onnxlr.runtime import Session, find_device
from onnxlr.schemes import all_schemes

Feed = dict[str, NDArray[Any]]
Engine = Callable[[ModelProto, Feed], list[Any]]

_COLUMNS = ("models", "not in ORT", "stored differs", "no linear layer", "replaced", "refused")
_FAULTS = ("mismatches", "failures")
_LIMITS = {"float16": 2e-3, "bfloat16": 1.6e-2}  # relative error by an output's type
_LIMIT = 1e-5  # of every other type


@dataclass(frozen=True)
class Case:
    """A model, its inputs, and its stored outputs (None: nothing is stored)."""

    name: str
    model: ModelProto
    feed: Feed
    stored: list[Any] | None


@dataclass
class Tally:
    """One row of the table: a line of text for everything that a column counts, and the largest error."""

    suite: str
    schemes: str
    lines: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    error: float = 0.0

    def row(self) -> dict[str, Any]:
        """The row as it is printed."""
        counts = {name: len(self.lines[name]) for name in (*_COLUMNS, *_FAULTS)}
        return {"suite": self.suite, "schemes": self.schemes, **counts, "largest error": f"{self.error:.1e}"}

    def details(self) -> dict[str, dict[str, int]]:
        """What is behind the numbers: how often each line is there."""
        once = ("not in ORT", "stored differs") if self.schemes == "all" else ()
        shown = [name for name in (*once, "replaced", "refused", *_FAULTS) if self.lines[name]]
        return {name: dict(Counter(self.lines[name]).most_common()) for name in shown}


@click.command()
@click.option("--suite", "names", multiple=True, help="Run only this one; may be repeated.")
@click.option("--align", default=1, show_default=True, help="Ranks are multiples of it, or full.")
def main(names: tuple[str, ...], align: int) -> None:
    """Measure, print a table and what is behind it, write the results file."""
    if unknown := set(names) - set(SUITES):
        raise click.BadParameter(f"no suite {', '.join(sorted(unknown))}; there are {', '.join(SUITES)}")
    tallies = [tally for name in names or SUITES for tally in _run_suite(name, align)]
    print_rows([tally.row() for tally in tallies])
    for tally in tallies:
        for name, lines in tally.details().items():
            print(f"\n{tally.suite}, {tally.schemes}, {name}:")
            print("; ".join(f"{count}x {line}" for line, count in lines.items()))
    write_results("onnx_suites", [{**tally.row(), "details": tally.details()} for tally in tallies])
    sys.exit(any(tally.lines[name] for tally in tallies for name in _FAULTS))


def _run_suite(name: str, align: int) -> Iterable[Tally]:
    tallies = [Tally(name, scheme) for scheme in ("all", *(all_schemes() if name != "light" else ()))]
    for case in SUITES[name]():
        engine, expected, notes = _ask(case)
        for tally in tallies:
            tally.lines["models"].append(case.name)
            for column, line in notes.items():
                tally.lines[column].append(line)
            try:
                _judge(case, engine, expected, align, tally)
            except Exception as error:  # whatever it is, it is what this program looks for
                tally.lines["failures"].append(f"{case.name}: {type(error).__name__}: {_one_line(error)}")
    return tallies


def _ask(case: Case) -> tuple[Engine | None, list[Any], dict[str, str]]:
    """What can run the model, the outputs to expect, lines for columns."""
    notes, problem = {}, ""
    for engine in (_in_ort, _in_reference):
        try:
            original = engine(case.model, case.feed)
        except Exception as error:  # of either engine, of any kind: it cannot run this model
            problem += f"{_one_line(error).split('[ONNXRuntimeError] : ')[-1][-160:]}: "
            continue
        if problem:
            notes["not in ORT"] = f"{problem}compared in the reference evaluator"
        expected = original if case.stored is None else case.stored
        if excess := _excess(original, expected):
            notes["stored differs"] = f"{case.name}: {excess}"
        return engine, original if excess else expected, notes
    return None, [], {"not in ORT": f"{problem}not compared"}


def _in_ort(model: ModelProto, feed: Feed) -> list[Any]:
    return Session(load(model), find_device("cpu"), threads=1, optimize=False).run(feed)


def _in_reference(model: ModelProto, feed: Feed) -> list[Any]:
    with np.errstate(all="ignore"):  # it lets numpy warn of NaNs that are meant
        return list(ReferenceEvaluator(model).run(None, feed))


def _judge(case: Case, engine: Engine | None, expected: list[Any], align: int, tally: Tally) -> None:
    """Optimize, count, compare."""
    schemes = () if tally.schemes == "all" else (tally.schemes,)
    result = onnxlr.optimize(
        case.model, energy=1.0, schemes=schemes, gate="none", align=align, checks=None, workers=1
    )
    layers, skipped = result.plan.layers, result.plan.skipped
    tally.lines["replaced"] += [f"{layer.op_type} by {layer.scheme}" for layer in layers]
    reasons = [re.split(r": | \(", item.reason)[0] for item in skipped]
    tally.lines["refused"] += ["a reason a scheme" if name in all_schemes() else name for name in reasons]
    tally.lines["no linear layer"] += [] if layers or skipped else [case.name]
    if (problem := _rejected(result.model)) and not _rejected(case.model):
        tally.lines["failures"].append(f"{case.name}: onnx.checker rejects the result: {problem}")
    if engine is not None:
        actual = engine(result.model, case.feed)
        if excess := _excess(actual, expected):
            tally.lines["mismatches"].append(f"{case.name}: {excess}")
        elif layers:
            tally.error = max(tally.error, *map(_error, actual, expected))


def _rejected(model: ModelProto) -> str:
    """What onnx.checker says against a model."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # the checker and shape inference raise several kinds
        return _one_line(error)
    return ""


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _excess(actual: Sequence[Any], expected: Sequence[Any]) -> str:
    """The outputs that are not within their limits, NaN included."""
    limits = [_LIMITS.get(array.dtype.name, _LIMIT) for array in expected]
    errors = [_error(y, x) for y, x in zip(actual, expected, strict=True)]
    found = enumerate(zip(errors, limits, strict=True))
    return ", ".join(f"error {error:.2g} of output {i}" for i, (error, limit) in found if not error <= limit)


def _error(actual: Any, expected: Any) -> float:
    """‖x − y‖ / ‖x‖; infinite for unequal shapes or strings; equal NaNs and infinities do not differ."""
    y, x = np.asarray(actual), np.asarray(expected)
    if y.shape != x.shape or x.dtype.kind in "SUO":
        return 0.0 if np.array_equal(y, x) else inf
    y, x = y.astype(np.float64), x.astype(np.float64)
    scale = np.max(np.abs(x), where=np.isfinite(x), initial=0.0) or 1.0  # squares could overflow
    apart = ~((x == y) | (np.isnan(x) & np.isnan(y)))
    difference = np.linalg.norm(x[apart] / scale - y[apart] / scale)
    return float(difference / (np.linalg.norm(x[np.isfinite(x)] / scale) or 1.0))


def _stored(suite: str) -> Iterator[Case]:
    for path in sorted(Path(loader.DATA_DIR, suite).glob("*/model.onnx")):
        model = onnx.load(path)
        for folder in sorted(path.parent.glob("test_data_set_*")):
            feed = _read(folder, "input", _true_inputs(model))
            outputs = _read(folder, "output", model.graph.output)
            yield Case(path.parent.name, model, feed, list(outputs.values()))


def _true_inputs(model: ModelProto) -> list[ValueInfoProto]:
    """Inputs that are no initializers (IR 3)."""
    stored = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in stored]


def _read(folder: Path, kind: str, values: Iterable[ValueInfoProto]) -> Feed:
    tensors = {value.name: onnx.load_tensor(folder / f"{kind}_{i}.pb") for i, value in enumerate(values)}
    return {name: numpy_helper.to_array(tensor) for name, tensor in tensors.items()}


def _light() -> Iterator[Case]:
    for path in sorted(Path(loader.DATA_DIR, "light").glob("*.onnx")):
        rng, model = np.random.default_rng(0), onnx.load(path)
        _give_weights(model, rng)
        shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in _true_inputs(model)}
        feed: Feed = {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
        yield Case(path.stem, model, feed, None)


def _give_weights(model: ModelProto, rng: np.random.Generator) -> None:
    """Put initializers, inputs as well (IR 3), in place of every ConstantOfShape; end before a Softmax."""
    graph = model.graph
    sizes = {tensor.name: tensor for tensor in graph.initializer}
    for node in [node for node in graph.node if node.op_type == "ConstantOfShape"]:
        (name,), shape = node.output, numpy_helper.to_array(sizes[node.input[0]]).tolist()
        weight = rng.standard_normal(shape, np.float32) * np.float32((2 / prod(shape[1:])) ** 0.5)
        if len(shape) == 1:  # a bias, or of a BatchNormalization, whose variance must be positive
            weight = rng.uniform(0.5, 1.5, shape).astype(np.float32)
        graph.initializer.append(numpy_helper.from_array(weight, name))
        graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        graph.node.remove(node)
    logits = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Softmax"}
    for value in graph.output:
        value.name = logits.get(value.name, value.name)


def _node(index: int, operators: Sequence[str]) -> Iterator[Case]:
    with warnings.catch_warnings(action="ignore"):  # of cases that overflow on purpose
        cases = loader.load_node_model_tests()
    for case in cases:
        linear = [node for node in case.model.graph.node if node.op_type in operators] if case.model else []
        if not linear or case.model is None or case.data_sets is None:
            continue
        ((inputs, outputs),) = case.data_sets
        feed = dict(zip([value.name for value in case.model.graph.input], inputs, strict=True))
        weights = {node.input[index] for node in linear} & set(feed)
        if weights or index:  # without weights `node-left` would repeat `node`
            model = deepcopy(case.model)
            for value in [value for value in model.graph.input if value.name in weights]:
                model.graph.input.remove(value)
                model.graph.initializer.append(numpy_helper.from_array(feed.pop(value.name), value.name))
            yield Case(case.name, model, feed, list(outputs))


SUITES: Mapping[str, Callable[[], Iterator[Case]]] = {
    "pytorch-converted": partial(_stored, "pytorch-converted"),
    "pytorch-operator": partial(_stored, "pytorch-operator"),
    "simple": partial(_stored, "simple"),
    "light": _light,
    "node": partial(_node, 1, ("Conv", "ConvTranspose", "Gemm", "MatMul")),
    "node-left": partial(_node, 0, ("Gemm", "MatMul")),
}


if __name__ == "__main__":
    main()
