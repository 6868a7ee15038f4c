"""Graph passes: functions from ModelProto to ModelProto that leave their argument alone.

They import nothing of onnxlr and can be used without it.
"""

from passes.fold_batchnorm import FoldedModel, fold_batchnorm
from passes.merge_pads import merge_pads
from passes.remove_unused import remove_unused
from passes.replace_with_chain import Chain, ChainNode, replace_with_chain

__all__ = [
    "Chain",
    "ChainNode",
    "FoldedModel",
    "fold_batchnorm",
    "merge_pads",
    "remove_unused",
    "replace_with_chain",
]
