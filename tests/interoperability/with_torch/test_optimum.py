"""Exports of Optimum."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import onnxlr
from onnxlr.errors import UsageError
from tests.blocks import run
from tests.interoperability.page import Ran, needs

SECTION = "Hugging Face Optimum"
pytestmark = needs("torch", "optimum", "transformers")

EXPORT = Path(__file__).with_name("architectures.py")
FUSE = """
import json
import sys

from onnxruntime.transformers.optimizer import optimize_model

for path in sys.argv[1:]:
    fused = optimize_model(path, model_type="vit", num_heads=3, hidden_size=192, opt_level=0)
    print(json.dumps(fused.get_fused_operator_statistics()))
"""


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small networks of other architectures."""
    folder = tmp_path_factory.mktemp("exports")
    run([sys.executable, str(EXPORT), str(folder)], folder)
    images = np.random.default_rng(0).standard_normal((8, 3, 64, 64)).astype(np.float32)
    np.savez(folder / "images.npz", pixel_values=images)
    return folder


def test_half_of_the_macs_at_a_small_error(ran: Ran) -> None:
    assert re.search(r"^ MACs .* 50% $", ran.printed[1], re.M)
    (error,) = re.findall(r"relative L2 to PyTorch: ([\d.]+)", ran.printed[-1])
    assert float(error) == pytest.approx(0.007, abs=0.003)


def test_what_counts_as_a_layer(ran: Ran) -> None:
    sizes = {"pixel_values": (1, 1, 32, 32)}
    plan = onnxlr.plan(ran.folder / "vit_onnx/model.onnx", energy=0.999, gate="none", input_shapes=sizes)
    assert Counter(layer.op_type for layer in plan.layers) == {"Conv": 1, "MatMul": 12, "Gemm": 1}
    assert [skipped.reason for skipped in plan.skipped] == ["both operands are computed"] * 4


def test_the_optimizer_for_transformers_fuses_the_same(ran: Ran) -> None:
    command = [sys.executable, "-c", FUSE, "vit_onnx/model.onnx", "vit_onnx/smaller.onnx"]
    before, after = map(json.loads, run(command, ran.folder).splitlines())
    assert before == after
    assert (after["SkipLayerNormalization"], after["BiasGelu"]) == (4, 2)


def fix_sizes(source: Path, target: Path, sizes: str, *options: str) -> None:
    """As the page says, with the sizes given."""
    command = ["onnxsim", str(source), str(target), "--overwrite-input-shape", sizes, *options]
    run(command, source.parent)


@pytest.mark.parametrize(("options", "fused"), [((), 2), (("--skip-optimization", "fuse_attention"), 0)])
def test_onnxsim_fuses_attention_where_sizes_are_fixed(
    ran: Ran, tmp_path: Path, options: tuple[str, ...], fused: int
) -> None:
    fix_sizes(ran.folder / "vit_onnx/model.onnx", tmp_path / "fixed.onnx", "1,1,32,32", *options)
    reasons = [skipped.reason for skipped in onnxlr.inspect(tmp_path / "fixed.onnx").skipped]
    assert reasons.count("its matrices lie inside one node") == fused


@pytest.mark.parametrize("name", ["resnet", "mobilenet_v2", "convnext", "swin", "segformer"])
def test_other_architectures(exports: Path, name: str) -> None:
    checks = onnxlr.Checks(f"{exports}/images.npz", latency_seconds=0)
    exact = onnxlr.optimize(exports / name / "model.onnx", energy=1, gate="none", checks=checks)
    (output,) = exact.report.validation.outputs
    assert output.rel_l2 < 1e-4
    assert len(exact.plan.layers) > 5


def test_sizes_that_are_computed_are_fixed_first(exports: Path, tmp_path: Path) -> None:
    path, data = exports / "beit/model.onnx", f"{exports}/images.npz"
    checks = onnxlr.Checks(data, latency_seconds=0)
    with pytest.raises(UsageError, match="MACs are unknown"):
        onnxlr.optimize(path, target_macs=0.6, calibration=data, checks=checks)
    fixed = tmp_path / "fixed.onnx"
    fix_sizes(path, fixed, "8,3,64,64", "--skip-optimization", "fuse_attention")
    totals = onnxlr.optimize(fixed, target_macs=0.6, calibration=data, checks=checks).report.totals
    assert totals.macs.after <= 0.6 * totals.macs.before
