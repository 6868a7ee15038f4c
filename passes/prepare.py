"""What exporters write in different ways, written in one: so that a network is the same from every framework.

1. what does nothing is taken out, and sizes that are known become constants;
2. layouts are brought together: 1×1 Convs written as MatMul, Transposes around Convs that cancel;
3. a MatMul with a bias becomes a Gemm;
4. arithmetic behind a Conv or Gemm, BatchNormalization above all, is folded into it;
5. grouped Convs written in parts are put together, and what stands behind them is folded as well;
6. Pads are merged into Convs.

What no pass has anything to do with stays as it is.
"""

from __future__ import annotations

from onnx import ModelProto

from passes.cancel_transposes import cancel_transposes
from passes.fold_affine import fold_affine
from passes.fold_shapes import fold_shapes
from passes.matmul_to_conv import matmul_to_conv
from passes.matmul_to_gemm import matmul_to_gemm
from passes.merge_groups import merge_groups
from passes.merge_pads import merge_pads
from passes.remove_no_ops import remove_no_ops
from passes.remove_unused import remove_unused

__all__ = ["prepare"]

_PASSES = (
    *(remove_no_ops, fold_shapes),  # 1
    *(matmul_to_conv, cancel_transposes, remove_no_ops),  # 2
    matmul_to_gemm,  # 3
    fold_affine,  # 4
    *(merge_groups, fold_affine),  # 5
    merge_pads,  # 6
)


def prepare(model: ModelProto, base_dir: str = "") -> ModelProto:
    """Apply all passes in turn.

    Args:
        model: left alone; returned itself where no pass found anything to do.
        base_dir: the folder that locations of external data are relative to.
    """
    for change in _PASSES:
        model = remove_unused(model, change(model, base_dir))
    return model
