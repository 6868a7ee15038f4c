"""Cancel Transposes between layouts, as exporters of channels-last networks put around every Conv.

    Conv(Transpose(Relu(Transpose(Conv(x)))))   ->   Conv(Relu(Conv(x)))

Transposes sink. In the main graph, from the first node to the last,
1. a value is a base in an order of axes (`passes.agnostic`); a Transpose only gives a base another order;
2. a layout-agnostic node whose operands are bases in one order reads the bases, and what it computes is a new
   base in an order. Another operand is given the order: a constant is stored once more, any other value is
   transposed;
3. any other node reads the values: one Transpose for each base and order, which all readers share. Outputs of
   the graph, and what bodies of nodes and training_info refer to, keep their names;
4. Shape and Size read the base, and so do Reshape and Flatten where only axes of size 1 differ.
Then it is judged what that is good for:
5. from the last node to the first, a node that was moved to bases goes back if that takes no more Transposes,
   or as many that move no more elements;
6. a region, which are bases that such nodes link, is changed if it has fewer Transposes than before or fewer
   that move more than axes of size 1, no more of either, and no more elements move as far as that is known.
All else stays as it is, for instance in attention. So do models before opset 7: operators did not broadcast.

A value whose layout changes gets a new name, one whose layout stays keeps it. An output of the graph that
became the same as another value is an Identity of it, which `remove_no_ops` takes where it can.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping

from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from passes.agnostic import AGNOSTIC, Rule
from passes.constants import all_constants
from passes.graph import add_initializers, attributes, copy_model, free_name, opset, value_names
from passes.orders import NewConstant, int64_constant, is_identity
from passes.settling import Settled
from passes.sinking import MovedNode, Operand, Sinking
from passes.views import View

__all__ = ["cancel_transposes", "sink_transposes"]

_OLDEST = 7  # opset


def cancel_transposes(model: ModelProto, base_dir: str = "") -> ModelProto:
    """Cancel all Transposes that the module's rules allow.

    Args:
        model: left alone; returned itself where nothing was cancelled. What became unused, and what is
            declared of values that are gone, stays for `remove_unused`.
        base_dir: the folder that locations of external data are relative to.
    """
    return sink_transposes(model, base_dir, AGNOSTIC)


def sink_transposes(model: ModelProto, base_dir: str, rules: Mapping[str, Rule]) -> ModelProto:
    """`cancel_transposes` with other rules for nodes that can be moved, by operator."""
    while True:  # each round leaves fewer Transposes
        result = _sink_once(model, base_dir, rules)
        if result is model:
            return model
        model = result


def _sink_once(model: ModelProto, base_dir: str, rules: Mapping[str, Rule]) -> ModelProto:
    if opset(model) < _OLDEST or all(node.op_type != "Transpose" for node in model.graph.node):
        return model
    constants = next(all_constants(model, base_dir))
    sinking = Sinking(model, constants, rules)
    settled = Settled(model, constants, sinking)
    return _Writer(model, sinking, settled).write() if settled.changes else model


class _Writer:
    """Writes the nodes of the new main graph."""

    def __init__(self, model: ModelProto, sinking: Sinking, settled: Settled) -> None:
        self._model = model
        self._sinking = sinking
        self._settled = settled
        self._taken = value_names(model)
        self._written: set[View] = set()
        self._stored: dict[Hashable, TensorProto] = {}
        self._names: dict[View, str] = {}
        for name in sinking.views:
            self._offer(name)

    def _offer(self, name: str) -> None:
        """Let a value give its name to the view that it is; values that keep their names come first."""
        view = self._settled.view(name)
        if view is None or (is_identity(view[1]) and self._sinking.views.order(view[0]) is None):
            return
        old = self._names.setdefault(view, name)
        if name in self._sinking.pinned and old not in self._sinking.pinned:
            self._names[view] = name

    def write(self) -> ModelProto:
        """The new model."""
        nodes = [new for i, node in enumerate(self._model.graph.node) for new in self._rewrite(i, node)]
        result = copy_model(self._model)
        del result.graph.node[:]
        result.graph.node.extend(nodes)
        add_initializers(result, self._stored.values())
        return result

    def _rewrite(self, position: int, node: NodeProto) -> Iterator[NodeProto]:
        """What a node becomes, and what has to come before and after it."""
        moved = self._settled.moved(position)
        if moved is not None:
            for name in moved.sources:
                yield from self._transpose(self._sinking.views.relative(name, moved.order))
            yield self._move(node, moved)
        elif position not in self._sinking.transposes or self._settled.view(node.output[0]) is None:
            yield from self._stay(node)
        for name in node.output:
            found = self._settled.view(name)
            if found is not None:
                yield from self._transpose(found, node if moved is None else None)
                if name in self._sinking.pinned and self._name(found) != name:
                    label = free_name(f"{name}_identity", self._taken)
                    yield helper.make_node("Identity", [self._name(found)], [name], label)

    def _transpose(self, view: View, node: NodeProto | None = None) -> Iterator[NodeProto]:
        """The Transpose that makes a view, if it is needed and not there yet; in place of an old one."""
        if view in self._written or not self._settled.is_needed(view):
            return
        self._written.add(view)
        new = NodeProto(op_type="Transpose")
        if node is None:
            new.name = free_name(f"{self._name(view)}_transpose", self._taken)
        else:
            new.CopyFrom(node)
            del new.input[:], new.output[:], new.attribute[:]
        new.input.append(self._base_name(view[0]))
        new.output.append(self._name(view))
        new.attribute.append(helper.make_attribute("perm", view[1]))
        yield new

    def _move(self, node: NodeProto, moved: MovedNode) -> NodeProto:
        """A node that reads bases."""
        new, change = _copy(node), moved.moved
        for position, name in enumerate(node.input):
            operand = moved.operands.get(position, Operand())
            if operand.constant is not None:
                new.input[position] = self._store(operand.constant)
            elif operand.source:
                new.input[position] = self._name(self._sinking.views.relative(name, moved.order))
            else:
                new.input[position] = self._read(name)
        for position, constant in change.constants.items():
            new.input.extend([""] * (position + 1 - len(new.input)))
            new.input[position] = self._store(constant)
        for i, name in enumerate(node.output):
            if self._sinking.views.order(name) is not None:
                new.output[i] = self._base_name(name)
        kept = [attribute for attribute in new.attribute if attribute.name not in change.attributes]
        del new.attribute[:]
        new.attribute.extend(kept)
        new.attribute.extend(helper.make_attribute(name, value) for name, value in change.attributes.items())
        new.op_type = change.op or node.op_type
        return new

    def _stay(self, node: NodeProto) -> Iterator[NodeProto]:
        """A node that reads values, or, if that is the same to it, bases."""
        new = _copy(node)
        for i, name in enumerate(node.input):
            view = self._settled.view(name)
            if view is None:
                continue
            is_made = is_identity(view[1]) or self._settled.is_needed(view)
            new.input[i] = self._name(view) if is_made else self._base_name(view[0])
            if not is_made and node.op_type == "Shape":
                yield from self._shape(new, view)
                return
        yield new

    def _shape(self, node: NodeProto, view: View) -> Iterator[NodeProto]:
        """The Shape of a view, from that of its base."""
        given, output = attributes(node), node.output[0]
        bounds = [given[name].i if name in given else None for name in ("start", "end")]
        node.output[0] = free_name(f"{output}_transposed", self._taken)
        del node.attribute[:]
        yield node
        axes = self._store(int64_constant(f"{output}_axes", view[1][slice(*bounds)]))
        label = free_name(f"{output}_gather", self._taken)
        yield helper.make_node("Gather", [node.output[0], axes], [output], label, axis=0)

    def _read(self, name: str) -> str:
        """What a value is called."""
        view = self._settled.view(name)
        return name if view is None else self._name(view)

    def _name(self, view: View) -> str:
        """What a view is called."""
        if is_identity(view[1]) and self._sinking.views.order(view[0]) is None:
            return view[0]
        if view not in self._names:
            self._names[view] = free_name(f"{view[0]}_transposed", self._taken)
        return self._names[view]

    def _base_name(self, base: str) -> str:
        """What a base is called."""
        order = self._sinking.views.order(base)
        return base if order is None else self._name((base, tuple(range(len(order)))))

    def _store(self, constant: NewConstant) -> str:
        """The name of a new constant, which is stored once."""
        if constant.key not in self._stored:
            name = free_name(constant.stem, self._taken)
            self._stored[constant.key] = numpy_helper.from_array(constant.make(), name)
        return self._stored[constant.key].name


def _copy(node: NodeProto) -> NodeProto:
    copy = NodeProto()
    copy.CopyFrom(node)
    return copy
