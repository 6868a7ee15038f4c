"""The command line as a person meets it: help, colours, progress, silence, completion."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from onnxlr.cli import cli

MODEL = Path(__file__).parent.parent / "models/digits/digits.onnx"


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


COMMANDS = sorted(cli.commands)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_tells_its_default(command: str) -> None:
    """But for those that have to be given, may be repeated, or are off unless given."""
    context = click.Context(cli.commands[command], info_name=command, show_default=True)
    for option in cli.commands[command].params:
        if not isinstance(option, click.Option) or option.required or option.multiple or option.is_flag:
            continue
        _, text = option.get_help_record(context) or ("", "")
        assert "[default: " in text, option.name


@pytest.mark.parametrize("command", COMMANDS)
def test_numbers_tell_their_unit(command: str) -> None:
    """What a number counts, or what it is a fraction of, stands in the help of its option."""
    units = (
        *("seconds", "second", "pixels", "fraction", "at most so many", "cores", "threads", "multiples"),
        *(
            "number of",
            "steps",
            "seed",
            "samples a step",
            "passes",
            "epochs",
            "by that of",
            "as 90s",
            "as 10m",
        ),
        *("relative l2", "speed-up", "at the start", "weight of labels", "of weights", "rgb", "divided by"),
    )
    for option in cli.commands[command].params:
        numeric = isinstance(option.type, click.types.IntParamType | click.types.FloatParamType)
        if isinstance(option, click.Option) and numeric and not option.is_flag:
            assert any(unit in (option.help or "").lower() for unit in units), option.name


def test_quiet_prints_nothing(tmp_path: Path) -> None:
    target = tmp_path / "out.onnx"
    arguments = ["--energy", 0.9, "--latency-seconds", 0, "--quiet"]
    result = invoke("optimize", MODEL, "-o", target, *arguments)
    assert (result.exit_code, result.output) == (0, "")
    assert target.is_file()
    data = json.loads(invoke("optimize", MODEL, "-o", target, *arguments, "--json").output)
    assert data["schema_version"] == 1
    for command in (["inspect", MODEL], ["plan", MODEL, "-o", tmp_path / "plan.json"], ["doctor"]):
        assert invoke(*command, "-q").stdout == ""


def test_quiet_tells_errors(tmp_path: Path) -> None:
    broken = invoke("optimize", MODEL, "-o", tmp_path / "o.onnx", "--energy", 0.1, "--max-rel-l2", 0, "-q")
    assert broken.exit_code == 1
    assert broken.stdout == ""
    assert "relative L2" in broken.stderr
    assert len(broken.stderr.splitlines()) == 1


def terminal(command: list[str], **environment: str) -> str:
    """What a command writes to a terminal of 80 columns."""
    pty = pytest.importorskip("pty", reason="needs a pseudo-terminal")
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "onnxlr", *command],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "80", **environment},
    )
    os.close(follower)
    written = b""
    with contextlib.suppress(OSError):  # what Linux raises when the other side is closed
        while chunk := os.read(leader, 65536):
            written += chunk
    os.close(leader)
    assert process.wait() == 0
    return written.decode()


COLOR = re.compile(r"\x1b\[(?:[0-9]+;)*(?:3[0-7]|9[0-7]|38;[0-9;]+)m")


def test_a_terminal_gets_colours_and_progress(tmp_path: Path) -> None:
    command = ["optimize", str(MODEL), "-o", str(tmp_path / "o.onnx"), "--energy", "0.9"]
    written = terminal([*command, "--latency-seconds", "0.3"])
    assert COLOR.search(written)
    for stage in ("Analysing weights", "Timing"):
        assert stage in written
    assert re.search(r"Timing.*\d:\d\d:\d\d", written)  # the time left
    plain = terminal([*command, "--latency-seconds", "0"], NO_COLOR="1")
    assert not COLOR.search(plain)
    assert "layers factorized" in plain
    assert "Timing" not in terminal([*command, "--latency-seconds", "0.1", "--quiet"])


def test_what_is_piped_is_plain(tmp_path: Path) -> None:
    command = ["optimize", str(MODEL), "-o", str(tmp_path / "o.onnx"), "--energy", "0.9"]
    done = subprocess.run(
        [sys.executable, "-m", "onnxlr", *command, "--latency-seconds", "0.1"],
        env={name: value for name, value in os.environ.items() if name != "COLUMNS"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "\x1b" not in done.stdout + done.stderr
    assert done.stderr == ""
    assert max(map(len, done.stdout.splitlines())) <= 80


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str) -> None:
    """The script that docs tell to install, and what it then asks for."""
    script = subprocess.run(
        ["onnxlr"], env=_completing(f"{shell}_source"), capture_output=True, text=True, check=True
    )
    assert "_ONNXLR_COMPLETE" in script.stdout
    asked = {
        "COMP_WORDS": "onnxlr optimize --target-m",
        "COMP_CWORD": "2" if shell != "fish" else "--target-m",
    }
    found = subprocess.run(
        ["onnxlr"], env=_completing(f"{shell}_complete", **asked), capture_output=True, text=True, check=True
    )
    assert "--target-macs" in found.stdout


def _completing(instruction: str, **asked: str) -> dict[str, str]:
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    return {**os.environ, "PATH": path, "_ONNXLR_COMPLETE": instruction, **asked}
