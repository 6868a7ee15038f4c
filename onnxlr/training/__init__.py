"""Training of ONNX graphs: the extra `onnxlr[train]`, and the only package that needs torch.

`finetune` brings a factorized network back to its original, `train` trains one so that it has low rank. For
any other training, a `GraphModule` runs a graph with torch's functions; its
weights go back into the same file:

    module = GraphModule(load("model.onnx")).to("cuda").train()
    ...                                              # any torch optimizer, on module(feed) -> outputs by name
    save(module.write_back(), "trained.onnx")
"""

from onnxlr.training.installation import explained

try:
    from onnxlr.training.course import TrainingData
    from onnxlr.training.finetuning import FineTuned, finetune, finetune_result
    from onnxlr.training.lowrank import STARTS, train
    from onnxlr.training.methods import all_methods
    from onnxlr.training.module import AUTOCAST, GraphModule
    from onnxlr.training.options import TrainingOptions
    from onnxlr.training.statistics import channel_statistics
    from onnxlr.training.trainer import Epoch
    from passes.unfold_batchnorm import ChannelStatistics, find_unnormalized, unfold_batchnorm
except ModuleNotFoundError as error:
    raise explained(error) from error

__all__ = [
    "AUTOCAST",
    "STARTS",
    "ChannelStatistics",
    "Epoch",
    "FineTuned",
    "GraphModule",
    "TrainingData",
    "TrainingOptions",
    "all_methods",
    "channel_statistics",
    "find_unnormalized",
    "finetune",
    "finetune_result",
    "train",
    "unfold_batchnorm",
]
