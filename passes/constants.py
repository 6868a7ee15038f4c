"""Values that are known before the run, however an exporter wrote them.

A value is constant if it is
1. an initializer, also one that is a graph input as well (IR 3 made every initializer an input);
2. the output of a Constant node;
3. computed from constants by operators that always give the same result (`_FOLDABLE`): Identity, Transpose,
   Reshape, Cast and the like, ConstantOfShape, the arithmetic of weight normalization;
4. in a body of a node: any of these in an outer scope.
Nothing is computed until it is read, and nothing is changed in the model.
"""

from __future__ import annotations

import copy
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from passes.graph import Scope, attributes, scopes

__all__ = ["FLOATS", "Constant", "ConstantError", "Constants", "all_constants"]

FLOATS = frozenset((TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE))
"""Types that are computed with; quantized and small floats are not."""

_FOLDABLE = {
    *("Cast", "Concat", "ConstantOfShape", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Shape"),
    *("Slice", "Squeeze", "Transpose", "Unsqueeze"),
    *("Abs", "Add", "Div", "Mul", "Neg", "Pow", "Reciprocal", "Sqrt", "Sub"),
    *("ReduceL2", "ReduceMean", "ReduceSum"),
}
_LISTS = ("value_int", "value_ints", "value_float", "value_floats")  # of a Constant node, besides `value`


class ConstantError(ValueError):
    """A constant expression that cannot be computed; one line that says why."""


class Constant:
    """A value that is known before the run.

    Attributes:
        name: of the value; of the stored tensor where it is stored and has one.
        home: the scope where it is stored or computed.
        tensor: where it is stored as it is; None if it is computed.
        order: greater than that of all constants it is computed from.
    """

    def __init__(self, name: str, home: Constants, source: TensorProto | NodeProto) -> None:
        self.name = name
        self.home = home.scope
        self.tensor = source if isinstance(source, TensorProto) else None
        self.order = home.count
        self._node = source if isinstance(source, NodeProto) else None
        self._constants = home

    @property
    def shape(self) -> tuple[int, ...]:
        """Its dimensions; `ConstantError` as in `read`."""
        return tuple(self._declared[1])

    @property
    def data_type(self) -> int:
        """Its `TensorProto.DataType`; `ConstantError` as in `read`."""
        return self._declared[0]

    @cached_property
    def _declared(self) -> tuple[int, tuple[int, ...]]:
        if self.tensor is not None:
            return self.tensor.data_type, tuple(self.tensor.dims)
        array = self.read()
        return helper.np_dtype_to_tensor_dtype(array.dtype), array.shape

    def read(self) -> NDArray[Any]:
        """The array; of external data only this tensor's bytes are read. Not kept.

        Raises:
            ConstantError: the expression that computes it is not valid.
        """
        if self.tensor is not None:
            tensor = self.tensor
            if tensor.data_location == TensorProto.EXTERNAL:
                tensor = copy.copy(tensor)  # some releases of onnx keep in it what they read
            return numpy_helper.to_array(tensor, self._constants.folder)
        done: dict[Constant, NDArray[Any]] = {}
        for source in sorted(self._sources(lambda _: True), key=lambda source: source.order):
            done[source] = source._compute(done)
        return done[self]

    def _compute(self, done: Mapping[Constant, NDArray[Any]]) -> NDArray[Any]:
        """The array, from those of the constants it is computed from."""
        if self._node is None:
            return self.read()
        feeds = {name: done[self._input(name)] for name in self._node.input if name}
        return _evaluate(self._node, feeds, self.home.opset)

    def has_one_reader(self, reads: Mapping[str, int]) -> bool:
        """Whether but one node that is no constant depends on it or on a float that it is computed from.

        Args:
            reads: how often each value of its scope is read (`passes.graph.count_reads`). What it is computed
                from must lie in that scope too.
        """
        sources = self._sources(lambda source: source.data_type in FLOATS)
        names = {name for source in sources for name in self._constants.names_of(source)}
        inner = Counter(self._constants.aliased(names))
        for source in sources:
            inner.update(() if source._node is None else source._node.input)
        return sum(reads.get(name, 0) - inner[name] for name in names) == 1

    def _sources(self, wanted: Callable[[Constant], bool]) -> set[Constant]:
        """It and the constants that it is computed from, as far as they are wanted."""
        found: set[Constant] = set()
        waiting = [self]
        while waiting:
            source = waiting.pop()
            if source not in found and wanted(source):
                found.add(source)
                inputs = () if source._node is None else filter(None, source._node.input)
                waiting += [source._input(name) for name in inputs]
        return found

    def _input(self, name: str) -> Constant:
        found = self._constants.find(name)
        assert found is not None, "all inputs of a constant expression are constant"  # noqa: S101
        return found


class Constants:
    """The constant values that the nodes of one scope see.

    Args:
        scope: the nodes.
        folder: what locations of external data are relative to.
        outer: the constants of the scope around it.
    """

    def __init__(self, scope: Scope, folder: str = "", outer: Constants | None = None) -> None:
        self.scope = scope
        self.folder = folder
        self._outer = outer
        self._known: dict[str, Constant] = {}
        self._names: defaultdict[Constant, list[str]] = defaultdict(list)
        self._aliases: dict[str, str] = {}  # of Identity nodes, output -> input
        self._inputs = set(scope.input_names)
        self._producers = {name: node for node in scope.holder.node for name in node.output if name}
        for tensor in scope.initializers:  # rule 1
            self._learn(tensor.name, Constant(tensor.name, self, tensor))
        for node in scope.holder.node:
            self._add(node)

    @property
    def count(self) -> int:
        """How many constants are known so far, here and around."""
        return len(self._names) + (0 if self._outer is None else self._outer.count)

    def find(self, name: str) -> Constant | None:
        """The constant of this name, or None if the value is not constant."""
        if name in self._known:
            return self._known[name]
        if self._outer is None or name in self._inputs or name in self._producers:
            return None
        return self._outer.find(name)  # rule 4

    def find_float(self, name: str, without: Collection[str] = ()) -> Constant | None:
        """The constant of this name, if it can be computed, has one of `FLOATS`, and is not in `without`."""
        found = self.find(name)
        if found is None or found.name in without:
            return None
        try:
            return found if found.data_type in FLOATS else None
        except ConstantError:
            return None

    def producer(self, name: str) -> NodeProto | None:
        """The node that computes a value, in this scope or around it; None for inputs and stored tensors."""
        is_here = name in self._inputs or name in self._producers or name in self._known
        if self._outer is None or is_here:
            return self._producers.get(name)
        return self._outer.producer(name)

    def names_of(self, constant: Constant) -> list[str]:
        """The names under which it is known in its scope: Identity nodes give further ones."""
        return self._names.get(constant, [])

    def aliased(self, names: Collection[str]) -> list[str]:
        """What the Identity nodes read that give a value one of these names."""
        return [self._aliases[name] for name in names if name in self._aliases]

    def _learn(self, name: str, constant: Constant) -> None:
        self._known[name] = constant
        self._names[constant].append(name)

    def _add(self, node: NodeProto) -> None:
        is_given = any(attribute.ref_attr_name for attribute in node.attribute)  # by a function's caller
        if node.domain not in ("", "ai.onnx") or not node.output or is_given:
            return
        name = node.output[0]
        if node.op_type == "Constant":  # rule 2
            tensor = _stored(node)
            if tensor is not None:
                self._learn(name, Constant(tensor.name or name, self, tensor))
        elif node.op_type in _FOLDABLE:  # rule 3
            inputs = [self.find(value) for value in node.input if value]
            if inputs and all(inputs):
                same = inputs[0] if node.op_type == "Identity" else None
                if same is not None:
                    self._aliases[name] = node.input[0]
                self._learn(name, same or Constant(name, self, node))


def all_constants(model: ModelProto, folder: str = "") -> Iterator[Constants]:
    """The constants of every scope of a model, in the order of `scopes`."""
    made: dict[Scope | None, Constants] = {}
    for scope in scopes(model):
        made[scope] = Constants(scope, folder, made.get(scope.outer))
        yield made[scope]


def _stored(node: NodeProto) -> TensorProto | None:
    """The tensor of a Constant node; None for strings and sparse tensors."""
    given = attributes(node)
    if "value" in given:
        return given["value"].t
    kind = next((kind for kind in _LISTS if kind in given), None)
    if kind is None:
        return None
    dtype = np.int64 if "int" in kind else np.float32
    return numpy_helper.from_array(np.asarray(helper.get_attribute_value(given[kind]), dtype))


def _evaluate(node: NodeProto, feeds: dict[str, NDArray[Any]], opset: int) -> NDArray[Any]:
    """What a node computes, by ONNX's reference evaluator."""
    graph = GraphProto(name="constant", node=[node])
    graph.node[0].domain = ""  # "ai.onnx" is another name of it
    if node.op_type == "Unsqueeze":  # the evaluator takes axes of an attribute one by one, as they come
        for attribute in graph.node[0].attribute:
            rank = feeds[node.input[0]].ndim + len(attribute.ints)
            attribute.ints[:] = sorted(axis % rank for axis in attribute.ints)
    for name, array in feeds.items():
        data_type = helper.np_dtype_to_tensor_dtype(array.dtype)
        graph.input.append(helper.make_tensor_value_info(name, data_type, array.shape))
    graph.output.add(name=node.output[0])
    try:
        with np.errstate(all="ignore"):
            (result,) = _reference()(graph, opsets={"": opset}).run(None, feeds)
    except Exception as error:  # whatever an invalid expression raises
        reason = " ".join(str(error).split())
        raise ConstantError(f"constant '{node.output[0]}' cannot be computed: {reason}") from error
    return np.asarray(result)


@cache
def _reference() -> Any:
    """Imported at its first use: few models have computed weights, and it takes half a second."""
    from onnx.reference import ReferenceEvaluator  # noqa: PLC0415

    return ReferenceEvaluator
