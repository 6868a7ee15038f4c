"""Every builder: the published sizes, a valid file, sensible activations, decaying spectra."""

import subprocess
import sys
from functools import cache
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

import models
from models import spectrum
from models.weights import PLAIN, POINTWISE, RESIDUAL, Decay, decaying_weight, random_images

ROOT = Path(__file__).parents[2]


class Published(NamedTuple):
    parameters: int
    million_macs: float  # of the Convs and Gemms of one image
    size: int
    classes: int
    normalizations: int
    tensors: int  # dense Convs and Gemms


PUBLISHED = {
    "alexnet": Published(61_100_840, 714.2, 224, 1000, 0, 8),
    "nin": Published(966_986, 222.5, 32, 10, 0, 9),
    "vgg16": Published(138_357_544, 15470.3, 224, 1000, 0, 16),
    "googlenet": Published(6_624_904, 1498.4, 224, 1000, 57, 58),
    "resnet18": Published(11_689_512, 1814.1, 224, 1000, 20, 21),
    "resnet50": Published(25_557_032, 4089.2, 224, 1000, 53, 54),
    "resnet20": Published(269_722, 40.6, 32, 10, 19, 20),
    "resnet56": Published(853_018, 125.5, 32, 10, 55, 56),
    "resnet110": Published(1_727_962, 252.9, 32, 10, 109, 110),
    "mobilenet_v2": Published(3_504_872, 300.8, 224, 1000, 52, 36),
}
BIG = ("alexnet", "vgg16")
SMALL = tuple(name for name in PUBLISHED if name not in BIG)


def learned(model: onnx.ModelProto) -> int:
    """Elements of weights, biases, and BatchNormalization's scale and bias (not its statistics)."""
    layers = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm", "BatchNormalization")]
    names = {name for node in layers for name in node.input[1:3]}
    return sum(int(np.prod(t.dims)) for t in model.graph.initializer if t.name in names)


def macs(model: onnx.ModelProto) -> int:
    """Multiply-accumulates of one image, from the shapes that onnx infers."""
    inferred = onnx.shape_inference.infer_shapes(without_weights(model)).graph
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in inferred.value_info}
    shapes |= {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in inferred.output}
    dims = {t.name: list(t.dims) for t in model.graph.initializer}
    layers = [node for node in inferred.node if node.op_type in ("Conv", "Gemm")]
    return sum(int(np.prod(dims[n.input[1]]) * np.prod(shapes[n.output[0]][2:])) for n in layers)


def without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with float initializers as inputs: inferring shapes need not copy VGG-16's 553 MB."""
    floats = [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT]
    inputs = [onnx.helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in floats]
    rest = [t for t in model.graph.initializer if t.data_type != onnx.TensorProto.FLOAT]
    graph = onnx.helper.make_graph(
        model.graph.node, "light", [*model.graph.input, *inputs], model.graph.output, rest
    )
    return onnx.helper.make_model(graph, opset_imports=model.opset_import)


def run(model: onnx.ModelProto, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 2
    data = model.SerializeToString()
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    logits: npt.NDArray[np.float32] = session.run(["logits"], {"input": images})[0]
    return logits


def check(name: str, model: onnx.ModelProto) -> None:
    """All that holds for every architecture, on one model so that the big ones are built once."""
    expected = PUBLISHED[name]
    assert (model.ir_version, model.opset_import[0].version) == (8, 17)
    assert learned(model) == expected.parameters
    assert macs(model) / 1e6 == pytest.approx(expected.million_macs, abs=0.06)
    assert sum(n.op_type == "BatchNormalization" for n in model.graph.node) == expected.normalizations
    images = random_images(np.random.default_rng(1), (8, 3, expected.size, expected.size))[::2]
    logits = run(model, images)
    assert logits.shape == (4, expected.classes)
    assert np.isfinite(logits).all()
    assert 0.3 < logits.std() < 50
    assert logits.std(axis=0).mean() > 0.1 * logits.std(), "hardly depends on the input"


def initializers(model: onnx.ModelProto) -> dict[str, bytes]:
    return {t.name: numpy_helper.to_array(t).tobytes() for t in model.graph.initializer}


def test_names_are_those_of_the_table() -> None:
    assert set(models.NAMES) == set(PUBLISHED)


@pytest.mark.parametrize("name", SMALL)
def test_builder(name: str) -> None:
    model = models.build(name)
    onnx.checker.check_model(model, full_check=True)
    check(name, model)


@pytest.mark.parametrize("name", BIG)
def test_big_builder(name: str) -> None:
    check(name, models.build(name))


@pytest.mark.parametrize("name", ["nin", "resnet20", "mobilenet_v2"])
def test_a_seed_decides_the_weights(name: str) -> None:
    first, same, other = (initializers(models.build(name, seed)) for seed in (3, 3, 4))
    assert first == same
    assert first.keys() == other.keys()
    weights = [key for key in first if key.endswith(".weight")]
    assert all(first[key] != other[key] for key in weights)


def test_unknown_name() -> None:
    with pytest.raises(ValueError, match="unknown model 'vgg17'; choose from alexnet"):
        models.build("vgg17")


# Medians of trained networks (see models/README.md): model, kind, unfolding, 90 %, 95 %.
TRAINED = [
    ("vgg16", "Conv 3x3", "out", 0.391, 0.523),
    ("vgg16", "Conv 3x3", "in", 0.430, 0.602),
    ("vgg16", "Conv 3x3", "spatial", 0.185, 0.260),
    ("resnet20", "Conv 3x3", "out", 0.688, 0.812),
    ("resnet20", "Conv 3x3", "in", 0.719, 0.812),
    ("resnet20", "Conv 3x3", "spatial", 0.365, 0.458),
    ("mobilenet_v2", "Conv 1x1", "matrix", 0.750, 0.859),
    ("mobilenet_v2", "Gemm", "matrix", 0.292, 0.426),
]


def medians(layers: list[dict[str, tuple[float, ...]]], unfolding: str) -> tuple[float, ...]:
    return tuple(median(column) for column in zip(*(layer[unfolding] for layer in layers), strict=True))


def fractions(weight: npt.NDArray[np.float32]) -> dict[str, tuple[float, ...]]:
    spectra = {key: spectrum.energies(matrix) for key, matrix in spectrum.unfoldings(weight).items()}
    return {key: tuple(spectrum.rank_fraction(s, e) for e in spectrum.LEVELS) for key, s in spectra.items()}


@cache
def layers_of(name: str, kind: str) -> list[dict[str, tuple[float, ...]]]:
    if name == "vgg16":  # its Convs' weights drawn alone: the whole network would take many seconds
        rng = np.random.default_rng(0)
        sizes = [64, 64, 128, 128, 256, 256, 256]
        pairs = zip(sizes[1:], sizes, strict=False)
        return [fractions(decaying_weight(rng, (m, c, 3, 3), PLAIN)) for m, c in pairs]
    return [layer.fractions for layer in spectrum.measure(models.build(name)) if layer.kind == kind]


@pytest.mark.parametrize(("name", "kind", "unfolding", "ninety", "ninety_five"), TRAINED)
def test_spectra_are_those_of_trained_networks(
    name: str, kind: str, unfolding: str, ninety: float, ninety_five: float
) -> None:
    assert medians(layers_of(name, kind), unfolding) == pytest.approx((ninety, ninety_five), abs=0.07)


@pytest.mark.parametrize(
    "shape", [(64, 64, 3, 3), (128, 32, 3, 3), (96, 96, 5, 5), (64, 256, 1, 1), (100, 128)]
)
@pytest.mark.parametrize("decay", [PLAIN, RESIDUAL, POINTWISE])
def test_spectra_decay_unlike_an_iid_gaussian(shape: tuple[int, ...], decay: Decay) -> None:
    flat = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    weight = decaying_weight(np.random.default_rng(0), shape, decay)
    iid = fractions(flat)
    assert all(kept[0] < 0.97 * iid[key][0] for key, kept in fractions(weight).items())
    assert np.mean(np.square(weight)) == pytest.approx(1.0, abs=1e-4)


def test_energies_are_squared_singular_values() -> None:
    matrix = np.random.default_rng(0).standard_normal((30, 20)).astype(np.float32)
    expected = np.linalg.svd(matrix.astype(np.float64), compute_uv=False) ** 2
    np.testing.assert_allclose(spectrum.energies(matrix), expected, rtol=1e-10)
    np.testing.assert_allclose(spectrum.energies(matrix.T), expected, rtol=1e-10)


def program(module: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_program_writes_one_model_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "resnet20.onnx"
    path.write_text("an old file")
    done = program("models", "resnet20", "-o", path, "--seed", "5")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == [path]
    assert initializers(onnx.load(path)) == initializers(models.build("resnet20", seed=5))
    printed = program("models.spectrum", path, "--each").stdout
    assert "layer1.0.conv1.weight" in printed
    assert "Gemm       matrix         1  90%: 0." in printed


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (["--list"], 0, "\n".join(models.NAMES)),
        (["vgg17", "-o", "x.onnx"], 2, "invalid choice: 'vgg17'"),
        (["nin"], 2, "NAME and -o FILE are required"),
        (["-o", "x.onnx"], 2, "NAME and -o FILE are required"),
        (["nin", "-o", "x.onnx", "--seed", "-1"], 2, "argument --seed: invalid"),
        (["nin", "-o", "missing-folder/x.onnx"], 1, "models: cannot write missing-folder/x.onnx"),
    ],
)
def test_program_answers(arguments: list[str], status: int, text: str) -> None:
    done = program("models", *arguments)
    assert done.returncode == status
    assert text in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
