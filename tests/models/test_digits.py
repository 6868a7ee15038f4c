"""The trained digits network and the data it is measured on."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

pytest.importorskip("sklearn")

from models.digits import data
from models.digits.export import export

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "models" / "digits" / "digits.onnx"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits") / "data"
    assert data.main(["-o", str(folder)]) == 0
    return folder


def test_data_files(files: Path) -> None:
    calibration, test = (np.load(files / f"{name}.npz")["image"] for name in ("calibration", "test"))
    labels = np.load(files / "test_labels.npy")
    assert sorted(path.name for path in files.iterdir()) == ["calibration.npz", "test.npz", "test_labels.npy"]
    assert (calibration.shape, calibration.dtype) == ((256, 1, 32, 32), np.float32)
    assert (test.shape, test.dtype) == ((797, 1, 32, 32), np.float32)
    assert (labels.shape, labels.dtype) == ((797,), np.int64)
    assert (test.min(), test.max()) == (0.0, 1.0)
    train = data.load()[0]
    np.testing.assert_array_equal(calibration, train.images[:256])


def test_the_split_is_stratified_and_does_not_overlap() -> None:
    train, test = data.load()
    assert sorted([*train.rows, *test.rows]) == list(range(1797))
    share = np.bincount(train.labels) / np.bincount(np.concatenate([train.labels, test.labels]))
    np.testing.assert_allclose(share, 1000 / 1797, atol=0.01)


def test_upsampling_is_bilinear_between_pixel_centres() -> None:
    ramp = np.tile(np.arange(8.0), (1, 8, 1))
    row = data.upsample(ramp)[0, 0, 5]
    np.testing.assert_allclose(row, np.clip((np.arange(32) + 0.5) / 4 - 0.5, 0, 7), atol=1e-6)


def test_accuracy_of_the_committed_model(files: Path) -> None:
    session = ort.InferenceSession(MODEL, providers=["CPUExecutionProvider"])
    images = np.load(files / "test.npz")["image"]
    answers = [session.run(["logits"], {"image": part})[0].argmax(1) for part in np.array_split(images, 8)]
    assert (np.concatenate(answers) == np.load(files / "test_labels.npy")).mean() >= 0.98


def test_the_committed_model_is_small_and_unfused() -> None:
    model = onnx.load(MODEL)
    onnx.checker.check_model(model, full_check=True)
    operators = [node.op_type for node in model.graph.node]
    assert operators.count("Conv") == operators.count("BatchNormalization") == 7
    assert MODEL.stat().st_size <= 4_000_000
    assert (model.ir_version, model.opset_import[0].version) == (8, 17)


def test_export_refuses_parameters_of_another_network() -> None:
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(MODEL).graph.initializer}
    with pytest.raises(ValueError, match=r"conv3\.weight: expected shape \(128, 64, 3, 3\), got \(1, 1\)"):
        export(tensors | {"conv3.weight": np.zeros((1, 1), np.float32)})
    with pytest.raises(ValueError, match=r"differ from the network's: \['fc\.bias'\]"):
        export({name: value for name, value in tensors.items() if name != "fc.bias"})


HIDE_SKLEARN = "import sys; sys.modules['sklearn.datasets'] = None; from models.digits.data import main; "


def test_missing_scikit_learn_is_one_clear_line(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HIDE_SKLEARN + f"sys.exit(main(['-o', {str(tmp_path)!r}]))"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    message = "models.digits.data: the digits come with scikit-learn: pip install scikit-learn\n"
    assert (done.returncode, done.stderr) == (1, message)
