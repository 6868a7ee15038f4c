"""Random small networks full of Transposes, to compare what passes make of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto, TensorProto, helper

from tests.builders import Array, make_model, weight

Shape = tuple[int, ...]

LAST, FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
"""Orders of axes: from channels first to channels last, and back."""

UNARY = ("Relu", "Neg", "Sigmoid", "Identity", "Dropout", "Clip")
BINARY = ("Add", "Sub", "Mul", "Max")


class Network:
    """A network that grows by nodes that hypothesis draws."""

    def __init__(self, draw: st.DataObject, opset: int, shape: Shape) -> None:
        self.data = draw
        self.opset = opset
        self.shape = shape
        self.nodes: list[NodeProto] = []
        self.weights: dict[str, Array] = {}
        self.shapes: dict[str, Shape] = {"x": shape}

    def draw(self, strategy: st.SearchStrategy[Any]) -> Any:
        return self.data.draw(strategy)

    def pick(self, rank: int | None = None) -> str:
        """A value, the last ones more often."""
        names = [name for name, shape in self.shapes.items() if rank in (None, len(shape)) and shape]
        return str(self.draw(st.sampled_from(names[-3:] + names))) if names else ""

    def add(self, op: str, inputs: Sequence[str], *shapes: Shape, **attributes: Any) -> str:
        outputs = [f"v{len(self.nodes)}_{i}" for i in range(len(shapes))]
        self.nodes.append(helper.make_node(op, inputs, outputs, f"n{len(self.nodes)}", **attributes))
        self.shapes.update(zip(outputs, shapes, strict=True))
        return outputs[0]

    def store(self, array: Array) -> str:
        name = f"w{len(self.weights)}"
        self.weights[name] = array
        return name

    def ints(
        self, op: str, data: str, name: str, values: Sequence[int], since: int, shape: Shape, **more: Any
    ) -> str:
        """A node that is given integers as an attribute before an opset, as an input since."""
        if self.opset < since:
            return self.add(op, [data], shape, **{name: list(values)}, **more)
        return self.add(op, [data, self.store(np.array(values, np.int64))], shape, **more)

    def axes(self, rank: int) -> list[int]:
        axes = self.draw(st.lists(st.integers(0, rank - 1), min_size=1, max_size=rank, unique=True))
        return [self.signed(axis, rank) for axis in axes]

    def signed(self, axis: int, rank: int) -> int:
        """An axis, also counted from the end where an opset allows that."""
        return axis - rank if self.opset >= 11 and self.draw(st.booleans()) else axis

    def axis(self, rank: int) -> int:
        return self.signed(self.draw(st.integers(0, rank - 1)), rank)

    def transpose(self) -> None:
        value = self.pick()
        rank = len(self.shapes[value])
        orders = [st.permutations(range(rank))]
        if rank == 4:
            orders += [st.sampled_from([LAST, FIRST])] * 3
        perm = list(self.draw(st.one_of(orders)))
        self.add("Transpose", [value], tuple(self.shapes[value][axis] for axis in perm), perm=perm)

    def unary(self) -> None:
        op, value = self.draw(st.sampled_from(UNARY)), self.pick()
        bounds = [self.store(np.float32(-1)), self.store(np.float32(1))]
        if op == "Clip" and self.opset < 11:
            self.add(op, [value], self.shapes[value], min=-1.0, max=1.0)
        else:
            self.add(op, [value, *(bounds if op == "Clip" else [])], self.shapes[value])

    def binary(self) -> None:
        value = self.pick()
        shape = self.shapes[value]
        others = [name for name, other in self.shapes.items() if other == shape]
        small = [
            n
            for n, o in self.shapes.items()
            if all(a in (1, b) for a, b in zip(o[::-1], shape[::-1], strict=False))
        ]
        small = [name for name in small if len(self.shapes[name]) <= len(shape)]
        other = self.draw(st.sampled_from(others * 3 + small))
        pair = [value, other] if self.draw(st.booleans()) else [other, value]
        self.add(self.draw(st.sampled_from(BINARY)), pair, shape)

    def constant(self) -> None:
        value = self.pick()
        shape = self.shapes[value]
        ones = [1 if self.draw(st.booleans()) else size for size in shape]
        array = weight(*ones[self.draw(st.integers(0, len(shape))) :], 1, seed=len(self.nodes))[..., 0]
        pair = [value, self.store(array)]
        if self.draw(st.booleans()):
            self.add("Where", [self.store(array > 0), *pair], shape)
        else:
            self.add(self.draw(st.sampled_from(BINARY)), pair[:: self.draw(st.sampled_from([1, -1]))], shape)

    def conv(self) -> None:
        value = self.pick(4)
        if not value:
            return
        batch, channels, *size = self.shapes[value]
        w = self.store(weight(3, channels, 1, 1, seed=len(self.nodes)))
        self.add("Conv", [value, w], (batch, 3, *size))

    def conv_last(self) -> None:
        """A Conv of a value that has channels last, and so has the result."""
        value = self.pick(4)
        if not value:
            return
        *rest, channels = self.shapes[value]
        w = self.store(weight(3, channels, 1, 1, seed=len(self.nodes)))
        a = self.add("Transpose", [value], (rest[0], channels, *rest[1:]), perm=FIRST)
        b = self.add("Conv", [a, w], (rest[0], 3, *rest[1:]))
        self.add("Transpose", [b], (*rest, 3), perm=LAST)

    def matmul(self) -> None:
        value = self.pick(4)
        if value:
            *rest, channels = self.shapes[value]
            w = self.store(weight(channels, 3, seed=len(self.nodes)))
            self.add("MatMul", [value, w], (*rest, 3))

    def concat(self) -> None:
        value = self.pick()
        shape = self.shapes[value]
        others = [name for name, other in self.shapes.items() if other == shape]
        parts = [value, self.draw(st.sampled_from(others))]
        if self.draw(st.booleans()):
            parts.append(self.store(weight(*shape, seed=len(self.nodes))))
        axis = self.axis(len(shape))
        result = list(shape)
        result[axis] *= len(parts)
        self.add("Concat", parts, tuple(result), axis=axis)

    def split(self) -> None:
        value = self.pick()
        shape = self.shapes[value]
        axis = self.axis(len(shape))
        if shape[axis] % 2 == 0:
            half = list(shape)
            half[axis] //= 2
            more = {"num_outputs": 2} if self.opset >= 18 else {}
            self.add("Split", [value], tuple(half), tuple(half), axis=axis, **more)

    def slice(self) -> None:
        value = self.pick()
        shape = list(self.shapes[value])
        axes = (
            self.axes(len(shape))
            if self.draw(st.booleans())
            else list(range(self.draw(st.integers(1, len(shape)))))
        )
        says = axes != list(range(len(axes))) or self.draw(st.booleans())
        for axis in axes:
            shape[axis] = max(shape[axis] - 1, 1)
        ends = [shape[axis] for axis in axes]
        if self.opset < 10:
            more = {"axes": axes} if says else {}
            self.add("Slice", [value], tuple(shape), starts=[0] * len(axes), ends=ends, **more)
        else:
            given = [[0] * len(axes), ends, *([axes] if says else [])]
            inputs = [self.store(np.array(values, np.int64)) for values in given]
            self.add("Slice", [value, *inputs], tuple(shape))

    def pad(self) -> None:
        value = self.pick()
        shape = self.shapes[value]
        rank = len(shape)
        if self.opset >= 18 and self.draw(st.booleans()):
            axes = self.axes(rank)
            pads = self.draw(st.lists(st.integers(0, 1), min_size=2 * len(axes), max_size=2 * len(axes)))
            result = list(shape)
            for i, axis in enumerate(axes):
                result[axis] += pads[i] + pads[i + len(axes)]
            names = [self.store(np.array(values, np.int64)) for values in (pads, axes)]
            self.add("Pad", [value, names[0], "", names[1]], tuple(result))
            return
        pads = self.draw(st.lists(st.integers(0, 1), min_size=2 * rank, max_size=2 * rank))
        result = [size + pads[i] + pads[i + rank] for i, size in enumerate(shape)]
        self.ints("Pad", value, "pads", pads, 11, tuple(result))

    def reduce(self) -> None:
        value = self.pick()
        shape, op = self.shapes[value], self.draw(st.sampled_from(["ReduceMean", "ReduceSum", "ReduceMax"]))
        axes, keeps = self.axes(len(shape)), self.draw(st.booleans())
        gone = {axis % len(shape) for axis in axes}
        result = [1 if i in gone else size for i, size in enumerate(shape) if keeps or i not in gone]
        if self.draw(st.integers(0, 5)) == 0:
            everything = (1,) * len(shape) if keeps else ()
            self.add(op, [value], everything, keepdims=int(keeps))
        else:
            since = 13 if op == "ReduceSum" else 18
            self.ints(op, value, "axes", axes, since, tuple(result), keepdims=int(keeps))

    def softmax(self) -> None:
        value = self.pick()
        rank = len(self.shapes[value])
        self.add("Softmax", [value], self.shapes[value], axis=self.draw(st.integers(0, rank - 1)))

    def arg_max(self) -> None:
        value = self.pick()
        shape = self.shapes[value]
        axis, keeps = self.axis(len(shape)), self.draw(st.booleans())
        result = list(shape)
        result[axis : axis + 1 or None] = [1] if keeps else []
        found = self.add("ArgMax", [value], tuple(result), axis=axis, keepdims=int(keeps))
        del self.shapes[found]
        self.add("Cast", [found], tuple(result), to=1)

    def squeeze(self) -> None:
        value = self.pick()
        shape = self.shapes[value]
        ones = [axis for axis, size in enumerate(shape) if size == 1]
        if ones and len(shape) > 1:
            result = tuple(size for axis, size in enumerate(shape) if axis != ones[-1])
            self.ints("Squeeze", value, "axes", ones[-1:], 13, result)

    def unsqueeze(self) -> None:
        value = self.pick()
        shape = self.shapes[value]
        if len(shape) < 5:
            axis = self.draw(st.integers(0, len(shape)))
            self.ints("Unsqueeze", value, "axes", [axis], 13, (*shape[:axis], 1, *shape[axis:]))

    def reshape(self) -> None:
        value = self.pick()
        shape = self.shapes[value]
        flat = (shape[0], int(np.prod(shape[1:], dtype=int)))
        sizes = self.store(np.array([self.draw(st.sampled_from([0, shape[0]])), -1], np.int64))
        self.add("Reshape", [value, sizes], flat)

    def flatten(self) -> None:
        value = self.pick()
        shape = self.shapes[value]
        axis = self.draw(st.integers(0, len(shape)))
        result = (int(np.prod(shape[:axis], dtype=int)), int(np.prod(shape[axis:], dtype=int)))
        self.add("Flatten", [value], result, axis=axis)

    def shape_of(self) -> None:
        value = self.pick()
        rank = len(self.shapes[value])
        bounds = {"start": 1, "end": -1} if self.opset >= 15 and self.draw(st.booleans()) else {}
        count = len(range(rank)[1:-1]) if bounds else rank
        if count:
            found = self.add("Shape", [value], (count,), **bounds)
            del self.shapes[found]
            self.add("Cast", [found], (count,), to=1)


EVERYTHING = [
    *([Network.transpose] * 3),
    *([Network.unary, Network.binary, Network.constant, Network.conv, Network.conv_last] * 2),
    *(Network.concat, Network.split, Network.slice, Network.pad, Network.reduce, Network.softmax),
    *(Network.squeeze, Network.unsqueeze, Network.reshape, Network.shape_of, Network.matmul),
    *(Network.flatten, Network.arg_max),
]
CHANNELS_LAST = [
    *([Network.conv_last, Network.matmul] * 2),
    *(Network.unary, Network.binary, Network.constant, Network.pad),
]
"""What makes networks of channels last of Convs and MatMuls."""


def network(
    data: st.DataObject, opset: int, nodes: int, makers: Sequence[Callable[[Network], None]] = EVERYTHING
) -> ModelProto:
    """A network of about so many nodes; what nothing reads is an output, and a few other values."""
    sizes = st.sampled_from([(2, 4, 3, 2), (1, 2, 2, 4), (1, 3, 1, 1), (2, 1, 1, 4)])
    made = Network(data, opset, data.draw(sizes))
    for _ in range(nodes):
        data.draw(st.sampled_from(makers))(made)
    read = {name for node in made.nodes for name in node.input}
    values = [name for name in made.shapes if name != "x"]
    outputs = [name for name in values if name not in read or data.draw(st.integers(0, 7)) == 0]
    if not outputs:
        outputs = [made.add("Relu", ["x"], made.shape)]
    model = make_model(made.nodes, {"x": made.shape}, [], made.weights, opset)
    model.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, made.shapes[name]) for name in outputs
    )
    return model
