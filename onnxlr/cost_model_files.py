"""Cost models as files: those measured on this machine, in a cache, and the defaults that come with onnxlr.

A model holds for one machine, provider, number of threads and type of numbers: its key. What was measured
under another key is never used unasked.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import click
import numpy as np

from onnxlr.cost_model import CostModel
from onnxlr.errors import DataError, UsageError
from onnxlr.gpu_state import GpuWatch
from onnxlr.hardware import cpu_features, processor_name
from onnxlr.parallel import available_cores
from onnxlr.providers import CPU
from onnxlr.regular_files import read_text
from onnxlr.runtime import Device, ort_version
from onnxlr.staging import staged_file

__all__ = [
    "cached_cost_models",
    "find_cost_model",
    "holds_here",
    "machine_key",
    "read_cost_model",
    "write_cost_model",
]

_log = logging.getLogger(__name__)

_SCHEMA_VERSION = 1
"""Fields are only ever added within a version."""

_DEFAULTS = Path(__file__).parent / "cost_models"
_FEATURES = ("avx2", "avx512f", "neon", "asimd", "sve")
"""They decide which kernels ONNX Runtime takes; processors of one name may differ in them."""


def machine_key(device: Device, threads: int, dtype: str) -> dict[str, str]:
    """What times depend on besides shapes: two machines with the same key take the same time.

    Args:
        device: from `find_device`.
        threads: of ONNX Runtime; 0 is its default, which follows from processor and cores.
        dtype: float32 or float16.
    """
    return _key(device.provider, str(threads), dtype)


def find_cost_model(device: Device, threads: int, dtype: str = "float32") -> CostModel:
    """The model that was measured here for this device, number of threads and type, else the default.

    Defaults were not measured here, nor for that many threads: they compare layers, and do not tell times. A
    cached file that is damaged is passed over with a warning in the log.

    Args:
        device: from `find_device`.
        threads: of ONNX Runtime, 0 for its default.
        dtype: float32 or float16.
    """
    key = machine_key(device, threads, dtype)
    path = _cached(key)
    if os.path.exists(path):  # unlike Path.exists, False for what may not be looked at
        try:
            found = read_cost_model(path)
        except DataError as error:
            _log.warning("%s; the default is used instead", error)
        else:
            if found.key == key:
                return found
            _log.warning("%s: holds for another machine; the default is used instead", path)
    return replace(read_cost_model(_default(device)), itemsize=np.dtype(dtype).itemsize)


def read_cost_model(path: str | os.PathLike[str]) -> CostModel:
    """Read a file of `write_cost_model`.

    Args:
        path: of the file.

    Returns:
        The model; it may be of another machine, which its `key` tells.

    Raises:
        DataError: there is no such file, or it is not a cost model.

    >>> import onnxlr
    >>> model = onnxlr.read_cost_model("onnxlr/cost_models/cpu-avx512.json")  # one of the defaults
    >>> model.block, model.key["provider"]
    (16, 'CPUExecutionProvider')
    """
    try:
        data = json.loads(read_text(path))
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: cannot be read as a cost model ({reason})") from error
    if not isinstance(data, dict) or "coefficients" not in data:
        raise DataError(f"{path}: not a cost model; make one with onnxlr calibrate-device")
    version = data.pop("schema_version", None)
    if version != _SCHEMA_VERSION:
        raise DataError(
            f"{path}: a cost model of schema version {version}, and this onnxlr reads {_SCHEMA_VERSION};"
            " make it again with onnxlr calibrate-device"
        )
    try:
        return CostModel.from_dict(data)
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: not a cost model ({error})") from error


def write_cost_model(model: CostModel, path: str | os.PathLike[str] | None = None) -> Path:
    """Write a cost model, whole or not at all.

    Args:
        model: from `calibrate_device`.
        path: None: the place in the cache where `find_cost_model` looks for the model's key.

    Returns:
        The file.

    Raises:
        UsageError: it cannot be written there.

    >>> import onnxlr, os, tempfile
    >>> model = onnxlr.read_cost_model("onnxlr/cost_models/cpu.json")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = onnxlr.write_cost_model(model, os.path.join(folder, "device.json"))
    ...     onnxlr.read_cost_model(path) == model
    True
    """
    target = _cached(model.key) if path is None else Path(path)
    if path is None:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"{target.parent}: the cache cannot be made there ({error.strerror or error}); name a file"
            ) from error
    with staged_file(target) as file:
        data = {"schema_version": _SCHEMA_VERSION, **model.to_dict()}
        file.write(json.dumps(data, indent=2).encode() + b"\n")
    return target


def cached_cost_models() -> list[Path]:
    """Files in the cache, sorted by name, whatever machine they hold for."""
    return sorted(_folder().glob("*.json"))


def holds_here(model: CostModel) -> bool:
    """Whether a model's key is that of this machine, with its provider, threads and type."""
    names = ("provider", "threads", "dtype")
    return model.key == _key(*(model.key.get(name, "") for name in names))


def _key(provider: str, threads: str, dtype: str) -> dict[str, str]:
    with GpuWatch(provider != CPU.provider) as gpu:
        name = gpu.name or ""
    features = cpu_features()
    return {
        "processor": processor_name(),
        "features": " ".join(feature for feature in _FEATURES if feature in features),
        "cores": str(available_cores()),
        "provider": provider,
        "gpu": name,
        "onnxruntime": ort_version(),
        "threads": threads,
        "dtype": dtype,
    }


def _folder() -> Path:
    return Path(click.get_app_dir("onnxlr")) / "cost-models"


def _cached(key: Mapping[str, str]) -> Path:
    """`CPU-threads-1-float32-0123456789ab.json`; the hash is of the whole key."""
    digest = hashlib.sha256(json.dumps(dict(key), sort_keys=True).encode()).hexdigest()[:12]
    provider = key.get("provider", "").removesuffix("ExecutionProvider")
    readable = "-".join([provider, "threads", key.get("threads", ""), key.get("dtype", "")])
    kept = "".join(letter for letter in readable if letter.isalnum() or letter == "-")
    return _folder() / f"{kept}-{digest}.json"


def _default(device: Device) -> Path:
    if device.provider != CPU.provider:
        return _DEFAULTS / "cuda.json"
    return _DEFAULTS / ("cpu-avx512.json" if "avx512f" in cpu_features() else "cpu.json")
