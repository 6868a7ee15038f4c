"""A limit on memory: less is kept, and what goes over it is ended and told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import Queue

import numpy as np
import pytest
from click.testing import CliRunner

import onnxlr
from onnxlr import memory
from onnxlr.cli import cli, options
from onnxlr.memory import in_use, memory_limit, room, workers_that_fit
from onnxlr.parallel import map_layers
from tests.blocks import ROOT
from tests.builders import conv_model, weight

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

MIB = 2**20


def used() -> int:
    found = in_use()
    assert found is not None
    return found


def grow(bytes_: int) -> np.ndarray:
    return np.ones(bytes_, np.uint8)


def test_memory_in_use() -> None:
    """Arrays count, mapped files do not."""
    before = used()
    array = grow(64 * MIB)
    assert 60 * MIB < used() - before < 80 * MIB
    del array
    assert used() - before < 20 * MIB


def test_a_mapped_file_is_not_in_use(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(64 * MIB))
    before = used()
    assert int(np.memmap(tmp_path / "file", mode="r").sum()) == 0
    assert used() - before < 20 * MIB


def test_nothing_happens_below_the_limit() -> None:
    with memory_limit(used() + 2**30):
        array = grow(16 * MIB)
    assert len(array) == 16 * MIB


def wait_in_the_main_thread() -> None:
    Queue[int]().get()  # for ever


def work_that_handles_errors() -> None:
    while True:
        try:
            time.sleep(0.01)
        except Exception:  # noqa: S112 - as libraries do
            continue


def map_over_threads() -> None:
    map_layers(lambda _: time.sleep(0.5), [1] * 1000, float, 2, lambda _: None)


def under(limit: int | None, work: Callable[[], object]) -> None:
    with memory_limit(limit):
        work()


@pytest.mark.parametrize("work", [wait_in_the_main_thread, work_that_handles_errors, map_over_threads])
def test_work_is_ended(work: Callable[[], object]) -> None:
    limit, held = used() + 64 * MIB, []

    def more() -> None:
        time.sleep(0.1)
        held.append(grow(128 * MIB))

    thread = threading.Thread(target=more)
    thread.start()
    with pytest.raises(onnxlr.UsageError, match=r"of memory are in use, over the limit of .*--memory-limit"):
        under(limit, work)
    thread.join()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_it_is_told_where_the_interruption_gets_lost() -> None:
    """Python drops what is raised in a destructor."""

    class Large:
        def __del__(self) -> None:
            array = grow(128 * MIB)
            time.sleep(0.3)
            del array

    with pytest.raises(onnxlr.UsageError):
        under(used() + 64 * MIB, [Large()].clear)


def test_everything_is_as_before() -> None:
    before, threads = signal.getsignal(signal.SIGUSR2), set(threading.enumerate())
    for limit in (None, 2**50, 1):
        try:
            under(limit, lambda: time.sleep(0.2))
        except onnxlr.UsageError:
            assert limit == 1
        assert signal.getsignal(signal.SIGUSR2) == before
        assert set(threading.enumerate()) <= threads
        assert room(2**40) == 2**40


def test_an_error_in_the_block_stays() -> None:
    with pytest.raises(ZeroDivisionError):
        under(2**50, lambda: 1 // 0)


def test_limits_within_limits() -> None:
    with memory_limit(2**40):
        with memory_limit(2**39):
            assert room(2**50) == 2**36
        assert room(2**50) == 2**37


def test_only_in_the_main_thread() -> None:
    told: list[str] = []

    def try_it() -> None:
        try:
            with memory_limit(2**40):
                pass
        except onnxlr.UsageError as error:
            told.append(str(error))

    thread = threading.Thread(target=try_it)
    thread.start()
    thread.join()
    assert told == ["a memory limit can only be set in the main thread"]


def test_where_the_system_does_not_tell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "nothing")
    assert in_use() is None
    with pytest.raises(onnxlr.UsageError, match="needs Linux"), memory_limit(2**40):
        pass
    with memory_limit(None):
        pass


def test_shares() -> None:
    assert (room(100), workers_that_fit(4, 2**50)) == (100, 4)
    with memory_limit(2**34):
        assert room(2**40) == 2**31
        assert room(5) == 5
        assert [workers_that_fit(4, 2**gib * 2**30) for gib in range(5)] == [4, 4, 2, 1, 1]
        assert workers_that_fit(4, 0) == 4


SIZES = {
    "2000000": 2_000_000,
    "500MB": 500_000_000,
    "500mib": 500 * MIB,
    "4GiB": 2**32,
    "4g": 2**32,
    "4Gi": 2**32,
    "1.5 GB": 1_500_000_000,
    "1TB": 10**12,
    "64KiB": 65536,
}


@pytest.mark.parametrize(("text", "size"), SIZES.items())
def test_sizes(text: str, size: int) -> None:
    context = cli.commands["inspect"].make_context("inspect", ["m.onnx", "--memory-limit", text])
    assert context.meta[options.MEMORY_LIMIT] == size


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.onnx").write_bytes(conv_model(weight(32, 32, 3, 3)).SerializeToString())
    return "m.onnx"


OPTIMIZE = ["optimize", "m.onnx", "--energy", "0.5", "--gate", "none", "--latency-seconds", "0"]


@pytest.mark.usefixtures("model")
def test_the_same_bytes_under_a_limit(tmp_path: Path) -> None:
    for name, more in (("a", []), ("b", ["--memory-limit", f"{used() // MIB + 1000}MiB"])):
        done = CliRunner().invoke(cli, [*OPTIMIZE, "-o", f"{name}.onnx", *more])
        assert done.exit_code == 0, done.output
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


@pytest.mark.usefixtures("model")
def test_over_the_limit_nothing_is_written(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, [*OPTIMIZE, "-o", "out.onnx", "--memory-limit", "1MiB"])
    assert done.exit_code == 2
    assert done.stderr.startswith("Error: ")
    assert "over the limit of 1.0 MiB" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


@pytest.mark.usefixtures("model")
def test_control_groups_set_the_limit_where_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "memory_quota", lambda: 10 * MIB)
    done = CliRunner().invoke(cli, ["inspect", "m.onnx"])
    assert done.exit_code == 2
    assert "over the limit of 9.0 MiB" in done.stderr
    assert CliRunner().invoke(cli, ["inspect", "m.onnx", "--memory-limit", "1TB"]).exit_code == 0


@pytest.mark.usefixtures("model")
def test_where_the_system_has_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise MemoryError("Unable to allocate 8.00 TiB")

    monkeypatch.setattr(onnxlr, "inspect", refuse)
    done = CliRunner().invoke(cli, ["inspect", "m.onnx"])
    assert (done.exit_code, done.stderr) == (2, "Error: out of memory: Unable to allocate 8.00 TiB\n")


LEAVE = """
import json, os, sys, tempfile, threading, time
from onnxlr.cli import app
from onnxlr.spill import Spill

def command(**_):
    spill = Spill()
    threading.Thread(target=lambda: (time.sleep(3600), spill), daemon=False).start()
    print(json.dumps(str(spill.folder)))
    sys.exit(7)

app.cli = command
app.main()
"""


def test_threads_that_compute_for_nobody_are_not_waited_for() -> None:
    """And what they hold is cleaned up all the same."""
    done = subprocess.run(
        [sys.executable, "-c", LEAVE], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (7, "")
    assert not os.path.exists(json.loads(done.stdout))
