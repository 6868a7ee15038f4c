"""Takes out of an exported model what names the machine it was exported on, and nothing else.

PyTorch's exporter writes stack traces, with the paths of source files, into the metadata of nodes.
"""

import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import onnx

__all__ = ["remove_local_paths"]

_FOLDERS = (sys.prefix, sys.base_prefix, str(Path(__file__).parents[2]), tempfile.gettempdir())


def remove_local_paths(model: onnx.ModelProto) -> None:
    """Clear the doc strings and drop the metadata that name a folder of this machine, in place."""
    for part in _parts(model):
        if _is_local(part.doc_string):
            part.ClearField("doc_string")
        kept = [entry for entry in part.metadata_props if not _is_local(entry.value)]
        if len(kept) < len(part.metadata_props):
            del part.metadata_props[:]
            part.metadata_props.extend(kept)


def _parts(model: onnx.ModelProto) -> Iterable[Any]:
    """All that has a doc string and metadata in a model without subgraphs."""
    graph = model.graph
    values = (*graph.input, *graph.output, *graph.value_info)
    return (model, graph, *graph.node, *graph.initializer, *values)


def _is_local(text: str) -> bool:
    return any(folder in text for folder in _FOLDERS)
