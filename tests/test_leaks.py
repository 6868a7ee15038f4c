"""Two hundred optimizations in one process leave no memory, files, threads or descriptors behind."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.blocks import ROOT

OPTIMIZATIONS = 202

ALLOCATOR = {"MALLOC_ARENA_MAX": "1", "MALLOC_TRIM_THRESHOLD_": "65536"}
"""Lets glibc give back what is free; by default it keeps 10 MB more, and not always the same."""

SCRIPT = """
import gc, json, os, resource, sys, tempfile, threading
import numpy as np
import onnxlr
from tests.builders import conv_model, weight

folder = tempfile.mkdtemp()
tempfile.tempdir = folder
os.chdir(folder)
np.savez("x.npz", x=np.random.default_rng(0).standard_normal((4, 32, 11, 13)).astype(np.float32))
model = conv_model(weight(32, 32, 3, 3))

def state():
    gc.collect()
    with open("/proc/self/statm") as file:
        resident = int(file.read().split()[1]) * resource.getpagesize()
    return {
        "bytes": resident,
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
        "objects": len(gc.get_objects()),
        "files": sorted(os.listdir(folder)),
    }

def once():
    for calibration in (None, "x.npz"):
        checks = onnxlr.Checks(calibration, latency_seconds=0)
        onnxlr.optimize(model, energy=0.5, align=4, gate="none", calibration=calibration, checks=checks)

states = []
for i in range(int(sys.argv[1]) // 2):
    once()
    if i == 40:
        states.append(state())
states.append(state())
print(json.dumps(states))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_nothing_is_left() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(OPTIMIZATIONS)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(ROOT), "PATH": "", **ALLOCATOR},
    )
    early, late = json.loads(done.stdout)
    assert late["files"] == early["files"] == ["x.npz"]
    assert late["descriptors"] == early["descriptors"]
    assert late["threads"] == early["threads"]
    assert late["objects"] - early["objects"] < 500
    assert late["bytes"] - early["bytes"] < 2 * 2**20  # of 120 optimizations
