"""A layer under calibration: its node, its vectors x and y, and how a fit takes its place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper

from onnxlr.chains import Site
from onnxlr.conv import ConvSpec
from onnxlr.fitting import Fit
from onnxlr.layer import Layer
from onnxlr.moments import Moments, Sample
from onnxlr.patches import input_rows, output_rows, weight_order
from onnxlr.schemes import Scheme
from passes import replace_with_chain
from passes.constants import Constants
from passes.graph import attributes

__all__ = ["Change", "Subject"]

Array = NDArray[Any]
Store = Callable[[Array], TensorProto]
Change = Callable[[ModelProto], ModelProto]

_LARGEST = 9216
"""Entries of x beyond which its covariance is not formed (0.7 GB): W x takes the place of x."""

_UNEXPLAINED = 1e-3
"""Share of the variance of y that W x may leave: what half precision rounds off is less."""


@dataclass(frozen=True, eq=False)
class Subject:
    """See the module.

    Where x has very many entries, a stand-in is looked at: the layer is W followed by the identity, and the
    identity is what is factorized. Only schemes whose first Conv sees the whole window can be had that way.

    Attributes:
        layer: in the main graph.
        node: its node.
        offset: alpha and beta of y = alpha · W x + beta · bias where that bias may be replaced; else None,
            and moments are not central.
    """

    layer: Layer
    node: NodeProto
    offset: tuple[float, float] | None

    @classmethod
    def of(cls, layer: Layer, node: NodeProto, constants: Constants, opset: int) -> Subject:
        """The subject of a layer of the scope of `constants`."""
        return cls(layer, node, _offset(layer, node, constants, opset))

    @property
    def input_name(self) -> str:
        """The value that x comes from."""
        return self.node.input[1 - self.layer.layout.position]

    @property
    def output_name(self) -> str:
        """The value that y comes from."""
        return self.node.output[0]

    @cached_property
    def conv(self) -> ConvSpec:
        """The layer, or its stand-in."""
        own = self.layer.conv
        if not self._has_stand_in:
            return own
        return own.pointwise(own.out_channels, own.out_channels, own.group)

    def weight(self) -> Array:
        """The weight of `conv`."""
        if not self._has_stand_in:
            return self._own_weight
        size = self.layer.conv.out_channels // self.layer.conv.group
        return np.tile(np.eye(size), (self.layer.conv.group, 1)).reshape(self.conv.weight_shape)

    def accepts(self, scheme: Scheme) -> bool:
        """Whether the scheme can be had."""
        if not self._has_stand_in:
            return True
        if scheme.refuses(self.conv) is not None:
            return False
        lowest = (1,) * len(scheme.max_rank(self.conv))
        first, *rest = scheme.chain(self.layer.conv, lowest)
        stand_in = scheme.chain(self.conv, lowest)
        sees_all = first.weight_shape[1:] == self.layer.conv.weight_shape[1:]
        return sees_all and [link.weight_shape for link in rest] == [x.weight_shape for x in stand_in[1:]]

    def pairs(self, value: Array, output: Array, positions: Array) -> tuple[Array, Array]:
        """x and y, `(positions, group, ·)`, at positions of one run; y by alpha, or W x if `offset` is None.

        x is numbered as `onnxlr.patches` does.

        Raises:
            ValueError: see `onnxlr.patches`.
        """
        x = self.inputs(value, output.shape, positions)
        if self.offset is not None:
            return x, output_rows(self.layer, output, positions) / np.float32(self.offset[0])
        return x, x if self._has_stand_in else self._through(x)

    def inputs(self, value: Array, shape: tuple[int, ...], positions: Array) -> Array:
        """x at positions of one run, whose output has the shape `shape`."""
        turned = Site.of(self.layer, (), self.node).turns_input
        x = input_rows(self.layer, value, shape, positions, turned)
        return self._through(x) if self._has_stand_in else x

    def samples(self, moments: Moments) -> list[Sample]:
        """The samples of moments of `pairs`, their x numbered as a row of `weight()` is.

        Raises:
            ValueError: see `Moments.samples`.
        """
        return [sample.with_inputs(weight_order(self.conv)) for sample in moments.samples()]

    def problem(self, samples: Sequence[Sample]) -> str | None:
        """Why samples of the original are not what the layer computes, if they are not."""
        if self.offset is None:
            return None
        weights = self.weight().reshape(len(samples), -1, samples[0].covariance.shape[0])
        rest = sum(sample.error(weight) for sample, weight in zip(samples, weights, strict=True))
        energy = sum(sample.energy for sample in samples)
        return None if rest <= _UNEXPLAINED * energy else "its inputs do not explain its outputs"

    def finished(self, fit: Fit) -> Fit:
        """A fit of `conv` as one of the layer, in the layer's type, with its bias as the node reads it."""
        dtype = helper.tensor_dtype_to_np_dtype(self.layer.weight.data_type)
        factors = fit.factors
        if self._has_stand_in:
            factors = (self._lifted(factors[0]), *factors[1:])
        bias = None
        if self.offset is not None and fit.bias is not None:
            bias = (fit.bias * self.offset[0] / self.offset[1]).astype(dtype)
        return replace(fit, factors=tuple(factor.astype(dtype) for factor in factors), bias=bias)

    def change(self, links: tuple[ConvSpec, ...], fit: Fit, store: Store) -> Change:
        """What puts a finished fit in the place of the node, in any part of the main graph that has it."""
        site = Site.of(self.layer, links, self.node)
        tensors = [store(array) for array in site.stored(fit.factors)]
        bias = None if fit.bias is None else store(fit.bias)
        chain = replace(site.build(tensors, bias), home="")
        return lambda part: replace_with_chain(part, {self.layer.key: chain})

    @property
    def _has_stand_in(self) -> bool:
        conv = self.layer.conv
        return conv.params // conv.out_channels > max(_LARGEST, conv.out_channels // conv.group)

    @cached_property
    def _own_weight(self) -> Array:
        """Read once for all runs of a pass, and gone with this object."""
        return self.layer.read_weight()

    @cached_property
    def _reader(self) -> Array:
        """W as x is numbered, transposed."""
        columns = np.empty(self._matrices().shape, np.float32)
        columns[:, :, weight_order(self.layer.conv)] = self._matrices()
        return columns.swapaxes(1, 2)

    def _matrices(self) -> Array:
        group = self.layer.conv.group
        return self._own_weight.reshape(group, self.layer.conv.out_channels // group, -1)

    def _through(self, x: Array) -> Array:
        seen: Array = np.matmul(x.swapaxes(0, 1), self._reader).swapaxes(0, 1)
        return seen

    def _lifted(self, factor: Array) -> Array:
        """A first factor of the stand-in, taken together with W."""
        matrices = self._matrices().astype(np.float64)
        parts = factor.reshape(len(matrices), -1, matrices.shape[1])
        lifted: Array = np.matmul(parts, matrices)
        return lifted.reshape(len(factor), *self.layer.conv.weight_shape[1:])


def _offset(layer: Layer, node: NodeProto, constants: Constants, opset: int) -> tuple[float, float] | None:
    """See `Subject.offset`. The bias may be replaced in

    1. a Conv without or with a constant bias,
    2. a Gemm with a constant vector C, or, from opset 11 on, without.
    """
    bias = node.input[2] if len(node.input) > 2 else ""
    constant = constants.find(bias) if bias else None
    if layer.op_type in ("Conv", "ConvTranspose"):
        return (1.0, 1.0) if not bias or constant is not None else None
    if layer.op_type != "Gemm" or layer.layout.position == 0:
        return None
    given = {name: helper.get_attribute_value(value) for name, value in attributes(node).items()}
    alpha, beta = float(given.get("alpha", 1.0)), float(given.get("beta", 1.0))
    size = (layer.conv.out_channels,)
    is_vector = constant is not None and constant.shape in (size, (1, *size))
    replaceable = is_vector if bias else opset >= 11
    return (alpha, beta) if replaceable and alpha and beta else None
