"""Time and memory to optimize a model that is larger than protobuf's limit: 2.5 GB, 200 Convs, external data.

The model is made in a temporary folder (which takes three times its size), layer by layer. Every measurement
is a new process that starts with the model's files out of the system's cache:

* reading every byte and writing it to another file;
* loading and hashing, as a part of the next one;
* `onnxlr.optimize` without checks, and saving.

"factorizing" is what optimizing takes without loading and hashing. "ratio" is all of optimizing and saving by
reading, writing and factorizing: 1 means that nothing is read, written or computed in vain.
`python -m benchmarks.large_model [--gigabytes 2.5] [--layers 200] [--energy 0.9]`
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
from onnx import TensorProto, helper

import onnxlr
from benchmarks.results import print_rows, write_results
from models.weights import PLAIN, Array, decaying_weight
from onnxlr.external_data import append, refer
from onnxlr.model_file import load, model_hash
from onnxlr.parallel import available_cores

_BLOCK = 2**24  # bytes read at a time
_BASES = 4  # weights made from scratch; the others are these with their channels in another order


@click.command()
@click.option("--gigabytes", default=2.5, show_default=True, help="Size of the model.")
@click.option("--layers", default=200, show_default=True, help="3x3 Convs in a chain.")
@click.option("--energy", default=0.9, show_default=True)
@click.option("--scheme", "schemes", multiple=True, help="Schemes that compete; all by default.")
def main(gigabytes: float, layers: int, energy: float, schemes: tuple[str, ...]) -> None:
    """Measure, print a table, write the results file."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = _measure(folder, "build", gigabytes, layers)
        copied = _measure(folder, "copy_files")
        hashed = _measure(folder, "load_and_hash")
        optimized = _measure(folder, "optimize", energy, *schemes)
    io, factorizing = copied["seconds"], optimized["optimizing"] - hashed["seconds"]
    total = optimized["optimizing"] + optimized["saving"]
    row = {
        "GB": round(made["bytes"] / 1e9, 2),
        "layers": layers,
        "energy": energy,
        "cores": available_cores(),
        "factorized": optimized["layers"],
        "GB after": round(optimized["bytes"] / 1e9, 2),
        "read + write s": round(io, 1),
        "load + hash s": round(hashed["seconds"], 1),
        "factorizing s": round(factorizing, 1),
        "saving s": round(optimized["saving"], 1),
        "total s": round(total, 1),
        "ratio": round(total / (io + factorizing), 2),
        "peak MB": optimized["peak_mb"],
    }
    print_rows([row])
    write_results("large_model", [row])


def _measure(folder: Path, name: str, *arguments: object) -> dict[str, Any]:
    """Call one of the functions below in a process of its own."""
    for file in folder.iterdir():
        _forget(file)
    program = f"import sys, benchmarks.large_model as b; b.run(b.{name}, *sys.argv[1:])"
    command = [sys.executable, "-c", program, str(folder), *map(str, arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603 - our own
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured


def _forget(file: Path) -> None:
    """Drop a file from the system's cache."""
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def run(function: Any, folder: str, *arguments: str) -> None:
    """Print what a function returns, with its time and the peak memory of this process."""
    start = time.perf_counter()
    returned = function(Path(folder), *arguments)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({**returned, "seconds": seconds, "peak_mb": round(peak / 1e6)}))


def build(folder: Path, gigabytes: str, layers: str) -> dict[str, Any]:
    """Write `m.onnx` and `m.onnx.data`: 3x3 Convs with Relu in a chain, as wide as their size wants it."""
    count = int(layers)
    width = 8 * round(np.sqrt(float(gigabytes) * 1e9 / count / 36) / 8)
    rng = np.random.default_rng(0)
    bases = [decaying_weight(rng, (width, width, 3, 3), PLAIN) for _ in range(_BASES)]
    nodes, tensors = [], []
    with (folder / "m.onnx.data").open("wb") as data:
        for i in range(count):
            weight = _shuffled(rng, bases[i % _BASES])
            tensor = TensorProto(name=f"w{i}", data_type=TensorProto.FLOAT, dims=weight.shape)
            refer(tensor, "m.onnx.data", *append(data, [weight.tobytes()]))
            tensors.append(tensor)
            nodes.append(helper.make_node("Conv", [f"x{i}", f"w{i}"], [f"c{i}"], f"conv{i}", pads=[1] * 4))
            nodes.append(helper.make_node("Relu", [f"c{i}"], [f"x{i + 1}"], f"relu{i}"))
    ends = [helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, [1, width, 14, 14]) for i in (0, count)]
    graph = helper.make_graph(nodes, "large", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    return {"bytes": _size(folder)}


def _shuffled(rng: np.random.Generator, base: Array) -> Array:
    """Another weight of this spectrum; by 0.4, as measured, values stay in range along the chain."""
    order = [rng.permutation(size) for size in base.shape[:2]]
    scale = np.float32(np.sqrt(0.4 / np.prod(base.shape[1:])))
    shuffled: Array = base[np.ix_(*order)] * scale
    return shuffled


def copy_files(folder: Path) -> dict[str, Any]:
    """Read the model's files and write them to others."""
    for name in ("m.onnx", "m.onnx.data"):
        with (folder / name).open("rb") as source, (folder / f"copy-{name}").open("wb") as target:
            while block := source.read(_BLOCK):
                target.write(block)
            os.fsync(target.fileno())
        (folder / f"copy-{name}").unlink()
    return {}


def load_and_hash(folder: Path) -> dict[str, Any]:
    """What identifies a model in a plan."""
    return {"hash": model_hash(load(folder / "m.onnx"))}


def optimize(folder: Path, energy: str, *schemes: str) -> dict[str, Any]:
    """Optimize and save the model."""
    start = time.perf_counter()
    result = onnxlr.optimize(folder / "m.onnx", energy=float(energy), schemes=schemes, checks=None)
    middle = time.perf_counter()
    (folder / "out").mkdir()
    result.save(folder / "out" / "o.onnx")
    return {
        "optimizing": middle - start,
        "saving": time.perf_counter() - middle,
        "layers": len(result.plan.layers),
        "bytes": _size(folder / "out"),
    }


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


if __name__ == "__main__":
    main()
