"""No result is slower than its original: what does not pay is reverted, and told.

Times are made up here, so that it is known what should happen: see `World`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import ModelProto, helper

import onnxlr
from onnxlr.checking import CheckResult, Reference
from onnxlr.cli import cli
from onnxlr.latency import Latency
from onnxlr.model_file import Model
from passes.graph import Key
from tests.builders import make_model, one_line, weight

COUNT = 6
NAMES = [f"c{i}" for i in range(COUNT)]
CHECKS = onnxlr.Checks(latency_seconds=0.01, device="cpu", threads=1)
NO_PAY = "low rank does not pay for this model on this machine"


def convs(count: int = COUNT) -> ModelProto:
    """Convs in a row, each followed by a Relu; but for noise, their ranks are 16 and 4 in turns."""
    rng = np.random.default_rng(0)
    nodes, stored, value = [], {}, "x"
    for i in range(count):
        rank = 4 if i % 2 else 16
        low = rng.standard_normal((32, rank)) @ rng.standard_normal((rank, 32 * 9)) / 40
        stored[f"w{i}"] = (low.reshape(32, 32, 3, 3) + 1e-3 * weight(32, 32, 3, 3)).astype(np.float32)
        out = "y" if i == count - 1 else f"r{i}"
        nodes.append(helper.make_node("Conv", [value, f"w{i}"], [f"v{i}"], f"c{i}", pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"v{i}"], [out], f"relu{i}"))
        value = out
    return make_model(nodes, {"x": ["N", 32, 8, 8]}, ["y"], stored)


MODEL = convs()


class World:
    """Where a Conv takes 1 ms, and the chain in its place what is given by name.

    Args:
        chains: ms of each chain, by the layer's name.
        rest: ms that a model takes besides, for each chain in it.
        blind: whether nothing can be timed in place.
    """

    def __init__(self, chains: Mapping[str, float], rest: float = 0.0, blind: bool = False) -> None:
        self.chains, self.rest, self.blind = chains, rest, blind
        self.checked: list[set[str]] = []  # the layers that were replaced in each model that was timed
        self.profiled = 0

    def enter(self, patch: pytest.MonkeyPatch) -> World:
        check = Reference.check

        def timed_check(reference: Reference, candidate: Model, timed: bool = True) -> CheckResult:
            found = check(reference, candidate, timed=False)
            if not timed or reference.checks.latency_seconds <= 0:
                return found
            return dataclasses.replace(found, latency=self.latency(candidate.proto))

        def time_layers(_: Reference, model: Model, chains: Mapping[Key, int]) -> Mapping[Key, float]:
            self.profiled += 1
            replaced = self.replaced(model.proto)
            names = {} if self.blind else {key: f"c{key[1].removeprefix('v')}" for key in chains}
            return {key: (self.time(n) if n in replaced else 1.0) / 1e3 for key, n in names.items()}

        patch.setattr(Reference, "check", timed_check)
        patch.setattr(Reference, "time_layers", time_layers)
        return self

    def time(self, name: str) -> float:
        return self.chains[name]

    def replaced(self, proto: ModelProto) -> set[str]:
        return {node.name.split("_lr")[0] for node in proto.graph.node if "_lr" in node.name}

    def latency(self, proto: ModelProto) -> Latency:
        replaced = self.replaced(proto)
        self.checked.append(replaced)
        after = COUNT - len(replaced) + sum(self.time(name) + self.rest for name in replaced)
        speedup = COUNT / after
        verdict = "faster" if speedup > 1.02 else "slower" if speedup < 0.98 else "no difference beyond noise"
        return Latency("cpu", "CPU", 1, 1, 15, COUNT, after, speedup, (speedup, speedup), 0.02, verdict)


def names(result: onnxlr.Result) -> list[str]:
    return [layer.name for layer in result.plan.layers]


def reasons(result: onnxlr.Result) -> dict[str, str]:
    return {item.name: item.reason for item in result.report.skipped}


def optimize(**options: Any) -> onnxlr.Result:
    return onnxlr.optimize(MODEL, **{"checks": CHECKS, **options})


def test_a_faster_result_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World({**dict.fromkeys(NAMES, 0.5), "c3": 1.5}).enter(monkeypatch)
    result = optimize()
    assert names(result) == NAMES
    assert (len(world.checked), world.profiled) == (1, 0)
    assert not any("revert" in note for note in result.report.notes)


def test_what_is_slower_is_reverted(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = {"c1": 3.0, "c4": 1.0}
    world = World({**dict.fromkeys(NAMES, 0.8), **slow}).enter(monkeypatch)
    result = optimize()
    kept = [name for name in NAMES if name not in slow]
    assert names(result) == kept
    assert world.replaced(result.model) == set(kept)
    assert world.checked == [set(NAMES), set(kept)]
    assert reasons(result) == {
        "c1": "reverted, not faster here: its chain takes 3 ms, the layer took 1 ms",
        "c4": "reverted, not faster here: its chain takes 1 ms, the layer took 1 ms",
    }
    assert result.report.notes[-1].startswith("2 of 6 replacements were reverted, as the model with them was")
    assert result.report.latency is not None
    assert result.report.latency.verdict == "faster"
    assert result.report.totals.params.before is not None
    assert result.report.totals.params.after is not None
    assert result.report.totals.params.after < result.report.totals.params.before


def test_half_of_those_that_save_least(monkeypatch: pytest.MonkeyPatch) -> None:
    """The chains cost more around them than they save, but for two of them."""
    gains = dict(zip(NAMES, [0.9, 0.2, 0.85, 0.95, 0.1, 0.8], strict=True))
    world = World(gains, rest=0.5).enter(monkeypatch)
    result = optimize()
    assert names(result) == ["c1", "c4", "c5"]
    kept = {"c1", "c4", "c5"}
    assert world.checked == [set(NAMES), kept, kept]  # faster by little: twice
    assert set(reasons(result)) == {"c0", "c2", "c3"}
    assert reasons(result)["c3"].startswith("reverted, saves too little time here: its chain takes 0.95 ms")


class Lucky(World):
    """Every model is faster by little when it is timed first."""

    def latency(self, proto: ModelProto) -> Latency:
        found = super().latency(proto)
        if not self.checked[-1] or self.checked.count(self.checked[-1]) > 1:
            return found
        return dataclasses.replace(found, verdict="faster", interval=(1.04, 1.06))


def test_what_is_faster_by_little_has_to_be_so_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    world = Lucky(dict.fromkeys(NAMES, 0.99)).enter(monkeypatch)
    result = optimize()
    assert names(result) == []
    assert world.checked[:2] == [set(NAMES), set(NAMES)]
    assert result.report.notes[-1].startswith(NO_PAY)


ALL_SLOW = [World(dict.fromkeys(NAMES, 1.2)), World(dict.fromkeys(NAMES, 0.9), rest=0.2)]


@pytest.mark.parametrize("world", ALL_SLOW, ids=["each in place", "only together"])
def test_the_original_is_kept_where_nothing_pays(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.enter(monkeypatch)
    result = optimize()
    assert names(result) == []
    assert result.model.SerializeToString() == MODEL.SerializeToString()
    assert world.checked[-1] == set()
    assert reasons(result).keys() == set(NAMES)
    assert result.report.notes[-1].startswith(NO_PAY)
    assert result.report.validation is not None
    assert result.report.validation.passed


class Fickle(World):
    """In every round another chain turns out to be slower than its layer, and the others are not faster."""

    def time(self, name: str) -> float:
        return 2.0 if name == NAMES[max(0, len(self.checked) - 1)] else 0.99


def test_there_are_four_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last one ends it."""
    world = Fickle({}, rest=1).enter(monkeypatch)
    result = optimize()
    assert world.checked == [*(set(NAMES[i:]) for i in range(4)), set()]
    assert result.report.notes[-1].startswith(NO_PAY)
    assert reasons(result)["c5"].startswith("reverted, saves too little time here: ")


def test_without_times_those_that_save_least_macs(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(dict(zip(NAMES, [2.0, 0.5] * 3, strict=True)), blind=True).enter(monkeypatch)
    result = optimize(energy=0.99)
    assert names(result) == ["c1", "c3", "c5"]
    assert world.checked == [set(NAMES), {"c1", "c3", "c5"}]
    assert set(reasons(result).values()) == {
        "reverted, not shown to be faster here: cannot be timed in place"
    }


KEPT: dict[str, dict[str, Any]] = {
    "asked to": {"keep_slower": True},
    "no gate": {"gate": "none"},
    "not timed": {"checks": dataclasses.replace(CHECKS, latency_seconds=0)},
    "not run": {"checks": None},
}


@pytest.mark.parametrize("options", KEPT.values(), ids=KEPT.keys())
def test_nothing_is_reverted(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(dict.fromkeys(NAMES, 1.2)).enter(monkeypatch)
    result = optimize(**options)
    assert names(result) == NAMES
    assert world.profiled == 0
    assert not any("reverted" in note or NO_PAY in note for note in result.report.notes)


def test_where_size_is_asked_for_a_note_says_that_it_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    World(dict.fromkeys(NAMES, 1.2)).enter(monkeypatch)
    result = optimize(target_params=0.5)
    assert len(names(result)) > 2
    assert result.report.notes[-1].startswith("the result is not faster than the original on this machine")
    kept = optimize(target_params=0.5, keep_slower=True)
    assert names(kept) == names(result)
    assert not any("not faster" in note for note in kept.report.notes)


def test_without_replacements_there_is_nothing_to_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    World({}).enter(monkeypatch)
    result = optimize(exclude="c")
    assert names(result) == []
    assert not any(NO_PAY in note for note in result.report.notes)


def test_after_a_search_the_limits_still_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World({**dict.fromkeys(NAMES, 0.8), "c0": 3.0, "c2": 3.0}).enter(monkeypatch)
    result = optimize(checks=dataclasses.replace(CHECKS, limits=onnxlr.Limits(max_rel_l2=0.05)))
    assert world.checked == [set(NAMES), set(NAMES) - {"c0", "c2"}]
    assert result.report.validation is not None
    assert result.report.validation.passed
    assert result.report.validation.outputs[0].rel_l2 <= 0.05
    searched, reverted = result.report.notes[-2:]
    assert searched.startswith("searched 6 budgets: ")
    assert reverted.startswith("2 of 6 replacements were reverted")


def test_layers_are_timed_in_place() -> None:
    """For real: every replaced layer, and no other."""
    result = optimize(verify_layers=True, keep_slower=True, include="c[0-3]")
    times = result.report.layer_times
    assert times is not None
    assert [entry.name for entry in times] == NAMES[:4]
    assert all(0 < entry.before < 1e3 and 0 < entry.after < 1e3 for entry in times)
    listed = result.report.to_dict()["layer_times"]
    assert [set(entry) for entry in listed] == [{"name", "before", "after"}] * 4
    assert optimize(keep_slower=True, include="c0").report.layer_times is None


def test_slower_chains_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    World({**dict.fromkeys(NAMES, 0.5), "c3": 1.5}).enter(monkeypatch)
    report = optimize(verify_layers=True).report
    assert report.notes[-1] == "'c3' became slower: its chain takes 1.5 ms, the layer took 1 ms"
    assert report.layer_times is not None
    assert [entry.after for entry in report.layer_times] == [0.5, 0.5, 0.5, 1.5, 0.5, 0.5]


def test_layers_that_cannot_be_timed_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    World(dict.fromkeys(NAMES, 0.5), blind=True).enter(monkeypatch)
    report = optimize(verify_layers=True).report
    assert report.layer_times == ()
    assert report.notes[-1] == f"cannot be timed in place: {', '.join(NAMES)}"


def test_layers_are_not_timed_without_data() -> None:
    with pytest.raises(onnxlr.UsageError, match="verify_layers") as error:
        optimize(checks=None, verify_layers=True)
    one_line(error, "needs checks")


def test_a_model_that_cannot_be_run_has_no_times() -> None:
    model = convs(2)
    model.opset_import.append(helper.make_opsetid("acme", 1))
    model.graph.node[-1].CopyFrom(helper.make_node("Sharpen", ["v1"], ["y"], domain="acme"))
    report = onnxlr.optimize(model, energy=0.9, checks=CHECKS, verify_layers=True).report
    assert [layer.name for layer in report.layers] == ["c0", "c1"]
    assert report.layer_times == ()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "m.onnx"
    onnx.save(MODEL, path)
    return path


def invoke(*arguments: object) -> Any:
    timing = ["--latency-seconds", "0.01", "--device", "cpu", "--threads", "1"]
    return CliRunner().invoke(cli, [*map(str, arguments), *timing])


@pytest.mark.parametrize(("force", "written"), [([], False), (["--force"], True)])
def test_a_speedup_that_is_not_reached(file: Path, force: list[str], written: bool) -> None:
    """For real: nothing is a thousand times as fast."""
    out = file.with_name("o.onnx")
    done = invoke("optimize", file, "-o", out, "--energy", 0.99, "--require-speedup", 1000, *force)
    assert done.exit_code == 1
    assert "FAILED: speed-up " in done.stdout
    assert done.stderr.startswith("Error: speed-up ")
    assert " < 1000; " in done.stderr
    assert out.exists() == written


def test_a_speedup_that_is_reached(file: Path) -> None:
    out = file.with_name("o.onnx")
    options = ["--energy", 0.99, "--require-speedup", 0.001]
    assert invoke("optimize", file, "-o", out, *options).exit_code == 0
    assert out.exists()


@pytest.mark.parametrize(("factor", "code"), [(0.001, 0), (1000, 1)])
def test_validate_can_require_a_speedup(file: Path, factor: float, code: int) -> None:
    assert invoke("validate", file, file, "--require-speedup", factor).exit_code == code


@pytest.mark.parametrize("command", ["optimize", "validate"])
def test_a_speedup_needs_timing(file: Path, command: str) -> None:
    rest = ["-o", file.with_name("o.onnx")] if command == "optimize" else [file]
    options = ["--require-speedup", "2", "--latency-seconds", "0"]
    done = CliRunner().invoke(cli, [*map(str, [command, file, *rest]), *options])
    assert done.exit_code == 2
    assert "require-speedup needs timing: give --latency-seconds above 0" in done.stderr


def test_a_speedup_needs_a_model_that_can_be_run() -> None:
    model = convs(2)
    model.opset_import.append(helper.make_opsetid("acme", 1))
    model.graph.node[-1].CopyFrom(helper.make_node("Sharpen", ["v1"], ["y"], domain="acme"))
    with pytest.raises(onnxlr.ModelError, match="ONNX Runtime"):
        onnxlr.optimize(model, energy=0.9, checks=dataclasses.replace(CHECKS, require_speedup=1.5))


def test_the_command_says_that_low_rank_does_not_pay(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    World(dict.fromkeys(NAMES, 1.2)).enter(monkeypatch)
    out = file.with_name("o.onnx")
    done = invoke("optimize", file, "-o", out, "--energy", 0.99)
    assert done.exit_code == 0, done.stderr
    assert NO_PAY in " ".join(done.stdout.split())
    assert "6x reverted, not faster here: c0, c1, c2, …" in done.stdout
    assert out.read_bytes() == file.read_bytes()
    kept = invoke("optimize", file, "-o", out, "--energy", 0.99, "--keep-slower", "--verify-layers")
    assert kept.exit_code == 0, kept.stderr
    assert "6 layers factorized" in kept.stdout
    rows = [line.split() for line in kept.stdout.splitlines() if line.endswith("x ")]
    assert ["c0", "1", "1.2", "0.83x"] in rows
