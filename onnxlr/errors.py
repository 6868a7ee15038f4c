"""Every error that onnxlr raises on purpose, with the exit code the command line gives it."""

from typing import ClassVar

__all__ = [
    "DataError",
    "ModelError",
    "OnnxlrError",
    "PlanError",
    "ProviderError",
    "UsageError",
    "ValidationError",
]


class OnnxlrError(Exception):
    """Base class: one line that says what, where, and how to fix it.

    Attributes:
        exit_code: of the command line where this is raised: 1 to 4.

    >>> import onnxlr
    >>> try:
    ...     onnxlr.plan("models/digits/digits.onnx", energy=2)
    ... except onnxlr.OnnxlrError as error:
    ...     print(error.exit_code, error)
    2 energy is a fraction, 0 < energy <= 1; got 2
    """

    exit_code: ClassVar[int] = 3


class ValidationError(OnnxlrError):
    """A check or a gate that the caller asked for failed."""

    exit_code = 1


class UsageError(OnnxlrError):
    """Options that contradict each other or the model."""

    exit_code = 2


class ModelError(OnnxlrError):
    """The model file is missing, damaged, or cannot be run."""


class DataError(OnnxlrError):
    """Input data are missing, damaged, or do not fit the model."""


class PlanError(OnnxlrError):
    """The plan is damaged or was made for another model."""


class ProviderError(OnnxlrError):
    """The execution provider asked for is not on this machine."""

    exit_code = 4
