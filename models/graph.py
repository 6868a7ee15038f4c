"""`Net`: an ONNX graph that grows layer by layer, with seeded weights fitted to probe images.

Parameters are named as torch names them (conv1.weight, bn1.running_mean), nodes by their layer. Each layer is
also run in numpy on a few random images, so that

- the output of a Conv with a bias is centred for every channel and scaled to mean square 1 (data-dependent
  initialisation: Krähenbühl et al., arXiv:1511.06856; Mishkin and Matas, arXiv:1511.06422), and so are the
  logits, which then depend on the input and not on the bias alone;
- the output of a hidden Gemm is only scaled: centred on so few images, it would explode for others;
- a Conv without a bias is He-scaled and its BatchNormalization holds the mean and variance it really meets.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from models import probe
from models.weights import CLASSIFIER, POINTWISE, RESIDUAL, Array, Decay, decaying_weight, random_images

__all__ = ["Net", "Value"]

IR_VERSION = 8
OPSET = 17
BIAS_SPREAD = 0.2  # standard deviation of the biases where that of the output is 1
LOGIT_SPREAD = 2.5


@dataclass(frozen=True)
class Value:
    """A tensor of the graph and what it holds for the probe images: (N, C, H, W) or (N, C)."""

    name: str
    probe: Array

    @property
    def channels(self) -> int:
        """C."""
        return int(self.probe.shape[1])


class Net:
    """Builds one float32 model: input `input` [batch, C, H, W], output `logits` [batch, classes]."""

    def __init__(
        self,
        name: str,
        shape: tuple[int, int, int],
        *,
        seed: int,
        probes: int,
        decay: Decay = RESIDUAL,
        input_name: str = "input",
    ) -> None:
        """`shape` is (C, H, W), `probes` the number of probe images, `decay` that of the spatial Convs."""
        self._rng = np.random.default_rng(seed)
        self._decay = decay
        self._model = onnx.ModelProto(ir_version=IR_VERSION, producer_name="models")
        self._model.opset_import.append(helper.make_opsetid("", OPSET))
        self._graph = self._model.graph
        self._graph.name = name
        info = helper.make_tensor_value_info(input_name, TensorProto.FLOAT, ["batch", *shape])
        self._graph.input.append(info)
        self.input = Value(input_name, random_images(self._rng, (probes, *shape)))

    def conv(
        self,
        x: Value,
        name: str,
        channels: int,
        kernel: int,
        *,
        stride: int = 1,
        pad: int | None = None,
        group: int = 1,
        bias: bool = False,
        spread: float = 1.0,
    ) -> Value:
        """Conv to `channels`; `pad` defaults to kernel // 2, `group` is 1 or the number of input channels.

        With a bias, `spread` is the standard deviation of the output.
        """
        pad = kernel // 2 if pad is None else pad
        shape = (channels, x.channels // group, kernel, kernel)
        weight = decaying_weight(self._rng, shape, POINTWISE if kernel == 1 else self._decay)
        weight *= np.float32(np.sqrt(2.0 / np.prod(shape[1:])))  # He et al., arXiv:1502.01852
        y = probe.conv(x.probe, weight, stride, pad, group)
        if bias:
            inputs, y = self._fitted(name, weight, y, spread, centre=True)
        else:
            inputs = [self._initializer(f"{name}.weight", weight)]
        window = _window(kernel, stride, pad)
        return self._node("Conv", [x.name, *inputs], name, y, dilations=[1, 1], group=group, **window)

    def gemm(self, x: Value, name: str, features: int, *, last: bool = False) -> Value:
        """Fully connected (N, C) -> (N, features), weight (features, C); the `last` one writes `logits`."""
        weight = decaying_weight(self._rng, (features, x.channels), CLASSIFIER)
        weight *= np.float32(1.0 / np.sqrt(x.channels))
        spread, y_name = (LOGIT_SPREAD, "logits") if last else (1.0, "")
        inputs, y = self._fitted(name, weight, x.probe @ weight.T, spread, centre=last)
        return self._node("Gemm", [x.name, *inputs], name, y, y_name, alpha=1.0, beta=1.0, transB=1)

    def _fitted(
        self, name: str, weight: Array, y: Array, spread: float, *, centre: bool
    ) -> tuple[list[str], Array]:
        """Add a weight and a bias that give the output `y` its spread: their names and the new `y`."""
        mean = probe.moments(y)[0] if centre else np.zeros(y.shape[1])
        centred = y - _channelwise(mean.astype(np.float32), y.ndim)
        scale = np.float32(spread / np.sqrt(np.mean(np.square(centred)) + 1e-12))
        weight *= scale
        offset = (self._rng.normal(0.0, BIAS_SPREAD * spread, len(mean)) - mean * scale).astype(np.float32)
        names = [self._initializer(f"{name}.weight", weight), self._initializer(f"{name}.bias", offset)]
        return names, y * scale + _channelwise(offset, y.ndim)

    def bn(self, x: Value, name: str, *, gamma: float = 1.0, epsilon: float = 1e-5) -> Value:
        """BatchNormalization with the probe's statistics, scale spread around `gamma`, bias around 0."""
        mean, variance = (moment.astype(np.float32) for moment in probe.moments(x.probe))
        scale = (gamma * self._rng.lognormal(0.0, 0.25, x.channels)).astype(np.float32)
        bias = (gamma * self._rng.normal(0.0, 0.25, x.channels)).astype(np.float32)
        named = {"weight": scale, "bias": bias, "running_mean": mean, "running_var": variance}
        inputs = [self._initializer(f"{name}.{key}", value) for key, value in named.items()]
        slope = scale / np.sqrt(variance + np.float32(epsilon))
        y = x.probe * _channelwise(slope, x.probe.ndim) + _channelwise(bias - mean * slope, x.probe.ndim)
        return self._node("BatchNormalization", [x.name, *inputs], name, y, epsilon=epsilon, momentum=0.9)

    def relu(self, x: Value, name: str) -> Value:
        """max(x, 0)."""
        return self._node("Relu", [x.name], name, np.maximum(x.probe, 0))

    def relu6(self, x: Value, name: str) -> Value:
        """Clip to [0, 6]."""
        low = self._initializer(f"{name}.min", np.array(0, np.float32))
        high = self._initializer(f"{name}.max", np.array(6, np.float32))
        return self._node("Clip", [x.name, low, high], name, np.clip(x.probe, 0, 6))

    def add(self, a: Value, b: Value, name: str) -> Value:
        """Sum of two values of one shape."""
        return self._node("Add", [a.name, b.name], name, a.probe + b.probe)

    def concat(self, values: Sequence[Value], name: str) -> Value:
        """Concatenation along the channels."""
        y = np.concatenate([value.probe for value in values], axis=1)
        return self._node("Concat", [value.name for value in values], name, y, axis=1)

    def max_pool(
        self, x: Value, name: str, kernel: int, stride: int, *, pad: int = 0, ceil: bool = False
    ) -> Value:
        """MaxPool with a square window."""
        y = probe.max_pool(x.probe, kernel, stride, pad, ceil=ceil)
        return self._node("MaxPool", [x.name], name, y, ceil_mode=int(ceil), **_window(kernel, stride, pad))

    def avg_pool(self, x: Value, name: str, kernel: int, stride: int, *, pad: int = 0) -> Value:
        """AveragePool that counts the padding, as torch does by default."""
        y = probe.avg_pool(x.probe, kernel, stride, pad)
        window = _window(kernel, stride, pad)
        return self._node("AveragePool", [x.name], name, y, count_include_pad=1, **window)

    def mean(self, x: Value, name: str) -> Value:
        """GlobalAveragePool: (N, C, H, W) -> (N, C, 1, 1)."""
        return self._node("GlobalAveragePool", [x.name], name, x.probe.mean((2, 3), keepdims=True))

    def flatten(self, x: Value, name: str, *, last: bool = False) -> Value:
        """(N, C, H, W) -> (N, C H W); the `last` one writes `logits`."""
        y = x.probe.reshape(len(x.probe), -1)
        return self._node("Flatten", [x.name], name, y, "logits" if last else "", axis=1)

    def subsample_and_pad(self, x: Value, name: str, channels: int) -> Value:
        """Every second pixel, and zero channels on both sides up to `channels` (He et al., option A)."""
        extra = (channels - x.channels) // 2
        bounds = {"starts": [0, 0], "ends": [2**31 - 1] * 2, "axes": [2, 3], "steps": [2, 2]}
        slices = [self._initializer(f"{name}.{key}", np.array(value)) for key, value in bounds.items()]
        half = self._node("Slice", [x.name, *slices], f"{name}.slice", x.probe[:, :, ::2, ::2])
        pads = self._initializer(f"{name}.pads", np.array([0, extra, 0, 0] * 2))
        y = np.pad(half.probe, ((0, 0), (extra, extra), (0, 0), (0, 0)))
        return self._node("Pad", [half.name, pads], f"{name}.pad", y, mode="constant")

    def model(self, output: Value) -> onnx.ModelProto:
        """The finished model; `output` must be the value called `logits`."""
        shape: list[str | int | None] = ["batch", output.channels]
        self._graph.output.append(helper.make_tensor_value_info(output.name, TensorProto.FLOAT, shape))
        return self._model

    def _initializer(self, name: str, value: npt.NDArray[np.generic]) -> str:
        data_type = helper.np_dtype_to_tensor_dtype(value.dtype)
        raw = value.astype(value.dtype.newbyteorder("<"), copy=False).tobytes()
        self._graph.initializer.add(name=name, data_type=data_type, dims=value.shape, raw_data=raw)
        return name

    def _node(
        self, op_type: str, inputs: list[str], name: str, y: Array, y_name: str = "", **attributes: Any
    ) -> Value:
        y_name = y_name or f"{name}_out"
        node = helper.make_node(op_type, inputs, [y_name], name=name, **attributes)
        self._graph.node.append(node)
        return Value(y_name, y)


def _window(kernel: int, stride: int, pad: int) -> dict[str, Any]:
    return {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [pad] * 4}


def _channelwise(vector: Array, ndim: int) -> Array:
    """(C,) shaped to broadcast over (N, C) or (N, C, H, W)."""
    return vector.reshape(-1, *[1] * (ndim - 2))
