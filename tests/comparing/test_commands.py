"""`onnxlr compare`: exit codes, one line on stderr, what is printed and written."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import ModelProto, helper

from onnxlr.cli import cli
from tests.builders import conv_model, make_model, weight
from tests.comparing.exports import FOLDER, drop_batchnorm, export

TORCH, TF, JAX = (FOLDER / f"{name}.onnx" for name in ("torch_ts", "tf2onnx", "jax2onnx"))
QUICK = ["--optimize", "--energy", 0.9, "--latency-seconds", 0]


def compare(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["compare", *map(str, arguments)])


def saved(folder: Path, model: ModelProto, name: str = "m.onnx") -> Path:
    onnx.save(model, folder / name)
    return folder / name


def broken(folder: Path) -> Path:
    model = export("jax2onnx")
    drop_batchnorm(model, 4)
    return saved(folder, model, "broken.onnx")


def test_the_same_function() -> None:
    done = compare(TORCH, TF, JAX)
    assert done.exit_code == 0, done.stderr
    assert done.stderr == ""
    assert "yes: A = B = C" in done.stdout
    assert "A, B: 8 layers matched (8 by weights)" in done.stdout
    assert "is B 'x' with axes 0,2,3,1; C 'in_0' with axes 0,2,3,1" in " ".join(done.stdout.split())
    assert "Optimized" not in done.stdout


def test_another_function(tmp_path: Path) -> None:
    done = compare(TORCH, broken(tmp_path), TF)
    assert done.exit_code == 1
    assert "NO: A = C ≠ B" in done.stdout
    assert "A, B differ first behind /conv5/Conv (node_Conv_29 in B)" in " ".join(done.stdout.split())
    assert "BatchNormalization is missing" in " ".join(done.stdout.split())
    (line,) = done.stderr.splitlines()
    assert line.endswith("torch_ts.onnx = tf2onnx.onnx differs from broken.onnx")


def test_a_wider_tolerance(tmp_path: Path) -> None:
    assert compare(TORCH, broken(tmp_path), "--tolerance", 10).exit_code == 0
    assert compare(TORCH, TF, "--tolerance", 0).exit_code == 1


def test_json(tmp_path: Path) -> None:
    done = compare(TORCH, broken(tmp_path), "--json", "--report", tmp_path / "c.json")
    assert done.exit_code == 1
    data = json.loads(done.stdout)
    assert data == json.loads((tmp_path / "c.json").read_text())
    assert data["schema_version"] == 1
    assert data["same"] is False
    assert data["groups"] == [["torch_ts.onnx"], ["broken.onnx"]]
    assert data["walks"][0]["divergence"]["name"] == "/conv5/Conv"
    assert data["pairs"][0]["outputs"][0]["rel_l2"] > 1e-4
    assert {"name": "producer", "values": ["pytorch 2.13.0", "jax2onnx 0.17.1"]}.items() <= next(
        trait for trait in data["traits"] if trait["name"] == "producer"
    ).items()
    assert data["operators"]["BatchNormalization"] == [0, 6]
    assert data["optimized"] is None


class Page(HTMLParser):
    """The text of a page, and whether tags are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag != "meta":
            self.open.append(tag)
        assert not any(name in ("src", "href") for name, _ in attrs)  # nothing comes from elsewhere

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_html_of_optimized_exports(tmp_path: Path) -> None:
    page = tmp_path / "c.html"
    done = compare(TORCH, TF, *QUICK, "--report", page)
    assert done.exit_code == 0, done.stderr
    assert "the same layers by the same schemes at the same ranks in all" in done.stdout
    assert f"wrote {page}" in done.stdout
    read = Page(page.read_text(encoding="utf-8"))
    assert read.open == []
    for part in ("yes: A = B", "/conv6/Conv", "too small to gain", "Transposes", "channel-out"):
        assert part in read.text


def test_html_escapes_names(tmp_path: Path) -> None:
    model = conv_model(weight(8, 4, 3, 3), name="<script>alert(1)</script>")
    page = tmp_path / "c.html"
    assert compare(saved(tmp_path, model), saved(tmp_path, model, "n.onnx"), "--report", page).exit_code == 0
    assert "<script>" not in page.read_text()
    assert "<script>alert(1)</script>" in Page(page.read_text()).text


def test_latency_of_all_in_one_run() -> None:
    options = ["--optimize", "--energy", 0.9, "--latency-seconds", 0.2, "--threads", 1, "--device", "cpu"]
    data = json.loads(compare(TORCH, TF, *options, "--json").stdout)
    for item in data["optimized"]:
        latency = item["latency"]
        assert latency["before"] > 0
        assert latency["after"] > 0
        assert (
            latency["after_ratio"]["low"]
            <= latency["after_ratio"]["median"]
            <= latency["after_ratio"]["high"]
        )
        assert latency["noise_floor"] >= 0.02
    first = data["optimized"][0]["latency"]
    assert first["before_ratio"] == {"median": 1, "low": 1, "high": 1}


def test_data_of_the_first_model_suit_all(tmp_path: Path) -> None:
    """Calibration and inputs are turned and renamed for the others."""
    images = np.random.default_rng(0).standard_normal((48, 3, 32, 32)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=images)
    data = tmp_path / "data.npz"
    done = compare(TORCH, TF, JAX, *QUICK, "--inputs", data, "--calibration", data, "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["samples"] == 48
    assert found["data"] == str(data)
    first, *others = found["optimized"]
    assert {layer["judged_by"] for layer in first["layers"]} == {"outputs"}
    for item in others:
        assert item["same_as_first"], item["differences"]
        assert item["rel_l2"] == pytest.approx(first["rel_l2"], rel=0.02)


def two_inputs(first: str, other: str) -> ModelProto:
    nodes = [helper.make_node("Mul", [other, "s"], ["m"]), helper.make_node("Sub", [first, "m"], ["y"])]
    return make_model(nodes, {first: ("N", 4), other: ("N", 4)}, ["y"], {"s": weight(4, 1)[:, 0]})


def test_the_user_is_asked_where_names_do_not_tell(tmp_path: Path) -> None:
    first = saved(tmp_path, two_inputs("a", "b"), "first.onnx")
    other = saved(tmp_path, two_inputs("p", "q"), "other.onnx")
    asked = compare(first, other)
    assert asked.exit_code == 2
    (line,) = asked.stderr.splitlines()
    assert line.endswith("could be 'p' or 'q' of other.onnx; say which with --map a=p")
    assert compare(first, other, "--map", "a=p").exit_code == 0
    assert compare(first, other, "--map", "a=q").exit_code == 1


def test_layouts_that_nothing_tells(tmp_path: Path) -> None:
    """Of a cube that meets no Conv."""
    plain = make_model([helper.make_node("Relu", ["x"], ["y"])], {"x": ("N", 4, 4, 4)}, ["y"], {})
    nodes = [
        helper.make_node("Transpose", ["i"], ["t"], perm=[0, 3, 1, 2]),
        helper.make_node("Relu", ["t"], ["o"]),
    ]
    turned = make_model(nodes, {"i": ("N", 4, 4, 4)}, ["o"], {})
    models = saved(tmp_path, plain), saved(tmp_path, turned, "n.onnx")
    assert compare(*models).exit_code == 1
    assert compare(*models, "--layout", "x:NCHW", "--layout", "i:NHWC").exit_code == 0


def test_files_of_one_name(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    models = [saved(tmp_path / folder, export("torch_ts")) for folder in "ab"]
    data = json.loads(compare(*models, "--json").stdout)
    assert data["models"] == [str(model) for model in models]
    data = json.loads(compare(models[0], models[0], "--json").stdout)
    assert data["models"] == ["model 1", "model 2"]


WRONG: list[tuple[int, str, list[object]]] = [
    (2, "at least two models", [TORCH]),
    (2, "Missing argument", []),
    (3, "no such file", [TORCH, "nowhere.onnx"]),
    (2, "written as .json or .html", [TORCH, TF, "--report", "c.txt"]),
    (2, "does not exist", [TORCH, TF, "--report", "nowhere/c.json"]),
    (2, "is not like input=x", [TORCH, TF, "--map", "x"]),
    (2, "is not like input:NHWC", [TORCH, TF, "--layout", "x"]),
    (2, "is not like NCHW or NHWC", [TORCH, TF, "--layout", "x:HELLO"]),
    (2, "it has 4 axes", [TORCH, TF, "--layout", "x:NCW"]),
    (2, "--map: no input or output named 'z'; there are x, logits", [TORCH, TF, "--map", "z=x"]),
    (2, "--layout: no input or output named 'z'", [TORCH, TF, "--layout", "z:NCHW"]),
    (2, "give one of", [TORCH, TF, "--optimize", "--energy", 0.9, "--target-macs", 0.5]),
    (3, "no such file", [TORCH, TF, "--inputs", "nowhere.npz"]),
    (4, "no TensorRT provider", [TORCH, TF, "--device", "tensorrt"]),
]


@pytest.mark.parametrize(("code", "message", "arguments"), WRONG)
def test_wrong_input(
    code: int, message: str, arguments: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    done = compare(*arguments)
    assert done.exit_code == code, done.output
    assert message.lower() in done.stderr.lower().replace("\n", " ")
    assert done.stdout == ""


def test_other_signatures(tmp_path: Path) -> None:
    other = saved(tmp_path, conv_model(weight(8, 5, 3, 3)))
    done = compare(TORCH, other)
    assert done.exit_code == 3
    (line,) = done.stderr.splitlines()
    assert "m.onnx has no input that fits 'x' float32 [batch, 3, 32, 32] of torch_ts.onnx; it has 'x'" in line
