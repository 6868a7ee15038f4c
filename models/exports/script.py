"""What the script of every framework does around its own part (needs numpy and onnx besides the framework).

A script runs in the environment of its framework, from the root of the repository:

    VENV/bin/python -m models.exports.torch_export CHECKPOINT.npz NETWORK FOLDER EXPORTER ...
"""

import argparse
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

import onnx

from models.exports.checkpoint import TOLERANCE, Array, Checkpoint
from models.exports.cleaning import remove_local_paths
from models.exports.networks import NETWORKS

__all__ = ["Export", "run", "verify"]

Export = Callable[[str, Checkpoint], onnx.ModelProto]
"""Builds a network in the framework, holds its logits to the checkpoint with `verify`, and exports it."""


def run(exports: Mapping[str, Export]) -> int:
    """Write FOLDER/EXPORTER.onnx for each exporter asked for.

    Exit status 1 when one of them fails, with the reason on standard error; the others are still tried.
    """
    arguments = _parse(exports)
    checkpoint = Checkpoint.read(arguments.checkpoint)
    status = 0
    for name in arguments.exporters:
        try:
            model = exports[name](arguments.network, checkpoint)
            remove_local_paths(model)
            onnx.save(model, arguments.folder / f"{name}.onnx")
        except Exception:  # a framework may raise anything
            print(f"{name}: {traceback.format_exc()}", file=sys.stderr)
            status = 1
    return status


def verify(logits: Array, checkpoint: Checkpoint) -> None:
    """Hold the framework's own forward pass to the checkpoint, to know that the network is built rightly.

    Raises:
        ValueError: the logits differ.
    """
    difference = checkpoint.difference(logits)
    if difference > TOLERANCE:
        raise ValueError(f"the framework's logits are {difference:.2g} off, allowed is {TOLERANCE}")


def _parse(exports: Mapping[str, Export]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Export one network with the weights of a checkpoint.")
    parser.add_argument("checkpoint", metavar="CHECKPOINT.npz", type=Path)
    parser.add_argument("network", metavar="NETWORK", choices=NETWORKS, help=", ".join(NETWORKS))
    parser.add_argument("folder", metavar="FOLDER", type=Path)
    parser.add_argument(
        "exporters", metavar="EXPORTER", nargs="+", choices=tuple(exports), help=", ".join(exports)
    )
    return parser.parse_args()
