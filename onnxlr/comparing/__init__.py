"""Several exports of one network: are they the same function, and which one optimizes best?"""

from onnxlr.comparing.comparer import Comparer
from onnxlr.comparing.files import COMPARISON_FILES, write_comparison
from onnxlr.comparing.options import CompareOptions
from onnxlr.comparing.schema import Comparison
from onnxlr.comparing.sections import comparison_sections

__all__ = [
    "COMPARISON_FILES",
    "CompareOptions",
    "Comparer",
    "Comparison",
    "comparison_sections",
    "write_comparison",
]
