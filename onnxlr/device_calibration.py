"""This machine -> a cost model of it, in half a minute."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxlr.cost_model import CostModel, fit_cost_model
from onnxlr.cost_model_files import machine_key
from onnxlr.errors import UsageError
from onnxlr.micro_benchmarks import run_micro_benchmarks, suite
from onnxlr.parallel import Progress, no_progress
from onnxlr.runtime import find_device

__all__ = ["DTYPES", "calibrate_device", "count_benchmarks"]

DTYPES = ("float32", "float16")


def calibrate_device(
    device: str = "auto",
    threads: int = 0,
    dtype: str = "float32",
    batches: Sequence[int] = (1, 8),
    progress: Progress = no_progress,
) -> CostModel:
    """Time Convs and Gemms of all kinds in ONNX Runtime, and fit a model of their time.

    Nothing else should run meanwhile. `write_cost_model` puts the result where `optimize` finds it.

    Args:
        device: auto, cpu, cuda or tensorrt; TensorRT builds each of them first, which takes long.
        threads: of ONNX Runtime, 0 for its default.
        dtype: float32 or float16, of weights, inputs and outputs.
        batches: batch sizes to time at; rows of Gemms.
        progress: told the number of benchmarks done.

    Returns:
        The model; its `error` is of benchmarks that were held out.

    Raises:
        UsageError: an argument is out of range.
        ProviderError: the device is not there.
        ModelError: ONNX Runtime fails, for example because it has no kernels for the type.

    >>> import onnxlr
    >>> model = onnxlr.calibrate_device(threads=1)  # doctest: +SKIP
    >>> model.error < 0.15  # doctest: +SKIP
    True
    >>> onnxlr.calibrate_device(dtype="int8")
    Traceback (most recent call last):
    onnxlr.errors.UsageError: dtype must be one of float32, float16; got 'int8'
    """
    if dtype not in DTYPES:
        raise UsageError(f"dtype must be one of {', '.join(DTYPES)}; got '{dtype}'")
    if threads < 0:
        raise UsageError(f"threads must be at least 0, got {threads}")
    if not batches or min(batches) < 1 or len(set(batches)) < len(batches):
        raise UsageError(f"batch sizes are different numbers from 1 on, got {list(batches)}")
    found = find_device(device)
    numbers = np.dtype(dtype)
    timed = run_micro_benchmarks(suite(), found, threads, batches, numbers.type, progress)
    return fit_cost_model(timed, machine_key(found, threads, dtype), numbers.itemsize)


def count_benchmarks(batches: Sequence[int]) -> int:
    """How many of them `calibrate_device` times."""
    return len(suite()) * len(batches)
