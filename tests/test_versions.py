"""Every version of the format and of the operators: the result keeps it, is valid, and computes the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import onnxlr
from onnxlr.errors import ModelError
from tests.builders import Array, initializers, make_model, relative_error, run, weight

IR_VERSIONS = range(3, min(onnx.IR_VERSION, 13) + 1)


def _is_loaded(opset: int) -> bool:
    model = make_model([helper.make_node("Identity", ["x"], ["y"])], {"x": [1]}, ["y"], {}, opset)
    try:
        run(model, x=np.zeros(1, np.float32))
    except ModelError:
        return False
    return True


def _case(opset: int) -> Any:
    """ONNX Runtime has opsets up to 25 in every release that is supported."""
    is_missing = opset > 25 and not _is_loaded(opset)
    reason = f"ONNX Runtime {onnxruntime.__version__} has no opset {opset}"
    return pytest.param(opset, marks=pytest.mark.skipif(is_missing, reason=reason))


OPSETS = [_case(opset) for opset in range(6, min(onnx.defs.onnx_opset_version(), 26) + 1)]


def versioned(ir_version: int, opset: int) -> ModelProto:
    """Conv, pooling, Gemm with a bias, MatMul; up to IR 3 every initializer is an input as well."""
    weights = {
        "w": weight(16, 8, 3, 3),
        "b": weight(16, 1)[:, 0],
        "w2": weight(16, 12),
        "b2": weight(12, 1, seed=1)[:, 0],
        "w3": weight(12, 9),
    }
    old: dict[str, Any] = {"broadcast": 1} if opset < 7 else {}
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], "conv"),
        helper.make_node("GlobalAveragePool", ["c"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "w2", "b2"], ["g"], "gemm", **old),
        helper.make_node("MatMul", ["g", "w3"], ["y"], "matmul"),
    ]
    shapes: dict[str, Any] = {"x": ["N", 8, 6, 6]}
    if ir_version < 4:
        shapes |= {name: array.shape for name, array in weights.items()}
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 9])
    stored = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "versioned", inputs, [output], stored)
    return helper.make_model(graph, ir_version=ir_version, opset_imports=[helper.make_opsetid("", opset)])


def outputs(model: ModelProto, x: Array) -> Array:
    """In ONNX Runtime; before opset 7, where that has no Gemm, in ONNX's reference implementation."""
    if model.opset_import[0].version < 7:
        (y,) = ReferenceEvaluator(model).run(None, {"x": x})
    else:
        (y,) = run(model, x=x)
    return np.asarray(y)


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("ir_version", IR_VERSIONS)
def test_versions(ir_version: int, opset: int) -> None:
    model = versioned(ir_version, opset)
    onnx.checker.check_model(model, full_check=True)
    result = onnxlr.optimize(model, energy=1.0, gate="none", checks=None)
    assert [layer.name for layer in result.plan.layers] == ["conv", "gemm", "matmul"]
    assert (result.model.ir_version, result.model.opset_import) == (ir_version, model.opset_import)
    onnx.checker.check_model(result.model, full_check=True)
    is_input = [value.name in initializers(result.model) for value in result.model.graph.input]
    assert sum(is_input) == (len(result.model.graph.initializer) if ir_version < 4 else 0)
    x = np.random.default_rng(0).standard_normal((2, 8, 6, 6)).astype(np.float32)
    assert relative_error(outputs(model, x), outputs(result.model, x)) < 1e-5
