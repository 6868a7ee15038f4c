"""Training of ONNX graphs: the extra `onnxlr[train]`, and the only package that needs torch.

A `GraphModule` runs a graph with torch's functions; its weights go back into the same file.
"""

from onnxlr.training.installation import explained

try:
    from onnxlr.training.module import AUTOCAST, GraphModule
    from onnxlr.training.statistics import channel_statistics
except ModuleNotFoundError as error:
    raise explained(error) from error

__all__ = ["AUTOCAST", "GraphModule", "channel_statistics"]
