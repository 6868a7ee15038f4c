"""`python -m onnxlr`."""

from onnxlr.cli import cli

cli(prog_name="onnxlr")
