"""Many jobs: none stops the others, none is done twice, those of a worker that dies are done elsewhere."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
from click.testing import CliRunner, Result

import onnxlr
from onnxlr.batch import BatchJob, read_jobs, run_here, running
from onnxlr.cli import cli
from tests.builders import conv_model, one_line, weight

QUICK = ["--", "--energy", "0.5", "--latency-seconds", "0", "--workers", "1"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three models, one of which is none."""
    (tmp_path / "models").mkdir()
    for i in range(2):
        onnx.save(conv_model(weight(16, 16, 3, 3, seed=i)), tmp_path / f"models/m{i}.onnx")
    (tmp_path / "models/bad.onnx").write_bytes(b"no model")
    return tmp_path


def batch(jobs: object, output: Path, *options: str) -> Result:
    return CliRunner().invoke(cli, ["batch", str(jobs), "-o", str(output), *options])


def entries(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "manifest.jsonl").read_text().splitlines()]


def by_name(output: Path) -> dict[str, dict[str, Any]]:
    return {entry["name"]: entry for entry in entries(output)}


def test_one_bad_model_does_not_stop_the_rest(folder: Path) -> None:
    output = folder / "out"
    result = batch(folder / "models/*.onnx", output, "--processes", "2", *QUICK)
    assert result.exit_code == 1
    assert result.stderr == f"Error: not done: bad; {output}/manifest.jsonl tells why\n"
    found = by_name(output)
    assert {name: entry["status"] for name, entry in found.items()} == {
        "m0": "done",
        "m1": "done",
        "bad": "failed",
    }
    assert found["bad"]["exit_code"] == 3
    assert "cannot be read as an ONNX model" in found["bad"]["error"]
    for name in ("m0", "m1"):
        alone = onnxlr.optimize(
            folder / f"models/{name}.onnx", energy=0.5, workers=1, checks=onnxlr.Checks(latency_seconds=0)
        )
        assert (output / f"{name}.onnx").read_bytes() == alone.model.SerializeToString()
        report = json.loads((output / f"{name}.json").read_text())
        assert found[name]["report"]["totals"] == report["totals"]
    assert not (output / "bad.onnx").exists()


def test_what_is_done_is_not_done_again(folder: Path) -> None:
    output = folder / "out"
    (folder / "models/bad.onnx").unlink()
    batch(folder / "models/*.onnx", output, *QUICK)
    first = {path: path.stat().st_mtime_ns for path in output.glob("m*.onnx")}
    again = batch(folder / "models/*.onnx", output, *QUICK)
    assert (again.exit_code, len(entries(output))) == (0, 2)
    assert {path: path.stat().st_mtime_ns for path in output.glob("m*.onnx")} == first
    onnx.save(conv_model(weight(16, 16, 3, 3, seed=9)), folder / "models/m0.onnx")
    batch(folder / "models/*.onnx", output, *QUICK)
    assert [entry["name"] for entry in entries(output)[2:]] == ["m0"]  # another model
    batch(folder / "models/*.onnx", output, *QUICK, "--align", "4")
    assert len(entries(output)) == 5  # other options
    batch(folder / "models/*.onnx", output, "--again", *QUICK)
    assert len(entries(output)) == 7


def test_a_line_that_a_crash_cut_off(folder: Path) -> None:
    """Its job is done again, and the next line is whole."""
    output = folder / "out"
    (folder / "models/bad.onnx").unlink()
    batch(folder / "models/*.onnx", output, *QUICK)
    manifest = output / "manifest.jsonl"
    lines = manifest.read_bytes().splitlines(keepends=True)
    manifest.write_bytes(lines[0] + lines[1][:40])
    assert batch(folder / "models/*.onnx", output, *QUICK).exit_code == 0
    whole = [line for line in manifest.read_bytes().splitlines() if line.endswith(b"}")]
    assert {json.loads(line)["name"] for line in whole} == {"m0", "m1"}


def test_a_check_that_fails_is_told_apart(folder: Path) -> None:
    batch(folder / "models/m0.onnx", folder / "out", *QUICK, "--max-rel-l2", "0")
    (entry,) = entries(folder / "out")
    assert (entry["status"], entry["exit_code"]) == ("refused", 1)
    assert not (folder / "out/m0.onnx").exists()


def write(folder: Path, text: str) -> Path:
    (folder / "jobs.toml").write_text(text)
    return folder / "jobs.toml"


def test_jobs_of_a_file(folder: Path) -> None:
    path = write(
        folder,
        """
        [defaults]
        energy = 0.5
        align = 4
        [[jobs]]
        model = "models/m0.onnx"
        [[jobs]]
        name = "other"
        model = "models/m0.onnx"
        energy = 0.9
        scheme = ["spatial", "tucker2"]
        keep-slower = true
        verify-layers = false
        """,
    )
    model = str(folder / "models/m0.onnx")
    assert read_jobs(str(path), ["--seed", "1"]) == [
        BatchJob("m0", model, None, ("--seed", "1", "--energy", "0.5", "--align", "4")),
        BatchJob(
            *("other", model, None),
            (
                "--seed",
                "1",
                "--energy",
                "0.9",
                "--align",
                "4",
                "--scheme",
                "spatial",
                "--scheme",
                "tucker2",
                "--keep-slower",
            ),
        ),
    ]


def test_points_of_a_sweep(folder: Path) -> None:
    curve = onnxlr.sweep(folder / "models/m0.onnx", points=2, lowest=0.5, align=1, checks=None)
    curve.save(folder / "curve")
    path = write(folder, '[[jobs]]\nmodel = "models/m0.onnx"\nplans = "curve/plan-*.json"\n')
    assert batch(path, folder / "out").exit_code == 0
    for point in curve.points:
        expected = onnxlr.apply(folder / "models/m0.onnx", point.plan).model
        assert (folder / f"out/m0-{point.target:g}.onnx").read_bytes() == expected.SerializeToString()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no jobs"),
        ("[[jobs]", "cannot be read as TOML"),
        ("[[jobs]]\n", "job 1 has no model"),
        ("[[job]]\nmodel = 'a.onnx'\n", "'job' is neither"),
        ("jobs = 1\n", "needs a table"),
        ("jobs = [1]\n", "job 1 is no table"),
        ("[[jobs]]\nmodel = 3\n", "model cannot be 3"),
        ("[[jobs]]\nmodel = 'a.onnx'\nenergy = {a = 1}\n", "energy cannot be"),
        ("[[jobs]]\nmodel = 'a.onnx'\nname = '../a'\n", "cannot be the name"),
        ("[[jobs]]\nmodel = 'a.onnx'\nplans = 'none-*.json'\n", "no plan is found"),
        ("[[jobs]]\nmodel = 'a.onnx'\n[[jobs]]\nmodel = 'b/a.onnx'\n", "two jobs are named 'a'"),
        ("[[jobs]]\nmodel = 'a.onnx'\nenrgy = 0.9\n", "job 'a': No such option"),
        ("[[jobs]]\nmodel = 'a.onnx'\nalign = 'x'\n", "job 'a': "),
    ],
)
def test_wrong_files(tmp_path: Path, text: str, message: str) -> None:
    result = batch(write(tmp_path, text), tmp_path / "out")
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_pattern_that_finds_nothing(tmp_path: Path) -> None:
    with pytest.raises(onnxlr.UsageError) as error:
        read_jobs(str(tmp_path / "*.onnx"))
    one_line(error, "no jobs")


def test_another_file_of_that_name(folder: Path) -> None:
    (folder / "out").mkdir()
    (folder / "out/manifest.jsonl").write_text('{"a": 1}\n')
    result = batch(folder / "models/m0.onnx", folder / "out", *QUICK)
    assert result.exit_code == 2
    assert "no manifest" in result.stderr


def test_a_process_that_dies_is_begun_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three times, and then its job has failed."""
    program = folder / "program"
    program.write_text(
        f"#!/bin/sh\necho begun >> {folder}/log\ncase $(wc -l < {folder}/log) in 1|3|4|5) kill -9 $$;; esac\n"
    )
    program.chmod(0o755)
    monkeypatch.setattr(running.sys, "executable", str(program))
    jobs = [BatchJob(name, "m.onnx", None, ()) for name in ("a", "b")]
    first, second = run_here(jobs, folder, 1)
    assert (first.exit_code, first.attempts) == (0, 2)
    assert (second.exit_code, second.attempts) == (-signal.SIGKILL, 3)
    assert second.to_dict(folder)["status"] == "failed"


def test_interrupted_it_ends_its_jobs(folder: Path) -> None:
    script = folder / "hang.py"
    script.write_text(
        "import os, pathlib, time\n"
        "def feeds():\n"
        f"    pathlib.Path({str(folder)!r}, f'{{os.getpid()}}.pid').touch()\n"
        "    time.sleep(600)\n"
    )
    (folder / "models/bad.onnx").unlink()
    output = folder / "out"
    started = subprocess.Popen(
        [
            *(sys.executable, "-m", "onnxlr", "batch", str(folder / "models/*.onnx"), "-o", str(output)),
            *("--processes", "2", *QUICK, "--calibration", f"{script}:feeds"),
        ],
        stdout=subprocess.DEVNULL,
    )
    _wait(lambda: len(list(folder.glob("*.pid"))) == 2)
    started.terminate()
    assert started.wait(timeout=60) == 128 + signal.SIGTERM
    for path in folder.glob("*.pid"):
        with pytest.raises(ProcessLookupError):
            os.kill(int(path.stem), 0)
    assert list(output.iterdir()) == []


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """A Dask scheduler on loopback with two workers, each a process of its own."""
    pytest.importorskip("distributed", reason="needs the extra onnxlr[cluster]")
    file = tmp_path / "scheduler.json"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    here = ["--host", "127.0.0.1", "--no-dashboard"]
    started = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "distributed.cli.dask_scheduler",
                *here,
                "--port",
                "0",
                "--scheduler-file",
                str(file),
            ],
            **quiet,
        )
    ]
    try:
        _wait(lambda: file.exists() and file.read_text().rstrip().endswith("}"))
        address = json.loads(file.read_text())["address"]
        worker = [
            sys.executable,
            "-m",
            "distributed.cli.dask_worker",
            address,
            "--no-nanny",
            "--nthreads",
            "1",
            *here,
        ]
        folder = ["--local-directory", str(tmp_path / "dask")]
        started += [subprocess.Popen([*worker, *folder], **quiet) for _ in range(2)]
        yield address, started[1:]
    finally:
        for process in started:
            process.kill()
            process.wait()


def _wait(ready: Any) -> None:
    deadline = time.monotonic() + 60
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_on_a_cluster(folder: Path, scheduler: tuple[str, list[subprocess.Popen[bytes]]]) -> None:
    """The same models as here; a job that hangs on a worker that is killed is done by the other one."""
    address, workers = scheduler
    output, here = folder / "out", folder / "here"
    (folder / "models/bad.onnx").unlink()
    for i in range(2, 6):
        onnx.save(conv_model(weight(16, 16, 3, 3, seed=i)), folder / f"models/m{i}.onnx")
    command = [sys.executable, "-m", "onnxlr", "batch", str(folder / "models/*.onnx"), "-o", str(output)]
    running = subprocess.Popen([*command, "--scheduler", address, *QUICK], stdout=subprocess.DEVNULL)
    _wait((output / "manifest.jsonl").exists)  # a first job is done: the workers are at work
    os.kill(workers[0].pid, signal.SIGKILL)
    assert running.wait(timeout=120) == 0
    assert batch(folder / "models/*.onnx", here, *QUICK).exit_code == 0
    assert by_name(output).keys() == by_name(here).keys() == {f"m{i}" for i in range(6)}
    for i in range(6):
        assert (output / f"m{i}.onnx").read_bytes() == (here / f"m{i}.onnx").read_bytes()
    assert str(workers[1].pid) in {entry["worker"].split(":")[1] for entry in entries(output)}


def test_no_scheduler(folder: Path) -> None:
    pytest.importorskip("distributed", reason="needs the extra onnxlr[cluster]")
    result = batch(folder / "models/m0.onnx", folder / "out", "--scheduler", "nonsense://x", *QUICK)
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert "no Dask scheduler there" in result.stderr


def test_without_dask(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    result = batch(folder / "models/m0.onnx", folder / "out", "--scheduler", "tcp://127.0.0.1:1", *QUICK)
    assert result.exit_code == 2
    assert "pip install 'onnxlr[cluster]'" in result.stderr
