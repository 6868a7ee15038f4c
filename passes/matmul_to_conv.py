"""Make MatMuls on channels-last values 1×1 Convs where that cancels Transposes.

    Transpose(MatMul(Transpose(x), W))   ->   Conv(x, Wᵀ)   for x with channels first, W of shape (C, M)

A MatMul becomes a Conv where
1. its right operand is a float32 or float16 constant of shape (C, M), and training_info does not refer to it;
2. its left operand is a base of three to five axes in an order that has the base's axis 1 last
   (`passes.agnostic`): a Transpose of a channels-first value, or what layout-agnostic nodes make of one;
3. there are fewer Transposes then than `passes.cancel_transposes` leaves without it. A projection in
   attention, or one behind a LayerNormalization over the last axis, stays a MatMul.
An Add of a bias behind it becomes one of shape (1, M, 1, 1), as behind any Conv.
"""

from __future__ import annotations

from collections.abc import Mapping

from onnx import ModelProto, NodeProto, TensorProto

from passes.agnostic import AGNOSTIC, Rule
from passes.cancel_transposes import cancel_transposes, sink_transposes
from passes.constants import ConstantError, Constants
from passes.graph import trained_names
from passes.orders import Moved, NewConstant, Perm

__all__ = ["matmul_to_conv"]

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)  # ONNX Runtime has no Conv of doubles
_RANKS = range(3, 6)


def matmul_to_conv(model: ModelProto, base_dir: str = "") -> ModelProto:
    """Make Convs of all MatMuls that the module's rules allow, and cancel Transposes.

    Args:
        model: left alone; returned itself where no MatMul became a Conv. What became unused stays for
            `remove_unused`.
        base_dir: the folder that locations of external data are relative to.
    """
    if all(node.op_type != "MatMul" for node in model.graph.node):
        return model
    trained = trained_names(model)

    def move(node: NodeProto, perm: Perm, constants: Constants) -> Moved | None:
        return None if node.input[1] in trained else _move(node, perm, constants)

    rules: Mapping[str, Rule] = {**AGNOSTIC, "MatMul": move}
    without = cancel_transposes(model, base_dir)
    result = sink_transposes(without, base_dir, rules)
    return model if _count_matmuls(result) == _count_matmuls(model) else result


def _count_matmuls(model: ModelProto) -> int:
    return sum(node.op_type == "MatMul" for node in model.graph.node)


def _move(node: NodeProto, perm: Perm, constants: Constants) -> Moved | None:
    """The Conv that reads the base of the left operand."""
    weight, rank = constants.find(node.input[1]), len(perm)
    if weight is None or rank not in _RANKS or perm[-1] != 1:  # rule 2
        return None
    try:
        shape, data_type = weight.shape, weight.data_type
    except ConstantError:
        return None
    if len(shape) != 2 or data_type not in _FLOATS:  # rule 1
        return None
    spatial = (1,) * (rank - 2)
    stored = NewConstant(
        ("1x1", weight, spatial),
        f"{node.input[1]}_conv",
        lambda: weight.read().T.reshape(*reversed(shape), *spatial),
    )
    return Moved([0], perm, {"kernel_shape": list(spatial)}, {1: stored}, op="Conv")
