"""The command line: exit codes, one line on stderr, JSON alone on stdout, files whole or not at all."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result

from onnxlr import runtime
from onnxlr.cli import cli
from onnxlr.schemes import all_schemes
from tests.builders import conv_model, stored_outside, weight

QUICK = ["--latency-seconds", "0", "--device", "cpu"]


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A file with one Conv that every scheme can halve."""
    w = np.einsum("or,rcij->ocij", weight(32, 4, seed=1), weight(4, 32, 3, 3, seed=2))
    path = tmp_path / "m.onnx"
    onnx.save(conv_model((w + 1e-3 * weight(32, 32, 3, 3)).astype(np.float32)), path)
    return path


def test_optimize_writes_the_model_and_the_report(model: Path, tmp_path: Path) -> None:
    out, report = tmp_path / "o.onnx", tmp_path / "r.json"
    done = invoke("optimize", model, "-o", out, "--report", report, *QUICK)
    assert done.exit_code == 0, done.stderr
    assert "1 layer factorized, 0 left alone" in done.stdout
    assert "not real data" in done.stdout
    assert len(onnx.load(out).graph.node) > 1
    data = json.loads(report.read_text())
    assert data["layers"][0]["name"] == "conv"
    assert data["validation"]["passed"] is True
    assert data["latency"] is None
    assert done.stderr == ""


def test_json_is_alone_on_stdout(model: Path, tmp_path: Path) -> None:
    done = invoke("optimize", model, "-o", tmp_path / "o.onnx", "--json", "--latency-seconds", 0.01)
    data = json.loads(done.stdout)
    assert data["settings"]["energy"] == 0.95
    assert data["latency"]["verdict"] in ("faster", "slower", "no difference beyond noise")


def test_batch_sizes(model: Path) -> None:
    timing = ["--device", "cpu", "--threads", 1, "--latency-seconds", 0.001, "--batch", "4,1,2"]
    shown = invoke("validate", model, model, *timing)
    assert shown.exit_code == 0, shown.stderr
    lines = [line.strip() for line in shown.stdout.splitlines()]
    assert any(line.startswith("batch 4, cpu, threads: 1, p99") for line in lines)
    assert [line[:8] for line in lines if "samples/s" in line] == ["batch 1:", "batch 2:"]
    data = json.loads(invoke("validate", model, model, *timing, "--json", "--prefer-nhwc").stdout)
    assert [latency["batch"] for latency in data["latencies"]] == [4, 1, 2]
    assert data["latency"] == data["latencies"][0]
    assert "--prefer-nhwc does nothing on the CPU" in data["notes"]


@pytest.mark.parametrize("sizes", ["", "0", "1,", "1,-8", "1;8", "a", "8,8"])
def test_wrong_batch_sizes(model: Path, sizes: str) -> None:
    done = invoke("validate", model, model, "--batch", sizes, *QUICK)
    assert done.exit_code == 2
    assert done.stdout == ""


@pytest.mark.parametrize(("force", "written"), [([], False), (["--force"], True)])
def test_a_failed_check_exits_with_1(model: Path, tmp_path: Path, force: list[str], written: bool) -> None:
    out, report = tmp_path / "o.onnx", tmp_path / "r.json"
    limit = ["--max-rel-l2", "1e-9"]
    done = invoke("optimize", model, "-o", out, "--energy", 0.5, "--report", report, *limit, *force, *QUICK)
    assert done.exit_code == 1
    assert done.stderr.count("\n") == 1
    assert "relative L2" in done.stderr
    assert out.exists() == written
    assert json.loads(report.read_text())["validation"]["passed"] is False


def test_plan_apply_validate(model: Path, tmp_path: Path) -> None:
    plan, out = tmp_path / "p.json", tmp_path / "o.onnx"
    assert invoke("plan", model, "-o", plan, "--energy", 0.9).exit_code == 0
    assert json.loads(plan.read_text())["layers"][0]["name"] == "conv"
    assert invoke("apply", model, plan, "-o", out).exit_code == 0
    good = invoke("validate", model, out, "--max-rel-l2", 0.5, *QUICK)
    assert good.exit_code == 0, good.stderr
    bad = invoke("validate", model, out, "--max-rel-l2", 1e-9, "--json", *QUICK)
    assert bad.exit_code == 1
    assert json.loads(bad.stdout)["validation"]["passed"] is False


def test_inspect(model: Path) -> None:
    table = invoke("inspect", model)
    assert table.exit_code == 0
    for text in ("conv", "32×32×3×3", "spatial", "channel-in", "channel-out", "tucker2"):
        assert text in table.stdout
    data = json.loads(invoke("inspect", model, "--json").stdout)
    assert [offer["scheme"] for offer in data["layers"][0]["schemes"]] == list(all_schemes())


def test_selection_options_reach_the_plan(model: Path, tmp_path: Path) -> None:
    options = ["--energy", 0.8, "--scheme", "spatial", "--scheme", "tucker2", "--align", 4, "--gate", "none"]
    names = ["--include", "c", "--exclude", "zzz", "--input-shape", "x:3,32,11,13"]
    assert invoke("plan", model, "-o", tmp_path / "p.json", *options, *names).exit_code == 0
    assert json.loads((tmp_path / "p.json").read_text())["settings"] == {
        "energy": 0.8,
        "schemes": ["spatial", "tucker2"],
        "include": "c",
        "exclude": "zzz",
        "align": 4,
        "gate": "none",
        "input_shapes": {"x": [3, 32, 11, 13]},
        "calibration": None,
    }


WRONG = {
    "no such command": (["optimise"], 2, "No such command"),
    "no output": (["optimize", "m.onnx"], 2, "--output"),
    "no such model": (["optimize", "none.onnx", "-o", "o.onnx"], 3, "none.onnx: no such file"),
    "not a model": (["optimize", "text", "-o", "o.onnx"], 3, "text: "),
    "output folder missing": (["optimize", "m.onnx", "-o", "no/o.onnx"], 2, "the folder no does not exist"),
    "output is a folder": (["optimize", "m.onnx", "-o", "."], 2, "is a folder"),
    "report of unknown kind": (["optimize", "m.onnx", "-o", "o.onnx", "--report", "r.txt"], 2, "r.txt"),
    "energy out of range": (["optimize", "m.onnx", "-o", "o.onnx", "--energy", "1.5"], 2, "energy"),
    "unknown scheme": (["optimize", "m.onnx", "-o", "o.onnx", "--scheme", "svd"], 2, "svd"),
    "no regular expression": (["plan", "m.onnx", "-o", "p.json", "--include", "("], 2, "regular expression"),
    "input shape": (["plan", "m.onnx", "-o", "p.json", "--input-shape", "x=3"], 2, "x=3"),
    "input shape of zero": (["plan", "m.onnx", "-o", "p.json", "--input-shape", "x:0,1"], 2, "x:0,1"),
    "input shape for nothing": (
        ["plan", "m.onnx", "-o", "p.json", "--input-shape", "z:3"],
        2,
        "inputs are: x",
    ),
    "no such data": (["optimize", "m.onnx", "-o", "o.onnx", "--inputs", "d.npz"], 3, "d.npz: no such file"),
    "a drop without labels": (
        ["optimize", "m.onnx", "-o", "o.onnx", "--max-drop", "0.1"],
        2,
        "max-drop needs labels: give --labels with --inputs",
    ),
    "labels without inputs": (["optimize", "m.onnx", "-o", "o.onnx", "--labels", "l.npy"], 3, "give both"),
    "no such plan": (["apply", "m.onnx", "p.json", "-o", "o.onnx"], 3, "p.json: cannot be read as a plan"),
    "not a plan": (["apply", "m.onnx", "text", "-o", "o.onnx"], 3, "text: cannot be read as a plan"),
    "sweep of a missing model": (["sweep", "none.onnx", "-o", "curve"], 3, "none.onnx: no such file"),
    "sweep into a file": (["sweep", "m.onnx", "-o", "text"], 2, "text: is a file; name a folder"),
    "sweep into no folder": (["sweep", "m.onnx", "-o", "no/curve"], 2, "the folder no does not exist"),
    "sweep to nothing": (["sweep", "m.onnx", "-o", "curve", "--lowest", "0"], 2, "--lowest"),
    "sweep of no points": (["sweep", "m.onnx", "-o", "curve", "--points", "0"], 2, "--points"),
    "sweep with a rule": (["sweep", "m.onnx", "-o", "curve", "--energy", "0.9"], 2, "--energy"),
    "sweep by unknown units": (["sweep", "m.onnx", "-o", "curve", "--unit", "bytes"], 2, "bytes"),
    "sweep out of reach": (
        ["sweep", "m.onnx", "-o", "curve", "--lowest", "0.01", "--points", "1", *QUICK],
        2,
        "no point can be reached: target-macs 0.01: the lowest that can be reached is",
    ),
    "validate a missing model": (["validate", "m.onnx", "none.onnx"], 3, "none.onnx: no such file"),
}


@pytest.mark.parametrize(("arguments", "code", "message"), WRONG.values(), ids=WRONG.keys())
def test_wrong_input(
    arguments: list[str], code: int, message: str, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(model.parent)
    (model.parent / "text").write_text("this is no model\n")
    before = sorted(model.parent.iterdir())
    done = invoke(*arguments)
    assert done.exit_code == code
    assert message in done.stderr
    assert done.stdout == ""
    assert sorted(model.parent.iterdir()) == before


def test_help_names_every_command() -> None:
    text = invoke("--help").stdout
    names = "inspect", "optimize", "sweep", "plan", "apply", "validate", "doctor"
    assert all(name in text for name in names)


@pytest.mark.parametrize("option", ["--max-rel-l2", "--min-agreement", "--max-drop"])
@pytest.mark.parametrize("command", ["optimize", "sweep", "validate"])
def test_the_help_of_limits_tells_when_they_are_searched(command: str, option: str) -> None:
    words = " ".join(invoke(command, "--help").stdout.split())
    (about,) = re.findall(option + r" FLOAT.*?(?= --[a-z-]+ [A-Z]| -h)", words)
    assert "Without a rank rule `optimize` searches the cheapest plan that keeps the limits." in about


def test_limits_without_a_rule_are_searched(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.onnx"
    done = invoke("optimize", model, "-o", out, "--max-rel-l2", 0.3, *QUICK)
    assert done.exit_code == 0, done.stderr
    assert re.search(r"searched 6 budgets: 0\.\d+ of the MACs is the lowest", done.stdout)
    assert out.exists()


def test_limits_that_only_the_original_keeps(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.onnx"
    done = invoke("optimize", model, "-o", out, "--max-rel-l2", 0, "--json", *QUICK)
    assert done.exit_code == 0, done.stderr
    data = json.loads(done.stdout)
    assert data["layers"] == []
    assert data["notes"][-1] == "searched 6 budgets: none keeps the limits, so nothing was replaced"
    assert out.read_bytes() == model.read_bytes()


SWEEP = ["--points", 3, "--lowest", 0.25, *QUICK]


def test_sweep_prints_a_table(model: Path, tmp_path: Path) -> None:
    done = invoke("sweep", model, "-o", tmp_path / "curve", "--max-rel-l2", 0.01, *SWEEP)
    assert done.exit_code == 0, done.stderr
    lines = done.stdout.splitlines()
    assert max(len(line) for line in lines if not line.startswith("wrote ")) <= 80
    (header,) = [line for line in lines if "target" in line]
    assert header.split() == ["target", "MACs", "params", "rel.", "L2"]  # what is known
    rows = [line.split() for line in lines if re.match(r" 0\.\d+ ", line)]
    assert [row[0] for row in rows] == ["0.75", "0.5", "0.25"]
    assert all(float(row[1].removesuffix("%")) <= 100 * float(row[0]) for row in rows)
    assert "not real data" in done.stdout
    assert re.search(r"^0\.25 FAILED: output 'y': relative L2", done.stdout, re.M)
    written = {line.split("/")[-1] for line in lines if line.startswith("wrote ")}
    assert written == {path.name for path in (tmp_path / "curve").iterdir()}
    assert "sweep.svg" in written


def test_json_of_a_sweep_is_alone_on_stdout(model: Path, tmp_path: Path) -> None:
    done = invoke("sweep", model, "-o", tmp_path, "--json", *SWEEP)
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout) == json.loads((tmp_path / "sweep.json").read_text())


def test_a_plan_of_a_sweep_can_be_applied(model: Path, tmp_path: Path) -> None:
    assert invoke("sweep", model, "-o", tmp_path / "curve", *SWEEP).exit_code == 0
    done = invoke("apply", model, tmp_path / "curve/plan-0.25.json", "-o", tmp_path / "o.onnx")
    assert done.exit_code == 0, done.stderr
    assert "1 layer factorized" in done.stdout


def test_the_output_may_be_the_input(model: Path) -> None:
    assert invoke("optimize", model, "-o", model, *QUICK).exit_code == 0
    assert len(onnx.load(model).graph.node) > 1
    assert [path.name for path in model.parent.iterdir()] == ["m.onnx"]


def test_cuda_without_a_gpu_exits_with_4(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "_problem", lambda _: "no GPU here")
    done = invoke("optimize", model, "-o", tmp_path / "o.onnx", "--device", "cuda")
    assert done.exit_code == 4
    assert "device cuda: no GPU here; use --device cpu" in done.stderr
    assert not (tmp_path / "o.onnx").exists()


@pytest.mark.parametrize(
    ("choice", "outside", "expected"),
    [
        ([], False, False),
        ([], True, True),
        (["--external-data", "auto"], True, True),
        (["--external-data", "always"], False, True),
        (["--external-data", "never"], True, False),
    ],
)
def test_external_data(model: Path, tmp_path: Path, choice: list[str], outside: bool, expected: bool) -> None:
    """Also in place: the file that is written is named, and the old one goes."""
    if outside:
        stored_outside(tmp_path, onnx.load(model))
    plan = tmp_path / "plan.json"
    assert invoke("plan", model, "-o", plan).exit_code == 0
    out = tmp_path / "o.onnx"
    for _ in range(2):
        done = invoke("apply", model, plan, "-o", out, *choice)
        assert done.exit_code == 0, done.stderr
    data = f"{out}.2.data"
    assert [f"wrote {out}", f"wrote {data}"][: 1 + expected] == done.stdout.splitlines()[-1 - expected :]
    assert sorted(map(str, tmp_path.glob("o.onnx*"))) == [str(out), data][: 1 + expected]
    for _ in range(2):
        done = invoke("optimize", model, "-o", model, *choice, *QUICK)
        assert done.exit_code == 0, done.stderr
    assert len(list(tmp_path.glob("m.onnx.*"))) == expected


def test_external_data_is_one_of_three(model: Path, tmp_path: Path) -> None:
    done = invoke("optimize", model, "-o", tmp_path / "o.onnx", "--external-data", "sometimes")
    assert done.exit_code == 2
    assert "'always', 'never'" in done.stderr
