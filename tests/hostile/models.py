"""Models that something is wrong with."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

from tests.hostile.cases import Case, external_model, good_model, in_turn, write_model

__all__ = ["MODELS"]

OPTIMIZE = ("optimize", "m.onnx")
INSPECT = ("inspect", "m.onnx")


def _bytes(name: str, content: bytes, says: str) -> Iterator[Case]:
    yield Case(f"{name}", lambda folder: (folder / "m.onnx").write_bytes(content), OPTIMIZE, 3, says)


def _not_onnx() -> Iterator[Case]:
    unread, empty = "cannot be read as an ONNX model", "not an ONNX model"
    texts = {
        "empty": (b"", empty),
        "text": (b"hello, world", unread),
        "zeros": (bytes(4096), unread),
        "ones": (b"\xff" * 4096, unread),
        "png": (b"\x89PNG\r\n\x1a\n" + bytes(64), unread),
        "zip": (b"PK\x03\x04" + bytes(64), unread),
        "gzip": (b"\x1f\x8b\x08" + bytes(64), unread),
        "json": (b'{"graph": {}}', unread),
        "html": (b"<!DOCTYPE html><html>404</html>", unread),
        "lfs-pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", unread),
        "safetensors": (b"\x08\x00\x00\x00\x00\x00\x00\x00{}      ", unread),
        "no-graph": (ModelProto(ir_version=8).SerializeToString(), empty),
        "empty-graph": (
            helper.make_model(helper.make_graph([], "g", [], []), ir_version=8).SerializeToString(),
            empty,
        ),
        "a-tensor": (numpy_helper.from_array(np.zeros(3, np.float32), "t").SerializeToString(), "ONNX model"),
        "a-huge-length": (b"\x3a\xff\xff\xff\xff\x0f" + bytes(8), unread),
        "deep-groups": (b"\x0b" * 20_000, unread),
    }
    for name, (content, says) in texts.items():
        yield from _bytes(f"not-onnx-{name}", content, says)


def _truncated() -> Iterator[Case]:
    whole = good_model().SerializeToString()
    for share in (1, 2, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 99):
        yield from _bytes(f"truncated-{share}", whole[: len(whole) * share // 100], "ONNX model")


def _flipped() -> Iterator[Case]:
    """One bit of a byte that stands so many behind a word."""
    unread, unloaded, text = "cannot be read as an ONNX model", "ONNX Runtime cannot load it", "is not UTF-8"
    whole = good_model().SerializeToString()
    places: dict[str, tuple[bytes, int, int, int, str]] = {
        "key-of-the-ir-version": (b"\x08", 0, 6, 3, unloaded),
        "key-of-the-graph": (b"\x08\x08:", 2, 0, 3, unread),
        "length-of-the-graph": (b"\x08\x08:", 3, 6, 3, unread),
        "key-of-a-node": (b"\n\x01x\n\x01w", -2, 0, 3, unread),
        "input-of-a-node": (b"\n\x01x\n\x01w", 2, 4, 3, unloaded),
        "length-of-an-input": (b"\n\x01x\n\x01w", 1, 2, 3, unread),
        "output-of-a-node": (b"\x12\x01c", 2, 4, 3, unloaded),
        "name-of-a-node": (b"\x04conv", 1, 4, 0, ""),
        "length-of-a-name": (b"\x04conv", 0, 3, 3, unread),
        "operator": (b"Conv", 0, 1, 3, unloaded),
        "operator-not-utf-8": (b"Conv", 0, 7, 3, text),
        "operator-of-two-words": (b"BatchNorm", 5, 5, 3, unloaded),
        "name-of-the-graph": (b"\x12\x04test", 2, 1, 0, ""),
        "name-of-the-graph-not-utf-8": (b"\x12\x04test", 4, 7, 3, text),
        "type-of-a-weight": (b"\x10\x01B\x01w", 1, 0, 3, "m.onnx"),
        "name-of-a-weight": (b"\x10\x01B\x01w", 4, 1, 3, unloaded),
        "name-of-a-scale": (b"B\x08bn_scale", 9, 1, 3, unloaded),
        "channels-of-a-bias": (b"\x08 \x10\x01B\x01b", 1, 0, 3, "m.onnx"),
        "type-of-a-bias": (b"\x08 \x10\x01B\x01b", 3, 1, 3, "m.onnx"),
        "name-of-the-input": (b"Z\x1c\n\x01x", 4, 1, 3, unloaded),
        "key-of-the-input": (b"Z\x1c\n\x01x", 0, 1, 3, "m.onnx"),
        "name-of-the-output": (b"b\x1c\n\x01y", 4, 1, 3, "m.onnx"),
        "length-of-the-output": (b"b\x1c\n\x01y", 1, 2, 3, unread),
        "batch-of-the-input": (b"\x12\x01N", 2, 1, 0, ""),
        "opset": (b"B\x04\n\x00\x10\x11", 5, 6, 3, "m.onnx"),
        "key-of-the-opset": (b"B\x04\n\x00\x10\x11", 0, 2, 3, "m.onnx"),
        "a-weight": (b"bn_meanJ", 12, 0, 0, ""),
    }
    for name, (word, offset, bit, code, says) in places.items():
        at = whole.index(word) + offset
        content = whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :]
        yield Case(
            f"flipped-{name}", lambda f, c=content: (f / "m.onnx").write_bytes(c), OPTIMIZE, code, says
        )


def _graph(change: Callable[[ModelProto], object], name: str, says: str, code: int = 3) -> Case:
    return Case(name, write_model(change), OPTIMIZE, code, says)


def _cycle(model: ModelProto) -> None:
    model.graph.node[0].input[0] = "y"


def _cycle_of_identities(model: ModelProto) -> None:
    model.graph.node.append(helper.make_node("Identity", ["p"], ["q"], "first"))
    model.graph.node.append(helper.make_node("Identity", ["q"], ["p"], "second"))


def _rename_input(index: int, to: str) -> Callable[[ModelProto], None]:
    def change(model: ModelProto) -> None:
        model.graph.node[0].input[index] = to

    return change


def _set_weight(array: np.ndarray) -> Callable[[ModelProto], None]:
    def change(model: ModelProto) -> None:
        model.graph.initializer[0].CopyFrom(numpy_helper.from_array(array, "w"))

    return change


def _spoil_weight(value: float) -> Callable[[ModelProto], None]:
    def change(model: ModelProto) -> None:
        array = numpy_helper.to_array(model.graph.initializer[0]).copy()
        array[3, 2, 1, 0] = value
        model.graph.initializer[0].CopyFrom(numpy_helper.from_array(array, "w"))

    return change


def _attribute(name: str, value: object) -> Callable[[ModelProto], None]:
    def change(model: ModelProto) -> None:
        model.graph.node[0].attribute.append(helper.make_attribute(name, value))

    return change


def _dims(*dims: int) -> Callable[[ModelProto], None]:
    def change(model: ModelProto) -> None:
        tensor = model.graph.initializer[0]
        del tensor.dims[:]
        tensor.dims.extend(dims)

    return change


def _set(path: str, value: object) -> Callable[[ModelProto], None]:
    """Set a field that is reached by a path such as `graph.node.0.op_type`."""

    def change(model: ModelProto) -> None:
        *way, last = path.split(".")
        at: object = model
        for step in way:
            at = at[int(step)] if step.isdigit() else getattr(at, step)  # type: ignore[index]
        setattr(at, last, value)

    return change


def _broken_graphs() -> Iterator[Case]:
    anything = "m.onnx"
    yield _graph(_cycle, "cycle", "from its own output")
    yield _graph(_cycle_of_identities, "cycle-of-identities", "from its own output")
    yield _graph(lambda m: m.graph.node.reverse(), "unsorted", "", code=0)  # as ONNX Runtime takes it
    yield _graph(_rename_input(0, "nowhere"), "missing-input", anything)
    yield _graph(_rename_input(1, "nowhere"), "missing-weight", anything)
    yield _graph(_rename_input(1, ""), "empty-weight", anything)
    yield _graph(lambda m: m.graph.initializer.pop(0), "no-initializer", anything)
    yield _graph(lambda m: m.graph.node[0].ClearField("input"), "node-without-inputs", anything)
    yield _graph(lambda m: m.graph.node[0].ClearField("output"), "node-without-outputs", anything)
    yield _graph(lambda m: m.graph.node[1].ClearField("input"), "batchnorm-without-inputs", anything)
    yield _graph(lambda m: m.graph.ClearField("output"), "graph-without-outputs", anything)
    yield _graph(lambda m: m.graph.ClearField("input"), "graph-without-inputs", anything)
    yield _graph(_set("graph.node.0.op_type", "Convolve"), "unknown-operator", anything)
    yield _graph(_set("graph.node.0.op_type", ""), "no-operator", anything)
    yield _graph(_set("graph.output.0.name", "nowhere"), "output-of-nothing", anything)
    yield _graph(lambda m: m.graph.node.append(m.graph.node[0]), "node-twice", "is computed twice")
    yield _graph(lambda m: m.graph.node.extend([m.graph.node[1]] * 3), "output-thrice", "is computed twice")
    yield _graph(lambda m: m.graph.node[0].output.__setitem__(0, "x"), "onto-its-input", "is computed twice")
    yield _graph(_set("ir_version", 999), "future-ir", anything)
    yield _graph(_set("opset_import.0.version", 999), "future-opset", anything)
    yield _graph(lambda m: m.ClearField("opset_import"), "no-opset", anything)
    yield _graph(_set("opset_import.0.version", 0), "opset-0", anything)
    yield _graph(_set("opset_import.0.version", -5), "negative-opset", anything)
    yield _graph(_set("graph.input.0.type.tensor_type.elem_type", 0), "input-without-type", anything)
    yield _graph(_set("graph.input.0.type.tensor_type.elem_type", 9999), "input-of-unknown-type", anything)
    yield _graph(
        _set("graph.input.0.type.tensor_type.elem_type", TensorProto.STRING), "input-of-text", anything
    )
    yield _graph(_set("graph.input.0.name", ""), "input-without-name", anything)


def _broken_weights() -> Iterator[Case]:
    anything = "m.onnx"
    for name, value in (("nan", np.nan), ("infinite", np.inf), ("minus-infinite", -np.inf)):
        yield _graph(_spoil_weight(value), f"weight-{name}", "finite")
    huge = np.full((32, 16, 3, 3), 3e38, np.float32)
    yield _graph(_set_weight(huge), "weights-of-3e38", "is not finite", code=1)
    yield _graph(_spoil_weight(3e38), "weight-of-3e38", "is not finite", code=1)
    yield _graph(_set_weight(huge * np.float32(1e-38) * np.float32(1e-7)), "weights-of-1e-45", "", code=0)
    yield _graph(
        _set_weight(np.zeros((32, 0, 3, 3), np.float32)),
        "weight-without-channels",
        "a weight of shape [32, 0, 3, 3]",
    )
    yield _graph(_set_weight(np.zeros((0, 16, 3, 3), np.float32)), "weight-without-outputs", anything)
    yield _graph(
        _set_weight(np.zeros((32, 16, 0, 3), np.float32)), "weight-without-taps", "a weight of shape"
    )
    yield _graph(_set_weight(np.zeros((32, 8, 3, 3), np.float32)), "weight-of-other-channels", anything)
    yield _graph(_set_weight(np.zeros((32, 16), np.float32)), "weight-of-two-axes", anything)
    yield _graph(_set_weight(np.zeros((), np.float32)), "weight-without-axes", anything)
    yield _graph(_set_weight(np.zeros((32, 16, 3, 3), np.int32)), "weight-of-integers", anything)
    yield _graph(_set_weight(np.array(["a"] * 4, object)), "weight-of-text", anything)
    yield _graph(_set_weight(np.zeros((32, 16, 3, 3), np.complex64)), "weight-of-complex-numbers", anything)
    yield _graph(_dims(32, 16, 3, 4), "weight-shorter-than-its-shape", anything)
    yield _graph(_dims(2**40, 16, 3, 3), "weight-of-2^40-outputs", "cannot be in a model of")
    yield _graph(_dims(2**62, 2**62, 3, 3), "weight-of-2^124-numbers", "cannot be in a model of")
    yield _graph(_dims(-1, 16, 3, 3), "weight-of-minus-one-outputs", anything)
    yield _graph(_set("graph.initializer.0.data_type", 0), "weight-without-type", anything)
    yield _graph(_set("graph.initializer.0.data_type", 12345), "weight-of-unknown-type", anything)
    yield _graph(_set("graph.initializer.0.raw_data", b""), "weight-without-bytes", anything)
    yield _graph(_set("graph.initializer.0.raw_data", b"abc"), "weight-of-three-bytes", anything)


def _broken_attributes() -> Iterator[Case]:
    wrong = {
        "negative-pads": ("pads", [-1, -1, -1, -1]),
        "pads-too-few": ("pads", [1, 1]),
        "pads-too-many": ("pads", [1] * 9),
        "pads-huge": ("pads", [2**40] * 4),
        "pads-text": ("pads", "same"),
        "pads-float": ("pads", [1.5, 1.5, 1.5, 1.5]),
        "strides-zero": ("strides", [0, 0]),
        "strides-negative": ("strides", [-1, 1]),
        "strides-too-few": ("strides", [1]),
        "strides-huge": ("strides", [2**60, 2**60]),
        "dilations-zero": ("dilations", [0, 1]),
        "dilations-negative": ("dilations", [-2, -2]),
        "dilations-huge": ("dilations", [2**50, 1]),
        "group-zero": ("group", 0),
        "group-negative": ("group", -4),
        "group-that-does-not-divide": ("group", 5),
        "group-huge": ("group", 2**40),
        "group-text": ("group", "four"),
        "kernel-of-another-size": ("kernel_shape", [5, 5]),
        "kernel-of-one-axis": ("kernel_shape", [3]),
        "auto-pad-unknown": ("auto_pad", "SAME_MIDDLE"),
        "auto-pad-number": ("auto_pad", 3),
    }
    for name, (attribute, value) in wrong.items():
        code = 0 if name == "strides-huge" else 3  # one position is a Conv, too
        yield _graph(_attribute(attribute, value), f"conv-{name}", "m.onnx" if code else "", code)


def _sized(dims: list[int]) -> Callable[[ModelProto], None]:
    def change(model: ModelProto) -> None:
        shape = model.graph.input[0].type.tensor_type.shape
        for dim, size in zip(shape.dim, dims, strict=True):
            dim.dim_value = size

    return change


def _absurd_sizes() -> Iterator[Case]:
    large = "too large for random data"
    yield _graph(_sized([2**40, 16, 9, 7]), "input-of-2^40-samples", large, code=2)
    yield _graph(_sized([1, 16, 2**40, 2**40]), "input-of-2^40-pixels", large, code=2)
    yield _graph(_sized([1, 2**40, 9, 7]), "input-of-2^40-channels", large, code=2)
    yield _graph(_sized([1, 16, -9, 7]), "input-of-negative-height", "", code=0)  # as good as unknown
    yield _graph(_sized([1, 16, 0, 7]), "input-of-no-height", "m.onnx")
    yield _graph(_sized([1, 16, 1, 1]), "input-smaller-than-the-kernel", "m.onnx")
    yield _graph(_sized([1, 7, 9, 7]), "input-of-other-channels", "m.onnx")


def _nested(depth: int) -> ModelProto:
    """An If in the branch of an If, and so on; the innermost has a Conv."""
    good = good_model()
    body = helper.make_graph(
        good.graph.node, "body", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    )
    for level in range(depth):
        name = f"y{level}"
        node = helper.make_node("If", ["flag"], [name], f"if{level}", then_branch=body, else_branch=body)
        body = helper.make_graph(
            [node], f"g{level}", [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)]
        )
    inputs = [*good.graph.input, helper.make_tensor_value_info("flag", TensorProto.BOOL, [])]
    graph = helper.make_graph(body.node, "main", inputs, body.output, good.graph.initializer)
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])


def _nested_and_huge() -> ModelProto:
    """onnx's shape inference takes many GB for a tensor of a body that is said to have 2^62 numbers."""
    model = _nested(2)
    model.graph.initializer[1].dims[0] = 2**62
    return model


def _long(nodes: int) -> ModelProto:
    """The good model, and behind it so many Relus."""
    model = good_model()
    before = "y"
    for i in range(nodes):
        model.graph.node.append(helper.make_node("Relu", [before], [f"r{i}"], f"relu{i}"))
        before = f"r{i}"
    model.graph.output[0].name = before
    return model


def _large() -> Iterator[Case]:
    yield Case("if-in-if-8-deep", _file(lambda: _nested(8)), INSPECT, 0, "")
    yield Case("if-in-if-of-2^62-numbers", _file(_nested_and_huge), INSPECT, 3, "cannot be in a model of")
    yield Case("if-in-if-28-deep", _file(lambda: _chain_of_ifs(28)), INSPECT, 0, "")
    yield from _bytes("if-in-if-500-deep", _messages(500), "cannot be read as an ONNX model")
    yield Case("100,000-nodes", _file(lambda: _long(100_000)), INSPECT, 0, "")


def _chain_of_ifs(depth: int) -> ModelProto:
    """As `_nested`, but one branch of each If is empty: the file grows with the depth, not with its power."""
    good = good_model()
    value = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    body = helper.make_graph(good.graph.node, "body", [], value)
    for level in range(depth):
        other = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "other", [], value)
        node = helper.make_node("If", ["flag"], ["y"], f"if{level}", then_branch=body, else_branch=other)
        body = helper.make_graph([node], f"g{level}", [], value)
    inputs = [*good.graph.input, helper.make_tensor_value_info("flag", TensorProto.BOOL, [])]
    graph = helper.make_graph(body.node, "main", inputs, body.output, good.graph.initializer)
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])


def _messages(depth: int) -> bytes:
    """A graph with a node with an attribute with a graph, and so on; protobuf builds nothing so deep."""
    content = b""
    for _ in range(depth):
        for field in (6, 5, 1):  # AttributeProto.g, NodeProto.attribute, GraphProto.node: inside out
            content = bytes([field << 3 | 2]) + _varint(len(content)) + content
    return b"\x08\x08\x3a" + _varint(len(content)) + content  # ir_version 8, ModelProto.graph


def _varint(number: int) -> bytes:
    more = b""
    while number > 127:
        more += bytes([number & 127 | 128])
        number >>= 7
    return more + bytes([number])


def _file(make: Callable[[], ModelProto]) -> Callable[[Path], object]:
    return lambda folder: (folder / "m.onnx").write_bytes(make().SerializeToString())


def _external_data() -> Iterator[Case]:
    outside, size = "outside the model's folder", len(good_model().graph.initializer[0].raw_data)
    told = {
        "missing": (external_model(location="no.data"), "is missing"),
        "deleted": (in_turn(external_model(), lambda folder: (folder / "m.data").unlink()), "is missing"),
        "short": (
            in_turn(external_model(), lambda folder: os.truncate(folder / "m.data", size - 1)),
            "is cut off",
        ),
        "empty": (in_turn(external_model(), lambda folder: os.truncate(folder / "m.data", 0)), "is cut off"),
        "parent": (external_model(location="../m.data"), outside),
        "parent-in-between": (external_model(location="a/../../m.data"), outside),
        "absolute": (external_model(location="/etc/passwd"), outside),
        "no-location": (external_model(location=None), outside),
        "empty-location": (external_model(location=""), outside),
        "folder-as-location": (external_model(location="."), outside),
        "null-in-location": (external_model(location="m\0.data"), "m.onnx"),
        "very-long-location": (external_model(location="a" * 5000), "m.onnx"),
        "link": (
            in_turn(
                external_model(location="l.data"), lambda folder: os.symlink("m.data", folder / "l.data")
            ),
            "link",
        ),
        "link-outside": (
            in_turn(
                external_model(location="l.data"), lambda folder: os.symlink("/etc/passwd", folder / "l.data")
            ),
            outside,
        ),
        "loop-of-links": (
            in_turn(
                external_model(location="l.data"), lambda folder: os.symlink("l.data", folder / "l.data")
            ),
            "m.onnx",
        ),
        "hard-link": (
            in_turn(external_model(), lambda folder: os.link(folder / "m.data", folder / "n.data")),
            "hard links",
        ),
        "fifo": (in_turn(external_model(location="f"), lambda folder: os.mkfifo(folder / "f")), "is missing"),
        "device": (external_model(location="/dev/zero"), outside),
        "negative-offset": (external_model(offset=-4), "is cut off"),
        "offset-beyond": (external_model(offset=10**15), "is cut off"),
        "offset-text": (external_model(offset="four"), "unreadable attributes"),
        "negative-length": (external_model(length=-4), "is cut off"),
        "length-beyond": (external_model(length=10**15), "is cut off"),
        "length-text": (external_model(length="all"), "unreadable attributes"),
        "length-of-another-shape": (external_model(length=16), "its type and shape take"),
        "unknown-type": (
            in_turn(external_model(), lambda folder: _rewrite(folder, "graph.initializer.0.data_type", 999)),
            "unreadable attributes",
        ),
    }
    for name, (make, says) in told.items():
        yield Case(f"external-{name}", make, OPTIMIZE, 3, says)


def _rewrite(folder: Path, path: str, value: object) -> None:
    model = onnx.load(folder / "m.onnx", load_external_data=False)
    _set(path, value)(model)
    (folder / "m.onnx").write_bytes(model.SerializeToString())


def _names() -> Iterator[Case]:
    """Text that is not UTF-8; protobuf gives it as bytes."""
    whole = good_model().SerializeToString()
    for name, old in (("node", b"\x1a\x04conv"), ("operator", b"\x22\x04Conv"), ("input", b"\x0a\x01x")):
        assert old in whole
        broken = whole.replace(old, old[:-1] + b"\xe4", 1)
        yield from _bytes(f"name-of-{name}-not-utf-8", broken, "not UTF-8")


MODELS = [
    *_not_onnx(),
    *_truncated(),
    *_flipped(),
    *_broken_graphs(),
    *_broken_weights(),
    *_broken_attributes(),
    *_absurd_sizes(),
    *_large(),
    *_external_data(),
    *_names(),
]
