"""Which of the moved nodes stay moved, and which regions of a graph gain by it.

The rules are those of `passes.cancel_transposes`, 3 to 6.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

from onnx import ModelProto, NodeProto

from passes.constants import ConstantError, Constants
from passes.graph import attributes, count_reads, is_operator
from passes.orders import Perm, is_identity
from passes.sinking import BASE_READERS, MovedNode, Operand, Sinking
from passes.views import Cost, View

__all__ = ["Settled"]


class Settled:
    """What of a sinking is carried out.

    Args:
        model: left alone.
        constants: those of its main graph.
        sinking: of its main graph. Nodes that return are taken out of it.
    """

    def __init__(self, model: ModelProto, constants: Constants, sinking: Sinking) -> None:
        self._nodes = list(model.graph.node)
        self._constants = constants
        self._sinking = sinking
        self._views = sinking.views
        self._base_reads: Counter[str] = Counter()
        self._needs: defaultdict[str, Counter[Perm]] = defaultdict(Counter)
        self._count_reads()
        for i in reversed(list(sinking.moved)):
            if self._should_return(i):
                self._return(i)
        self._regions = self._link()
        self._changing = self._judge(count_reads(model.graph))

    @property
    def changes(self) -> bool:
        """Whether any region gains."""
        return bool(self._changing)

    def view(self, name: str) -> View | None:
        """What a value is from now on; None if it stays."""
        view = self._views.find(name)
        return view if view is not None and self._regions.find(view[0]) in self._changing else None

    def is_needed(self, view: View) -> bool:
        """Whether a node reads a view, and not its base."""
        return self._needs[view[0]][view[1]] > 0

    def moved(self, position: int) -> MovedNode | None:
        """How a node is moved; None if it stays."""
        found = self._sinking.moved.get(position)
        if found is None:
            return None
        base = self._views.relative(found.sources[0], found.order)[0]
        return found if self._regions.find(base) in self._changing else None

    def reads_base(self, node: NodeProto, view: View) -> bool:
        """Whether a node that is not moved can read the base in place of a view: rule 4."""
        if not is_operator(node, *BASE_READERS):
            return False
        if node.op_type in ("Shape", "Size"):
            return True
        if not self._views.moves_ones(view):
            return False
        given, perm = attributes(node), view[1]
        if node.op_type == "Flatten":
            axis = given["axis"].i if "axis" in given else 1
            kept = perm[:axis]
            return set(kept) == set(range(len(kept)))
        sizes = self._ints(node.input[1]) if len(node.input) > 1 else None
        is_literal = "allowzero" in given and given["allowzero"].i != 0
        copied = [axis for axis, size in enumerate(sizes or ()) if size == 0 and not is_literal]
        return sizes is not None and all(axis < len(perm) and perm[axis] == axis for axis in copied)

    def _ints(self, name: str) -> list[int] | None:
        found = self._constants.find(name)
        try:
            return None if found is None else [int(value) for value in found.read().reshape(-1)]
        except ConstantError:
            return None

    def _count_reads(self) -> None:
        """Rule 3: who reads bases, who reads views."""
        for i, node in enumerate(self._nodes):
            if i in self._sinking.transposes:
                continue
            moved = self._sinking.moved.get(i)
            bases = set() if moved is None else {p for p, o in moved.operands.items() if o != Operand()}
            for position, name in enumerate(node.input):
                if position not in bases:
                    self._read(node, name)
            for view in self._reads(moved):
                self._count(view, 1)
        for name in self._views:
            if name in self._sinking.pinned:
                self._need(name)

    def _read(self, node: NodeProto, name: str) -> None:
        """Count what a node reads that is not moved."""
        view = self._views.find(name)
        if view is None:
            return
        if is_identity(view[1]) or not self.reads_base(node, view):
            self._need(name)
        elif node.op_type not in ("Shape", "Size") and view[0] != name:
            self._base_reads[view[0]] += 1

    def _reads(self, moved: MovedNode | None) -> list[View]:
        """What a moved node reads: views by the identity are bases."""
        return [] if moved is None else [self._views.relative(name, moved.order) for name in moved.sources]

    def _need(self, name: str) -> None:
        self._count(self._views.find(name) or (name, ()), 1)

    def _count(self, view: View, reads: int) -> None:
        base, perm = view
        if is_identity(perm):
            self._base_reads[base] += reads
        else:
            self._needs[base][perm] += reads

    def _base(self, name: str) -> str:
        view = self._views.find(name)
        return name if view is None else view[0]

    def _should_return(self, position: int) -> bool:
        """Whether a node takes no more Transposes if it reads values again: rule 5."""
        moved = self._sinking.moved[position]
        outputs = [name for name in self._nodes[position].output if self._views.order(name) is not None]
        if any(self._base_reads[name] or self._other_needs(name) for name in outputs):
            return False
        saved = [(name, order) for name in outputs if (order := self._views.order(name)) is not None]
        saved = [view for view in saved if self.is_needed(view)]
        own = Counter(self._reads(moved))
        saved += [view for view, count in own.items() if self._needs[view[0]][view[1]] == count]
        sources = {self._views.find(name) or (name, ()) for name in moved.sources}
        before = self._cost(saved)
        after = self._cost(view for view in sources if not is_identity(view[1]) and not self.is_needed(view))
        is_other = moved.moved.op is not None  # another operator only for fewer Transposes
        return not before.has_fewer(after) and (
            after.has_fewer(before) or is_other or not after.moves_more(before)
        )

    def _other_needs(self, name: str) -> bool:
        """Whether a view of a new base is read that is not the value itself."""
        return any(count and perm != self._views.order(name) for perm, count in self._needs[name].items())

    def _return(self, position: int) -> None:
        moved = self._sinking.moved.pop(position)
        for view in self._reads(moved):
            self._count(view, -1)
        for name in moved.sources:
            self._need(name)
        for name in self._nodes[position].output:
            if self._views.order(name) is not None:
                self._views.return_base(name)
                self._needs[name].clear()

    def _cost(self, views: Iterable[View]) -> Cost:
        return sum((self._views.cost(view) for view in views), Cost())

    def _link(self) -> _Regions:
        """Bases that moved nodes link are one region."""
        regions = _Regions()
        for i, moved in self._sinking.moved.items():
            first, *others = [base for base, _ in self._reads(moved)]
            others += [name for name in self._nodes[i].output if self._views.order(name) is not None]
            for base in others:
                regions.link(first, base)
        return regions

    def _judge(self, reads: Counter[str]) -> set[str]:
        """The regions that gain: rule 6."""
        before: defaultdict[str, Cost] = defaultdict(Cost)
        after: defaultdict[str, Cost] = defaultdict(Cost)
        for i, perm in self._sinking.transposes.items():
            source, name = self._nodes[i].input[0], self._nodes[i].output[0]
            if reads[name] or name in self._sinking.pinned:
                before[self._regions.find(self._base(name))] += self._views.value_cost(source, perm)
        for view in self._needed():
            after[self._regions.find(view[0])] += self._views.cost(view)
        return {region for region, cost in before.items() if after[region].gains_on(cost)}

    def _needed(self) -> Iterator[View]:
        for base, orders in self._needs.items():
            yield from ((base, perm) for perm, count in orders.items() if count)


class _Regions:
    """Names that are linked, directly or by way of others."""

    def __init__(self) -> None:
        self._parents: dict[str, str] = {}

    def find(self, name: str) -> str:
        """The name that stands for all that it is linked with."""
        root = name
        while root in self._parents:
            root = self._parents[root]
        while name != root:
            self._parents[name], name = root, self._parents[name]
        return root

    def link(self, first: str, second: str) -> None:
        """Say that two names are linked."""
        first, second = self.find(first), self.find(second)
        if first != second:
            self._parents[second] = first
