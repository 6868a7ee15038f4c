"""Remove nodes that give out what they read: Identity and the like.

    y = Identity(x)   ->   what read y reads x

A node is removed if
1. it is an Identity; a Cast to the type that the value has already; a Transpose that keeps the order of axes;
   a Dropout that drops nothing (inference mode) and whose mask is not read;
2. something reads its output, or the graph gives it out;
3. one of the two names can go. If y is no output of a graph or body, what read y reads x. If it is, x gets
   the name y, provided x is computed in the same scope by a node without bodies and is no output itself:
   names of inputs and outputs stay;
4. neither name has a meaning elsewhere: in training_info, in a quantization annotation, or as another value
   in a body of a node;
5. none of its attributes is given by the caller of a function.
Bodies of nodes and local functions are treated as the main graph is. Types are inferred (`passes.inference`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

from passes.constants import ConstantError, Constants, all_constants
from passes.graph import (
    Key,
    Scope,
    attributes,
    copy_model,
    count_reads,
    is_operator,
    scopes,
    subgraphs,
    trained_names,
)
from passes.inference import ValueType, infer_values

__all__ = ["remove_no_ops"]

_OPS = ("Cast", "Dropout", "Identity", "Transpose")


@dataclass(frozen=True, slots=True)
class _Plan:
    """What becomes of one scope.

    Attributes:
        names: new names of values that lose theirs.
        doomed: positions of the nodes to remove.
    """

    names: dict[str, str] = field(default_factory=dict)
    doomed: set[int] = field(default_factory=set)

    def name(self, value: str) -> str:
        """What a value is called from now on."""
        while value in self.names:
            value = self.names[value]
        return value


def remove_no_ops(model: ModelProto, base_dir: str = "") -> ModelProto:
    """Remove every node that the module's rules allow.

    Args:
        model: left alone; returned itself where nothing was removed. What is declared of values that lost
            their names stays for `remove_unused`.
        base_dir: the folder that locations of external data are relative to.
    """
    search = _Search(model, base_dir)
    plans = {constants.scope.path: search.plan(constants) for constants in search.constants}
    if not any(plan.doomed for plan in plans.values()):
        return model
    result = copy_model(model)
    for scope in reversed(list(scopes(result))):  # bodies first: the nodes that have them are copied
        _apply(scope, plans)
    return result


class _Search:
    """What the plans of all scopes need to know."""

    def __init__(self, model: ModelProto, base_dir: str) -> None:
        self._model = model
        self._base_dir = base_dir
        all_scopes = list(scopes(model))
        self._outputs = {name for scope in all_scopes for name in _outputs(scope)}
        self._fixed = trained_names(model) | set(_annotated(all_scopes))
        self._definitions: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for scope in all_scopes:
            self._definitions[_root(scope)].update(set(_defined(scope)))

    @property
    def constants(self) -> Iterator[Constants]:
        return all_constants(self._model, self._base_dir)

    @cached_property
    def _types(self) -> Mapping[Key, ValueType]:
        return infer_values(self._model, self._base_dir)

    def plan(self, constants: Constants) -> _Plan:
        """What to remove from one scope."""
        plan, holder = _Plan(), constants.scope.holder
        if not any(node.op_type in _OPS for node in holder.node):
            return plan
        reads = count_reads(holder)
        computed = {name for node in holder.node if not any(subgraphs(node)) for name in node.output}
        for i, node in enumerate(holder.node):
            if not self._is_no_op(node, constants, reads):
                continue
            source, result = plan.name(node.input[0]), node.output[0]
            if not reads[result] or not self._is_plain(constants.scope, source, result):  # rules 2 and 4
                continue
            if result not in self._outputs:  # rule 3
                plan.names[result] = source
            elif source in computed and source not in self._outputs:
                plan.names[source] = result
            else:
                continue
            plan.doomed.add(i)
        return plan

    def _is_plain(self, scope: Scope, *names: str) -> bool:
        """Whether these names stand for one value each, and for nothing else: rule 4."""
        counts = self._definitions[_root(scope)]
        return all(name and name not in self._fixed and counts[name] <= 1 for name in names)

    def _is_no_op(self, node: NodeProto, constants: Constants, reads: Mapping[str, int]) -> bool:
        is_given = any(attribute.ref_attr_name for attribute in node.attribute)  # rule 5
        if is_given or not is_operator(node, *_OPS):
            return False
        given = attributes(node)
        if node.op_type == "Cast":
            return "to" in given and self._elem_type(constants.scope, node.input[0]) == given["to"].i
        if node.op_type == "Transpose":
            return "perm" in given and list(given["perm"].ints) == list(range(len(given["perm"].ints)))
        if node.op_type == "Dropout":
            mask_is_read = any(reads[name] for name in node.output[1:] if name)
            return not mask_is_read and _drops_nothing(node, given, constants)
        return True

    def _elem_type(self, scope: Scope, name: str) -> int | None:
        """The type of a value that this scope sees; None if unknown."""
        around: Scope | None = scope
        while around is not None:
            if (around.path, name) in self._types:
                elem_type = self._types[around.path, name].elem_type
                return None if elem_type == TensorProto.UNDEFINED else elem_type
            around = around.outer
        return None


def _drops_nothing(node: NodeProto, given: Mapping[str, AttributeProto], constants: Constants) -> bool:
    """Whether a Dropout is in inference mode, which each version of ONNX says in another way."""
    opset = constants.scope.opset
    if opset < 7:
        return "is_test" in given and given["is_test"].i != 0
    if opset < 12 or len(node.input) < 3 or not node.input[2]:
        return True
    training = constants.find(node.input[2])
    try:
        return training is not None and not training.read().any()
    except ConstantError:
        return False


def _root(scope: Scope) -> str:
    """The path of the main graph or function that a scope lies in: names of one mean nothing in another."""
    while scope.outer is not None:
        scope = scope.outer
    return scope.path


def _outputs(scope: Scope) -> list[str]:
    return [value if isinstance(value, str) else value.name for value in scope.holder.output]


def _defined(scope: Scope) -> Iterator[str]:
    """Values that come into being in a scope."""
    yield from scope.input_names
    yield from (tensor.name for tensor in scope.initializers)
    if isinstance(scope.holder, GraphProto):
        yield from (tensor.values.name for tensor in scope.holder.sparse_initializer)
    for node in scope.holder.node:
        yield from node.output


def _annotated(all_scopes: list[Scope]) -> Iterator[str]:
    for scope in all_scopes:
        if isinstance(scope.holder, GraphProto):
            yield from (note.tensor_name for note in scope.holder.quantization_annotation)


def _apply(scope: Scope, plans: Mapping[str, _Plan]) -> None:
    """Rename values in the nodes of a scope, and remove those that are planned, in a copy of the model."""
    plan = plans[scope.path]
    around = [plans[path] for path in _paths(scope) if plans[path].names]
    if not around:
        return
    kept = [node for i, node in enumerate(scope.holder.node) if i not in plan.doomed]
    for node in kept:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                new = name
                for each in around:
                    new = each.name(new)
                if new != name:
                    names[i] = new
    if plan.doomed:
        del scope.holder.node[:]
        scope.holder.node.extend(kept)


def _paths(scope: Scope) -> Iterator[str]:
    """Paths of a scope and of those around it, from the inside out."""
    around: Scope | None = scope
    while around is not None:
        yield around.path
        around = around.outer
