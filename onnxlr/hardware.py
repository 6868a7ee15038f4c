"""The processor: its vector units; how much of it, and of the memory, this process may use."""

from __future__ import annotations

import math
import platform
import re
from collections.abc import Callable, Iterator
from pathlib import Path

__all__ = ["cpu_features", "cpu_quota", "memory_quota", "processor_name"]

_FEATURES = re.compile(
    r"avx|avx2|fma|f16c|avx512(f|_vnni|_bf16|_fp16)|avx_vnni|amx_(tile|int8|bf16)"  # x86
    r"|neon|asimd(|dp|hp)|i8mm|bf16|sve2?|sme2?"  # ARM
)
_GROUPS, _MOUNTED = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")

_UNLIMITED = 2.0**60
"""Bytes from which control groups 1 mean that there is no limit."""


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


def cpu_quota(proc: Path = _GROUPS, root: Path = _MOUNTED) -> float | None:
    """Cores that control groups let this process use on average; None without such a limit."""
    return _least(proc, root, "cpu", (_cpu_max, _cfs_quota))


def memory_quota(proc: Path = _GROUPS, root: Path = _MOUNTED) -> int | None:
    """Bytes of memory that control groups leave to this process and others in them; None without a limit."""
    least = _least(proc, root, "memory", (_memory_max, _memory_limit))
    return None if least is None else int(least)


Limit = Callable[[Path], float]
"""A group's folder -> its limit, infinite without one."""


def _least(proc: Path, root: Path, controller: str, versions: tuple[Limit, Limit]) -> float | None:
    """The smallest limit; `versions` read those of control groups 2 and 1."""
    if not proc.exists():
        return None
    lines = proc.read_text(encoding="utf-8").splitlines()
    return min((limit for line in lines for limit in _limits(line, root, controller, versions)), default=None)


def _limits(line: str, root: Path, controller: str, versions: tuple[Limit, Limit]) -> Iterator[float]:
    """The limits of a group and of those around it; a container may see only the outermost, as the root."""
    _, controllers, path = line.split(":", 2)
    if controllers and controller not in controllers.split(","):
        return
    base, limit = (root / controller, versions[1]) if controllers else (root, versions[0])
    group = base / path.lstrip("/")
    for folder in (group, *group.parents):
        if folder.is_relative_to(base) and 0 < (found := limit(folder)) < math.inf:
            yield found


def _cpu_max(folder: Path) -> float:
    file = folder / "cpu.max"
    if not file.exists():
        return math.inf
    quota, period = file.read_text().split()
    return _number(quota) / float(period)


def _cfs_quota(folder: Path) -> float:
    files = [folder / f"cpu.cfs_{name}_us" for name in ("quota", "period")]
    if not all(file.exists() for file in files):
        return math.inf
    quota, period = (float(file.read_text()) for file in files)
    return quota / period


def _memory_max(folder: Path) -> float:
    file = folder / "memory.max"
    return _number(file.read_text()) if file.exists() else math.inf


def _memory_limit(folder: Path) -> float:
    file = folder / "memory.limit_in_bytes"
    limit = float(file.read_text()) if file.exists() else math.inf
    return limit if limit < _UNLIMITED else math.inf


def _number(text: str) -> float:
    return float(text.strip().replace("max", "inf"))
