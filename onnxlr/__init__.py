"""Exact low-rank optimization of ONNX models: smaller and faster, without retraining, with proof."""

from onnxlr.api import Result, apply, inspect, optimize, plan, validate
from onnxlr.calibration_data import Calibration
from onnxlr.checking import Checks
from onnxlr.errors import (
    DataError,
    ModelError,
    OnnxlrError,
    PlanError,
    ProviderError,
    UsageError,
    ValidationError,
)
from onnxlr.images import ImageOptions
from onnxlr.plan import Plan, read_plan, write_plan
from onnxlr.report import Report, write_report
from onnxlr.validation import Limits

__all__ = [
    "Calibration",
    "Checks",
    "DataError",
    "ImageOptions",
    "Limits",
    "ModelError",
    "OnnxlrError",
    "Plan",
    "PlanError",
    "ProviderError",
    "Report",
    "Result",
    "UsageError",
    "ValidationError",
    "apply",
    "inspect",
    "optimize",
    "plan",
    "read_plan",
    "validate",
    "write_plan",
    "write_report",
]
