"""The page of a report in a real browser: nothing fails, charts are there, numbers are those of the JSON."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from tests.blocks import prepare, run

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs Chromium or Chrome")
pytest.importorskip("matplotlib", reason="charts need the extra onnxlr[plot]")

PROBE = """
<script>
console.error("probe: errors are seen");
const shown = [...document.querySelectorAll("figure svg")].map((svg) => svg.getBoundingClientRect());
const lines = [...document.querySelectorAll("table")].map((table) =>
  [...table.rows].map((row) => [...row.cells].map((cell) => cell.textContent)));
const seen = {
  charts: shown.map((box) => [box.width, box.height]),
  labels: [...document.querySelectorAll("figure")].map((figure) => figure.getAttribute("aria-label")),
  bars: document.querySelectorAll('g[id^="bar"] > title').length,
  traces: document.querySelectorAll('g[id^="trace"] > title').length,
  tables: lines,
  page: document.documentElement.scrollWidth,
  window: window.innerWidth,
  background: getComputedStyle(document.documentElement).colorScheme + " " +
    matchMedia("(prefers-color-scheme: dark)").matches,
  note: getComputedStyle(document.querySelector(".quiet")).color,
  requests: performance.getEntriesByType("resource").length,
};
const out = document.createElement("pre");
out.id = "seen";
out.textContent = JSON.stringify(seen);
document.body.append(out);
</script>
"""
"""Looks at the page from within. The page itself forbids scripts: the copy that is looked at does not."""


def browse(page: Path, *options: str) -> tuple[str, list[str]]:
    """The document as the browser has it after loading, and what was written to its console."""
    assert BROWSER is not None
    command = [
        BROWSER,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-logging=stderr",
        "--dump-dom",
    ]
    done = subprocess.run(
        [*command, *options, page.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def look(page: Path, *options: str) -> dict[str, Any]:
    """What the probe sees."""
    copy = page.with_name("probed.html")
    text, policies = re.subn(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text("utf-8"))
    assert policies == 1
    copy.write_text(text.replace("</body>", f"{PROBE}</body>"), encoding="utf-8")
    document, console = browse(copy, *options)
    assert len(console) == 1, console
    assert "probe: errors are seen" in console[0]
    (found,) = re.findall(r'<pre id="seen">(.*?)</pre>', document, re.S)
    seen: dict[str, Any] = json.loads(unescape(found))
    return seen


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep, and a result of the same model with its reports."""
    folder = prepare(tmp_path_factory.mktemp("page"))
    data = [
        "--calibration",
        "calibration.npz",
        "--calibration-samples",
        "64",
        "--inputs",
        "test.npz",
        "--labels",
        "test_labels.npy",
    ]
    sweep = ["onnxlr", "sweep", "model.onnx", "-o", "curve", "--points", "2", "--latency-seconds", "0.05"]
    run([*sweep, *data], folder)
    reports = ["--report", "report.json", "--report", "report.html", "--curve", "curve"]
    target = ["-o", "smaller.onnx", "--target-macs", "0.3", "--latency-seconds", "0.1", "--keep-slower"]
    run(["onnxlr", "optimize", "model.onnx", *target, *data, *reports], folder)
    return folder


@pytest.fixture(scope="module")
def report(folder: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return data


@pytest.fixture(scope="module")
def seen(folder: Path) -> dict[str, Any]:
    return look(folder / "report.html", "--window-size=1200,900")


def test_it_opens_without_an_error(folder: Path) -> None:
    """As it is, with the policy that forbids scripts and anything from elsewhere."""
    document, console = browse(folder / "report.html")
    assert not console
    assert "</html>" in document
    assert (folder / "report.html").stat().st_size < 2_000_000


def test_charts_are_there(seen: dict[str, Any], report: dict[str, Any]) -> None:
    assert len(seen["labels"]) == 3
    for part in ("speed-up by MACs kept", "MACs that are kept of each layer", "singular values of layers"):
        assert any(part in label for label in seen["labels"])
    assert all(width > 300 and height > 100 for width, height in seen["charts"])
    assert seen["bars"] == len(report["layers"]) + len(report["skipped"])
    assert seen["traces"] == sum(len(spectrum["modes"]) for spectrum in report["spectra"]) > 0
    assert seen["requests"] == 0


def short(text: str) -> float:
    """`1.23 M` -> 1230000."""
    number, _, unit = text.partition(" ")
    return float(number) * {"": 1, "k": 1e3, "M": 1e6, "G": 1e9}[unit]


def test_numbers_are_those_of_the_json(seen: dict[str, Any], report: dict[str, Any]) -> None:
    before_after, layers = seen["tables"][:2]
    rows = {name: cells for name, *cells in before_after[1:]}
    for name, key in (("params", "params"), ("MACs", "macs"), ("bytes", "bytes")):
        exact = report["totals"][key]
        assert short(rows[name][0]) == pytest.approx(exact["before"], rel=6e-3)
        assert short(rows[name][1]) == pytest.approx(exact["after"], rel=6e-3)
        assert rows[name][2] == f"{exact['after'] / exact['before']:.0%}"
    latency = report["latency"]
    low, high = latency["interval"]
    assert rows["latency, ms"][2] == f"{latency['speedup']:.2f}x [{low:.2f}, {high:.2f}]"
    assert float(rows["latency, ms"][0]) == pytest.approx(latency["before"], rel=6e-3)
    assert float(rows["latency, ms"][1]) == pytest.approx(latency["after"], rel=6e-3)
    (output,) = report["validation"]["outputs"]
    assert float(rows["relative L2 error"][1]) == pytest.approx(output["rel_l2"], rel=6e-3)
    assert rows["top-1 accuracy"][:2] == [f"{output['top1_before']:.2%}", f"{output['top1_after']:.2%}"]
    assert len(layers) == 1 + len(report["layers"])
    for cells, layer in zip(layers[1:], report["layers"], strict=True):
        assert cells[0] == layer["name"]
        assert cells[2:4] == [layer["scheme"], "×".join(map(str, layer["rank"]))]
        assert cells[-1] == f"{layer['error']:.3f}"


def test_a_phone_shows_it_without_scrolling_sideways(folder: Path) -> None:
    seen = look(folder / "report.html", "--window-size=500,900")  # Chromium opens no narrower window
    assert seen["page"] <= seen["window"] <= 500
    assert all(width <= seen["window"] for width, _ in seen["charts"])


def test_dark_mode(folder: Path, seen: dict[str, Any]) -> None:
    dark = look(folder / "report.html", "--blink-settings=preferredColorScheme=0")
    assert (seen["background"], dark["background"]) == ("light dark false", "light dark true")
    assert dark["note"] != seen["note"]
