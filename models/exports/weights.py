"""Seeded checkpoints of the exported networks (needs scipy and onnx: the project's own environment).

ResNet-20 has the weights of `models.build("resnet20")`. Those of the trap network are made while it runs in
numpy on random images, as `models.graph.Net` does it: the spectra decay as trained ones do, and batch
normalisation holds the mean and the variance that it really meets.
"""

import numpy as np
import onnx
from onnx import numpy_helper

import models
from models import probe
from models.exports.checkpoint import Array, Checkpoint
from models.exports.networks import EPSILON, IMAGE, Padding, pads, run_network
from models.weights import CLASSIFIER, PLAIN, decaying_weight, random_images

__all__ = ["make_checkpoint"]

PROBES = 16  # images that the statistics of batch normalisation are taken from
IMAGES = 4  # images that a checkpoint has the logits of
SPREAD = 0.2  # standard deviation of biases, and of the logarithm of batch normalisation's scale
LOGIT_SPREAD = 1.0


def make_checkpoint(network: str, seed: int = 0) -> Checkpoint:
    """Parameters, images and logits of one of `networks.NETWORKS`; the same seed gives the same.

    Raises:
        KeyError: there is no such network.
    """
    rng = np.random.default_rng((seed, 1))  # the builder draws its own images from another stream
    parameters = _resnet20(seed) if network == "resnet20" else _seeded(network, rng)
    images = random_images(rng, (IMAGES, *IMAGE))
    return Checkpoint(parameters, images, run_network(network, _Reference(parameters), images))


def _resnet20(seed: int) -> dict[str, Array]:
    """The float initializers of the builder's model; the others are the bounds of Slice and Pad."""
    initializers = models.build("resnet20", seed).graph.initializer
    floats = (t for t in initializers if t.data_type == onnx.TensorProto.FLOAT)
    return {t.name: numpy_helper.to_array(t).astype(np.float32) for t in floats}


def _seeded(network: str, rng: np.random.Generator) -> dict[str, Array]:
    seeder = _Seeder(rng)
    run_network(network, seeder, random_images(rng, (PROBES, *IMAGE)))
    return seeder.parameters


class _Reference:
    """`networks.Operations` in numpy: (N, C, H, W)."""

    def __init__(self, parameters: dict[str, Array]) -> None:
        self.parameters = parameters

    def conv(
        self,
        x: Array,
        name: str,
        channels: int,  # noqa: ARG002 (the weight says it)
        kernel: int,
        *,
        stride: int = 1,
        padding: Padding = "same",
        groups: int = 1,
        bias: bool = False,
    ) -> Array:
        margin = pads(kernel, stride, padding)
        padded = np.pad(x, ((0, 0), (0, 0), margin, margin))
        y = _grouped(padded, self.parameters[f"{name}.weight"], stride, groups)
        return y + _channelwise(self.parameters[f"{name}.bias"]) if bias else y

    def batch_norm(self, x: Array, name: str) -> Array:
        gamma, beta, mean, variance = (
            _channelwise(self.parameters[f"{name}.{key}"])
            for key in ("weight", "bias", "running_mean", "running_var")
        )
        y: Array = (x - mean) / np.sqrt(variance + np.float32(EPSILON)) * gamma + beta
        return y

    def relu(self, x: Array) -> Array:
        return np.maximum(x, 0)

    def add(self, a: Array, b: Array) -> Array:
        return a + b

    def subsample_and_pad(self, x: Array, extra: int) -> Array:
        return np.pad(x[:, :, ::2, ::2], ((0, 0), (extra, extra), (0, 0), (0, 0)))

    def global_average_pool(self, x: Array) -> Array:
        y: Array = x.mean((2, 3))
        return y

    def dense(self, x: Array, name: str, features: int) -> Array:  # noqa: ARG002 (the weight says it)
        y: Array = x @ self.parameters[f"{name}.weight"].T + self.parameters[f"{name}.bias"]
        return y


class _Seeder(_Reference):
    """Makes the parameters of each layer, then runs it."""

    def __init__(self, rng: np.random.Generator) -> None:
        super().__init__({})
        self._rng = rng

    def conv(
        self,
        x: Array,
        name: str,
        channels: int,
        kernel: int,
        *,
        stride: int = 1,
        padding: Padding = "same",
        groups: int = 1,
        bias: bool = False,
    ) -> Array:
        shape = (channels // groups, x.shape[1] // groups, kernel, kernel)
        weight = np.concatenate([decaying_weight(self._rng, shape, PLAIN) for _ in range(groups)])
        self.parameters[f"{name}.weight"] = weight * np.float32(np.sqrt(2.0 / np.prod(shape[1:])))
        if bias:
            self.parameters[f"{name}.bias"] = self._normal(channels)
        return super().conv(
            x, name, channels, kernel, stride=stride, padding=padding, groups=groups, bias=bias
        )

    def batch_norm(self, x: Array, name: str) -> Array:
        mean, variance = (moment.astype(np.float32) for moment in probe.moments(x))
        scale, bias = np.exp(self._normal(len(mean))), self._normal(len(mean))
        values = {"weight": scale, "bias": bias, "running_mean": mean, "running_var": variance}
        self.parameters |= {f"{name}.{key}": value for key, value in values.items()}
        return super().batch_norm(x, name)

    def dense(self, x: Array, name: str, features: int) -> Array:
        """Centred and scaled, so that the logits depend on the image."""
        weight = decaying_weight(self._rng, (features, x.shape[1]), CLASSIFIER)
        weight *= np.float32(LOGIT_SPREAD / (x @ weight.T).std(axis=0).mean())
        bias = self._normal(features) - (x @ weight.T).mean(axis=0)
        self.parameters |= {f"{name}.weight": weight, f"{name}.bias": bias}
        return super().dense(x, name, features)

    def _normal(self, size: int) -> Array:
        return self._rng.normal(0.0, SPREAD, size).astype(np.float32)


def _grouped(x: Array, weight: Array, stride: int, groups: int) -> Array:
    """Convolution of a padded (N, C, H, W) with (M, C / groups, kH, kW)."""
    if groups in (1, len(weight)):
        return probe.conv(x, weight, stride, 0, groups)
    parts = zip(np.split(x, groups, axis=1), np.split(weight, groups), strict=True)
    return np.concatenate([probe.conv(part, own, stride, 0, 1) for part, own in parts], axis=1)


def _channelwise(vector: Array) -> Array:
    """(C,) shaped to broadcast over (N, C, H, W)."""
    return vector[:, None, None]
