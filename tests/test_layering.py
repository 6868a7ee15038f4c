"""Arrows point down: cli → api → stages → {schemes, selectors, passes} → {conv, linalg}."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

LAYERS = [
    {"onnxlr.__main__"},
    {"onnxlr.cli"},
    {"onnxlr.cli.batch"},
    {"onnxlr.cli.comparing", "onnxlr.cli.device", "onnxlr.cli.optimizing", "onnxlr.cli.training"},
    {"onnxlr.cli.app", "onnxlr.cli.arguments", "onnxlr.cli.training_options"},
    {"onnxlr.training", "onnxlr.cli.data_options", "onnxlr.batch"},
    {"onnxlr.batch.manifest", "onnxlr.batch.running"},
    {"onnxlr.batch.jobs"},
    {"onnxlr.training.finetuning", "onnxlr.training.lowrank"},
    {"onnxlr.training.course", "onnxlr.training.targets"},
    {"onnxlr.cli.options"},
    {"onnxlr"},
    {"onnxlr.api", "onnxlr.doctor"},
    {"onnxlr.reverting"},
    {"onnxlr.searching", "onnxlr.sweeping"},
    {"onnxlr.comparing"},
    {"onnxlr.comparing.comparer", "onnxlr.comparing.files"},
    {"onnxlr.comparing.sections"},
    {"onnxlr.comparing.schema"},
    {
        "onnxlr.comparing.opening",
        "onnxlr.comparing.results",
        "onnxlr.comparing.traits",
        "onnxlr.comparing.walking",
    },
    {"onnxlr.comparing.differences", "onnxlr.comparing.reasons", "onnxlr.comparing.timing"},
    {"onnxlr.comparing.matching", "onnxlr.comparing.running"},
    {"onnxlr.comparing.options", "onnxlr.comparing.ports", "onnxlr.comparing.sides"},
    {"onnxlr.comparing.fingerprint", "onnxlr.comparing.layouts", "onnxlr.comparing.rows"},
    {"onnxlr.training.trainer"},
    {"onnxlr.training.checkpoint", "onnxlr.training.objective", "onnxlr.training.methods"},
    {
        "onnxlr.training.methods.adaptive_rank",
        "onnxlr.training.methods.elrt",
        "onnxlr.training.methods.full",
        "onnxlr.training.methods.tai",
    },
    {"onnxlr.training.methods.base"},
    {"onnxlr.training.constraint", "onnxlr.training.dataset", "onnxlr.training.options"},
    {"onnxlr.training.initialization", "onnxlr.training.statistics"},
    {"onnxlr.training.module"},
    {"onnxlr.training.roles", "onnxlr.training.steps", "onnxlr.training.stored"},
    {"onnxlr.training.operators"},
    {
        "onnxlr.training.operators.activations",
        "onnxlr.training.operators.arithmetic",
        "onnxlr.training.operators.convolution",
        "onnxlr.training.operators.linear",
        "onnxlr.training.operators.normalization",
        "onnxlr.training.operators.pooling",
        "onnxlr.training.operators.quantization",
        "onnxlr.training.operators.reductions",
        "onnxlr.training.operators.resizing",
        "onnxlr.training.operators.shapes",
        "onnxlr.training.operators.slicing",
        "onnxlr.training.operators.sources",
    },
    {"onnxlr.training.operators.resampling", "onnxlr.training.operators.windows"},
    {"onnxlr.training.operators.base"},
    {"onnxlr.training.elements", "onnxlr.training.installation"},
    {"onnxlr.budgets", "onnxlr.result"},
    {"onnxlr.job", "onnxlr.report.table"},
    {"onnxlr.rules", "onnxlr.report", "onnxlr.report.curve", "onnxlr.machine"},
    {"onnxlr.report.files"},
    {"onnxlr.report.overview"},
    {"onnxlr.report.points"},
    {"onnxlr.report.page", "onnxlr.report.summary"},
    {"onnxlr.report.formats", "onnxlr.report.sections"},
    {"onnxlr.report.schema"},
    {"onnxlr.report.tradeoff"},
    {"onnxlr.report.plot"},
    {"onnxlr.checking"},
    {
        "onnxlr.planning",
        "onnxlr.spectra",
        "onnxlr.inspection",
        "onnxlr.calibration_data",
        "onnxlr.validation",
        "onnxlr.timing",
        "onnxlr.profiling",
    },
    {"onnxlr.judging", "onnxlr.rewriting", "onnxlr.latency"},
    {"onnxlr.calibration", "onnxlr.damage", "onnxlr.offers", "onnxlr.saving"},
    {"onnxlr.subject", "onnxlr.sensitivity", "onnxlr.replacement", "onnxlr.clock"},
    {"onnxlr.positions", "onnxlr.device_calibration"},
    {"onnxlr.network", "onnxlr.patches", "onnxlr.fitting", "onnxlr.chains", "onnxlr.cost_model_files"},
    {"onnxlr.feeds", "onnxlr.gpu_state", "onnxlr.micro_benchmarks"},
    {"onnxlr.images", "onnxlr.sampling"},
    {"onnxlr.data_files", "onnxlr.decoding"},
    {"onnxlr.runtime"},
    {"onnxlr.sizes"},
    {"onnxlr.plan", "onnxlr.factorization", "onnxlr.model_writing", "onnxlr.providers", "onnxlr.traces"},
    {"onnxlr.model_file", "onnxlr.analysis", "onnxlr.parallel", "onnxlr.cost", "onnxlr.shelf"},
    {"onnxlr.cost_model"},
    {"onnxlr.layer", "onnxlr.shapes"},
    {"onnxlr.spill", "onnxlr.model_checks"},
    {"onnxlr.staging", "onnxlr.external_data", "onnxlr.selectors", "onnxlr.selectors.energy"},
    {"onnxlr.selectors.evbmf", "onnxlr.selectors.target_latency"},
    {"onnxlr.selectors.target_macs", "onnxlr.selectors.target_params"},
    {"onnxlr.selectors.budget"},
    {"onnxlr.selectors.base", "onnxlr.selectors.knapsack"},
    {"onnxlr.selectors.lagrange"},
    {"onnxlr.schemes"},
    {"onnxlr.schemes.group"},
    {"onnxlr.schemes.channel_in", "onnxlr.schemes.spatial", "onnxlr.schemes.tucker2"},
    {"onnxlr.schemes.channel_out"},
    {"onnxlr.schemes.pairs"},
    {"onnxlr.schemes.base", "onnxlr.regression"},
    {"onnxlr.alternation"},
    {"onnxlr.ridge"},
    {"onnxlr.memory", "onnxlr.moments", "onnxlr.layout"},
    {
        "onnxlr.linalg",
        "onnxlr.conv",
        "onnxlr.errors",
        "onnxlr.hardware",
        "onnxlr.installation",
        "onnxlr.regular_files",
        "onnxlr.stopwatch",
    },
    {"onnxlr.lapack", "onnxlr.elf"},
    {"passes"},
    {"passes.prepare"},
    {"passes.untie_parameters"},
    {
        "passes.fold_affine",
        "passes.fold_shapes",
        "passes.merge_groups",
        "passes.matmul_to_conv",
        "passes.matmul_to_gemm",
        "passes.merge_pads",
        "passes.remove_no_ops",
        "passes.remove_unused",
        "passes.replace_with_chain",
        "passes.unfold_batchnorm",
    },
    {"passes.affine_runs", "passes.cancel_transposes"},
    {"passes.weights", "passes.settling"},
    {"passes.sinking"},
    {"passes.views"},
    {"passes.agnostic", "passes.inference"},
    {"passes.constants", "passes.cut"},
    {"passes.graph", "passes.orders"},
]
HEIGHT = {name: -i for i, layer in enumerate(LAYERS) for name in layer}

ONLY_IN = {
    "onnxruntime": {"onnxlr.runtime", "models.exports.checking"},
    "click": {*(name for name in HEIGHT if name.startswith("onnxlr.cli")), "onnxlr.cost_model_files"},
    "matplotlib": {"onnxlr.report.plot"},
    "distributed": {"onnxlr.batch.running"},
    "pynvml": {"onnxlr.gpu_state"},
    "PIL": {"onnxlr.decoding"},
    "rich": {"onnxlr.cli.app", "onnxlr.report.table"},
    "onnx_graphsurgeon": {"passes.replace_with_chain"},
    "torch": {
        *("models.digits.train", "models.digits.network", "models.exports.torch_export"),
        *(f"onnxlr.training.{name}" for name in ("elements", "module", "statistics", "steps")),
        *(f"onnxlr.training.{name}" for name in ("checkpoint", "finetuning", "objective", "trainer")),
        *(f"onnxlr.training.{name}" for name in ("constraint", "course", "initialization")),
        *("onnxlr.training.methods.base", "onnxlr.training.methods.elrt"),
        *(
            f"onnxlr.training.operators.{name}"
            for name in (
                *("activations", "arithmetic", "convolution", "linear", "normalization", "pooling"),
                *("quantization", "reductions", "resizing", "shapes", "slicing", "sources", "windows"),
            )
        ),
    },
    "sklearn": {"models.digits.data"},
}
NOT_IN_SCHEMES = {"onnx", "passes"}


def module_name(path: Path) -> str:
    """`onnxlr/report/__init__.py` -> `onnxlr.report`."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {
    module_name(p): p for folder in ("onnxlr", "passes", "models") for p in (ROOT / folder).rglob("*.py")
}


def imports(path: Path) -> set[str]:
    """Modules that a file imports anywhere; names of a package count where they are modules."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (full & MODULES.keys()) or {node.module}
    return found


def test_every_module_has_its_layer() -> None:
    assert {name for name in MODULES if not name.startswith("models")} == HEIGHT.keys()


@pytest.mark.parametrize("name", HEIGHT)
def test_imports_point_down(name: str) -> None:
    upwards = {other for other in imports(MODULES[name]) if other in HEIGHT and HEIGHT[other] >= HEIGHT[name]}
    assert not upwards


@pytest.mark.parametrize("library", ONLY_IN)
def test_libraries_stay_in_their_module(library: str) -> None:
    users = {
        name for name, path in MODULES.items() if library in {other.split(".")[0] for other in imports(path)}
    }
    allowed = ONLY_IN[library] | ({"models.__main__", "models.digits.data"} if library == "click" else set())
    assert users <= allowed
    assert users


@pytest.mark.parametrize(
    "name", [name for name in HEIGHT if name.startswith(("onnxlr.schemes", "onnxlr.selectors"))]
)
def test_schemes_and_selectors_know_no_onnx(name: str) -> None:
    assert not NOT_IN_SCHEMES & {other.split(".")[0] for other in imports(MODULES[name])}


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("passes")])
def test_passes_import_nothing_of_onnxlr(name: str) -> None:
    assert not {other for other in imports(MODULES[name]) if other.startswith("onnxlr")}


@pytest.mark.parametrize("name", [name for name in MODULES if not name.startswith(("onnxlr.cli", "models"))])
def test_only_the_command_line_prints(name: str) -> None:
    calls = (
        node.func for node in ast.walk(ast.parse(MODULES[name].read_text())) if isinstance(node, ast.Call)
    )
    assert "print" not in {function.id for function in calls if isinstance(function, ast.Name)}
