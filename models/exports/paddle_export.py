"""PaddlePaddle through paddle2onnx, with and without the optimization of the result."""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import onnx
import paddle  # type: ignore[import-not-found]
import paddle2onnx  # type: ignore[import-not-found]
from paddle import nn

from models.exports.checkpoint import Checkpoint
from models.exports.networks import EPSILON, IMAGE, Padding, pads, run_network
from models.exports.script import run, verify

__all__ = ["EXPORTS"]

OPSET = 17

_STATISTICS = {"_mean": "running_mean", "_variance": "running_var"}


class _Network(nn.Layer):  # type: ignore[misc]  # paddle is not installed where types are checked
    """`networks.Operations` with paddle layers (N, C, H, W)."""

    def __init__(self, name: str, checkpoint: Checkpoint) -> None:
        super().__init__()
        self._name = name
        self._parameters_by_name = checkpoint.parameters

    def forward(self, x: Any) -> Any:
        return run_network(self._name, self, x)

    def conv(
        self,
        x: Any,
        name: str,
        channels: int,
        kernel: int,
        *,
        stride: int = 1,
        padding: Padding = "same",
        groups: int = 1,
        bias: bool = False,
    ) -> Any:
        begin, end = pads(kernel, stride, padding)
        own = begin if begin == end else 0
        if begin != end:
            x = _pad(x, (0, 0), (begin, end))

        def make() -> Any:
            bias_attr = None if bias else False  # None is a bias with default settings
            return nn.Conv2D(x.shape[1], channels, kernel, stride, own, groups=groups, bias_attr=bias_attr)

        return self._layer(name, make)(x)

    def batch_norm(self, x: Any, name: str) -> Any:
        return self._layer(name, lambda: nn.BatchNorm2D(x.shape[1], epsilon=EPSILON))(x)

    def relu(self, x: Any) -> Any:
        return nn.functional.relu(x)

    def add(self, a: Any, b: Any) -> Any:
        return a + b

    def subsample_and_pad(self, x: Any, extra: int) -> Any:
        return _pad(x[:, :, ::2, ::2], (extra, extra), (0, 0))

    def global_average_pool(self, x: Any) -> Any:
        return paddle.flatten(nn.functional.adaptive_avg_pool2d(x, 1), 1)

    def dense(self, x: Any, name: str, features: int) -> Any:
        return self._layer(name, lambda: nn.Linear(x.shape[1], features))(x)

    def _layer(self, name: str, make: Callable[[], Any]) -> Any:
        key = name.replace(".", "_")
        if key not in self._sub_layers:
            layer = make()
            layer.eval()
            self._load(layer, name)
            self.add_sublayer(key, layer)
        return self._sub_layers[key]

    def _load(self, layer: Any, name: str) -> None:
        for own, tensor in layer.state_dict().items():
            value = self._parameters_by_name[f"{name}.{_STATISTICS.get(own, own)}"]
            is_dense = isinstance(layer, nn.Linear) and own == "weight"  # paddle holds it as (C, features)
            tensor.set_value(value.T if is_dense else value)


def _pad(x: Any, channels: tuple[int, int], pixels: tuple[int, int]) -> Any:
    """Zeros before and after the channels, and before and after the rows and columns.

    All four axes are named: paddle2onnx 2.1.0 pads by uninitialised memory when only the last two are.
    """
    return nn.functional.pad(x, [0, 0, *channels, *pixels, *pixels])


def _paddle(network: str, checkpoint: Checkpoint) -> onnx.ModelProto:
    """The default: constants are folded."""
    return _paddle2onnx(network, checkpoint, "polygraphy")


def _paddle_noopt(network: str, checkpoint: Checkpoint) -> onnx.ModelProto:
    """As paddle2onnx writes it: weights in Constant nodes."""
    return _paddle2onnx(network, checkpoint, "None")


def _paddle2onnx(
    network: str, checkpoint: Checkpoint, optimize_tool: Literal["polygraphy", "None"]
) -> onnx.ModelProto:
    with paddle.utils.unique_name.guard():  # numbers parameters from 0, whatever was exported before
        layer = _Network(network, checkpoint)
        layer.eval()
        verify(layer(paddle.to_tensor(checkpoint.images)).numpy(), checkpoint)
    with tempfile.TemporaryDirectory() as folder:
        saved, exported = f"{folder}/network", Path(folder, "network.onnx")
        paddle.jit.save(layer, saved, [paddle.static.InputSpec([None, *IMAGE], "float32", "x")])
        paddle2onnx.export(
            f"{saved}.json",
            f"{saved}.pdiparams",
            str(exported),
            opset_version=OPSET,
            optimize_tool=optimize_tool,
        )
        return onnx.load(exported)


EXPORTS = {"paddle": _paddle, "paddle_noopt": _paddle_noopt}

if __name__ == "__main__":
    sys.exit(run(EXPORTS))
