"""Other tools beside onnxlr: what networks lose at equal MACs, and how long it takes. See `__main__`."""
