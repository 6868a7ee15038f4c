"""Which operators compute the same whatever the order of axes, and how they are told of another order.

A value v is said to be a base in the order `perm` if v = Transpose(base, perm): axis i of v is axis perm[i]
of the base. A layout-agnostic node can be moved from values to their bases:

    op(Transpose(x, perm)) = Transpose(op'(x), perm')

`AGNOSTIC` has the rule of every such operator:
1. elementwise with one operand: op' = op, perm' = perm. Further inputs (bounds of Clip) are scalars;
2. elementwise with several operands: the same, where all operands have the order, or can be given it;
3. along one axis (Concat, Split, Softmax, ...): axis' = perm[axis]. Softmax and its like since opset 13,
   before that they make a matrix of their input;
4. along several axes (reductions, Slice, Pad, Squeeze, Unsqueeze): axes' = perm[axes], be they an attribute
   or a constant input. Where axes vanish, perm' is the order of those that are left.
A node that none of these rules covers is not agnostic: axes that are not constant, random numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from onnx import NodeProto

from passes.constants import Constant, ConstantError, Constants
from passes.graph import attributes
from passes.orders import Moved, NewConstant, Perm, int64_constant, inverse

__all__ = ["AGNOSTIC", "Rule"]

Rule = Callable[[NodeProto, Perm, Constants], Moved | None]
"""From a node whose operands are bases in one order to the moved node, None if it cannot be moved."""


def _elementwise(node: NodeProto, perm: Perm, _: Constants) -> Moved | None:
    """Rule 1."""
    is_random = node.op_type == "Dropout" and len(node.input) > 2 and node.input[2]
    return None if is_random else Moved([0], perm)


def _broadcast(node: NodeProto, perm: Perm, _: Constants) -> Moved:
    """Rule 2."""
    return Moved(range(len(node.input)), perm, broadcasts=True)


def _quantize(node: NodeProto, perm: Perm, constants: Constants) -> Moved | None:
    """Rule 1 for one scale, rule 3 for a scale for each slice along an axis."""
    given, scale = attributes(node), constants.find(node.input[1])
    rank = None if scale is None else _rank(scale)
    if rank is None or ("block_size" in given and given["block_size"].i):
        return None
    if rank == 0:
        return Moved([0], perm)
    has_axis = rank == 1 and constants.scope.opset >= 13
    return _along_axis(node, perm, default=1, operands=[0]) if has_axis else None


def _along_axis(node: NodeProto, perm: Perm, default: int, operands: Sequence[int]) -> Moved | None:
    """Rule 3."""
    given = attributes(node)
    axes = _in_range([given["axis"].i if "axis" in given else default], len(perm))
    return None if axes is None else Moved(operands, perm, {"axis": perm[axes[0]]})


def _concat(node: NodeProto, perm: Perm, _: Constants) -> Moved | None:
    return _along_axis(node, perm, default=0, operands=range(len(node.input)))


def _split(node: NodeProto, perm: Perm, _: Constants) -> Moved | None:
    return _along_axis(node, perm, default=0, operands=[0])


def _softmax(node: NodeProto, perm: Perm, constants: Constants) -> Moved | None:
    is_along_axis = constants.scope.opset >= 13
    return _along_axis(node, perm, default=-1, operands=[0]) if is_along_axis else None


def _normalize(node: NodeProto, perm: Perm, _: Constants) -> Moved | None:
    return _along_axis(node, perm, default=-1, operands=[0])


def _arg(node: NodeProto, perm: Perm, _: Constants) -> Moved | None:
    """Rule 3 for ArgMax and ArgMin, whose axis may vanish."""
    moved = _along_axis(node, perm, default=0, operands=[0])
    if moved is None or _flag(node, "keepdims", True):
        return moved
    left = _without(perm, {moved.attributes["axis"]})
    return Moved([0], left, moved.attributes)


def _reduce(node: NodeProto, perm: Perm, constants: Constants) -> Moved | None:
    """Rule 4; without axes everything is reduced, or nothing."""
    axes = _axes(node, 1, constants)
    if axes is None:
        return None
    keeps = _flag(node, "keepdims", True)
    if not axes:
        reduces_nothing = _flag(node, "noop_with_empty_axes", False)
        return Moved([0], perm if reduces_nothing else tuple(range(len(perm) if keeps else 0)))
    return _change_axes(node, 1, axes, perm, vanish=not keeps)


def _squeeze(node: NodeProto, perm: Perm, constants: Constants) -> Moved | None:
    """Rule 4; without axes nothing says which vanish."""
    axes = _axes(node, 1, constants)
    return _change_axes(node, 1, axes, perm, vanish=True) if axes else None


def _unsqueeze(node: NodeProto, perm: Perm, constants: Constants) -> Moved | None:
    """Rule 4; where the new axes lie in the base is free.

    They are put beside a neighbour that is neither batch nor channel, if there is one: then later Transposes
    between the usual layouts cancel.
    """
    axes = _axes(node, 1, constants)
    rank = len(perm) + len(axes or ())
    inserted = _in_range(axes, rank) if axes else None
    if inserted is None or len(set(inserted)) != len(inserted):
        return None
    old = iter(perm)
    outer: list[int | None] = [None if axis in inserted else next(old) for axis in range(rank)]
    base: list[tuple[str, int]] = [("old", axis) for axis in range(len(perm))]
    for axis in sorted(inserted):
        before = next((a for a in reversed(outer[:axis]) if a is not None), None)
        after = next((a for a in outer[axis:] if a is not None), None)
        base.insert(_place(base, before, after), ("new", axis))
    names = [("new", axis) if known is None else ("old", known) for axis, known in enumerate(outer)]
    places = {name: place for place, name in enumerate(base)}
    new_axes = sorted(places["new", axis] for axis in inserted)
    changes = _with_axes(node, 1, new_axes)
    return Moved([0], tuple(places[name] for name in names), *changes)


def _place(base: Sequence[tuple[str, int]], before: int | None, after: int | None) -> int:
    """Where to insert a new axis that lies between two old ones in the value."""
    spatial = 2
    if after is not None and after >= spatial:
        return base.index(("old", after))
    if before is not None and before >= spatial:
        return base.index(("old", before)) + 1
    return len(base)


def _slice(node: NodeProto, perm: Perm, constants: Constants) -> Moved | None:
    """Rule 4; without axes the first ones are meant."""
    axes = _axes(node, 3, constants)
    if axes is None:
        return None
    if not axes:
        given = attributes(node)
        starts = constants.find(node.input[1]) if len(node.input) > 1 else None
        count = len(given["starts"].ints) if "starts" in given else _length(starts)
        if count is None:
            return None
        axes = list(range(count))
    return _change_axes(node, 3, axes, perm)


def _pad(node: NodeProto, perm: Perm, constants: Constants) -> Moved | None:
    """Rule 4; without axes there are pads for all of them."""
    axes = _axes(node, 3, constants)
    if axes is None:
        return None
    if axes:
        return _change_axes(node, 3, axes, perm)
    given, rank = attributes(node), len(perm)
    if "pads" in given:
        pads: Sequence[int] | None = given["pads"].ints
    else:
        pads = _ints(node, 1, constants)
    if pads is None or len(pads) != 2 * rank:
        return None
    back = inverse(perm)
    moved = [pads[half + axis] for half in (0, rank) for axis in back]
    if "pads" in given:
        return Moved([0], perm, {"pads": moved})
    return Moved([0], perm, constants={1: int64_constant(f"{node.input[1]}_transposed", moved)})


def _change_axes(
    node: NodeProto, position: int, axes: Sequence[int], perm: Perm, vanish: bool = False
) -> Moved | None:
    """A node along several axes of its operand, which do not outlive it if they vanish."""
    known = _in_range(axes, len(perm))
    if known is None:
        return None
    new = [perm[axis] for axis in known]
    return Moved([0], _without(perm, set(new)) if vanish else perm, *_with_axes(node, position, new))


def _with_axes(
    node: NodeProto, position: int, axes: list[int]
) -> tuple[dict[str, int | list[int]], dict[int, NewConstant]]:
    """The attribute or the input that says the axes."""
    takes_input = len(node.input) > 1 and "axes" not in attributes(node)
    if not takes_input:
        return {"axes": axes}, {}
    named = position < len(node.input) and node.input[position]
    return {}, {position: int64_constant(f"{named or node.output[0] + '_axes'}_transposed", axes)}


def _without(perm: Perm, gone: set[Any]) -> Perm:
    """The order of the axes that are left."""
    left = [axis for axis in perm if axis not in gone]
    places = {axis: place for place, axis in enumerate(sorted(left))}
    return tuple(places[axis] for axis in left)


def _axes(node: NodeProto, position: int, constants: Constants) -> list[int] | None:
    """What a node says of its axes: an empty list if nothing, None if it is not constant."""
    given = attributes(node)
    return list(given["axes"].ints) if "axes" in given else _ints(node, position, constants)


def _ints(node: NodeProto, position: int, constants: Constants) -> list[int] | None:
    """The integers of a constant input: an empty list if it is absent, None if it is not constant."""
    if position >= len(node.input) or not node.input[position]:
        return []
    found = constants.find(node.input[position])
    try:
        return None if found is None else [int(value) for value in found.read().reshape(-1)]
    except ConstantError:
        return None


def _in_range(axes: Sequence[int], rank: int) -> list[int] | None:
    """Axes counted from the front; None if one does not exist."""
    exist = all(-rank <= axis < rank for axis in axes)
    return [axis % rank for axis in axes] if exist else None


def _flag(node: NodeProto, name: str, default: bool) -> bool:
    given = attributes(node)
    return given[name].i != 0 if name in given else default


def _rank(constant: Constant) -> int | None:
    try:
        return len(constant.shape)
    except ConstantError:
        return None


def _length(constant: Constant | None) -> int | None:
    """How many elements a constant vector has."""
    try:
        return None if constant is None else constant.shape[0]
    except (ConstantError, IndexError):
        return None


_UNARY = (
    *("Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BitwiseNot", "Cast", "Ceil", "Celu", "Clip"),
    *("Cos", "Cosh", "Dropout", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity"),
    *("IsInf", "IsNaN", "LeakyRelu", "Log", "Mish", "Neg", "Not", "Reciprocal", "Relu", "Round", "Selu"),
    *("Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Swish", "Tan", "Tanh"),
    "ThresholdedRelu",
)
_BROADCASTING = (
    *("Add", "And", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Div", "Equal", "Greater"),
    *("GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean", "Min", "Mod", "Mul", "Or", "PRelu", "Pow"),
    *("Sub", "Sum", "Where", "Xor"),
)
_REDUCTIONS = (
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin"),
    *("ReduceProd", "ReduceSum", "ReduceSumSquare"),
)

AGNOSTIC: Mapping[str, Rule] = {
    **dict.fromkeys(_UNARY, _elementwise),
    **dict.fromkeys(_BROADCASTING, _broadcast),
    **dict.fromkeys(_REDUCTIONS, _reduce),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax"), _softmax),
    **dict.fromkeys(("ArgMax", "ArgMin"), _arg),
    **dict.fromkeys(("QuantizeLinear", "DequantizeLinear"), _quantize),
    "Concat": _concat,
    "LpNormalization": _normalize,
    "Pad": _pad,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
}
"""Rules by operator of ONNX's default domain, opset 7 and later."""
