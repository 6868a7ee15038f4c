"""Exact low-rank optimization of ONNX models: smaller and faster, without retraining, with proof."""

from onnxlr.api import apply, inspect, optimize, plan, sweep, validate
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
from onnxlr.machine import Machine
from onnxlr.plan import Plan, read_plan, write_plan
from onnxlr.report import Report, write_report
from onnxlr.report.curve import Sweep
from onnxlr.result import Result
from onnxlr.validation import Limits

__all__ = [
    "Calibration",
    "Checks",
    "DataError",
    "ImageOptions",
    "Limits",
    "Machine",
    "ModelError",
    "OnnxlrError",
    "Plan",
    "PlanError",
    "ProviderError",
    "Report",
    "Result",
    "Sweep",
    "UsageError",
    "ValidationError",
    "apply",
    "inspect",
    "optimize",
    "plan",
    "read_plan",
    "sweep",
    "validate",
    "write_plan",
    "write_report",
]
