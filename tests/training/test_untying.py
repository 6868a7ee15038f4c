"""Parameters that torch's exporter merged are trained apart."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch", reason="needs the extra onnxlr[train]")

from onnx import ModelProto, helper
from torch import nn

from onnxlr.training import GraphModule
from passes.graph import drop
from tests.training.checks import ROOT, largest_error, random_feed, train_step

PRESERVE = ROOT / "models/exports/trap/torch_ts_preserve.onnx"


def tied() -> ModelProto:
    """The committed export as torch writes it when bn3 is equal to bn2: through Identity nodes."""
    model = onnx.load(PRESERVE)
    parts = ("weight", "bias", "running_mean", "running_var")
    doomed = {f"bn3.{part}" for part in parts}
    drop(model.graph.initializer, [tensor.name in doomed for tensor in model.graph.initializer])
    drop(model.graph.input, [value.name in doomed for value in model.graph.input])
    for part in parts:
        model.graph.node.insert(0, helper.make_node("Identity", [f"bn2.{part}"], [f"bn3.{part}"]))
    return model


def test_equal_layers_of_the_committed_export() -> None:
    model = tied()
    module = GraphModule(model)
    feed = random_feed(model)
    assert largest_error(module, model, feed) < 1e-5
    assert len(dict(module.named_parameters())) == 25
    assert len(module.statistics) == 14
    train_step(module, feed, rate=0.1)
    parameters = {name: value.detach() for name, value in module.named_parameters()}
    assert not torch.equal(parameters["bn2.weight"], parameters["bn3.weight"])
    assert not torch.equal(module.statistics["bn2.running_var"], module.statistics["bn3.running_var"])
    assert largest_error(module, module.write_back(), feed) < 1e-5


def test_a_fresh_network_of_torch() -> None:
    """Scale, bias, mean and variance of all its BatchNormalizations are two tensors in the file."""
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)]
    network = nn.Sequential(*layers).eval()
    file, x = io.BytesIO(), torch.randn(4, 3, 9, 9)
    with warnings.catch_warnings(action="ignore"):  # this exporter is deprecated
        mode = torch.onnx.TrainingMode.PRESERVE
        torch.onnx.export(network, (x,), file, dynamo=False, training=mode, do_constant_folding=False)
    model = onnx.load_from_string(file.getvalue())
    assert sum(node.op_type == "Identity" for node in model.graph.node) == 6
    module = GraphModule(model)
    assert set(dict(module.named_parameters())) == {name for name, _ in network.named_parameters()}
    name = module.input_names[0]
    for one, other in ((module.train(), network.train()), (module.eval(), network.eval())):
        y = one({name: x})[module.output_names[0]]
        torch.testing.assert_close(y, other(x), rtol=1e-3, atol=1e-3)  # the variance: n against n - 1
    for key in ("1.running_mean", "4.running_mean"):
        torch.testing.assert_close(module.statistics[key], network.get_buffer(key))


def test_what_is_not_tied_stays_the_same_file() -> None:
    model = onnx.load(PRESERVE)
    assert GraphModule(model).model.proto is model
    assert Path(PRESERVE).stat().st_size
    assert np.isfinite(model.ByteSize())
