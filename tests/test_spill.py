"""Tensors in a temporary file: they come back bit for bit, and the file goes when nobody needs it."""

import gc
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from onnx import ModelProto, TensorProto, numpy_helper

from onnxlr import spill
from onnxlr.errors import UsageError
from onnxlr.external_data import ExternalData, is_spilled
from onnxlr.model_file import Model, read_tensor
from onnxlr.spill import Spill
from tests.builders import one_line, weight

Array = np.ndarray[Any, Any]

ARRAYS: dict[str, Array] = {
    "float32": weight(30, 20, 3, 3),
    "float64": weight(30, 20, dtype=np.float64),
    "float16": weight(40, 30, dtype=np.float16),
    "bfloat16": weight(40, 30).astype(ml_dtypes.bfloat16),
    "int64": np.arange(1000),
    "int4": (np.arange(3001) % 16 - 8).astype(ml_dtypes.int4),
    "bool": np.arange(2000) % 3 == 0,
    "transposed": weight(40, 30).T,
    "every second": weight(40, 30)[:, ::2],
    "barely large": weight(257),
    "barely small": weight(256),
    "scalar": np.array(3.0),
    "empty": np.zeros((0, 3), np.float32),
}


@pytest.mark.parametrize("array", ARRAYS.values(), ids=ARRAYS.keys())
def test_round_trip(array: Array) -> None:
    place = Spill()
    place.store(weight(333))  # so that the offset is not 0
    tensor = place.store(array)
    expected = numpy_helper.from_array(array)
    assert is_spilled(tensor) == (len(expected.raw_data) > 1024)
    assert (tensor.name, tensor.data_type, tensor.dims) == ("", expected.data_type, expected.dims)
    stored = read_tensor(Model(ModelProto(), spill=place), tensor)
    assert stored.tobytes() == numpy_helper.to_array(expected).tobytes()
    assert len(tensor.raw_data) <= 1024


def test_tensors_are_aligned_so_that_they_can_be_mapped() -> None:
    place = Spill()
    assert [ExternalData(place.store(weight(n))).offset for n in (300, 5000, 300)] == [0, 4096, 24576]


def test_many_threads() -> None:
    place = Spill()
    arrays = [weight(300 + 7 * i, seed=i) for i in range(200)]
    with ThreadPoolExecutor(8) as pool:
        tensors = list(pool.map(place.store, arrays))
    model = Model(ModelProto(), spill=place)
    for array, tensor in zip(arrays, tensors, strict=True):
        assert np.array_equal(read_tensor(model, tensor), array)


def test_no_array_stays_in_memory() -> None:
    """Nor its bytes in a message of protobuf."""
    program = """
import resource, numpy, onnxlr.spill
place = onnxlr.spill.Spill()
tensors = [place.store(numpy.ones(2**18)) for _ in range(10)]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
tensors += [place.store(numpy.ones(2**18)) for _ in range(100)]
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert int(done.stdout) < 20 * 1024  # KiB, of 200 MiB


def location(tensor: TensorProto) -> Path:
    return Path(ExternalData(tensor).location)


def test_the_folder_goes_with_the_last_model() -> None:
    model = Model(ModelProto(), spill=Spill())
    file = location(model.store(weight(500)))
    assert file.is_file()
    later = model.with_proto(ModelProto())
    del model
    gc.collect()
    assert file.is_file()
    del later
    gc.collect()
    assert not file.parent.exists()


def test_the_folder_goes_when_python_exits() -> None:
    program = "import numpy, onnxlr.spill as s; p = s.Spill(); p.store(numpy.ones(999)); print(p.folder)"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert Path(done.stdout.strip()).name.startswith("onnxlr-")
    assert not Path(done.stdout.strip()).exists()
    assert not done.stderr


def fail(*_: object) -> tuple[int, int]:
    raise OSError(28, "No space left on device")


def test_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    place = Spill()
    monkeypatch.setattr(spill, "append", fail)
    with pytest.raises(UsageError) as error:
        place.store(weight(500))
    one_line(error, str(place.folder), "No space left on device", "TMPDIR")


def test_no_temporary_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(UsageError) as error:
        Spill()
    one_line(error, str(tmp_path), "TMPDIR")
