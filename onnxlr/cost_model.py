"""Shapes of a Conv -> the time it takes on one machine, by a model fitted to micro-benchmarks.

The time is a sum of terms with coefficients that are not negative: one constant, multiply-accumulates by the
kernel that does them, bytes read and written, and rows. ONNX Runtime computes Convs in blocks of output
channels, and up to some blocks at a time, a filter set: channels count rounded up to whole blocks, and those
of a set that is not full have coefficients of their own. How wide a block is, and how many make a set, is
found by the fit as well: those with the least error on Convs that were held out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from onnxlr.conv import ConvSpec, Spatial

__all__ = ["CostModel", "Timed", "fit_cost_model"]

Float = NDArray[np.float64]
Int = NDArray[np.int64]

_BLOCKS, _SETS = (8, 16, 32), (1, 2, 4)
"""Widths of a block in channels and of a filter set in blocks that are tried."""

_SMALLEST_PLANAR = 4
"""Input channels must be a multiple of it for a Conv to read blocks."""

_PASS = 128
"""Input channels that a pointwise Conv sums up before it writes."""

_SHARED_MACS = 2**16
"""From as many multiply-accumulates on ONNX Runtime spreads a Gemm over its threads."""

_FOLDS = 5

_LEAST = 1e-9
"""Seconds that anything takes at least."""


@dataclass(frozen=True, slots=True)
class Timed:
    """A Conv that was timed.

    Attributes:
        conv: as it was timed; a Gemm has no spatial axes.
        spatial: sizes of its input.
        repeats: batch size, rows of a Gemm.
        seconds: of one run.
    """

    conv: ConvSpec
    spatial: Spatial
    repeats: int
    seconds: float


@dataclass(frozen=True, slots=True)
class CostModel:
    """The time that a Conv takes on one machine, predicted from its shapes.

    Attributes:
        key: what it holds for: machine, provider, threads, ...; see `onnxlr.cost_model_files`.
        block: channels of a block; ranks that are multiples of it fill all of them.
        filter_set: blocks that are computed at a time.
        itemsize: bytes of a number.
        coefficients: seconds for one unit of each term that is not free.
        error: median relative error on Convs that were held out; None if that was not measured.
        is_default: whether it was not measured on this machine.

    >>> import onnxlr
    >>> from onnxlr.conv import ConvSpec
    >>> model = onnxlr.read_cost_model("onnxlr/cost_models/cpu-avx512.json")
    >>> conv = ConvSpec.create((64, 64, 3, 3), pads=(1, 1, 1, 1))
    >>> one, eight = (model.seconds(conv, (32, 32), batch) for batch in (1, 8))
    >>> 6 < eight / one < 9
    True
    """

    key: Mapping[str, str]
    block: int
    filter_set: int
    itemsize: int
    coefficients: Mapping[str, float] = field(default_factory=dict)
    error: float | None = None
    is_default: bool = False

    def seconds(self, conv: ConvSpec, spatial: Spatial, repeats: int) -> float:
        """Time of one Conv, in seconds.

        Args:
            conv: the Conv; a Gemm has no spatial axes.
            spatial: sizes of its input.
            repeats: batch size, rows of a Gemm.
        """
        channels = np.array([conv.in_channels]), np.array([conv.out_channels])
        return float(self.seconds_at(conv, spatial, repeats, *channels)[0])

    def seconds_at(
        self, conv: ConvSpec, spatial: Spatial, repeats: int, inputs: Int | Float, outputs: Int | Float
    ) -> Float:
        """Times of a Conv with other channels, `(n,)`.

        Args:
            conv: gives window and groups.
            spatial: sizes of its input.
            repeats: batch size, rows of a Gemm.
            inputs: `(n,)`, input channels.
            outputs: `(n,)`, output channels.
        """
        terms = _terms(conv, spatial, repeats, inputs, outputs, self)
        total = sum(self.coefficients.get(name, 0.0) * value for name, value in terms.items())
        return np.broadcast_to(np.maximum(total, _LEAST), np.shape(outputs))

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {**asdict(self), "key": dict(self.key), "coefficients": dict(self.coefficients)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CostModel:
        """The inverse of `to_dict`.

        Raises:
            TypeError: a field is missing, unknown, or of the wrong type.
            ValueError: a number is out of range.
        """
        model = cls(**data)
        for name in ("block", "filter_set", "itemsize"):
            if type(getattr(model, name)) is not int:
                raise TypeError(f"{name} must be a whole number")
        if not (_is_mapping(model.key, str) and _is_mapping(model.coefficients, int, float)):
            raise TypeError("key must map names to strings, coefficients names to numbers")
        if type(model.error) not in (int, float, type(None)) or type(model.is_default) is not bool:
            raise TypeError("error must be a number or null, is_default true or false")
        if min(model.block, model.filter_set, model.itemsize) < 1:
            raise ValueError("block, filter_set and itemsize must be above 0")
        values = [*model.coefficients.values(), model.error or 0]
        if not all(0 <= value < float("inf") for value in values):
            raise ValueError("coefficients and error must be finite and not negative")
        if not any(model.coefficients.values()):
            raise ValueError("all coefficients are 0")
        return model


def _is_mapping(value: Any, *types: type) -> bool:
    """Whether it maps strings to these types; bool is not int here."""
    return isinstance(value, Mapping) and all(
        isinstance(name, str) and type(item) in types for name, item in value.items()
    )


def fit_cost_model(timed: Sequence[Timed], key: Mapping[str, str], itemsize: int = 4) -> CostModel:
    """The model with the least error of what is held out.

    Args:
        timed: at least ten.
        key: see `CostModel`.
        itemsize: bytes of a number.
    """
    shapes = [CostModel(key, block, width, itemsize) for block, width in product(_BLOCKS, _SETS)]
    errors = [_held_out_errors(timed, shape) for shape in shapes]
    best = min(range(len(shapes)), key=lambda i: float(np.mean(errors[i])))
    shape = shapes[best]
    return CostModel(
        key,
        shape.block,
        shape.filter_set,
        itemsize,
        _coefficients(timed, shape),
        float(np.median(errors[best])),
    )


def _held_out_errors(timed: Sequence[Timed], shape: CostModel) -> Float:
    """Relative errors of each where it was held out; Convs of different batch sizes are held out together."""
    names = list(dict.fromkeys((item.conv, item.spatial) for item in timed))
    folds = np.random.default_rng(0).permutation(len(names)) % _FOLDS
    fold_of = {name: int(fold) for name, fold in zip(names, folds, strict=True)}
    errors = np.empty(len(timed))
    for fold in range(_FOLDS):
        held = [fold_of[item.conv, item.spatial] == fold for item in timed]
        rest = [item for item, out in zip(timed, held, strict=True) if not out]
        fitted = CostModel(
            shape.key, shape.block, shape.filter_set, shape.itemsize, _coefficients(rest, shape)
        )
        for i, item in enumerate(timed):
            if not held[i]:
                continue
            errors[i] = abs(fitted.seconds(item.conv, item.spatial, item.repeats) / item.seconds - 1)
    return errors


def _coefficients(timed: Sequence[Timed], shape: CostModel) -> dict[str, float]:
    """Those with the least sum of squared relative errors."""
    rows = [
        _terms(
            t.conv, t.spatial, t.repeats, np.array(t.conv.in_channels), np.array(t.conv.out_channels), shape
        )
        for t in timed
    ]
    names = sorted({name for row in rows for name in row})
    seconds = np.array([item.seconds for item in timed])
    table = np.array([[float(row.get(name, 0.0)) for name in names] for row in rows]) / seconds[:, None]
    scale = np.maximum(np.abs(table).max(axis=0), np.finfo(np.float64).tiny)
    found, _ = nnls(table / scale, np.ones(len(timed)))
    return {name: float(value) for name, value in zip(names, found / scale, strict=True) if value > 0}


def _terms(
    conv: ConvSpec,
    spatial: Spatial,
    repeats: int,
    inputs: NDArray[Any],
    outputs: NDArray[Any],
    shape: CostModel,
) -> dict[str, NDArray[Any]]:
    """What is counted, by name of the coefficient."""
    taps, group = prod(conv.kernel_shape), conv.group
    sizes = spatial if conv.transposed else conv.output_spatial(spatial)
    positions = repeats * prod(sizes)
    weights = inputs * outputs * taps / group
    read = repeats * prod(spatial) * inputs * shape.itemsize
    written = repeats * prod(conv.output_spatial(spatial)) * outputs * shape.itemsize
    kind = _kind(conv)
    macs = positions * weights
    terms = {
        "constant": np.ones(np.shape(outputs)),
        "input": read,
        "output": written,
    }
    if kind == "gemm":
        shared = np.where(macs >= _SHARED_MACS, 1.0, 0.0)
        return terms | {"gemm": macs, "gemm weights": weights * shape.itemsize, "gemm shared": shared}
    terms |= {"weights": weights * shape.itemsize}
    if kind == "depthwise":
        return terms | {"depthwise": macs, "depthwise edge": macs * _edge(conv, sizes)}
    if kind == "unrolled":
        columns = positions * taps * (outputs if conv.transposed else inputs) * shape.itemsize
        return terms | {"unrolled": macs, "columns": columns}
    own_inputs, own_outputs = inputs / group, outputs / group
    planar = (own_inputs % _SMALLEST_PLANAR != 0) | (own_inputs < shape.block)
    if group > 1:
        planar = (own_inputs % shape.block != 0) | (own_outputs % shape.block != 0)
    blocks = np.ceil(own_outputs / shape.block)
    sets, left = np.divmod(blocks, shape.filter_set)
    per_input = positions * group * taps * shape.block  # multiply-accumulates of one block of each group
    in_blocks = np.where(planar, 0, per_input * np.ceil(own_inputs / shape.block) * shape.block)
    terms[f"{kind} {shape.filter_set}"] = in_blocks * sets * shape.filter_set
    for count in range(1, shape.filter_set):
        terms[f"{kind} {count}"] = np.where(left == count, in_blocks * count, 0)
    passes = np.ceil(own_inputs / (_PASS if kind == "pointwise" else shape.block))
    terms["accumulated"] = np.where(planar, 0, written * (passes - 1))
    terms["rows"] = positions / sizes[-1] * group * np.ceil(blocks / shape.filter_set) * passes
    terms["edge"] = in_blocks * blocks * _edge(conv, sizes)
    kind = "planar" if group == 1 else "grouped"
    terms[kind] = np.where(planar, per_input * own_inputs * blocks, 0)
    terms["reorder"] = np.where(planar, read, 0)
    return terms


def _edge(conv: ConvSpec, sizes: Spatial) -> float:
    """Share of the outputs whose window reaches beyond the rows of the input."""
    reach = (conv.kernel_shape[-1] - 1) * conv.dilations[-1] / conv.strides[-1]
    return min(1.0, reach / sizes[-1])


def _kind(conv: ConvSpec) -> str:
    """Which kernel of ONNX Runtime computes it."""
    if not conv.kernel_shape:
        return "gemm"
    if conv.transposed or len(conv.kernel_shape) != 2:
        return "unrolled"
    if conv.is_depthwise:
        return "depthwise"
    return "pointwise" if conv.is_pointwise and max(conv.strides) == 1 else "window"
