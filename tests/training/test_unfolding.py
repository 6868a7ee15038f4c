"""A folded network gets its BatchNormalizations back, with the statistics of data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra onnxlr[train]")

from onnx import ModelProto

from onnxlr.errors import DataError
from onnxlr.model_file import Model, load
from onnxlr.training import GraphModule, channel_statistics
from passes import prepare, remove_unused
from passes.unfold_batchnorm import find_unnormalized, unfold_batchnorm
from tests.builders import Array, relative_error
from tests.training.checks import ROOT, evaluate, largest_error

FOLDED = [ROOT / "models/exports/trap/torch_ts.onnx", ROOT / "models/exports/trap/torch_dynamo.onnx"]


def batches(count: int = 4) -> list[dict[str, Array]]:
    rng = np.random.default_rng(0)
    return [{"x": rng.standard_normal((16, 3, 32, 32)).astype(np.float32)} for _ in range(count)]


def unfold(model: ModelProto) -> ModelProto:
    names = find_unnormalized(model)
    assert len(names) >= 6
    given = channel_statistics(GraphModule(model), batches(), names)
    return remove_unused(model, unfold_batchnorm(model, given))


@pytest.mark.parametrize("path", FOLDED, ids=lambda path: path.stem)
def test_the_function_stays(path: Path) -> None:
    folded = load(path)
    module = GraphModule(unfold(folded.proto))
    assert largest_error(module, folded, batches(1)[0]) < 1e-5
    assert len(module.statistics) >= 12


def test_training_starts_where_the_folded_network_was() -> None:
    folded = load(FOLDED[0])
    module = GraphModule(unfold(folded.proto))
    feed = {"x": np.concatenate([batch["x"] for batch in batches()])}
    expected = evaluate(GraphModule(folded), feed)[0]
    (y,) = module.train()(feed).values()
    assert relative_error(expected, y.detach().numpy()) < 1e-3
    assert relative_error(expected, evaluate(module, feed)[0]) < 1e-3  # the statistics were updated


def test_prepare_folds_it_again() -> None:
    folded = load(FOLDED[0])
    again = Model(prepare(unfold(folded.proto)))
    assert "BatchNormalization" not in {node.op_type for node in again.proto.graph.node}
    assert largest_error(GraphModule(folded), again, batches(1)[0]) < 1e-5


def test_statistics_are_those_of_numpy_and_the_mode_stays() -> None:
    module = GraphModule(load(FOLDED[0])).train()
    name = find_unnormalized(module.model.proto)[0]
    given = channel_statistics(module, batches(), [name])[name]
    assert module.training
    with torch.no_grad():
        values = np.concatenate([module(feed, [name])[name].numpy() for feed in batches()]).astype(np.float64)
    np.testing.assert_allclose(given.mean, values.mean((0, 2, 3)), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(given.variance, values.var((0, 2, 3)), rtol=1e-6)


def test_no_data() -> None:
    with pytest.raises(DataError, match="no data to measure 'c' on"):
        channel_statistics(GraphModule(load(FOLDED[0])), [], ["c"])
