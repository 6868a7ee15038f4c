"""Exact low-rank optimization of ONNX models: smaller and faster, without retraining, with proof."""

from onnxlr.api import apply, compare, inspect, optimize, plan, sweep, validate
from onnxlr.calibration_data import Calibration
from onnxlr.checking import Checks
from onnxlr.comparing import CompareOptions, Comparison, write_comparison
from onnxlr.cost_model import CostModel
from onnxlr.cost_model_files import read_cost_model, write_cost_model
from onnxlr.device_calibration import calibrate_device
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
from onnxlr.memory import memory_limit
from onnxlr.plan import Plan, read_plan, write_plan
from onnxlr.report import Report, write_report
from onnxlr.report.curve import Sweep
from onnxlr.result import Result
from onnxlr.validation import Limits

__all__ = [
    "Calibration",
    "Checks",
    "CompareOptions",
    "Comparison",
    "CostModel",
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
    "calibrate_device",
    "compare",
    "inspect",
    "memory_limit",
    "optimize",
    "plan",
    "read_cost_model",
    "read_plan",
    "sweep",
    "validate",
    "write_comparison",
    "write_cost_model",
    "write_plan",
    "write_report",
]
