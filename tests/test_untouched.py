"""What is not rewritten stays as it is, byte for byte: in memory, and through files.

May differ, and nothing else:
1. the node `conv`, which becomes a chain in its place;
2. the initializer `w`, which only `conv` read: its factors are added after all others;
3. what the graph says about `w`: its value_info and its quantization annotation.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.external_data_helper import uses_external_data

import onnxlr
from tests.builders import conv_bn_model, stored_outside, weight
from tests.differences import differences, messages
from tests.everything import branch, everything

UNKNOWN = b"\xf8\x7f\x01"
"""Field 2047 of a message, the number 1: what an ONNX to come may write."""


def rewrite(source: ModelProto | Path) -> onnxlr.Result:
    """Factorize `conv`, and only that."""
    result = onnxlr.optimize(source, energy=0.9, gate="none", include="^conv$", checks=None)
    assert [layer.name for layer in result.plan.layers] == ["conv"]
    return result


def named(messages: Any, name: str) -> Any:
    """The one message that has this name."""
    (found,) = [message for message in messages if message.name == name]
    return found


def chain_of(graph: GraphProto) -> list[NodeProto]:
    return [node for node in graph.node if node.name.startswith("conv_lr")]


def check_untouched(before: ModelProto, after: ModelProto) -> None:
    """`after` is `before` but for what may differ, as numbered above."""
    check_chain(named(before.graph.node, "conv"), after.graph)
    expected = ModelProto()
    expected.CopyFrom(before)
    graph, chain = expected.graph, chain_of(after.graph)
    position = [node.name for node in graph.node].index("conv")
    fill(graph.node, [*graph.node[:position], *chain, *graph.node[position + 1 :]])  # 1
    factors = [named(after.graph.initializer, node.input[1]) for node in chain]
    fill(graph.initializer, [*(t for t in graph.initializer if t.name != "w"), *factors])  # 2
    fill(graph.value_info, [v for v in graph.value_info if v.name != "w"])  # 3
    fill(graph.quantization_annotation, [a for a in graph.quantization_annotation if a.tensor_name != "w"])
    assert differences(expected, after, "model") == []


def check_chain(old: NodeProto, graph: GraphProto) -> None:
    """The chain reads and writes what the node did; only its last node has the bias."""
    chain = chain_of(graph)
    assert len(chain) >= 2
    assert {(node.domain, node.op_type) for node in chain} == {("", "Conv")}
    assert [node.input[0] for node in chain] == [old.input[0], *(node.output[0] for node in chain[:-1])]
    assert [list(node.input[2:]) for node in chain] == [[]] * (len(chain) - 1) + [list(old.input[2:])]
    assert list(chain[-1].output) == list(old.output)


def fill(repeated: Any, messages: list[Any]) -> None:
    del repeated[:]
    repeated.extend(messages)


# The file has everything, and the comparison sees everything.

IN_FILES = {"TensorProto.external_data"}
"""What the model has only in the tests with files."""


def reachable(descriptor: Any, known: dict[str, set[str]]) -> dict[str, set[str]]:
    """The fields of a message type, and of all types in it, by the type's name."""
    if descriptor.name not in known:
        known[descriptor.name] = {f"{descriptor.name}.{field.name}" for field in descriptor.fields}
        for field in descriptor.fields:
            if field.message_type is not None:
                reachable(field.message_type, known)
    return known


@pytest.mark.skipif(onnx.IR_VERSION > 14, reason="a newer ONNX may have fields that the model does not use")
def test_the_model_uses_every_field_and_every_type() -> None:
    model = everything()
    onnx.checker.check_model(model)
    used = {f"{m.DESCRIPTOR.name}.{field.name}" for m in messages(model) for field, _ in m.ListFields()}
    assert set().union(*reachable(ModelProto.DESCRIPTOR, {}).values()) == used | IN_FILES
    stored = {tensor.data_type for tensor in model.graph.initializer}
    assert stored == set(TensorProto.DataType.values()) - {TensorProto.UNDEFINED}
    kinds = {m.type for m in messages(model) if isinstance(m, AttributeProto)}
    assert kinds == set(AttributeProto.AttributeType.values()) - {AttributeProto.UNDEFINED}


def flip(model: ModelProto) -> None:
    named(model.graph.initializer, "typed_FLOAT4E2M1").int32_data[0] ^= 1


DAMAGE: dict[str, tuple[Callable[[ModelProto], Any], str]] = {
    "a doc string": (lambda m: m.graph.node[-1].ClearField("doc_string"), "'left alone'].doc_string: lost"),
    "metadata": (lambda m: m.functions[1].node[0].metadata_props.pop(), "functions[1 'F'].node[0 'same']"),
    "an overload": (lambda m: m.functions[0].ClearField("overload"), "functions[0 'F'].overload: lost"),
    "presence": (lambda m: setattr(m.graph.node[-1], "overload", ""), "overload: new"),
    "a denotation": (
        lambda m: m.graph.input[0].type.ClearField("denotation"),
        "input[0 'x'].type.denotation",
    ),
    "a bit of a float4": (flip, "'typed_FLOAT4E2M1'].int32_data[0]"),
    "order": (lambda m: m.metadata_props.append(m.metadata_props.pop(0)), "metadata_props[0].key"),
    "an unknown field": (
        lambda m: m.training_info[0].algorithm.node[0].MergeFromString(UNKNOWN),
        "training_info[0].algorithm.node[0]: fields that this ONNX does not know",
    ),
}


@pytest.mark.parametrize(("damage", "where"), DAMAGE.values(), ids=DAMAGE.keys())
def test_damage_is_seen(damage: Callable[[ModelProto], Any], where: str) -> None:
    model = everything()
    result = rewrite(model).model
    damage(result)
    with pytest.raises(AssertionError) as error:
        check_untouched(model, result)
    assert where in str(error.value)


# In memory and through files


@pytest.mark.parametrize("unknown", [False, True], ids=["known fields", "fields of a newer ONNX"])
def test_in_memory(unknown: bool) -> None:
    model = everything()
    for message in [*messages(model)] if unknown else []:
        message.MergeFromString(UNKNOWN)
    before = model.SerializeToString(deterministic=True)
    check_untouched(model, rewrite(model).model)
    assert model.SerializeToString(deterministic=True) == before


def test_in_one_file(tmp_path: Path) -> None:
    model, path, target = everything(), tmp_path / "m.onnx", tmp_path / "out.onnx"
    onnx.save(model, path)
    rewrite(path).save(target)
    check_untouched(model, onnx.load(target))
    assert target.read_bytes() == rewrite(model).model.SerializeToString()
    assert sorted(tmp_path.iterdir()) == [path, target]


def through_files(model: ModelProto, folder: Path) -> tuple[ModelProto, ModelProto]:
    """The model with its tensors in another file, and the result, both as onnx loads them."""
    source, target = folder / "source", folder / "target"
    source.mkdir()
    target.mkdir()
    path = stored_outside(source, model)
    rewrite(path).save(target / "m.onnx")
    assert sorted(file.name for file in target.iterdir()) == ["m.onnx", "m.onnx.data"]
    return onnx.load(path), onnx.load(target / "m.onnx")


def test_with_external_data(tmp_path: Path) -> None:
    model = everything()
    check_untouched(*through_files(model, tmp_path))
    before, after = (
        {t.name for t in onnx.load(path, load_external_data=False).graph.initializer if uses_external_data(t)}
        for path in (tmp_path / "source/m.onnx", tmp_path / "target/m.onnx")
    )
    assert before - {"w"} <= after


def in_function_body(model: ModelProto) -> TensorProto:
    node = model.functions[0].node.add(op_type="If", input=["x"], output=["unread"])
    for name in ("then_branch", "else_branch"):
        node.attribute.append(helper.make_attribute(name, branch(f"inner_{name}")))
    return node.attribute[0].g.initializer[0]


def attribute(node: NodeProto, name: str) -> Any:
    return named(node.attribute, name)


def mystery(model: ModelProto, name: str) -> Any:
    return attribute(named(model.graph.node, "mystery"), name)


LARGE: dict[str, Callable[[ModelProto], TensorProto]] = {
    "an initializer": lambda m: named(m.graph.initializer, "raw_FLOAT"),
    "a body's initializer": lambda m: mystery(m, "g").g.initializer[0],
    "an attribute": lambda m: mystery(m, "t").t,
    "an attribute of several": lambda m: mystery(m, "tensors").tensors[1],
    "a sparse attribute": lambda m: mystery(m, "sparse_tensor").sparse_tensor.values,
    "a function's constant": lambda m: m.functions[0].node[0].attribute[0].t,
    "sparse values": lambda m: m.graph.sparse_initializer[0].values,
    "sparse indices": lambda m: m.graph.sparse_initializer[0].indices,
    "a body's sparse values": lambda m: mystery(m, "g").g.sparse_initializer[0].values,
    "an initializer of a function's body": in_function_body,
    "an initializer of training": lambda m: m.training_info[0].initialization.initializer[0],
}


@pytest.mark.parametrize("find", LARGE.values(), ids=LARGE.keys())
def test_large_tensors_beside_external_data(
    tmp_path: Path, find: Callable[[ModelProto], TensorProto]
) -> None:
    """Tensors of more than 1 KiB in the model file; whether that is where they stay is no matter."""
    model = everything()
    tensor = find(model)
    tensor.CopyFrom(numpy_helper.from_array(weight(700), tensor.name))
    pair = through_files(model, tmp_path)
    for message in (message for loaded in pair for message in messages(loaded)):
        if isinstance(message, TensorProto) and message.data_location == TensorProto.DEFAULT:
            message.ClearField("data_location")
    check_untouched(*pair)


TRAINED: dict[str, Callable[[ModelProto], Any]] = {
    "read by a training step": lambda m: m.training_info[0].algorithm.node[0].input.__setitem__(0, "w"),
    "updated by training": lambda m: m.training_info[0].update_binding.add(key="w", value="w2_1"),
}


@pytest.mark.parametrize("change", TRAINED.values(), ids=TRAINED.keys())
def test_a_weight_that_training_needs_stays(change: Callable[[ModelProto], Any]) -> None:
    """The keys of update_binding "must appear in names of ModelProto.graph.initializer" (onnx.proto)."""
    model = everything()
    change(model)
    result = onnxlr.optimize(model, energy=0.9, gate="none", include="^conv$", checks=None).model
    assert "w" in {tensor.name for tensor in result.graph.initializer}


@pytest.mark.parametrize("name", ["w", "b", "bn_scale", "bn_mean"])
def test_what_training_needs_is_not_folded(name: str) -> None:
    model = conv_bn_model(weight(8, 4, 3, 3))
    model.training_info.add().update_binding.add(key=name, value="anything")
    result = onnxlr.optimize(model, include="nothing", checks=None).model
    assert name in {tensor.name for tensor in result.graph.initializer}
