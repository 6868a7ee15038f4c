"""Convs and Gemms of all kinds that networks have, and the time each takes in ONNX Runtime.

Each is timed behind a Conv that gives its input in the layout that ONNX Runtime prefers, as in a network, and
by ONNX Runtime's profile, so that neither Python nor the way in and out counts. A profile does not tell what
kernels of a GPU take: there each runs alone, inputs and outputs lie on the GPU, and TF32 is on, as where
models are timed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

from onnxlr.conv import ConvSpec, Spatial
from onnxlr.cost_model import Timed
from onnxlr.model_file import Model
from onnxlr.parallel import Progress
from onnxlr.providers import GpuOptions
from onnxlr.runtime import Device, Session
from onnxlr.stopwatch import time_runs, typical

__all__ = ["MicroBenchmark", "run_micro_benchmarks", "suite"]

_SEED = 0
_ROUNDS = 3
"""Far apart in time: what disturbs one does not disturb the others."""
_FEWEST_RUNS, _MOST_RUNS = 5, 50
_FEED = 16
"""Channels that the Conv before reads: few, so that it takes little time."""

_CONVERSIONS = ("ReorderInput", "ReorderOutput", "Transpose", "Cast")


@dataclass(frozen=True, slots=True)
class MicroBenchmark:
    """A Conv, and the sizes that it is timed at.

    Attributes:
        conv: a Gemm has no spatial axes.
        spatial: sizes of its input.
    """

    conv: ConvSpec
    spatial: Spatial


def suite() -> list[MicroBenchmark]:
    """Windows, strides, groups and channels that networks have, and some between; the same ones always."""
    rng = np.random.default_rng(_SEED)
    dense = [((3, 3), 16), ((1, 1), 22), ((3, 1), 7), ((1, 3), 7), ((5, 5), 2), ((7, 1), 2), ((1, 7), 2)]
    found = [_dense(rng, kernel) for kernel, count in dense for _ in range(count)]
    found += [_dense(rng, (3, 3), 2) for _ in range(5)] + [_dense(rng, (1, 1), 2) for _ in range(4)]
    found += [_dense(rng, (3, 1), 2) for _ in range(2)] + [_dense(rng, (1, 3), 2) for _ in range(2)]
    found += [_window((32, 3, 3, 3), 56, 2), _window((64, 3, 7, 7), 112, 2), _window((64, 3, 3, 3), 112)]
    found += [_window((96, 30, 3, 3), 28), _window((128, 42, 1, 1), 28), _window((32, 3, 3, 1), 112)]
    for channels, size, kernel, stride in (
        (32, 56, 3, 1), (96, 56, 3, 2), (144, 28, 3, 1), (192, 28, 3, 2), (384, 14, 3, 1), (120, 28, 5, 1),
        (960, 7, 3, 1), (64, 56, 7, 1),
    ):  # fmt: skip
        found.append(_window((channels, 1, kernel, kernel), size, stride, group=channels))
    for group, inputs, outputs, size in (
        (32, 4, 4, 56), (32, 8, 8, 28), (32, 16, 16, 14), (4, 16, 32, 28), (2, 64, 96, 28), (8, 40, 24, 14),
    ):  # fmt: skip
        found.append(_window((outputs * group, inputs, 3, 3), size, group=group))
    found += [
        MicroBenchmark(ConvSpec.create(shape), ())
        for shape in ((1000, 512), (64, 512), (256, 2048), (2048, 256), (4096, 1024), (128, 9216), (10, 64))
    ]
    found += [
        MicroBenchmark(ConvSpec.create(shape, strides=strides, pads=pads, transposed=transposed), spatial)
        for shape, spatial, strides, pads, transposed in (
            ((64, 64, 3), (256,), (1,), (1, 1), False),
            ((128, 48, 5), (128,), (1,), (2, 2), False),
            ((32, 64, 2, 2), (28, 28), (2, 2), (0,) * 4, True),
            ((64, 64, 4, 4), (14, 14), (2, 2), (1,) * 4, True),
            ((32, 32, 3, 3, 3), (8, 14, 14), (1,) * 3, (1,) * 6, False),
            ((64, 32, 1, 3, 3), (8, 14, 14), (1,) * 3, (0, 1, 1) * 2, False),
        )
    ]
    return list(dict.fromkeys(found))


_CHANNELS = (8, 16, 24, 32, 40, 48, 56, 64, 72, 80, 96, 104, 112, 128, 136, 160, 192, 200, 224, 256, 288, 320,
             384, 448, 512, 768, 1024)  # fmt: skip
_SIZES = (7, 14, 28, 56, 112)
_MACS = 2e6, 1.2e8


def _dense(rng: np.random.Generator, kernel: tuple[int, int], stride: int = 1) -> MicroBenchmark:
    """An ungrouped Conv of a size that networks have."""
    while True:
        outputs, inputs = (int(n) for n in rng.choice(_CHANNELS, 2))
        found = _window((outputs, inputs, *kernel), int(rng.choice(_SIZES)), stride)
        if _MACS[0] <= found.conv.macs(found.spatial) <= _MACS[1]:
            return found


def _window(shape: Sequence[int], size: int, stride: int = 1, group: int = 1) -> MicroBenchmark:
    kernel = shape[2:]
    strides = [stride if k > 1 or max(kernel) == 1 else 1 for k in kernel]
    pads = [k // 2 for k in kernel]
    return MicroBenchmark(
        ConvSpec.create(shape, strides=strides, pads=[*pads, *pads], group=group), (size,) * len(kernel)
    )


def run_micro_benchmarks(
    benchmarks: Sequence[MicroBenchmark],
    device: Device,
    threads: int,
    batches: Sequence[int],
    dtype: Any,
    progress: Progress,
    seconds: float = 0.05,
) -> list[Timed]:
    """Time each of them at every batch size, in three rounds, of which the fastest counts.

    Args:
        benchmarks: what to time.
        device: where to run.
        threads: of ONNX Runtime, 0 for its default.
        batches: batch sizes; rows of Gemms.
        dtype: float32 or float16.
        progress: told the number of runs done.
        seconds: for each in a round.

    Raises:
        ModelError: ONNX Runtime fails.
    """
    runs = [(benchmark, batch) for benchmark in benchmarks for batch in batches]
    taken = [math.inf] * len(runs)
    for done in range(_ROUNDS * len(runs)):
        i = done % len(runs)
        benchmark, batch = runs[i]
        on_cpu = device.name == "cpu"
        model = Model(_graph(benchmark, dtype, with_feed=on_cpu), name="micro-benchmark")
        session = Session(model, device, threads, profiled=on_cpu, gpu=GpuOptions(tf32=True))
        channels = _FEED if on_cpu else benchmark.conv.in_channels
        x = np.random.default_rng(_SEED).standard_normal((batch, channels, *benchmark.spatial)).astype(dtype)
        walls = time_runs(session.repeat({"x": x}), seconds, _FEWEST_RUNS, _MOST_RUNS)  # with the warm-up
        found = _kernel_time(session, len(walls)) if on_cpu else typical(walls)
        taken[i] = min(taken[i], found)
        progress("Timing Convs", done + 1, _ROUNDS * len(runs))
    return [Timed(b.conv, b.spatial, batch, t) for (b, batch), t in zip(runs, taken, strict=True)]


def _kernel_time(session: Session, runs: int) -> float:
    """Time from behind the first linear node to the end of the last one; the way out does not count."""
    nodes = session.node_times()
    count = len(nodes) // runs
    totals = []
    for start in range(0, len(nodes), count):
        one = nodes[start : start + count]
        linear = [i for i, node in enumerate(one) if node.op_type not in _CONVERSIONS]
        totals.append(sum(node.seconds for node in one[linear[0] + 1 : linear[-1] + 1]))
    return typical(totals)


def _graph(benchmark: MicroBenchmark, dtype: Any, with_feed: bool) -> ModelProto:
    """The layer, and before it, if asked for, a pointwise one from few channels to its input."""
    conv = benchmark.conv
    layers = [conv]
    if with_feed:
        layers.insert(0, conv.pointwise(conv.in_channels, _FEED))
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    rng = np.random.default_rng(_SEED)
    nodes, weights = [], []
    for i, layer in enumerate(layers):
        name = "x" if i == 0 else f"h{i}"
        output = "y" if layer is conv else f"h{i + 1}"
        w = (rng.standard_normal(layer.weight_shape) * layer.weight_shape[1] ** -0.5).astype(dtype)
        if layer.transposed:
            w = np.ascontiguousarray(w.swapaxes(0, 1))  # ungrouped
        weights.append(numpy_helper.from_array(w if layer.kernel_shape else w.T.copy(), f"w{i}"))
        nodes.append(_node(layer, name, f"w{i}", output))
    axes = [None] * len(benchmark.spatial)
    x = helper.make_tensor_value_info("x", kind, [None, layers[0].in_channels, *axes])
    y = helper.make_tensor_value_info("y", kind, [None, conv.out_channels, *axes])
    graph = helper.make_graph(nodes, "micro-benchmark", [x], [y], weights)
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])


def _node(layer: ConvSpec, x: str, w: str, y: str) -> NodeProto:
    if not layer.kernel_shape:
        return helper.make_node("MatMul", [x, w], [y])
    return helper.make_node(
        "ConvTranspose" if layer.transposed else "Conv",
        [x, w],
        [y],
        kernel_shape=layer.kernel_shape,
        strides=layer.strides,
        pads=layer.pads,
        group=layer.group,
    )
