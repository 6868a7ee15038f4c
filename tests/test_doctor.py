"""`onnxlr doctor`: what can really be used, what is wrong with the installation, and how to fix it."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from os import cpu_count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnxruntime as ort
import pytest
from click.testing import CliRunner, Result

from onnxlr import doctor, installation
from onnxlr.cli import cli
from onnxlr.cost_model import CostModel
from onnxlr.cost_model_files import machine_key, write_cost_model
from onnxlr.doctor import Diagnosis, diagnose
from onnxlr.elf import needed_libraries
from onnxlr.errors import ModelError, ProviderError
from onnxlr.hardware import cpu_features, cpu_quota, memory_quota
from onnxlr.installation import Distribution, count_gpus, find_distributions, missing_libraries
from onnxlr.model_file import Model
from onnxlr.providers import CPU, CUDA, Device
from onnxlr.runtime import Session, find_device

CAPI = Path(ort.__file__).parent / "capi"
GPU_PACKAGE = Distribution("onnxruntime-gpu", "1.31.1", 0)
CPU_PACKAGE = Distribution("onnxruntime", "1.31.1", 0)
INSTALL_CUDA = "pip install 'onnxruntime-gpu[cuda,cudnn]'"
REINSTALL = "pip install --force-reinstall --no-deps onnxruntime-gpu==1.31.1"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["doctor", *arguments])


def fixes(diagnosis: Diagnosis) -> dict[str, str]:
    return {problem.what: problem.fix for problem in diagnosis.problems}


def test_this_machine() -> None:
    """For real, with or without a GPU."""
    found = diagnose()
    assert [provider.name for provider in found.providers] == ort.get_available_providers()
    states = {provider.device: provider.problem for provider in found.providers}
    assert states["cpu"] is None
    if "cuda" in states:
        assert (states["cuda"] is None) == (find_device("auto") == CUDA)
    assert [item.damaged for item in found.distributions] == [0]
    assert 1 <= found.processor.usable <= found.processor.cores
    assert found.versions["onnxruntime"] == ort.__version__
    if not found.gpus:
        assert not found.problems


def test_the_command() -> None:
    done = run()
    assert done.exit_code == 0, done.stdout
    assert done.stderr == ""
    assert "CPUExecutionProvider: works (--device cpu)" in done.stdout
    assert done.stdout.splitlines()[-1] == "all is well"
    data = json.loads(run("--json").stdout)
    assert data.keys() == {
        *("versions", "distributions", "providers", "gpus", "processor", "cost_models", "problems", "advice"),
    }
    assert data["problems"] == []


class Setting:
    """A made-up machine."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._patch = patch
        self.have(gpus=0, packages=[CPU_PACKAGE], providers=["CPUExecutionProvider"])

    def have(
        self,
        gpus: int | None = None,
        packages: Sequence[Distribution] | None = None,
        providers: Sequence[str] | None = None,
        missing: Sequence[str] | None = None,
        broken: str | None = None,
        threads: int | None = None,
        cores: int | None = None,
    ) -> None:
        """Change what is given; `broken` is why no CUDA session comes up."""

        def find(name: str) -> Device:
            if broken is not None:
                raise ProviderError(
                    f"device {name}: {broken}; use --device cpu, or --device auto to fall back"
                )
            return CUDA

        given: dict[str, Callable[..., Any] | None] = {
            "count_gpus": None if gpus is None else lambda: gpus,
            "find_distributions": None if packages is None else lambda: list(packages),
            "listed_providers": None if providers is None else lambda: list(providers),
            "missing_libraries": None if missing is None else lambda _: list(missing),
            "find_device": find,
            "_default_threads": None if threads is None else lambda: threads,
            "available_cores": None if cores is None else lambda: cores,
        }
        for name, function in given.items():
            if function is not None:
                self._patch.setattr(doctor, name, function)


@pytest.fixture
def setting(monkeypatch: pytest.MonkeyPatch) -> Setting:
    return Setting(monkeypatch)


BOTH = ["CUDAExecutionProvider", "CPUExecutionProvider"]


def test_cuda_without_a_gpu_is_told_and_not_wrong(setting: Setting) -> None:
    setting.have(packages=[GPU_PACKAGE], providers=BOTH, broken="no GPU here", missing=["libcublas.so.13"])
    assert not diagnose().problems
    done = run()
    assert done.exit_code == 0
    assert (
        "CUDAExecutionProvider: listed, but cannot be used: no GPU here; not found: libcublas.so.13"
        in done.stdout
    )


def test_cuda_that_works(setting: Setting) -> None:
    setting.have(gpus=2, packages=[GPU_PACKAGE], providers=BOTH)
    done = run()
    assert done.exit_code == 0
    assert "CUDAExecutionProvider: works (--device cuda)" in done.stdout
    assert "NVIDIA GPUs: 2" in done.stdout


def test_other_providers_are_only_listed(setting: Setting) -> None:
    setting.have(providers=["AzureExecutionProvider", "CPUExecutionProvider"])
    assert "AzureExecutionProvider: listed, not used by onnxlr" in run().stdout


def test_missing_libraries_are_named(setting: Setting) -> None:
    missing = ["libcublas.so.13", "libcudnn.so.9"]
    setting.have(gpus=1, packages=[GPU_PACKAGE], providers=BOTH, broken="does not come up", missing=missing)
    what = "CUDA cannot be used: libcublas.so.13, libcudnn.so.9 cannot be found"
    assert fixes(diagnose()) == {what: INSTALL_CUDA}
    done = run()
    assert done.exit_code == 1
    assert f"PROBLEM: {what}\n  fix: {INSTALL_CUDA}\n" in done.stdout
    assert done.stderr == f"Error: {what}\n"
    assert json.loads(run("--json").stdout)["problems"] == [{"what": what, "fix": INSTALL_CUDA}]


def test_a_driver_that_is_too_old(setting: Setting) -> None:
    setting.have(gpus=1, packages=[GPU_PACKAGE], providers=BOTH, broken="the driver is old", missing=[])
    ((what, fix),) = fixes(diagnose()).items()
    assert what == "there is an NVIDIA GPU, and the driver is old"
    assert fix.startswith("update the GPU's driver")


def test_a_gpu_and_a_package_without_cuda(setting: Setting) -> None:
    setting.have(gpus=1)
    ((what, fix),) = fixes(diagnose()).items()
    assert what.endswith("ONNX Runtime was built without CUDA")
    assert fix == f"pip uninstall -y onnxruntime && {INSTALL_CUDA}"


PACKAGES: dict[str, tuple[list[Distribution], str, str]] = {
    "two": (
        [CPU_PACKAGE, GPU_PACKAGE],
        "onnxruntime and onnxruntime-gpu are both installed, and overwrite each other's files",
        "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu",
    ),
    "two without a GPU's": (
        [CPU_PACKAGE, Distribution("onnxruntime-openvino", "1.2", 7)],
        "onnxruntime and onnxruntime-openvino are both installed, and overwrite each other's files",
        "pip uninstall -y onnxruntime onnxruntime-openvino && pip install onnxruntime",
    ),
    "gutted": (
        [Distribution("onnxruntime-gpu", "1.31.1", 40)],
        "40 files of onnxruntime-gpu 1.31.1 are missing or not the installed ones",
        REINSTALL,
    ),
}


@pytest.mark.parametrize(("packages", "what", "fix"), PACKAGES.values(), ids=PACKAGES.keys())
def test_damaged_packages(packages: list[Distribution], what: str, fix: str, setting: Setting) -> None:
    setting.have(packages=packages)
    assert fixes(diagnose()) == {what: fix}


@pytest.mark.usefixtures("setting")
@pytest.mark.parametrize("error", [AttributeError("no get_available_providers"), ModelError("does not load")])
def test_a_runtime_that_does_not_work(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> list[str]:
        raise error

    monkeypatch.setattr(doctor, "listed_providers", fail)
    found = diagnose()
    assert fixes(found) == {
        f"ONNX Runtime does not work: {error}": "pip install --force-reinstall --no-deps onnxruntime==1.31.1"
    }
    assert "threads of ONNX Runtime by default: unknown" in "\n".join(found.lines())


@pytest.mark.parametrize(("threads", "cores", "told"), [(8, 8, []), (64, 4, ["--threads 4"]), (1, 4, [])])
def test_more_threads_than_cores(threads: int, cores: int, told: list[str], setting: Setting) -> None:
    setting.have(threads=threads, cores=cores)
    found = diagnose()
    assert [part for part in told if part in "".join(found.advice)] == told
    assert len(found.advice) == len(told) + 1  # no cost model
    assert not found.problems


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads cannot be counted")
def test_default_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is counted of sessions that are told a number is that number."""
    assert 1 <= (doctor._default_threads() or 0) <= (cpu_count() or 1)

    class Told(Session):
        def __init__(self, model: Model, device: Device, threads: int = 5) -> None:
            super().__init__(model, device, threads)

    monkeypatch.setattr(doctor, "Session", Told)
    assert doctor._default_threads() == 5


def package(folder: Path, files: Mapping[str, tuple[str, int]]) -> metadata.Distribution:
    """An installed distribution; of each file the content and the size that was recorded."""
    info = folder / "onnxruntime_gpu-1.31.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: onnxruntime-gpu\nVersion: 1.31.1\n")
    (info / "RECORD").write_text("".join(f"{name},sha256=x,{size}\n" for name, (_, size) in files.items()))
    for name, (content, _) in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
    return metadata.Distribution.at(info)


def test_files_are_compared_with_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of code; other tools may write the rest."""
    files = {"o/good.py": ("12345", 5), "o/other.so": ("1234567", 5), "o/gone.py": ("", 0), "o/a.md": ("", 9)}
    found = package(tmp_path, files)
    (tmp_path / "o/gone.py").unlink()
    names = ["onnxruntime-gpu", "onnxruntime-gpu"]
    monkeypatch.setattr(metadata, "packages_distributions", lambda: {"onnxruntime": names, "onnx": ["onnx"]})
    monkeypatch.setattr(metadata, "distribution", {"onnxruntime-gpu": found}.__getitem__)
    assert find_distributions() == [Distribution("onnxruntime-gpu", "1.31.1", 2)]


def test_no_package_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Built by hand, say: nothing is wrong with that."""
    monkeypatch.setattr(metadata, "packages_distributions", dict)
    assert find_distributions() == []


def test_what_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the loader finds it, or in NVIDIA's packages."""
    capi = tmp_path / "onnxruntime/capi"
    capi.mkdir(parents=True)
    (capi / "libonnxruntime_providers_cuda.so").touch()
    packaged = tmp_path / "nvidia/cu13/lib/libcublas.so.13"
    packaged.parent.mkdir(parents=True)
    packaged.touch()
    places = SimpleNamespace(submodule_search_locations=[str(capi.parent)])
    monkeypatch.setattr(installation, "find_spec", lambda _: places)
    needed = ["libcublas.so.13", "libc.so.6", "libnone.so.1"]
    monkeypatch.setattr(installation, "needed_libraries", lambda _: needed)
    monkeypatch.setattr(installation, "_loads", lambda name: name == "libc.so.6")
    assert missing_libraries("cuda") == ["libnone.so.1", "libcudnn.so.9"]
    assert missing_libraries("tensorrt") == []
    monkeypatch.setattr(installation, "find_spec", lambda _: None)
    assert missing_libraries("cuda") == []


def test_the_loader_is_asked() -> None:
    assert not installation._loads("libthatnobodyhas.so.1")


@pytest.mark.parametrize(
    ("init", "count", "expected"), [(0, 3, 3), (100, 3, 0), (0, 0, 0)], ids=["three", "no driver", "none"]
)
def test_gpus_are_counted_by_the_driver(
    init: int, count: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(pointer: Any) -> int:
        pointer._obj.value = count
        return 0

    driver = SimpleNamespace(cuInit=lambda _: init, cuDeviceGetCount=fill)
    monkeypatch.setattr(installation.ctypes, "CDLL", lambda _: driver)
    assert count_gpus() == expected


@pytest.mark.skipif(not list(CAPI.glob("*.so*")), reason="only of Linux")
@pytest.mark.skipif(shutil.which("readelf") is None, reason="readelf is what it is compared with")
@pytest.mark.parametrize("path", sorted(CAPI.glob("*.so*")), ids=lambda path: path.name)
def test_needed_libraries_are_those_of_readelf(path: Path) -> None:
    printed = subprocess.run(["readelf", "-d", path], capture_output=True, text=True, check=True).stdout
    lines = [line for line in printed.splitlines() if "(NEEDED)" in line]
    assert needed_libraries(path) == [line.partition("[")[2].partition("]")[0] for line in lines]
    assert lines


@pytest.mark.parametrize(
    "content", [b"no library at all", b"\x7fELF\x02\x01", b"\x7fELF\x01\x01" + bytes(80)]
)
def test_no_library(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "lib.so"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"lib\.so: "):
        needed_libraries(path)


FLAGS = {
    "flags\t\t: fpu vme sse2 avx f16c avx2 fma avx512f avx512vl avx512_vnni amx_tile amx_int8 avx2x": (
        "avx f16c avx2 fma avx512f avx512_vnni amx_tile amx_int8"
    ),
    "Features\t: fp asimd evtstrm asimdhp asimddp sve i8mm bf16": "asimd asimdhp asimddp sve i8mm bf16",
    "model name: x": "",
}


@pytest.mark.parametrize(("text", "expected"), FLAGS.items())
def test_features(text: str, expected: str, tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"
    assert cpu_features(file) == ()
    file.write_text(f"processor : 0\n{text}\n\nprocessor : 1\n{text}\n")
    assert list(cpu_features(file)) == expected.split()


QUOTAS: dict[str, tuple[str, dict[str, str], float | None]] = {
    "none": ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n"}, None),
    "of the group": ("0::/a/b\n", {"a/b/cpu.max": "150000 100000\n"}, 1.5),
    "the smallest around it": ("0::/a/b\n", {"a/b/cpu.max": "max 1000", "a/cpu.max": "2000 1000"}, 2),
    "a container sees the root": ("0::/not/here\n", {"cpu.max": "400000 100000\n"}, 4),
    "version 1": (
        "4:memory:/x\n3:cpu,cpuacct:/x\n",
        {"cpu/x/cpu.cfs_quota_us": "50000\n", "cpu/x/cpu.cfs_period_us": "100000\n"},
        0.5,
    ),
    "version 1, none": (
        "1:cpu:/\n0::/\n",
        {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
        None,
    ),
}


@pytest.mark.parametrize(("groups", "files", "expected"), QUOTAS.values(), ids=QUOTAS.keys())
def test_quota(groups: str, files: dict[str, str], expected: float | None, tmp_path: Path) -> None:
    proc, root = _groups(groups, files, tmp_path)
    assert cpu_quota(proc, root) == expected
    assert cpu_quota(tmp_path / "nowhere", root) is None


def _groups(groups: str, files: dict[str, str], folder: Path) -> tuple[Path, Path]:
    """What /proc/self/cgroup and /sys/fs/cgroup say."""
    proc, root = folder / "cgroup", folder / "fs"
    proc.write_text(groups)
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return proc, root


NO_LIMIT = 9223372036854771712
"""What control groups 1 say."""

MEMORY: dict[str, tuple[str, dict[str, str], int | None]] = {
    "none": ("0::/a/b\n", {"a/b/memory.max": "max\n"}, None),
    "of the group": ("0::/a/b\n", {"a/b/memory.max": "2147483648\n"}, 2**31),
    "the smallest around it": ("0::/a/b\n", {"a/b/memory.max": "4096", "a/memory.max": "1024"}, 1024),
    "version 1": ("4:memory:/x\n1:cpu:/\n", {"memory/x/memory.limit_in_bytes": "4096\n"}, 4096),
    "version 1, none": ("4:memory:/\n", {"memory/memory.limit_in_bytes": f"{NO_LIMIT}\n"}, None),
}


@pytest.mark.parametrize(("groups", "files", "expected"), MEMORY.values(), ids=MEMORY.keys())
def test_memory(groups: str, files: dict[str, str], expected: int | None, tmp_path: Path) -> None:
    proc, root = _groups(groups, files, tmp_path)
    assert memory_quota(proc, root) == expected
    assert memory_quota(tmp_path / "nowhere", root) is None


def test_cost_models(setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of this machine, of others, and damaged ones; none is no problem."""
    setting.have(threads=1, cores=1)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    advice = "no cost model for this machine: run onnxlr calibrate-device"
    assert diagnose().advice == (advice,)
    assert "cost models: none\n" in run().stdout
    key = machine_key(CPU, 1, "float32")
    other = write_cost_model(CostModel({**key, "processor": "x"}, 8, 1, 4, {"constant": 1.0}))
    damaged = other.with_name("a.json")
    damaged.write_text("{")
    assert diagnose().advice == (advice,)
    own = write_cost_model(CostModel(key, 16, 1, 4, {"constant": 1.0}, 0.05))
    found = diagnose()
    assert (found.advice, found.problems) == ((), ())
    assert {Path(model.path): model.holds_here for model in found.cost_models} == {
        own: True,
        other: False,
        damaged: False,
    }
    text = run().stdout
    assert f"  of this machine: {own}\n    processor {key['processor']}" in text
    assert f"  of another machine: {other}\n    processor x" in text
    assert f"  damaged: {damaged}: cannot be read as a cost model" in text
    shown = {model["path"]: model for model in json.loads(run("--json").stdout)["cost_models"]}
    assert shown[str(own)] == {
        **{"path": str(own), "key": key, "error": 0.05, "holds_here": True, "problem": None},
    }


def test_a_quota_is_told(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    setting.have(threads=4, cores=4)
    monkeypatch.setattr(doctor, "cpu_quota", lambda: 1.5)
    found = diagnose()
    assert ", 1.5 by the quota of its control group" in "\n".join(found.lines())
    assert found.advice[0].endswith("--threads 1 times what can be had")
