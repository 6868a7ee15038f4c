"""Errors that nobody foresaw -> what is wrong with the model, where that is the reason.

Files are not held against all of ONNX's rules at the start: models that break one are in use, and run. But
where something fails that should not, and the model breaks a rule, that is the reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import onnx
from google.protobuf.message import EncodeError

from onnxlr.errors import ModelError, OnnxlrError
from onnxlr.external_data import is_external
from onnxlr.model_file import Model
from passes.graph import all_tensors

__all__ = ["explained"]


@contextmanager
def explained(model: Model) -> Iterator[None]:
    """A block in which an unforeseen error becomes a ModelError if the model is not valid.

    Raises:
        ModelError: what ONNX's own checker says.
    """
    try:
        yield
    except OnnxlrError:
        raise
    except UnicodeError as error:
        raise ModelError(f"{model.name}: has text that is not UTF-8 ({error})") from error
    except Exception as error:
        problem = _find(model)
        if problem is None:
            raise
        raise ModelError(f"{model.name}: is not valid ONNX: {problem}") from error


def _find(model: Model) -> str | None:
    """The first thing that the checker, or a tensor, is not content with."""
    try:
        onnx.checker.check_model(model.proto, full_check=not model.is_external)
        for tensor in all_tensors(model.proto):
            if not is_external(tensor):
                onnx.numpy_helper.to_array(tensor)
    except EncodeError:  # too large to be checked
        return None
    except Exception as error:  # the checker raises what its rules raise
        return str(error).strip().split("\n")[0]
    return None
