"""Predicted against measured speed-up of single layers: grouped, depthwise, ConvTranspose, group schemes.

Each row is one layer with random weights, factorized at the largest aligned rank with at most half its MACs
(a depthwise one at rank 1), original and result alternated in ONNX Runtime. Predicted is 1 / cost
(docs/how-it-works.md). `python -m benchmarks.groups [--seconds 2] [--threads 1]`
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click
import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

import onnxlr
from benchmarks.results import print_rows, write_results
from benchmarks.speedup import UniformSelector
from onnxlr.analysis import analyse
from onnxlr.cost import chain_costs
from onnxlr.layer import Layer
from onnxlr.schemes import all_schemes

WINDOW = {"pads": [1, 1, 1, 1]}
UP = {"strides": [2, 2], "pads": [1, 1, 1, 1]}

# operator, stored weight, input size, attributes
LAYERS: dict[str, tuple[str, tuple[int, ...], int, dict[str, Any]]] = {
    "3×3, 256 → 256": ("Conv", (256, 256, 3, 3), 28, WINDOW),
    "3×3, 512 → 256": ("Conv", (256, 512, 3, 3), 14, WINDOW),
    "1×1, 512 → 128": ("Conv", (128, 512, 1, 1), 28, {}),
    "1×1, 1024 → 256": ("Conv", (256, 1024, 1, 1), 14, {}),
    "1×1, 128 → 512": ("Conv", (512, 128, 1, 1), 28, {}),
    "3×3, 2 groups of 128": ("Conv", (256, 128, 3, 3), 28, {"group": 2, **WINDOW}),
    "3×3, 4 groups of 64": ("Conv", (256, 64, 3, 3), 28, {"group": 4, **WINDOW}),
    "3×3, 8 groups of 32": ("Conv", (256, 32, 3, 3), 28, {"group": 8, **WINDOW}),
    "depthwise 3×3": ("Conv", (256, 1, 3, 3), 28, {"group": 256, **WINDOW}),
    "depthwise 5×5": ("Conv", (256, 1, 5, 5), 28, {"group": 256, "pads": [2] * 4}),
    "depthwise 7×7": ("Conv", (256, 1, 7, 7), 28, {"group": 256, "pads": [3] * 4}),
    "transposed 4×4, stride 2": ("ConvTranspose", (128, 128, 4, 4), 14, UP),
    "transposed 2×2, stride 2": ("ConvTranspose", (256, 128, 2, 2), 14, {"strides": [2, 2]}),
}


@click.command()
@click.option("--seconds", default=2.0, show_default=True, help="Timing per row.")
@click.option("--threads", default=1, show_default=True, help="Threads of ONNX Runtime.")
def main(seconds: float, threads: int) -> None:
    """Measure, print a table, write the results file."""
    rows = [row for name in LAYERS for row in _rows(name, seconds, threads)]
    print_rows(rows)
    write_results("groups", rows)


def _model(op: str, shape: tuple[int, ...], size: int, attributes: dict[str, Any]) -> ModelProto:
    weight = 0.05 * np.random.default_rng(0).standard_normal(shape, np.float32)
    channels = shape[0] if op == "ConvTranspose" else shape[1] * attributes.get("group", 1)
    nodes = [
        helper.make_node(op, ["x", "w"], ["v"], "layer", **attributes),
        helper.make_node("Relu", ["v"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, channels, size, size])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * 4)
    graph = helper.make_graph(nodes, "layer", [x], [y], [numpy_helper.from_array(weight, "w")])
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])


def _rows(name: str, seconds: float, threads: int) -> Iterator[dict[str, Any]]:
    model = _model(*LAYERS[name])
    (layer,) = analyse(model)
    if not isinstance(layer, Layer):
        raise TypeError(layer.reason)
    checks = onnxlr.Checks(device="cpu", threads=threads, latency_seconds=seconds)
    for scheme in all_schemes().values():
        # of a depthwise k×k Conv, rank 1 keeps 2 / k
        kept = 2.01 / layer.conv.kernel_shape[0] if layer.conv.is_depthwise else 0.5
        selector = UniformSelector(kept, scheme.name)
        options: dict[str, Any] = {"schemes": [scheme.name], "gate": "none", "checks": checks}
        result = onnxlr.optimize(model, selector=selector, **options)
        latency = result.report.latency
        if not result.plan.layers or latency is None:
            continue
        (planned,) = result.plan.layers
        macs, cost = chain_costs(layer, scheme, [planned.rank])
        yield {
            "layer": name,
            "scheme": scheme.name,
            "rank": "×".join(map(str, planned.rank)),
            "fewer MACs": round(1 / float(macs[0]), 2),
            "predicted": round(1 / float(cost[0]), 2),
            "measured": round(latency.speedup, 2),
            "95 % interval": f"{latency.interval[0]:.2f} to {latency.interval[1]:.2f}",
            "µs before": round(1000 * latency.before),
        }


if __name__ == "__main__":
    main()
