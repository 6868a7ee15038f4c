"""The command line: parse, call the API, print, map errors to exit codes."""

from onnxlr.cli import batch, comparing, device, optimizing, training  # noqa: F401 - registers their commands
from onnxlr.cli.app import cli, main

__all__ = ["cli", "main"]
