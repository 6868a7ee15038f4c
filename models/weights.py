"""Seeded weights whose singular values decay as trained ones do.

An iid Gaussian matrix has a flat spectrum, on which every low-rank method looks equally hopeless. Here a
Gaussian core is scaled along three kinds of modes and then rotated:

1. output-channel and input-channel mode i of n is scaled by (1 + 16 i / n) ** -exponent, a power law in the
   relative index, so that the kept fraction of the rank hardly depends on the width of the layer; the modes
   are in random order (and, as the core is Gaussian, of random sign);
2. tap mode u of k is scaled by taps ** u along the height and along the width; as the modes are cosines, the
   taps of one kernel are smoothly correlated;
3. an orthonormal DCT along every axis turns modes into channels and taps: O(n log n), and no channel is more
   important than another a priori. The core of a Gemm is square, as wide as its shorter side, so that the
   fraction does not depend on how oblong it is.

Rotations keep singular values, so 1. and 2. alone set the spectrum. `models/README.md` compares it with
that of trained networks.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import fft

__all__ = [
    "CLASSIFIER",
    "PLAIN",
    "POINTWISE",
    "RESIDUAL",
    "Array",
    "Decay",
    "decaying_weight",
    "random_images",
]

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Decay:
    """Power-law exponent of the channel modes (0 is flat), ratio of neighbouring tap modes (1 is flat)."""

    channels: float
    taps: float = 1.0


# Fitted to the medians of trained networks, see models/README.md.
PLAIN = Decay(channels=0.7, taps=0.5)  # spatial Convs of a network without BatchNormalization (VGG-16)
RESIDUAL = Decay(channels=0.4, taps=0.7)  # spatial Convs of a network with it (ResNet-20, CIFAR-10)
POINTWISE = Decay(channels=0.3)  # 1x1 Convs (MobileNetV2)
CLASSIFIER = Decay(channels=0.63)  # Gemms (MobileNetV2's classifier)


def decaying_weight(rng: np.random.Generator, shape: tuple[int, ...], decay: Decay) -> Array:
    """A weight (M, C) or (M, C, kH, kW) of mean square 1 whose spectrum decays as `decay` says."""
    matrix = len(shape) == 2
    core = (min(shape), min(shape)) if matrix else shape
    weight = rng.standard_normal(core, dtype=np.float32)
    for axis, size in enumerate(core):
        scales = _channel_scales(rng, size, decay) if axis < 2 else _tap_scales(size, decay)
        weight *= scales.reshape([-1 if i == axis else 1 for i in range(len(core))])
    weight = _embed(rng, weight, shape) if matrix else weight
    weight *= np.float32(1.0 / np.sqrt(np.vdot(weight, weight) / weight.size))
    for axis, size in enumerate(shape):
        if size > 1:
            weight = fft.idct(weight, axis=axis, norm="ortho", workers=2, overwrite_x=True)
    return weight


def _embed(rng: np.random.Generator, core: Array, shape: tuple[int, ...]) -> Array:
    """The square core at random rows and columns of zeros: the longer side of a Gemm is all rotation."""
    weight = np.zeros(shape, np.float32)
    rows, columns = (np.sort(rng.permutation(size)[: min(shape)]) for size in shape)
    weight[np.ix_(rows, columns)] = core
    return weight


def _channel_scales(rng: np.random.Generator, size: int, decay: Decay) -> Array:
    index = rng.permutation(size)
    return ((1.0 + 16.0 * index / size) ** -decay.channels).astype(np.float32)


def _tap_scales(size: int, decay: Decay) -> Array:
    """Of the cosine modes of a kernel, from the constant to the alternating one."""
    return (decay.taps ** np.arange(size)).astype(np.float32)


def random_images(rng: np.random.Generator, shape: tuple[int, int, int, int]) -> Array:
    """Random images (N, C, H, W), each of mean square 1, by turns smooth and white noise.

    The smooth ones have an amplitude of about 1 / f, as natural images do.
    """
    fy, fx = np.arange(shape[2])[:, None] / shape[2], np.arange(shape[3])[None, :] / shape[3]
    noise = rng.standard_normal(shape)
    smooth = noise[::2] / (0.05 + np.hypot(fy, fx))
    noise[::2] = fft.idctn(smooth, axes=(2, 3), norm="ortho")
    noise /= np.sqrt(np.mean(np.square(noise), axis=(1, 2, 3), keepdims=True))
    return noise.astype(np.float32)
