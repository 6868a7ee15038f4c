from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, external_data_helper, helper

from passes.untie_parameters import untie_parameters
from tests.builders import Array, constants, initializers, make_model, weight
from tests.differences import differences
from tests.pass_checks import applied, check_changed, check_ir_3, read_in_body, stored_outside, trained

ONES, ZEROS = np.ones(4, np.float32), np.zeros(4, np.float32)
OWN = ("s", "b", "m", "v")


def norm(x: str, y: str, names: Sequence[str]) -> onnx.NodeProto:
    return helper.make_node("BatchNormalization", [x, *names], [y], y)


def same(old: str, new: str) -> onnx.NodeProto:
    return helper.make_node("Identity", [old], [new])


def model(*nodes: onnx.NodeProto, **stored: Array) -> ModelProto:
    return make_model(nodes, {"x": ["N", 4, 5]}, ["y"], stored)


def fresh() -> ModelProto:
    """Two BatchNormalizations as torch exports them before any training."""
    aliases = [("s", "v"), ("b", "m"), ("s", "s2"), ("b", "b2"), ("b", "m2"), ("s", "v2")]
    nodes = [same(old, new) for old, new in aliases]
    return model(
        *nodes, norm("x", "t", OWN), norm("t", "y", ("s2", "b2", "m2", "v2")), s=ONES, b=ZEROS
    )  # fmt: skip


def test_what_identity_nodes_give_is_stored_under_its_name() -> None:
    result = check_changed(untie_parameters, fresh())
    assert [node.op_type for node in result.graph.node] == ["BatchNormalization"] * 2
    stored = initializers(result)
    assert set(stored) == {*OWN, "s2", "b2", "m2", "v2"}
    assert all((stored[name] == (ONES if name[0] in "sv" else ZEROS)).all() for name in stored)


def test_places_that_read_one_name_get_copies() -> None:
    merged = model(
        norm("x", "t", ("s", "b", "b", "s")), norm("t", "y", ("s", "b", "b", "s")), s=ONES, b=ZEROS
    )
    result = check_changed(untie_parameters, merged)
    first, second = (list(node.input[1:]) for node in result.graph.node)
    assert first == ["s", "b", "b_2", "s_2"]
    assert second == ["s_3", "b_3", "b_4", "s_4"]
    assert len(initializers(result)) == 8


def test_some_that_read_one_name_get_copies() -> None:
    stored = constants("p", 4) | constants("q", 4)
    names = ["q_scale", "q_bias", "p_mean", "q_var"]
    shared = model(norm("x", "t", list(constants("p", 4))), norm("t", "y", names), **stored)
    result = check_changed(untie_parameters, shared)
    assert list(result.graph.node[1].input[1:]) == ["q_scale", "q_bias", "p_mean_2", "q_var"]


def test_biases_of_convs() -> None:
    weights = {"w1": weight(4, 4, 3), "w2": weight(4, 4, 3), "b": ZEROS}
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b"], ["t"]),
        same("b", "c"),
        helper.make_node("Conv", ["t", "w2", "c"], ["y"]),
    ]
    result = check_changed(untie_parameters, model(*nodes, **weights))
    assert set(initializers(result)) == {"w1", "w2", "b", "c"}


def test_constant_nodes() -> None:
    tied = fresh()
    tensors = {tensor.name: tensor for tensor in tied.graph.initializer}
    del tied.graph.initializer[:]
    for name, tensor in tensors.items():
        tied.graph.node.insert(0, helper.make_node("Constant", [], [name], value=tensor))
    result = check_changed(untie_parameters, tied)
    assert set(initializers(result)) == {"m", "v", "s2", "b2", "m2", "v2"}


def repeated() -> ModelProto:
    """One layer, used twice."""
    return model(
        norm("x", "t", OWN), norm("t", "y", OWN), **dict(zip(OWN, constants("", 4).values(), strict=True))
    )


def one_alias() -> ModelProto:
    nodes = [same("m", "n"), norm("x", "y", ("s", "b", "n", "v"))]
    return model(*nodes, **dict(zip(OWN, constants("", 4).values(), strict=True)))


def shared_weight() -> ModelProto:
    nodes = [
        same("w", "v"),
        helper.make_node("Conv", ["x", "w"], ["t"], pads=[1, 1]),
        helper.make_node("Conv", ["t", "v"], ["y"], pads=[1, 1]),
    ]
    return model(*nodes, w=weight(4, 4, 3))


@pytest.mark.parametrize("case", [repeated, one_alias, shared_weight], ids=lambda case: case.__name__)
def test_what_stays_tied(case: object) -> None:
    assert callable(case)
    given = case()
    assert untie_parameters(given) is given


def test_what_others_read_stays_an_identity() -> None:
    result = applied_once(read_in_body(fresh(), "s2"))
    assert [node.input[0] for node in result.graph.node if node.op_type == "Identity"] == ["s"]


def applied_once(given: ModelProto) -> ModelProto:
    return applied(untie_parameters, given)


def test_what_training_info_names_stays() -> None:
    result = applied_once(trained(fresh(), "s2"))
    assert "s2" not in initializers(result)
    assert "b2" in initializers(result)


def test_initializers_that_are_inputs() -> None:
    check_ir_3(untie_parameters, fresh())


def test_external_data(tmp_path: Path) -> None:
    """Copies refer to the same bytes."""
    outside = onnx.load_model(stored_outside(tmp_path, fresh()), load_external_data=False)
    result = applied(untie_parameters, outside, str(tmp_path))
    external_data_helper.load_external_data_for_model(result, str(tmp_path))
    expected = initializers(untie_parameters(fresh()))
    found = initializers(result)
    assert found.keys() == expected.keys()
    assert all((found[name] == expected[name]).all() for name in found)


def test_nothing_else_changes() -> None:
    given = fresh()
    given.metadata_props.add(key="k", value="v")
    result = untie_parameters(given)
    lines = differences(given, result, "m")
    assert lines
    assert all(line.startswith(("m.graph.node", "m.graph.initializer")) for line in lines)
