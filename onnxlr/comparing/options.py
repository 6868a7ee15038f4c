"""`CompareOptions`: how exports are held against each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from onnxlr.errors import UsageError
from onnxlr.images import ImageOptions

__all__ = ["CompareOptions"]


@dataclass(frozen=True, slots=True)
class CompareOptions:
    """How exports are held against each other.

    Attributes:
        inputs: data for the first model, in one of the formats of `onnxlr.feeds`; None: seeded random
            numbers.
        input_shapes: for symbolic dimensions of random inputs of the first model.
        mapping: inputs and outputs of the first model -> what they are called in the others.
        layouts: inputs and outputs, by name in whatever model -> the order of their axes, as NCHW or NHWC,
            where the graph does not tell.
        tolerance: relative L2 up to which outputs count as the same; None: 1e-4, with half precision 2e-2.
        device: auto, cpu, cuda or tensorrt.
        threads: intra-op threads of ONNX Runtime, 0 for its default.
        latency_seconds: time to spend on timing optimized exports, 0 for none.
        seed: of random inputs and of the order in timing.
        images: how image files become arrays.
        samples: at most so many of the inputs, evenly spaced; None: all.

    Raises:
        UsageError: the tolerance is negative, or a layout has no channels.

    >>> import onnxlr
    >>> options = onnxlr.CompareOptions(mapping={"image": "x"}, layouts={"x": "NHWC"}, tolerance=1e-3)
    >>> onnxlr.CompareOptions(layouts={"x": "HW"})
    Traceback (most recent call last):
    onnxlr.errors.UsageError: layout of 'x': 'HW' is not like NCHW or NHWC
    """

    inputs: str | None = None
    input_shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    mapping: Mapping[str, str] = field(default_factory=dict)
    layouts: Mapping[str, str] = field(default_factory=dict)
    tolerance: float | None = None
    device: str = "auto"
    threads: int = 0
    latency_seconds: float = 5.0
    seed: int = 0
    images: ImageOptions = ImageOptions()
    samples: int | None = None

    def __post_init__(self) -> None:
        if self.tolerance is not None and not self.tolerance >= 0:
            raise UsageError(f"tolerance must be at least 0, got {self.tolerance}")
        for name, layout in self.layouts.items():
            if len(set(layout)) < len(layout) or not {"N", "C"} <= set(layout):
                raise UsageError(f"layout of '{name}': '{layout}' is not like NCHW or NHWC")

    def to_dict(self) -> dict[str, Any]:
        """Plain data for reports."""
        return asdict(self)
