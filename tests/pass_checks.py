"""What tests ask of every pass that computes new weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, ValueInfoProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from passes import remove_unused
from tests.builders import Array, initializers, relative_error, run, stored_outside

Pass = Callable[..., ModelProto]

TOLERANCE: dict[Any, float] = {np.float32: 1e-6, np.float64: 1e-14, np.float16: 2e-3}


def feed(model: ModelProto) -> dict[str, Array]:
    """Seeded numbers for what the caller has to give; free sizes are 2."""
    stored = initializers(model)
    rng, given = np.random.default_rng(7), {}
    for value in model.graph.input:
        kind = value.type.tensor_type
        if value.name not in stored:
            sizes = [dim.dim_value or 2 for dim in kind.shape.dim]
            dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
            given[value.name] = rng.standard_normal(sizes).astype(dtype)
    return given


def outputs(model: ModelProto, given: dict[str, Array]) -> list[Array]:
    """By ONNX Runtime; by ONNX's reference for float64, for which ONNX Runtime has no Conv."""
    if any(array.dtype == np.float64 for array in given.values()):
        return [np.asarray(array) for array in ReferenceEvaluator(model).run(None, given)]
    return run(model, **given)


def check_equal(model: ModelProto, result: ModelProto) -> None:
    """Both compute the same, to the precision of their type."""
    given = feed(model)
    for expected, actual in zip(outputs(model, given), outputs(result, given), strict=True):
        assert actual.dtype == expected.dtype
        assert relative_error(expected, actual) < TOLERANCE[expected.dtype.type]


def applied(change: Pass, model: ModelProto, folder: str = "") -> ModelProto:
    """What a pass makes of a model, which stays as it was; of the result it makes nothing more."""
    stored = model.SerializeToString()
    result = change(model, folder)
    assert model.SerializeToString() == stored
    assert change(result, folder) is result
    return result


def check_changed(change: Pass, model: ModelProto) -> ModelProto:
    """A pass changes the model into a valid one that computes the same; the result without what is unused."""
    result = applied(change, model)
    assert result is not model
    cleaned = remove_unused(model, result)
    for changed in (result, cleaned):
        onnx.checker.check_model(changed, full_check=True)
        check_equal(model, changed)
    return cleaned


def check_external(change: Pass, model: ModelProto, folder: Path) -> None:
    """A pass makes the same of a model whose tensors lie in a file beside it."""
    outside = onnx.load_model(stored_outside(folder, model), load_external_data=False)
    result = remove_unused(outside, applied(change, outside, str(folder)))
    assert result == remove_unused(model, change(model))


def with_inputs(model: ModelProto) -> ModelProto:
    """The model as IR 3 has it: every initializer is an input of the graph as well."""
    model = copy.deepcopy(model)
    model.ir_version, model.opset_import[0].version = 3, 8
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    onnx.checker.check_model(model)
    return model


def check_ir_3(change: Pass, model: ModelProto) -> None:
    """What a pass makes of the model as IR 3 has it is valid, and has no inputs without a value."""
    old = with_inputs(model)
    result = applied(change, old)
    assert result is not old
    cleaned = remove_unused(old, result)
    for changed in (result, cleaned):
        onnx.checker.check_model(changed)
        assert {v.name for v in changed.graph.input} == {"x", *initializers(changed)}
        check_equal(old, changed)


def edited(model: ModelProto, edit: Callable[[ModelProto], Any]) -> ModelProto:
    """The model after a change in place."""
    edit(model)
    return model


def with_tensors(model: ModelProto, **arrays: Array) -> ModelProto:
    """The model with other numbers in its initializers, and new ones."""
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in arrays]
    new = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    tensors = copy.deepcopy([*kept, *new])
    del model.graph.initializer[:]
    model.graph.initializer.extend(tensors)
    return model


def with_output(model: ModelProto, name: str) -> ModelProto:
    """The model with one output more, of the rank of the first."""
    model.graph.output.append(_like_the_output(model, name))
    return model


def _like_the_output(model: ModelProto, name: str) -> ValueInfoProto:
    """A value of the type and rank of the model's first output, and of any size."""
    kind = model.graph.output[0].type.tensor_type
    return helper.make_tensor_value_info(name, kind.elem_type, [None] * len(kind.shape.dim))


def as_input(model: ModelProto, name: str) -> ModelProto:
    """The model with an input in place of an initializer."""
    (tensor,) = (t for t in model.graph.initializer if t.name == name)
    model.graph.input.append(helper.make_tensor_value_info(name, tensor.data_type, tensor.dims))
    model.graph.initializer.remove(tensor)
    return model


def read_in_body(model: ModelProto, name: str) -> ModelProto:
    """The model with an If whose branches read a value."""
    output = _like_the_output(model, "t")
    body = helper.make_graph([helper.make_node("Neg", [name], ["t"])], "body", [], [output])
    chosen = helper.make_node("If", ["flag"], ["z"], then_branch=body, else_branch=body)
    model.graph.node.append(chosen)
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "flag"))
    return with_output(model, "z")


def trained(model: ModelProto, name: str) -> ModelProto:
    """The model with training_info that changes a value."""
    info = model.training_info.add()
    info.algorithm.name = "train"
    info.update_binding.add(key=name, value="new")
    return model
