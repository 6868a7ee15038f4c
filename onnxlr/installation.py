"""The installed ONNX Runtime: which distributions it comes from, whether they are whole, what CUDA lacks.

onnxruntime, onnxruntime-gpu and others install files of the same names: each overwrites the others' files,
and to uninstall one takes files from the others.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from onnxlr.elf import needed_libraries

__all__ = [
    "Distribution",
    "Problem",
    "check_files",
    "count_gpus",
    "find_distributions",
    "missing_libraries",
    "reinstall",
]

_MODULE = "onnxruntime"
_CODE = (".py", ".so", ".pyd", ".dll")
_PROVIDER_LIBRARIES = {
    "cuda": "libonnxruntime_providers_cuda.so",
    "tensorrt": "libonnxruntime_providers_tensorrt.so",
}
_LOADED_LATER = {"cuda": ("libcudnn.so.9",)}
"""What ONNX Runtime asks for when it needs it."""

_DRIVERS = {"linux": "libcuda.so.1", "win32": "nvcuda.dll"}


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is wrong with the installation, and how to fix it."""

    what: str
    fix: str


@dataclass(frozen=True, slots=True)
class Distribution:
    """An installed package that provides ONNX Runtime.

    Attributes:
        name: as pip calls it.
        version: its version.
        damaged: number of its code files that are missing, or of another size than was installed.
    """

    name: str
    version: str
    damaged: int


def find_distributions() -> list[Distribution]:
    """All that are installed, by name."""
    names = sorted(set(metadata.packages_distributions().get(_MODULE, ())))
    return [_describe(metadata.distribution(name)) for name in names]


def check_files(distributions: Sequence[Distribution]) -> Iterator[Problem]:
    """Distributions that overwrite each other, or one that lacks files."""
    names = [item.name for item in distributions]
    if len(names) > 1:
        kept = next((name for name in names if name.endswith("gpu")), names[0])
        yield Problem(
            f"{' and '.join(names)} are both installed, and overwrite each other's files",
            f"pip uninstall -y {' '.join(names)} && pip install {kept}",
        )
        return
    for item in distributions:
        if item.damaged:
            yield Problem(
                f"{item.damaged} files of {item.name} {item.version} are missing or not the installed ones",
                reinstall([item]),
            )


def reinstall(distributions: Sequence[Distribution]) -> str:
    """The command that brings all files back."""
    names = " ".join(f"{item.name}=={item.version}" for item in distributions) or _MODULE
    return f"pip install --force-reinstall --no-deps {names}"


def missing_libraries(device: str) -> list[str]:
    """Libraries that ONNX Runtime's provider for cuda or tensorrt needs and that cannot be found (Linux).

    Looked for where the loader looks, and in NVIDIA's packages on pip. Empty where the provider is not
    installed.
    """
    spec = find_spec(_MODULE)
    folders = [] if spec is None else [Path(place) for place in spec.submodule_search_locations or ()]
    for folder in folders:
        library = folder / "capi" / _PROVIDER_LIBRARIES[device]
        if library.exists():
            packaged = {path.name for path in (folder.parent / "nvidia").glob("**/lib/*.so*")}
            needed = [*needed_libraries(library), *_LOADED_LATER.get(device, ())]
            return [name for name in needed if name not in packaged and not _loads(name)]
    return []


def count_gpus() -> int:
    """NVIDIA GPUs that the driver lets this process use; 0 without a driver."""
    try:
        driver = ctypes.CDLL(_DRIVERS.get(sys.platform, ""))
        count = ctypes.c_int(0)
        found = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
    except (OSError, AttributeError):
        return 0
    return count.value if found else 0


def _describe(found: metadata.Distribution) -> Distribution:
    files = [file for file in found.files or () if file.name.endswith(_CODE)]
    return Distribution(found.name, found.version, sum(map(_is_damaged, files)))


def _is_damaged(file: metadata.PackagePath) -> bool:
    path = Path(str(file.locate()))
    return not path.exists() or (file.size is not None and path.stat().st_size != file.size)


def _loads(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True
