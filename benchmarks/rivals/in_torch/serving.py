"""A rival's end of the protocol: find the knob for a target, compress, time it, export the result to ONNX."""

from __future__ import annotations

import logging
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.rivals.in_torch.networks import load_network
from benchmarks.rivals.protocol import Answer, Outcome, Request

__all__ = ["Compress", "Task", "serve"]

HALVINGS = 12


@dataclass(frozen=True, slots=True)
class Task:
    """What a rival works on.

    Attributes:
        network: to compress; left as it is.
        inputs: one image, `(1, 3, H, W)`.
        request: what is asked for.
    """

    network: nn.Module
    inputs: Tensor
    request: Request

    @property
    def layers(self) -> dict[str, nn.Conv2d]:
        """What uniform methods factorize: all k×k Convs but the first, as AIMET's examples do.

        The first has few channels and little of the MACs, and all that follows depends on it: to leave it
        alone is to the rivals' advantage.
        """
        convs = {n: m for n, m in self.network.named_modules() if isinstance(m, nn.Conv2d)}
        return {n: m for n, m in list(convs.items())[1:] if max(m.kernel_size) > 1}


T = TypeVar("T")

Compress = Callable[[Task, float, bool], nn.Module]
"""Makes a compressed copy: of what, the knob in (0, 1], and whether only sizes have to be right."""


def serve(package: str, compress: Compress, prepare: Callable[[Task], None] = lambda _: None) -> None:
    """Do what the request in the first argument asks for; the answer goes beside it.

    Args:
        package: of the tool, for its version.
        compress: does it.
        prepare: what all targets share; its time is added to that of each.
    """
    path = Path(sys.argv[1])
    request = Request.read(path)
    logging.disable(logging.WARNING)
    if request.threads:
        torch.set_num_threads(request.threads)
    network, inputs = load_network(request.network, request.model, request.probe)
    task = Task(network, inputs[:1], request)
    _, seconds, cpu = _timed(lambda: prepare(task))
    outcomes = [_outcome(task, target, compress, (seconds, cpu)) for target in request.targets]
    Answer(f"{package} {version(package)}", tuple(outcomes)).write(path.with_suffix(".answer.json"))


def _outcome(task: Task, target: float, compress: Compress, shared: tuple[float, float]) -> Outcome:
    """What becomes of a target; a failure is told, so that the others are still tried."""
    file = Path(task.request.folder) / f"{task.request.method}_{target:g}.onnx"
    try:
        knob = target if task.request.is_knob else _find_knob(task, target, compress)
        result, seconds, cpu = _timed(lambda: compress(task, knob, False))
        _export(result, task.inputs, file)
    except Exception as error:  # whatever a rival raises is its result
        traceback.print_exc()
        return Outcome(target, failure=f"{type(error).__name__}: {error}".splitlines()[0])
    kept = _conv_macs(result, task.inputs) / _conv_macs(task.network, task.inputs)
    spent = seconds + shared[0], cpu + shared[1]
    return Outcome(target, str(file), knob, kept, *spent, ranks=_ranks(result, task))


def _find_knob(task: Task, target: float, compress: Compress) -> float:
    """The knob that brings the Conv MACs nearest to a target, by bisection: more is kept at a higher one."""
    whole = _conv_macs(task.network, task.inputs)
    low, high, found = 0.0, 1.0, {}
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        found[middle] = _conv_macs(compress(task, middle, True), task.inputs) / whole
        low, high = (middle, high) if found[middle] < target else (low, middle)
    return min(found, key=lambda knob: abs(found[knob] - target))


def _conv_macs(network: nn.Module, inputs: Tensor) -> float:
    """Multiply-accumulates of all convolutions, as modules or as functions; drafts may have no values."""
    inputs = inputs.to(next(network.parameters()).device)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(inputs)
    flops: int = counter.get_flop_counts()["Global"][torch.ops.aten.convolution]
    return flops / 2


def _ranks(result: nn.Module, task: Task) -> dict[str, list[int]]:
    """Channels between the Convs that a layer became, where these are a sequence of modules."""
    modules = dict(result.named_modules())
    chains = {name: modules[name] for name in task.layers if isinstance(modules[name], nn.Sequential)}
    return {name: [part.out_channels for part in list(chain)[:-1]] for name, chain in chains.items()}


def _timed(function: Callable[[], T]) -> tuple[T, float, float]:
    """Its result, and wall and CPU seconds."""
    start, cpu = time.perf_counter(), time.process_time()
    result = function()
    return result, time.perf_counter() - start, time.process_time() - cpu


def _export(network: nn.Module, inputs: Tensor, file: Path) -> None:
    """One image a run: of some rivals' results no ONNX tool infers the shapes for a symbolic batch."""
    names = {"input_names": ["input"], "output_names": ["logits"]}
    options = {"opset_version": 18, "dynamo": True, "external_data": False, "verbose": False}
    torch.onnx.export(network.eval(), (inputs,), file, **names, **options)
