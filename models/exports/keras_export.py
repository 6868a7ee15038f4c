"""Keras 3: on TensorFlow through tf2onnx, and on PyTorch through `Model.export`.

The environment variable KERAS_BACKEND, tensorflow or torch, must be set as the exporter needs it.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any, Literal

import keras  # type: ignore[import-not-found]
import numpy as np
import onnx
from keras import layers

from models.exports.checkpoint import Array, Checkpoint
from models.exports.networks import EPSILON, IMAGE, Padding, run_network
from models.exports.script import run, verify

__all__ = ["EXPORTS"]

OPSET = 17

_Format = Literal["channels_last", "channels_first"]


class _Layers:
    """`networks.Operations` on symbolic tensors, (N, H, W, C) or (N, C, H, W)."""

    def __init__(self, checkpoint: Checkpoint, data_format: _Format) -> None:
        self._parameters = checkpoint.parameters
        self._format = data_format
        self._axis = 3 if data_format == "channels_last" else 1

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
        options: dict[str, Any] = {"strides": stride, "use_bias": bias, "data_format": self._format}
        if padding == "same" or (stride == 1 and padding == kernel // 2):
            options["padding"] = "same"
        else:
            x = layers.ZeroPadding2D(padding, data_format=self._format)(x)
        weight = self._parameters[f"{name}.weight"]
        biases = [self._parameters[f"{name}.bias"]] if bias else []
        if groups == channels:
            depthwise = layers.DepthwiseConv2D(kernel, name=_key(name), **options)
            return _loaded(depthwise, x, [weight.transpose(2, 3, 0, 1), *biases])
        if groups > 1:
            return self._grouped(x, name, np.split(weight, groups), options)
        conv = layers.Conv2D(channels, kernel, name=_key(name), **options)
        return _loaded(conv, x, [weight.transpose(2, 3, 1, 0), *biases])

    def _grouped(self, x: Any, name: str, weights: list[Array], options: dict[str, Any]) -> Any:
        """Split, a Conv for each group without a bias, and concatenate.

        tf2onnx writes an invalid file for a Conv2D with groups.
        """
        outputs = []
        for i, part in enumerate(keras.ops.split(x, len(weights), axis=self._axis)):
            channels, _, kernel, _ = weights[i].shape
            conv = layers.Conv2D(channels, kernel, name=f"{_key(name)}_{i}", **options)
            outputs.append(_loaded(conv, part, [weights[i].transpose(2, 3, 1, 0)]))
        return layers.Concatenate(axis=self._axis, name=_key(name))(outputs)

    def batch_norm(self, x: Any, name: str) -> Any:
        keys = ("weight", "bias", "running_mean", "running_var")
        layer = layers.BatchNormalization(self._axis, epsilon=EPSILON, name=_key(name))
        return _loaded(layer, x, [self._parameters[f"{name}.{key}"] for key in keys])

    def relu(self, x: Any) -> Any:
        return layers.ReLU()(x)

    def add(self, a: Any, b: Any) -> Any:
        return layers.Add()([a, b])

    def subsample_and_pad(self, x: Any, extra: int) -> Any:
        if self._format == "channels_last":
            return keras.ops.pad(x[:, ::2, ::2, :], ((0, 0), (0, 0), (0, 0), (extra, extra)))
        return keras.ops.pad(x[:, :, ::2, ::2], ((0, 0), (extra, extra), (0, 0), (0, 0)))

    def global_average_pool(self, x: Any) -> Any:
        return layers.GlobalAveragePooling2D(data_format=self._format)(x)

    def dense(self, x: Any, name: str, features: int) -> Any:
        weight, bias = (self._parameters[f"{name}.{key}"] for key in ("weight", "bias"))
        return _loaded(layers.Dense(features, name=_key(name)), x, [weight.T, bias])


def _key(name: str) -> str:
    return name.replace(".", "_")  # on PyTorch the name of a layer must not have a dot


def _loaded(layer: Any, x: Any, weights: list[Array]) -> Any:
    y = layer(x)  # makes the weights
    layer.set_weights(weights)
    return y


def _verified(network: str, checkpoint: Checkpoint, data_format: _Format) -> Any:
    keras.utils.clear_session()  # numbers layers without a name from the start again
    channels, height, width = IMAGE
    last = data_format == "channels_last"
    x = layers.Input((height, width, channels) if last else IMAGE, name="x")
    model = keras.Model(x, run_network(network, _Layers(checkpoint, data_format), x))
    images = checkpoint.images.transpose(0, 2, 3, 1) if last else checkpoint.images
    verify(keras.ops.convert_to_numpy(model(images, training=False)), checkpoint)
    return model


def _tf2onnx(network: str, checkpoint: Checkpoint, data_format: _Format = "channels_last") -> onnx.ModelProto:
    import tensorflow as tf  # type: ignore[import-untyped]  # noqa: PLC0415 (not there beside PyTorch)
    from tf2onnx import convert  # type: ignore[import-not-found]  # noqa: PLC0415

    model = _verified(network, checkpoint, data_format)
    signature = (tf.TensorSpec((None, *model.input_shape[1:]), tf.float32, name="x"),)
    function = tf.function(lambda x: model(x, training=False), input_signature=signature)
    exported: onnx.ModelProto
    exported, _ = convert.from_function(function, input_signature=signature, opset=OPSET)
    return exported


def _tf2onnx_nchw(network: str, checkpoint: Checkpoint) -> onnx.ModelProto:
    return _tf2onnx(network, checkpoint, "channels_first")


def _keras_torch(network: str, checkpoint: Checkpoint) -> onnx.ModelProto:
    model = _verified(network, checkpoint, "channels_last")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "network.onnx")
        model.export(path, format="onnx", verbose=False)
        return onnx.load(path)


EXPORTS = {"tf2onnx": _tf2onnx, "tf2onnx_nchw": _tf2onnx_nchw, "keras_torch": _keras_torch}

if __name__ == "__main__":
    sys.exit(run(EXPORTS))
