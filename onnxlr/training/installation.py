"""What to say where torch is missing: it is an extra, and nothing else of onnxlr needs it."""

from __future__ import annotations

from onnxlr.errors import UsageError

__all__ = ["explained"]

_LIBRARY = "torch"


def explained(error: ModuleNotFoundError) -> Exception:
    """The error to raise in place of one of an import: how to install torch if that is what was missing."""
    if error.name is None or error.name.split(".")[0] != _LIBRARY:
        return error
    return UsageError("training needs torch, which is not installed: pip install 'onnxlr[train]'")
