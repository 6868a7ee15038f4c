"""How ONNX's Resize interpolates along one axis: where each output lies on the input, and what it mixes.

Coordinates are float32, as in ONNX Runtime: where one falls between two pixels can depend on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["Rule", "matrix", "picked"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Rule:
    """Attributes of a Resize.

    Attributes:
        mode: nearest, linear or cubic.
        coordinates: `coordinate_transformation_mode`.
        nearest: `nearest_mode`; "simple" is that of opset 10, which rounds up where it shrinks.
        cubic: `cubic_coeff_a`.
        exclude_outside: whether the weights of what is outside the input are 0, and the others scaled up.
        antialias: whether the filter is stretched where the axis shrinks.
    """

    mode: str
    coordinates: str
    nearest: str
    cubic: float = -0.75
    exclude_outside: bool = False
    antialias: bool = False

    @property
    def repeats(self) -> bool:
        """Whether nearest repeats every pixel where an axis grows by a whole factor."""
        if self.coordinates == "asymmetric":
            return self.nearest in ("floor", "simple")
        return self.coordinates == "half_pixel" and self.nearest.startswith("round")


@lru_cache(maxsize=64)
def picked(size: int, wanted: int, scale: float, rule: Rule) -> NDArray[np.int64]:
    """Which input each output of nearest is; shape `(wanted,)`."""
    at = _coordinates(size, wanted, scale, rule)
    if rule.nearest == "round_prefer_floor":
        places = np.ceil(at - 0.5)
    elif rule.nearest == "round_prefer_ceil":
        places = np.floor(at + 0.5)
    elif rule.nearest == "ceil" or (rule.nearest == "simple" and scale < 1):
        places = np.ceil(at)
    elif rule.nearest in ("floor", "simple"):
        places = np.floor(at)
    else:
        raise ValueError(f"nearest_mode {rule.nearest} is not known")
    return np.asarray(np.clip(places, 0, size - 1), np.int64)


@lru_cache(maxsize=64)
def matrix(size: int, wanted: int, scale: float, rule: Rule) -> Floats:
    """Weights of linear and cubic, `(wanted, size)`."""
    if rule.mode not in ("linear", "cubic"):
        raise ValueError(f"mode {rule.mode} of a Resize is not known")
    reach = 1 if rule.mode == "linear" else 2
    shrink = min(scale, 1.0) if rule.antialias else 1.0
    at = _coordinates(size, wanted, scale, rule).astype(np.float64)
    count = 2 * int(np.ceil(reach / shrink))
    taps = np.floor(at)[:, None] + np.arange(1 - count // 2, 1 + count // 2)
    distances = np.abs(taps - at[:, None]) * shrink
    weights = np.maximum(1 - distances, 0) if rule.mode == "linear" else _cubic(distances, rule.cubic)
    if rule.exclude_outside:
        weights = np.where((taps < 0) | (taps >= size), 0.0, weights)
    if rule.exclude_outside or rule.antialias:
        weights = weights / weights.sum(1, keepdims=True)
    result = np.zeros((wanted, size))
    columns = np.clip(taps, 0, size - 1).astype(np.int64)  # outside, the edge goes on
    np.add.at(result, (np.arange(wanted)[:, None], columns), weights)
    return result


def _cubic(distances: Floats, a: float) -> Floats:
    """Keys' kernel of distances from 0 on (doi 10.1109/TASSP.1981.1163711)."""
    near = ((a + 2) * distances - (a + 3)) * distances**2 + 1
    far = a * (((distances - 5) * distances + 8) * distances - 4)
    return np.where(distances <= 1, near, np.where(distances < 2, far, 0.0))


def _coordinates(size: int, wanted: int, scale: float, rule: Rule) -> NDArray[np.float32]:
    """Where the outputs lie on the input, in pixels."""
    steps, factor = np.arange(wanted, dtype=np.float32), np.float32(scale)
    half = (steps + np.float32(0.5)) / factor - np.float32(0.5)
    mode = rule.coordinates
    if mode == "half_pixel" or (mode == "pytorch_half_pixel" and wanted > 1):
        return half
    if mode == "asymmetric":
        return steps / factor
    if mode == "align_corners":
        return steps * np.float32((size - 1) / max(wanted - 1, 1))
    if mode == "pytorch_half_pixel":
        return np.zeros(wanted, np.float32)
    if mode == "tf_half_pixel_for_nn":
        return (steps + np.float32(0.5)) / factor
    if mode == "half_pixel_symmetric":
        adjustment = wanted / (float(scale) * size)
        return np.asarray(half + np.float32(size / 2 * (1 - adjustment)), np.float32)
    raise ValueError(f"coordinate_transformation_mode {mode} is not supported")
