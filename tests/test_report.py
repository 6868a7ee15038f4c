"""Reports: strict JSON with every field that is promised, and tables that fit a terminal of 80 columns."""

import dataclasses
import io
import json
import math
import sys
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from onnxlr.analysis import Skipped
from onnxlr.errors import UsageError
from onnxlr.inspection import InspectedLayer, InspectedScheme, Inspection
from onnxlr.latency import Latency
from onnxlr.plan import BeforeAfter, Milliseconds, PlannedLayer
from onnxlr.report import Report, Totals, check_report_name, installed_versions, to_json, write_report
from onnxlr.report.overview import report_page
from onnxlr.report.table import render_inspection, render_report
from onnxlr.validation import OutputDifference, Validation

LONG = "/backbone/layer4/layer4.2/conv3/module/very/long/name/of/an/exporter/Conv_output_0"


def layer(name: str = LONG, rank: tuple[int, ...] = (128, 256)) -> PlannedLayer:
    return PlannedLayer(
        name,
        "Conv",
        (2048, 1024, 3, 3),
        "tucker2",
        rank,
        BeforeAfter(18_874_368, 1_234_567),
        BeforeAfter(924_844_032, 60_493_783),
        0.951,
        0.221,
    )


LATENCY = Latency("cpu", "CPUExecutionProvider", 0, 1, 100, 1.5, 1.0, 1.5, (1.4, 1.6), 0.02, "faster")

REPORT = Report(
    model={"name": "m.onnx", "hash": "sha256:00"},
    settings={"energy": 0.95},
    layers=(layer(), layer("conv")),
    skipped=(*(Skipped(f"{LONG}_{i}", "grouped") for i in range(5)), Skipped("fc", "too small")),
    totals=Totals(BeforeAfter(25_000_000, 5_000_000), BeforeAfter(4_000_000_000, 999), BeforeAfter(100, 50)),
    validation=Validation(
        (OutputDifference(LONG, 0.1, math.nan, 0.999, 0.98, 0.91, 0.9),), "some data", 100, ("a limit",)
    ),
    latency=LATENCY,
    notes=("a note",),
    versions=installed_versions(),
    latencies=(LATENCY,),
)


def test_fields_of_the_schema() -> None:
    """The list in docs and DESIGN.md; fields are only ever added."""
    data = json.loads(to_json(REPORT.to_dict()))
    assert data["schema_version"] == 1
    promised = {"model", "settings", "layers", "skipped", "totals", "validation", "latency", "versions"}
    assert promised <= set(data)
    assert {
        "name", "op_type", "weight_shape", "scheme", "rank", "params", "macs", "energy", "error"
    } <= set(data["layers"][0])  # fmt: skip
    assert set(data["layers"][0]["params"]) == set(data["layers"][0]["macs"]) == {"before", "after"}
    assert set(data["skipped"][0]) == {"name", "reason"}
    assert all(set(data["totals"][key]) == {"before", "after"} for key in ("params", "macs", "bytes"))
    outputs = data["validation"]["outputs"]
    assert {"name", "max_abs", "rel_l2", "cosine", "top1_agreement"} <= set(outputs[0])
    assert data["validation"]["passed"] is False
    assert {
        "provider", "device", "before", "after", "speedup", "interval", "noise_floor"
    } <= set(data["latency"])  # fmt: skip
    assert data["latencies"] == [data["latency"]]
    for name in ("p90", "p99", "cpu", "throughput", "memory"):
        assert {f"before_{name}", f"after_{name}"} <= set(data["latency"])
    assert {"tf32", "cuda_graph", "prefer_nhwc", "gpu_clock", "gpu_throttling"} <= set(data["latency"])
    assert {"onnxlr", "onnx", "numpy", "python"} <= set(data["versions"])


def test_values() -> None:
    data = json.loads(to_json(REPORT.to_dict()))
    assert data["layers"][0]["weight_shape"] == [2048, 1024, 3, 3]
    assert data["layers"][0]["rank"] == [128, 256]
    assert data["totals"]["bytes"] == {"before": 100, "after": 50}
    assert data["latency"]["interval"] == [1.4, 1.6]
    assert data["validation"]["outputs"][0]["rel_l2"] is None  # NaN
    assert data["validation"]["outputs"][0]["top1_after"] == 0.9


def test_parts_that_were_not_asked_for_are_null() -> None:
    data = dataclasses.replace(REPORT, validation=None, latency=None).to_dict()
    assert (data["validation"], data["latency"]) == (None, None)
    passed = dataclasses.replace(REPORT.validation, violations=())  # type: ignore[type-var]
    assert dataclasses.replace(REPORT, validation=passed).to_dict()["validation"]["passed"] is True


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (math.nan, None),
        (math.inf, None),
        (-math.inf, None),
        (0.1, 0.1),
        ((1, math.nan, [math.inf]), [1, None, [None]]),
        ({"a": {"b": (math.nan,)}}, {"a": {"b": [None]}}),
        (True, True),
        (None, None),
        ("NaN", "NaN"),
        (10**20, 10**20),
    ],
)
def test_json_is_strict(value: Any, expected: Any) -> None:
    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is no JSON")

    assert json.loads(to_json({"v": value}), parse_constant=refuse) == {"v": expected}


def test_write(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    write_report(REPORT, path)
    assert path.read_text(encoding="utf-8") == to_json(REPORT.to_dict()) + "\n"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["report", "report.txt", "report.JSON", "json", "report.json.bak", ""])
def test_unknown_kinds(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError):
        check_report_name(name)
    with pytest.raises(UsageError):
        write_report(REPORT, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_writing_into_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot write there"):
        write_report(REPORT, tmp_path / "no" / "report.json")


def rendered(parts: Any, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    for part in parts:
        console.print(part)
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


@pytest.mark.parametrize(
    ("rank", "width"),
    [
        ((64,), 80),
        ((128, 256), 80),
        ((128, 256), 100),
        ((128, 256), 200),
    ],
)
def test_tables_fit(rank: tuple[int, ...], width: int) -> None:
    """Long names are cut, numbers never."""
    report = dataclasses.replace(REPORT, layers=(layer(rank=rank),))
    text = rendered(render_report(report, width), width)
    assert max(map(len, text.splitlines())) <= width
    (row,) = (line for line in text.splitlines() if "0.951" in line)
    assert LONG[-8:] in row
    for number in ("2048×1024×3×3", "tucker2", "×".join(map(str, rank)), "7%", "0.951", "0.221"):
        assert number in row


def test_the_latency_that_was_predicted() -> None:
    report = dataclasses.replace(REPORT, predicted_latency=Milliseconds(3.0, 1.5))
    assert json.loads(to_json(report.to_dict()))["predicted_latency"] == {"before": 3.0, "after": 1.5}
    text = rendered(render_report(report, 100), 100)
    assert "latency that was predicted: 3 ms before, 1.5 ms after: 2.00x" in text
    assert "that was predicted" not in rendered(render_report(REPORT, 100), 100)


def test_what_a_report_tells() -> None:
    text = rendered(render_report(REPORT, 100), 100)
    for part in (
        "2 layers factorized, 6 left alone",
        "too small",
        "fc",
        "grouped",
        "25 M",
        "4 G",
        "999",
        "FAILED: a limit",
        "a note",
        "91.00% before, 90.00% after",
        "98.00%",
        "on 100 samples: some data",
        "1.50x [1.40, 1.60]",
        "faster",
    ):
        assert part in text


ANOTHER = dataclasses.replace(
    LATENCY,
    device="cuda",
    batch=32,
    interval=(10.01, 12.34),
    speedup=11.11,
    verdict="no difference beyond noise",
    before_p99=12.34,
    after_p99=0.001234,
    before_memory=123_456_789,
    after_memory=1_234_567,
    before_throughput=123_456.7,
    after_throughput=98.76,
)


def test_batch_sizes_fit() -> None:
    """A line each; what was replayed from a CUDA graph follows its batch size."""
    graph = dataclasses.replace(ANOTHER, cuda_graph=True)
    text = rendered(render_report(dataclasses.replace(REPORT, latencies=(ANOTHER, graph, LATENCY, ANOTHER))))
    assert max(map(len, text.splitlines())) <= 80
    lines = text.splitlines()
    start = lines.index("  batch 32, cuda, threads: default, p99 12.3 → 0.00123 ms")
    assert lines[start + 1 : start + 5] == [
        "  peak memory: 123 MB → 1.23 MB",
        "  CUDA graph: 123,457 → 98.8 samples/s, 11.11x [10.01, 12.34]: no difference",
        "  batch 1: 1.50x [1.40, 1.60]: faster",
        "  batch 32: 123,457 → 98.8 samples/s, 11.11x [10.01, 12.34]: no difference",
    ]


def test_an_empty_report() -> None:
    nothing = Totals(BeforeAfter(0, 0), BeforeAfter(None, None), BeforeAfter(1, 1))
    empty = Report({}, {}, (), (), nothing, None, None, (), {})
    text = rendered(render_report(empty))
    assert "0 layers factorized, 0 left alone" in text
    assert "?" in text


@pytest.mark.parametrize("name", ["[red]x[/]", "x[/]", "x[/b]"])
def test_markup_in_names_is_shown_as_it_is(name: str) -> None:
    """Names come from the model: rich must not take them for markup."""
    named = dataclasses.replace(REPORT, layers=(layer(name, (1, 1)),), skipped=(Skipped("[b]y", "[/]"),))
    text = rendered(render_report(named, 120), 120)
    assert name in text
    assert "[b]y" in text


def test_inspection_fits() -> None:
    ranks = InspectedScheme("channel_out", ((1024, 1024), None, (8, 16), (2048, 2048)), (0.1, 2.0, 0.3, 0.4))
    inspected = InspectedLayer(LONG, "Conv", (2048, 1024, 3, 3), 18_874_368, None, (ranks,))
    inspection = Inspection("m.onnx", (0.8, 0.9, 0.95, 0.99), (inspected,), (Skipped("fc", "too small"),))
    text = rendered(render_inspection(inspection))
    assert max(map(len, text.splitlines())) <= 80
    for part in (
        "2048×1024×3×3",
        "1024×1024",
        "8×16",
        "2048×2048",
        "channel_out",
        "0.99",
        "1 layer, 1 left",
    ):
        assert part in text


class _Page(HTMLParser):
    """Text of a page, what bars say, and whether every tag that is opened is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.cells: list[str] = []
        self.titles: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in ("href", "src", "xlink:href")]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "p"):
            self.cells.append(data)
        if self.open and self.open[-1] == "title":
            self.titles.append(data)


def test_a_page(tmp_path: Path) -> None:
    """It has the numbers of the JSON, a bar for every layer that says why, and needs no network."""
    pytest.importorskip("matplotlib", reason="charts need the extra onnxlr[plot]")
    path = tmp_path / "report.html"
    write_report(REPORT, path)
    text = path.read_text(encoding="utf-8")
    page = _Page(text)
    assert not page.open
    assert len(text) < 100_000
    for part in (LONG, "2048×1024×3×3", "128×256", "0.951", "25 M", "98.00%", "FAILED: a limit", "a note"):
        assert any(part in cell for cell in page.cells), part
    for version in REPORT.versions.values():
        assert version in page.cells
    bars = page.titles[1:]
    assert len(bars) == len(REPORT.layers) + len(REPORT.skipped)
    assert bars[0].startswith(f"{LONG}\nConv 2048×1024×3×3\ntucker2, rank 128×256\nkept: 7%")
    assert bars[-1] == "fc\nleft alone: too small"
    assert all(link.startswith("#") for link in page.links)


def test_a_page_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    cells = _Page(report_page(REPORT)).cells
    assert any("pip install 'onnxlr[plot]'" in cell for cell in cells)


def test_markup_in_names_is_text_on_a_page() -> None:
    name = "<b>&x</b>"
    named = dataclasses.replace(REPORT, layers=(layer(name, (1, 1)),), skipped=(Skipped(name, name),))
    page = _Page(report_page(named))
    assert name in page.cells
    assert not page.open


def test_a_page_of_training() -> None:
    """The first and the last epoch are there, and what the cut costs."""
    history = [asdict(epoch) for epoch in _epochs(25)]
    cut = {"outputs": [{"name": "y", "rel_l2": 0.0012, "top1_before": 0.9, "top1_after": 0.899}]}
    training = {"method": "adaptive-rank", "start": "weights", "settings": {}, "history": history, "cut": cut}
    page = _Page(report_page(dataclasses.replace(REPORT, training=training)))
    assert "method adaptive-rank, started from weights" in page.cells
    assert "25 epochs in 250 s" in page.cells
    assert {"1", "25"} <= set(page.cells)
    assert any("top-1 accuracy 90.00% before, 89.90% after" in cell for cell in page.cells)


@dataclasses.dataclass
class _Epoch:
    number: int
    seconds: float
    loss: float
    accuracy: float | None = None


def _epochs(count: int) -> list[_Epoch]:
    return [_Epoch(i, 10.0 * i, 1 / i) for i in range(1, count + 1)]
