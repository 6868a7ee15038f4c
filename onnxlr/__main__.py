"""`python -m onnxlr`."""

from onnxlr.cli import main

main()
