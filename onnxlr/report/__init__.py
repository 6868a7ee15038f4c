"""Report -> JSON, table, page."""

from onnxlr.report.files import (
    REPORT_FILES,
    check_report_name,
    staged_reports,
    to_json,
    write_report,
    write_text,
)
from onnxlr.report.schema import LayerTime, Report, Totals, installed_versions
from onnxlr.report.tradeoff import read_curve

__all__ = [
    "REPORT_FILES",
    "LayerTime",
    "Report",
    "Totals",
    "check_report_name",
    "installed_versions",
    "read_curve",
    "staged_reports",
    "to_json",
    "write_report",
    "write_text",
]
