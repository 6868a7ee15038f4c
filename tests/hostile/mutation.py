"""Models -> models that are a little different: structure, not bytes, so that what is changed can be read."""

from __future__ import annotations

import random
from collections.abc import Callable

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

__all__ = ["mutate_model"]

NUMBERS = (-(2**40), -2, -1, 0, 1, 2, 3, 4, 5, 16, 2**31, 2**40, 2**62)
OPERATORS = (
    *(
        "Conv",
        "ConvTranspose",
        "Gemm",
        "MatMul",
        "BatchNormalization",
        "Pad",
        "Transpose",
        "Reshape",
        "Split",
    ),
    *("Concat", "Add", "Mul", "Sub", "Div", "Relu", "Identity", "Constant", "Shape", "Gather", "Flatten"),
    *("Dropout", "Cast", "Squeeze", "Unsqueeze", "Slice", "MaxPool", "GlobalAveragePool", "DepthToSpace"),
)
ATTRIBUTES = (
    *("pads", "strides", "dilations", "group", "kernel_shape", "auto_pad", "output_padding", "output_shape"),
    *("transA", "transB", "alpha", "beta", "epsilon", "axis", "perm", "mode", "value", "axes", "to"),
)

Change = Callable[[random.Random, ModelProto], None]


def mutate_model(data: bytes, seed: int) -> bytes:
    """Change one to three things of a serialized model; `ValueError` where it cannot be read."""
    model = ModelProto()
    try:
        model.ParseFromString(data)
    except Exception as error:
        raise ValueError("no model") from error
    rng = random.Random(seed)  # noqa: S311 - no secret
    for _ in range(rng.randint(1, 3)):
        rng.choice(CHANGES)(rng, model)
    return model.SerializeToString()


def _graphs(graph: GraphProto) -> list[GraphProto]:
    inner = [a.g for node in graph.node for a in node.attribute if a.HasField("g")]
    return [graph, *(deeper for body in inner for deeper in _graphs(body))]


def _node(rng: random.Random, model: ModelProto) -> NodeProto | None:
    nodes = [node for graph in _graphs(model.graph) for node in graph.node]
    return rng.choice(nodes) if nodes else None


def _names(model: ModelProto) -> list[str]:
    graph = model.graph
    computed = [name for node in graph.node for name in node.output]
    return [
        "",
        "new",
        *(value.name for value in graph.input),
        *(t.name for t in graph.initializer),
        *computed,
    ]


def _operator(rng: random.Random, model: ModelProto) -> None:
    if (node := _node(rng, model)) is not None:
        node.op_type = rng.choice(OPERATORS)


def _attribute(rng: random.Random, model: ModelProto) -> None:
    if (node := _node(rng, model)) is None:
        return
    if node.attribute and rng.random() < 0.3:
        del node.attribute[rng.randrange(len(node.attribute))]
        return
    name = rng.choice(ATTRIBUTES)
    value = rng.choice(
        [
            rng.choice(NUMBERS),
            [rng.choice(NUMBERS) for _ in range(rng.randint(1, 6))],
            rng.choice([0.0, 1.0, -2.5, float("nan"), float("inf"), 1e-38]),
            rng.choice(["", "SAME_UPPER", "VALID", "constant", "reflect"]),
            helper.make_tensor("t", TensorProto.INT64, [2], [rng.choice(NUMBERS), 1]),
        ]
    )
    node.attribute.append(helper.make_attribute(name, value))


def _wire(rng: random.Random, model: ModelProto) -> None:
    """Let a node read or compute another value, or one more, or one less."""
    if (node := _node(rng, model)) is None:
        return
    ends, name = rng.choice([node.input, node.output]), rng.choice(_names(model))
    place = rng.randint(0, len(ends))
    if place == len(ends):
        ends.append(name)
    elif rng.random() < 0.3:
        del ends[place]
    else:
        ends[place] = name


def _nodes(rng: random.Random, model: ModelProto) -> None:
    """Repeat, remove or move a node."""
    graph = rng.choice(_graphs(model.graph))
    if not graph.node:
        return
    node = NodeProto()
    node.CopyFrom(rng.choice(graph.node))
    if rng.random() < 0.6:
        del graph.node[rng.randrange(len(graph.node))]
    graph.node.insert(rng.randint(0, len(graph.node)), node)


def _body(rng: random.Random, model: ModelProto) -> None:
    """Put the graph's nodes into the branches of an If."""
    graph = model.graph
    body = GraphProto(name="body")
    body.node.extend(graph.node)
    body.output.extend(graph.output)
    names = [value.name for value in graph.output]
    node = helper.make_node("If", [rng.choice(_names(model))], names, then_branch=body, else_branch=body)
    if sum(len(inner.node) for inner in _graphs(body)) < 50:
        del graph.node[:]
        graph.node.append(node)


def _tensor(rng: random.Random, model: ModelProto) -> None:
    if not model.graph.initializer:
        return
    tensor = rng.choice(model.graph.initializer)
    match rng.randrange(4):
        case 0 if tensor.dims:
            tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(NUMBERS)
        case 1:
            tensor.dims.append(rng.choice((0, 1, 2)))
        case 2:
            tensor.data_type = rng.choice((0, 1, 6, 7, 8, 9, 10, 11, 16, 99))
        case _:
            tensor.raw_data = rng.randbytes(len(tensor.raw_data) or 4)


def _value(rng: random.Random, model: ModelProto) -> None:
    """Change what is declared of an input or output."""
    values = [*model.graph.input, *model.graph.output, *model.graph.value_info]
    if not values:
        return
    value = rng.choice(values)
    dims = value.type.tensor_type.shape.dim
    match rng.randrange(5):
        case 0:
            value.name = rng.choice(_names(model))
        case 1 if dims:
            rng.choice(dims).dim_value = rng.choice(NUMBERS)
        case 2 if dims:
            rng.choice(dims).dim_param = rng.choice(["N", "H", ""])
        case 3 if dims:
            del dims[rng.randrange(len(dims))]
        case _:
            value.type.tensor_type.elem_type = rng.choice((0, 1, 7, 8, 9, 10, 11, 16))


def _version(rng: random.Random, model: ModelProto) -> None:
    if model.opset_import:
        model.opset_import[0].version = rng.randint(1, 27)


CHANGES: tuple[Change, ...] = (
    *(_operator, _attribute, _attribute, _wire, _wire, _nodes, _body, _tensor, _tensor, _value, _version),
)
