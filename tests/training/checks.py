"""The same model in torch and in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx import ModelProto

from onnxlr.model_file import Model, load
from onnxlr.runtime import Session, find_device
from onnxlr.training import GraphModule
from tests.builders import Array, relative_error

torch.set_num_threads(1)

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared"

TOLERANCE = 1e-5  # relative error of the outputs
DEEP = 1e-4  # of networks whose random weights let rounding grow


def session(model: Model | ModelProto) -> Session:
    """ONNX Runtime, its optimizations off."""
    return Session(load(model), find_device("cpu"), threads=1, optimize=False)


def random_feed(model: Model | ModelProto, free: int = 2, size: int = 32) -> dict[str, Array]:
    """Seeded numbers for every input; a free first axis has `free`, other free axes `size`."""
    rng, feed = np.random.default_rng(3), {}
    for value in session(model).inputs:
        given = enumerate(value.shape)
        shape = [n if isinstance(n, int) else (size if i else free) for i, n in given]
        feed[value.name] = rng.standard_normal(shape).astype(value.dtype)
    return feed


def evaluate(module: GraphModule, feed: Mapping[str, Any]) -> list[Array]:
    """The outputs in evaluation mode."""
    module.eval()
    with torch.no_grad():
        return [np.asarray(value) for value in module(feed).values()]


def largest_error(module: GraphModule, model: Model | ModelProto, feed: Mapping[str, Array]) -> float:
    """Of all outputs, torch against ONNX Runtime."""
    pairs = zip(session(model).run(feed), evaluate(module, feed), strict=True)
    return max(relative_error(expected, actual) for expected, actual in pairs)


def train_step(module: GraphModule, feed: Mapping[str, Any], rate: float = 1e-3) -> None:
    """One step of SGD on the mean square of the outputs, in training mode."""
    module.train()
    optimizer = torch.optim.SGD(module.parameters(), rate)
    loss = sum(value.square().mean() for value in module(feed).values())
    loss.backward()
    assert all(parameter.grad is not None for parameter in module.parameters())
    optimizer.step()
    module.zero_grad()
