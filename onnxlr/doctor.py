"""What onnxlr finds on this machine: devices that can really be used, cores, and what is wrong with that."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from os import cpu_count
from pathlib import Path
from typing import Any

from onnx import helper

from onnxlr.cost_model_files import cached_cost_models, holds_here, read_cost_model
from onnxlr.errors import DataError, ModelError, ProviderError
from onnxlr.hardware import cpu_features, cpu_quota
from onnxlr.installation import (
    Distribution,
    Problem,
    check_files,
    count_gpus,
    find_distributions,
    missing_libraries,
    reinstall,
)
from onnxlr.model_file import Model
from onnxlr.parallel import available_cores
from onnxlr.providers import CPU, CUDA, TENSORRT
from onnxlr.report import installed_versions
from onnxlr.runtime import Session, find_device, listed_providers

__all__ = ["CachedCostModel", "Diagnosis", "Processor", "Provider", "diagnose"]

_SHOWN = ("onnxruntime", "processor")  # elsewhere

_DEVICES = {device.provider: device for device in (CPU, CUDA, TENSORRT)}


@dataclass(frozen=True, slots=True)
class Provider:
    """An execution provider that ONNX Runtime lists.

    Attributes:
        name: ONNX Runtime's.
        device: what `--device` calls it; None if onnxlr does not use it.
        problem: why no session comes up on it; None if one does, or if it was not tried.
        missing: libraries that it needs and that cannot be found.
    """

    name: str
    device: str | None
    problem: str | None
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Processor:
    """The processor and how much of it there is to use.

    Attributes:
        name: its model.
        features: vector units and the like, as Linux calls them.
        cores: logical cores of the machine.
        usable: those that this process may run on.
        quota: cores that control groups grant it on average; None without such a limit.
        threads: intra-op threads of ONNX Runtime's default; None where they cannot be counted.
    """

    name: str
    features: tuple[str, ...]
    cores: int
    usable: int
    quota: float | None
    threads: int | None


@dataclass(frozen=True, slots=True)
class CachedCostModel:
    """A file in the cache of cost models.

    Attributes:
        path: of the file.
        key: what it holds for; empty if it cannot be read.
        error: median relative error on what was held out; None if it is not known.
        holds_here: whether that is this machine, with this ONNX Runtime.
        problem: why it cannot be read; None if it can.
    """

    path: str
    key: dict[str, str]
    error: float | None
    holds_here: bool
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What was found.

    Attributes:
        versions: of onnxlr and of what its results depend on, and the machine.
        distributions: the packages that provide ONNX Runtime.
        providers: those that it lists, in its order.
        gpus: NVIDIA GPUs that the driver lets this process use.
        processor: see `Processor`.
        cost_models: those in the cache.
        problems: what is wrong, and how to fix it.
        advice: what is not wrong and could be better.
    """

    versions: dict[str, str]
    distributions: tuple[Distribution, ...]
    providers: tuple[Provider, ...]
    gpus: int
    processor: Processor
    cost_models: tuple[CachedCostModel, ...]
    problems: tuple[Problem, ...]
    advice: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)

    def lines(self) -> Iterator[str]:
        """The same for people."""
        yield "ONNX Runtime: " + ", ".join(f"{item.name} {item.version}" for item in self.distributions)
        yield from (f"  {_state(provider)}" for provider in self.providers)
        yield f"NVIDIA GPUs: {self.gpus or 'none'}"
        processor = self.processor
        yield f"processor: {processor.name}"
        yield f"  features: {' '.join(processor.features) or 'unknown'}"
        quota = "" if processor.quota is None else f", {processor.quota:g} by the quota of its control group"
        yield f"  cores: {processor.cores}, of which this process may use {processor.usable}{quota}"
        yield f"  threads of ONNX Runtime by default: {processor.threads or 'unknown'}"
        shown = {name: version for name, version in self.versions.items() if name not in _SHOWN}
        yield f"cost models: {len(self.cost_models) or 'none'}"
        yield from (line for model in self.cost_models for line in _cost_model_lines(model))
        yield "versions: " + ", ".join(f"{name} {version}" for name, version in shown.items())
        yield from (f"advice: {line}" for line in self.advice)
        for problem in self.problems:
            yield f"PROBLEM: {problem.what}"
            yield f"  fix: {problem.fix}"
        if not self.problems:
            yield "all is well"


def diagnose() -> Diagnosis:
    """Look at the installation and the machine; tries a session on every provider that onnxlr can use."""
    distributions = find_distributions()
    problems = list(check_files(distributions))
    gpus = count_gpus()
    versions = installed_versions()
    try:
        providers = tuple(map(_probe, listed_providers()))
        threads = _default_threads()
    except (AttributeError, ImportError, ModelError) as error:  # what is left of a package may do anything
        providers, threads = (), None
        problems = problems or [Problem(f"ONNX Runtime does not work: {error}", reinstall(distributions))]
    processor = Processor(
        versions["processor"], cpu_features(), cpu_count() or 1, available_cores(), cpu_quota(), threads
    )
    cost_models = tuple(map(_look_up, cached_cost_models()))
    if gpus:
        problems += _gpu_problems(distributions, providers)
    return Diagnosis(
        versions,
        tuple(distributions),
        providers,
        gpus,
        processor,
        cost_models,
        tuple(problems),
        tuple(_advice(processor, cost_models)),
    )


def _probe(name: str) -> Provider:
    device = _DEVICES.get(name)
    if device is None:
        return Provider(name, None, None)
    if device == CPU:
        Session(_model(), CPU)
        return Provider(name, CPU.name, None)
    try:
        find_device(device.name)
    except ProviderError as error:
        problem = str(error).removeprefix(f"device {device.name}: ").partition("; use --device")[0]
        return Provider(name, device.name, problem, tuple(missing_libraries(device.name)))
    return Provider(name, device.name, None)


def _gpu_problems(distributions: list[Distribution], providers: tuple[Provider, ...]) -> Iterator[Problem]:
    """Why the GPU that is there cannot be used with CUDA. TensorRT is an extra that one can do without."""
    cuda = next((provider for provider in providers if provider.name == CUDA.provider), None)
    if cuda is None:
        names = " ".join(item.name for item in distributions)
        fix = f"pip uninstall -y {names} && pip install 'onnxruntime-gpu[cuda,cudnn]'"
        yield Problem("there is an NVIDIA GPU, and ONNX Runtime was built without CUDA", fix)
    elif cuda.missing:
        what = f"CUDA cannot be used: {', '.join(cuda.missing)} cannot be found"
        yield Problem(what, "pip install 'onnxruntime-gpu[cuda,cudnn]'")
    elif cuda.problem is not None:
        fix = "update the GPU's driver, or install the onnxruntime-gpu that was built for its CUDA version"
        yield Problem(f"there is an NVIDIA GPU, and {cuda.problem}", fix)


def _look_up(path: Path) -> CachedCostModel:
    try:
        model = read_cost_model(path)
    except DataError as error:
        return CachedCostModel(str(path), {}, None, False, str(error))
    return CachedCostModel(str(path), dict(model.key), model.error, holds_here(model))


def _cost_model_lines(model: CachedCostModel) -> Iterator[str]:
    if model.problem is not None:
        yield f"  damaged: {model.problem}"
        return
    yield f"  {'of this machine' if model.holds_here else 'of another machine'}: {model.path}"
    yield "    " + ", ".join(f"{name} {value}" for name, value in model.key.items() if value)


def _advice(processor: Processor, cost_models: tuple[CachedCostModel, ...]) -> Iterator[str]:
    least = min(processor.usable, processor.quota or processor.usable)
    if processor.threads is not None and processor.threads > least:
        yield (
            f"ONNX Runtime starts {processor.threads} threads where {least:g} cores may be used;"
            f" --threads {max(1, int(least))} times what can be had"
        )
    if not any(model.holds_here for model in cost_models):
        yield "no cost model for this machine: run onnxlr calibrate-device"


def _state(provider: Provider) -> str:
    if provider.device is None:
        return f"{provider.name}: listed, not used by onnxlr"
    if provider.problem is None:
        return f"{provider.name}: works (--device {provider.device})"
    missing = f"; not found: {', '.join(provider.missing)}" if provider.missing else ""
    return f"{provider.name}: listed, but cannot be used: {provider.problem}{missing}"


def _default_threads() -> int | None:
    """Threads that a session starts, and the one that calls it (Linux)."""
    tasks = Path("/proc/self/task")
    if not tasks.exists():
        return None
    alone = Session(_model(), CPU, threads=1)  # ONNX Runtime's own threads are there after the first session
    before = len(list(tasks.iterdir()))
    session = Session(_model(), CPU)
    started = len(list(tasks.iterdir())) - before
    del session, alone
    return started + 1


def _model() -> Model:
    x, y = (helper.make_tensor_value_info(name, 1, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "probe", [x], [y])
    return Model(helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)]))
