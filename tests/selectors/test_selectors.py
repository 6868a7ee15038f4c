"""What holds for every selector."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import onnx
import pytest
from click.testing import CliRunner

from onnxlr.cli import cli
from onnxlr.selectors import Judges, ModelSize, all_selectors
from tests.builders import conv_model, weight


def test_selectors_are_found_by_being_there() -> None:
    assert list(all_selectors()) == ["energy", "evbmf", "target-latency", "target-macs", "target-params"]


@pytest.mark.parametrize("name", list(all_selectors()))
def test_selectors_say_what_they_need(name: str) -> None:
    selector = all_selectors()[name](1.0)
    assert (selector.name, selector.value) == (name, 1.0)
    assert selector.takes_value == (name != "evbmf")
    assert selector.judges in get_args(Judges)
    assert selector.help.endswith((".", "]"))


@pytest.mark.parametrize("name", list(all_selectors()))
def test_a_model_may_have_no_layers(name: str) -> None:
    assert all_selectors()[name](1.0)([], ModelSize(0, 10, 1.0)) == {}


@pytest.mark.parametrize(
    ("options", "code", "expected"),
    [
        (["--energy", "0.8"], 0, {"energy": 0.8}),
        (["--target-macs", "1"], 0, {"target-macs": 1.0}),
        (["--target-params", "1"], 0, {"target-params": 1.0}),
        (["--evbmf"], 0, {"evbmf": 1.0}),
        ([], 0, {"energy": 0.95}),
        (["--evbmf", "--target-macs", "0.5"], 2, "give one of --evbmf, --target-macs"),
        (
            ["--target-macs", "0"],
            2,
            "--target-macs: target-macs is a fraction, 0 < target-macs <= 1; got 0.0",
        ),
        (["--target-macs", "0.01"], 2, "target-macs 0.01: the lowest that can be reached is"),
        (["--evbmf", "3"], 2, "unexpected extra argument"),
    ],
)
def test_every_selector_is_an_option(
    options: list[str], code: int, expected: dict[str, float] | str, tmp_path: Path
) -> None:
    model, plan = tmp_path / "m.onnx", tmp_path / "p.json"
    onnx.save(conv_model(weight(32, 32, 3, 3)), model)
    done = CliRunner().invoke(cli, ["plan", str(model), "-o", str(plan), *options])
    assert done.exit_code == code, done.stderr
    if isinstance(expected, str):
        assert expected in done.stderr
    else:
        settings = json.loads(plan.read_text())["settings"]
        assert {name: settings[name] for name in all_selectors() if name in settings} == expected
