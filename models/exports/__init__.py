"""The same networks with the same weights, exported to ONNX by several frameworks (see models/README.md)."""
