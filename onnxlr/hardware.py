"""The processor: its vector units, and how much of it this process may use."""

from __future__ import annotations

import math
import platform
import re
from collections.abc import Iterator
from pathlib import Path

__all__ = ["cpu_features", "cpu_quota", "processor_name"]

_FEATURES = re.compile(
    r"avx|avx2|fma|f16c|avx512(f|_vnni|_bf16|_fp16)|avx_vnni|amx_(tile|int8|bf16)"  # x86
    r"|neon|asimd(|dp|hp)|i8mm|bf16|sve2?|sme2?"  # ARM
)


def cpu_features(cpuinfo: Path = Path("/proc/cpuinfo")) -> tuple[str, ...]:
    """What the processor has of the features that matter to ONNX Runtime, as Linux calls them."""
    if not cpuinfo.exists():
        return ()
    text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    words = found[1].split() if found else []
    return tuple(word for word in words if _FEATURES.fullmatch(word))


def processor_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's model, as far as the system tells; virtual machines often tell only part of it."""
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor()


def cpu_quota(proc: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Cores that control groups let this process use on average; None without such a limit."""
    if not proc.exists():
        return None
    limits = [
        limit for line in proc.read_text(encoding="utf-8").splitlines() for limit in _limits(line, root)
    ]
    return min(limits, default=None)


def _limits(line: str, root: Path) -> Iterator[float]:
    """The limits of a group and of those around it; a container may see only the outermost, as the root."""
    _, controllers, path = line.split(":", 2)
    if controllers and "cpu" not in controllers.split(","):
        return
    base = root / "cpu" if controllers else root
    group = base / path.lstrip("/")
    for folder in (group, *group.parents):
        if folder.is_relative_to(base):
            quota, period = _version1(folder) if controllers else _version2(folder)
            if math.isfinite(quota) and quota > 0:
                yield quota / period


def _version1(folder: Path) -> tuple[float, float]:
    files = [folder / f"cpu.cfs_{name}_us" for name in ("quota", "period")]
    if not all(file.exists() for file in files):
        return math.inf, 1
    quota, period = (float(file.read_text()) for file in files)
    return quota, period


def _version2(folder: Path) -> tuple[float, float]:
    file = folder / "cpu.max"
    if not file.exists():
        return math.inf, 1
    quota, period = file.read_text().split()
    return float(quota.replace("max", "inf")), float(period)
