"""The digits network as a table, which training and the ONNX export both read."""

from dataclasses import dataclass

__all__ = ["CLASSES", "LAYERS", "SIZE", "Layer"]

SIZE = 32
CLASSES = 10


@dataclass(frozen=True)
class Layer:
    """Conv without bias, BatchNormalization, Relu and, if `pool`, a 2x2 max pool of stride 2."""

    channels: int
    kernel: int = 3
    stride: int = 1
    pool: bool = False


LAYERS = (
    Layer(64),
    Layer(64),
    Layer(128, stride=2),
    Layer(128),
    Layer(128),
    Layer(128, kernel=1, pool=True),
    Layer(128),
)
