"""JAX: flax nnx layers through jax2onnx."""

import sys
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp  # type: ignore[import-not-found]
import jax2onnx  # type: ignore[import-not-found]
import numpy as np
import onnx
from flax import nnx  # type: ignore[import-not-found]

from models.exports.checkpoint import Array, Checkpoint
from models.exports.networks import EPSILON, IMAGE, Padding, run_network
from models.exports.script import run, verify

__all__ = ["EXPORTS"]


class _Layers:
    """`networks.Operations` with nnx layers (N, H, W, C)."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._parameters = checkpoint.parameters
        self._layers: dict[str, Any] = {}

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
        def make() -> Any:
            return nnx.Conv(
                x.shape[3],
                channels,
                (kernel, kernel),
                strides=stride,
                padding="SAME" if padding == "same" else padding,
                feature_group_count=groups,
                use_bias=bias,
                rngs=nnx.Rngs(0),
            )

        names = {"kernel": "weight"} | ({"bias": "bias"} if bias else {})
        return self._layer(name, make, names)(x)

    def batch_norm(self, x: Any, name: str) -> Any:
        def make() -> Any:
            return nnx.BatchNorm(x.shape[3], use_running_average=True, epsilon=EPSILON, rngs=nnx.Rngs(0))

        names = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
        return self._layer(name, make, names)(x)

    def relu(self, x: Any) -> Any:
        return nnx.relu(x)

    def add(self, a: Any, b: Any) -> Any:
        return a + b

    def subsample_and_pad(self, x: Any, extra: int) -> Any:
        return jnp.pad(x[:, ::2, ::2, :], ((0, 0), (0, 0), (0, 0), (extra, extra)))

    def global_average_pool(self, x: Any) -> Any:
        return jnp.mean(x, axis=(1, 2))

    def dense(self, x: Any, name: str, features: int) -> Any:
        def make() -> Any:
            return nnx.Linear(x.shape[1], features, rngs=nnx.Rngs(0))

        return self._layer(name, make, {"kernel": "weight", "bias": "bias"})(x)

    def _layer(self, name: str, make: Callable[[], Any], names: dict[str, str]) -> Any:
        """The layer; `names` says what the checkpoint calls its parameters."""
        if name not in self._layers:
            layer = make()
            for own, theirs in names.items():
                value = self._parameters[f"{name}.{theirs}"]
                getattr(layer, own)[...] = jnp.asarray(_kernel(value) if own == "kernel" else value)
            self._layers[name] = layer
        return self._layers[name]


def _kernel(weight: Array) -> Array:
    """(M, C, kH, kW) -> (kH, kW, C, M), or (features, C) -> (C, features)."""
    return weight.transpose(2, 3, 1, 0) if weight.ndim == 4 else weight.T


def _jax2onnx(network: str, checkpoint: Checkpoint) -> onnx.ModelProto:
    layers = _Layers(checkpoint)

    def function(x: Any) -> Any:
        return run_network(network, layers, x)

    verify(np.asarray(function(jnp.asarray(checkpoint.images.transpose(0, 2, 3, 1)))), checkpoint)
    channels, height, width = IMAGE
    model: onnx.ModelProto = jax2onnx.to_onnx(function, [("batch", height, width, channels)])
    return model


EXPORTS = {"jax2onnx": _jax2onnx}

if __name__ == "__main__":
    sys.exit(run(EXPORTS))
