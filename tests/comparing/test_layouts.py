"""The axis of the channels, as the graph tells."""

from __future__ import annotations

from onnx import NodeProto, helper

from onnxlr.comparing.layouts import find_channel_axes
from tests.builders import make_model, weight

node = helper.make_node
TO_FIRST, TO_LAST = {"perm": [0, 3, 1, 2]}, {"perm": [0, 2, 3, 1]}


def axes(*nodes: NodeProto, shape: tuple[int | str, ...] = ("N", 4, 4, 4)) -> dict[str, int]:
    """Of `x` and `y`."""
    model = make_model(nodes, {"x": shape}, ["y"], {"w": weight(4, 4, 1, 1), "s": weight(4, 1)[:, 0]})
    return find_channel_axes(model.graph)


def test_a_conv_reads_and_gives_channels_first() -> None:
    assert axes(node("Conv", ["x", "w"], ["y"])) == {"x": 1, "y": 1}


def test_through_transposes_and_operators_that_leave_axes_alone() -> None:
    assert axes(
        node("Sub", ["x", "s"], ["a"]),
        node("Cast", ["a"], ["b"], to=1),
        node("Transpose", ["b"], ["c"], **TO_FIRST),
        node("Conv", ["c", "w"], ["d"]),
        node("Transpose", ["d"], ["e"], **TO_LAST),
        node("Relu", ["e"], ["y"]),
    ) == {"x": 3, "y": 3}


def test_inputs_and_outputs_may_differ() -> None:
    assert axes(
        node("Conv", ["x", "w"], ["d"]),
        node("Transpose", ["d"], ["e"], **TO_LAST),
        node("Sigmoid", ["e"], ["y"]),
    ) == {"x": 1, "y": 3}


def test_nothing_is_known_of_what_meets_no_channels() -> None:
    assert axes(node("Relu", ["x"], ["y"])) == {}
    assert axes(node("Reshape", ["x", "r"], ["z"]), node("Relu", ["z"], ["y"])) == {}


def test_pools_and_two_branches() -> None:
    assert axes(
        node("Relu", ["x"], ["a"]),
        node("Add", ["a", "x"], ["b"]),
        node("MaxPool", ["b"], ["p"], kernel_shape=[2, 2]),
        node("Relu", ["p"], ["y"]),
    ) == {"x": 1, "y": 1}
