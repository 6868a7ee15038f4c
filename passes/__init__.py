"""Graph passes: functions from ModelProto to ModelProto that leave their argument alone.

They import nothing of onnxlr and can be used without it.
"""

from passes.cancel_transposes import cancel_transposes
from passes.fold_affine import fold_affine
from passes.fold_shapes import fold_shapes
from passes.inference import ValueType, infer_values
from passes.matmul_to_conv import matmul_to_conv
from passes.matmul_to_gemm import matmul_to_gemm
from passes.merge_groups import merge_groups
from passes.merge_pads import merge_pads
from passes.prepare import prepare
from passes.remove_no_ops import remove_no_ops
from passes.remove_unused import remove_unused
from passes.replace_with_chain import Chain, ChainNode, replace_with_chain

__all__ = [
    "Chain",
    "ChainNode",
    "ValueType",
    "cancel_transposes",
    "fold_affine",
    "fold_shapes",
    "infer_values",
    "matmul_to_conv",
    "matmul_to_gemm",
    "merge_groups",
    "merge_pads",
    "prepare",
    "remove_no_ops",
    "remove_unused",
    "replace_with_chain",
]
