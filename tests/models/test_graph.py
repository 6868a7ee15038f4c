"""Each layer's numpy probe computes what ONNX Runtime computes."""

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from models.graph import Net, Value

Layer = Callable[[Net, Value], Value]

LAYERS: dict[str, Layer] = {
    "conv": lambda net, x: net.conv(x, "y", 5, 3),
    "conv, stride and bias": lambda net, x: net.conv(x, "y", 5, 5, stride=2, bias=True),
    "conv, no padding": lambda net, x: net.conv(x, "y", 5, 7, stride=3, pad=0),
    "conv 1x1": lambda net, x: net.conv(x, "y", 5, 1, stride=2),
    "conv, depthwise": lambda net, x: net.conv(x, "y", 4, 3, group=4),
    "conv, depthwise with stride": lambda net, x: net.conv(x, "y", 4, 3, stride=2, group=4),
    "bn": lambda net, x: net.bn(net.conv(x, "y", 5, 3), "z", gamma=0.5, epsilon=1e-3),
    "relu": lambda net, x: net.relu(x, "y"),
    "relu6": lambda net, x: net.relu6(net.conv(x, "y", 5, 3, bias=True, spread=9.0), "z"),
    "add": lambda net, x: net.add(x, net.relu(x, "y"), "z"),
    "concat": lambda net, x: net.concat([x, net.conv(x, "y", 2, 1)], "z"),
    "max_pool": lambda net, x: net.max_pool(x, "y", 3, 2),
    "max_pool, padded": lambda net, x: net.max_pool(x, "y", 3, 1, pad=1),
    "max_pool, ceil": lambda net, x: net.max_pool(x, "y", 2, 2, ceil=True),
    "max_pool, ceil, overlapping": lambda net, x: net.max_pool(x, "y", 3, 2, ceil=True),
    "avg_pool": lambda net, x: net.avg_pool(x, "y", 3, 2, pad=1),
    "mean": lambda net, x: net.mean(x, "y"),
    "subsample_and_pad": lambda net, x: net.subsample_and_pad(x, "y", 10),
}


@pytest.mark.parametrize("size", [(13, 13), (14, 15), (16, 12)])
@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS.keys())
def test_layer(layer: Layer, size: tuple[int, int]) -> None:
    net = Net("one layer", (4, *size), seed=0, probes=3)
    matches(net, net.flatten(layer(net, net.input), "flatten", last=True))


@pytest.mark.parametrize("window", [{"pad": 1}, {"stride": 3}])
def test_ceil_is_refused_where_a_window_can_lie_outside(window: dict[str, int]) -> None:
    net = Net("pool", (4, 5, 6), seed=0, probes=1)
    with pytest.raises(ValueError, match="ceil needs pad 0 and stride <= kernel"):
        net.max_pool(net.input, "y", 2, ceil=True, **{"stride": 2} | window)


@pytest.mark.parametrize("hidden", [False, True])
def test_gemm(hidden: bool) -> None:
    net = Net("gemm", (4, 5, 6), seed=0, probes=3)
    x = net.flatten(net.input, "flatten")
    matches(net, net.gemm(net.gemm(x, "hidden", 20) if hidden else x, "fc", 7, last=True))


def matches(net: Net, logits: Value) -> None:
    model = net.model(logits)
    onnx.checker.check_model(model, full_check=True)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    result = session.run(["logits"], {"input": net.input.probe})[0]
    assert result.shape == logits.probe.shape
    np.testing.assert_allclose(result, logits.probe, atol=2e-5 * np.abs(result).max())
