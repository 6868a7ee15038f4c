"""Architectures the field measures on, built straight to ONNX with seeded, realistically decaying weights.

>>> import models
>>> models.build("resnet20").graph.output[0].name
'logits'
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ["NAMES", "build"]

_MODULES = {
    "alexnet": "alexnet",
    "nin": "nin",
    "vgg16": "vgg",
    "googlenet": "googlenet",
    "resnet18": "resnet",
    "resnet50": "resnet",
    "resnet20": "resnet",
    "resnet56": "resnet",
    "resnet110": "resnet",
    "mobilenet_v2": "mobilenet",
}

NAMES = tuple(_MODULES)


def build(name: str, seed: int = 0) -> "ModelProto":
    """Build one of `NAMES`: input `input` [batch, 3, H, W], output `logits` [batch, classes], IR 8, opset 17.

    The same seed gives the same model (with the same versions of numpy and scipy on the same machine).

    Raises:
        ValueError: `name` is not one of `NAMES`.
    """
    if name not in _MODULES:
        raise ValueError(f"unknown model {name!r}; choose from {', '.join(NAMES)}")
    builder = getattr(import_module(f"models.{_MODULES[name]}"), name)
    model: ModelProto = builder(seed)
    return model
