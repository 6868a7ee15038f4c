"""A layer under calibration: its vectors explain its outputs, and a fit in its place does what it says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from onnxlr import subject as subject_module
from onnxlr.analysis import analyse
from onnxlr.factorization import compose
from onnxlr.fitting import Fit
from onnxlr.layer import Layer
from onnxlr.moments import Moments
from onnxlr.patches import count_positions, weight_order
from onnxlr.schemes import all_schemes
from onnxlr.spill import Spill
from onnxlr.subject import Subject
from passes.constants import all_constants
from passes.graph import opset
from tests.builders import (
    Array,
    conv_model,
    gemm_model,
    initializers,
    left_gemm_model,
    make_model,
    matmul_model,
    relative_error,
    run,
    weight,
)
from tests.test_conformance import MODELS as CONFORMANCE
from tests.test_patches import MORE, VECTOR, attribute, random_input

EXACT = 1e-5
SCHEMES = all_schemes()
MODELS = {
    name: model
    for name, model in (CONFORMANCE | MORE).items()
    if model.opset_import[0].version >= 7 and name != VECTOR  # ONNX Runtime has no older Gemm
}


def subject_of(model: ModelProto) -> Subject:
    """Of the only layer."""
    (layer,) = analyse(model)
    assert isinstance(layer, Layer), layer.reason
    (node,) = [node for node in model.graph.node if node.output[0] == layer.key[1]]
    return Subject.of(layer, node, next(iter(all_constants(model))), opset(model))


# What may be replaced ---------------------------------------------------------------------------------------

W = weight(16, 24)


def conv_with(bias: str, *nodes: NodeProto, op: str = "Conv", **weights: Array) -> ModelProto:
    """A Conv whose bias is some value; `c` is an input of its size."""
    layer = helper.make_node(op, ["x", "w", bias], ["y"], "conv")
    inputs = {"x": [1, 6, 5, 5], "c": [6]}
    return make_model([*nodes, layer], inputs, ["y"], {"w": weight(6, 6, 3, 3), **weights})


def gemm_with(bias: str, *nodes: NodeProto, **weights: Array) -> ModelProto:
    layer = helper.make_node("Gemm", ["x", "w", bias], ["y"], "gemm", alpha=2.0)
    return make_model([*nodes, layer], {"x": ["N", 16], "c": [24]}, ["y"], {"w": W, **weights})


STORED = helper.make_node("Constant", [], ["b"], value=numpy_helper.from_array(weight(6)))
COPIED = helper.make_node("Identity", ["b"], ["copy"])
NEGATED = helper.make_node("Neg", ["c"], ["b"])

OFFSETS: dict[str, tuple[ModelProto, tuple[float, float] | None]] = {
    "Conv": (conv_model(weight(6, 4, 3, 3)), (1, 1)),
    "Conv without bias": (conv_model(weight(6, 4, 3, 3), bias=False), (1, 1)),
    "Conv, bias left out": (conv_with(""), (1, 1)),
    "Conv, bias of a Constant node": (conv_with("b", STORED), (1, 1)),
    "Conv, bias of a copy": (conv_with("copy", STORED, COPIED), (1, 1)),
    "Conv, bias of an input": (conv_with("c"), None),
    "Conv, bias computed": (conv_with("b", NEGATED), None),
    "ConvTranspose": (conv_model(weight(6, 4, 3, 3), op="ConvTranspose"), (1, 1)),
    "ConvTranspose without bias": (conv_model(weight(6, 4, 3, 3), op="ConvTranspose", bias=False), (1, 1)),
    "ConvTranspose, bias computed": (conv_with("b", NEGATED, op="ConvTranspose"), None),
    "Gemm": (gemm_model(W, weight(24)), (1, 1)),
    "Gemm, alpha beta": (gemm_model(W, weight(24), alpha=0.5, beta=-2.0), (0.5, -2)),
    "Gemm, transB": (gemm_model(W, weight(16), transB=1), (1, 1)),
    "Gemm, transA": (gemm_model(W, weight(24), transA=1), (1, 1)),
    "Gemm, bias (1, M)": (gemm_model(W, weight(1, 24)), (1, 1)),
    "Gemm, bias (3, M)": (gemm_model(W, weight(3, 24), transA=1), None),
    "Gemm, bias (3, 1)": (gemm_model(W, weight(3, 1), transA=1), None),
    "Gemm, bias (1,)": (gemm_model(W, weight(1)), None),
    "Gemm, scalar bias": (gemm_model(W, np.float32(3)), None),
    "Gemm to one output": (gemm_model(weight(16, 1), weight(1)), (1, 1)),
    "Gemm without bias": (gemm_model(W, alpha=0.5), (0.5, 1)),
    "Gemm without bias, opset 11": (gemm_model(W, opset=11), (1, 1)),
    "Gemm without bias, opset 9": (gemm_model(W, opset=9), None),
    "Gemm, bias left out": (gemm_with(""), (2, 1)),
    "Gemm, bias of an input": (gemm_with("c"), None),
    "Gemm, alpha 0": (gemm_model(W, weight(24), alpha=0.0), None),
    "Gemm, beta 0": (gemm_model(W, weight(24), beta=0.0), None),
    "Gemm left": (left_gemm_model(weight(24, 16)), None),
    "Gemm left, a bias for each column": (
        make_model(
            [helper.make_node("Gemm", ["w", "x", "b"], ["y"], "gemm")],
            {"x": [16, 5]},
            ["y"],
            {"w": weight(5, 16), "b": weight(5)},
        ),
        None,
    ),
    "MatMul": (matmul_model(["x", "w"], ["N", 16], W), None),
    "MatMul left": (matmul_model(["w", "x"], [24, 5], weight(16, 24)), None),
    "MatMul (2, K, N)": (matmul_model(["x", "w"], [2, 3, 24], weight(2, 24, 16)), None),
}


@pytest.mark.parametrize("case", OFFSETS)
def test_offset(case: str) -> None:
    model, expected = OFFSETS[case]
    assert subject_of(model).offset == expected


# Vectors ----------------------------------------------------------------------------------------------------


def effective_bias(model: ModelProto, subject: Subject) -> Array:
    """y / alpha − W x: beta / alpha · bias, `(M,)`."""
    stored = initializers(model)
    bias = stored["b"].reshape(-1) if "b" in stored else np.zeros(subject.layer.conv.out_channels)
    return attribute(model, "beta", 1.0) / attribute(model, "alpha", 1.0) * bias.astype(np.float64)


def all_pairs(model: ModelProto, subject: Subject) -> tuple[Array, Array]:
    x = random_input(model)
    y = run(model, x=x)[0]
    positions = np.arange(count_positions(subject.layer, y.shape))
    return subject.pairs(x, y, positions)


def matrices(subject: Subject) -> Array:
    """W, numbered as x is."""
    group = subject.conv.group
    w = subject.weight().reshape(group, subject.conv.out_channels // group, -1)
    return w[:, :, np.argsort(weight_order(subject.conv))]


@pytest.mark.parametrize("case", MODELS)
def test_pairs(case: str) -> None:
    model = MODELS[case]
    subject = subject_of(model)
    x, y = all_pairs(model, subject)
    bias = 0 if subject.offset is None else effective_bias(model, subject).reshape(len(matrices(subject)), -1)
    assert relative_error(y, np.einsum("ngd,gmd->ngm", x, matrices(subject)) + bias) < EXACT
    assert subject.input_name == "x"
    assert subject.output_name == "y"


@pytest.mark.parametrize("noise", [0.0, 0.5e-3, 2e-3])
def test_outputs_that_are_not_explained(noise: float) -> None:
    model = conv_model(weight(8, 4, 3, 3), (40, 40), group=2)
    subject = subject_of(model)
    x, y = all_pairs(model, subject)
    y = y + np.float32(noise**0.5) * y.std() * np.random.default_rng(0).standard_normal(y.shape, np.float32)
    moments = Moments()
    moments.add(x[:3000], y[:3000])
    moments.hold_out(x[3000:], y[3000:])
    problem = subject.problem(subject.samples(moments))
    assert problem == ("its inputs do not explain its outputs" if noise > 1e-3 else None)


@pytest.mark.parametrize("case", [name for name, (_, offset) in OFFSETS.items() if offset is None])
def test_products_explain_themselves(case: str) -> None:
    model = OFFSETS[case][0]
    subject = subject_of(model)
    assert subject.problem([]) is None


# In the place of the layer ----------------------------------------------------------------------------------


def put(
    model: ModelProto, subject: Subject, fit: Fit, scheme: str | None = None, rank: Any = ()
) -> ModelProto:
    """The model with a fit, finished, in the place of its layer."""
    own = subject.layer.conv
    links = (own,) if scheme is None else SCHEMES[scheme].chain(own, rank)
    before = model.SerializeToString(deterministic=True)
    changed = subject.change(links, subject.finished(fit), numpy_helper.from_array)(model)
    assert model.SerializeToString(deterministic=True) == before
    return changed


def outputs(model: ModelProto, dtype: Any = np.float32) -> Array:
    return run(model, x=random_input(model).astype(dtype))[0]


@pytest.mark.parametrize("case", MODELS)
def test_its_own_weight_changes_nothing(case: str) -> None:
    model = MODELS[case]
    subject = subject_of(model)
    fit = Fit((subject.weight().astype(np.float64),), effective_bias(model, subject), 0.0)
    assert relative_error(outputs(model), outputs(put(model, subject, fit))) < EXACT


def full_rank(subject: Subject, scheme: str) -> tuple[tuple[Array, ...], Any]:
    """Factors of the stored weight, exact."""
    conv, w = subject.layer.conv, subject.weight()
    rank = SCHEMES[scheme].max_rank(conv)
    return SCHEMES[scheme].decompose(conv, w).factors(w, rank), rank


CHAINS = [
    (name, scheme)
    for name, model in MODELS.items()
    for scheme in ("channel-in", "channel-out", "tucker2")
    if SCHEMES[scheme].refuses(subject_of(model).layer.conv) is None
]


@pytest.mark.parametrize(("case", "scheme"), CHAINS)
def test_exact_factors_change_nothing(case: str, scheme: str) -> None:
    model = MODELS[case]
    subject = subject_of(model)
    factors, rank = full_rank(subject, scheme)
    fit = Fit(factors, effective_bias(model, subject), 0.0)
    changed = put(model, subject, fit, scheme, rank)
    assert len(changed.graph.node) > len(model.graph.node)
    assert relative_error(outputs(model), outputs(changed)) < EXACT


@pytest.mark.parametrize("case", [n for n, (_, offset) in OFFSETS.items() if offset and "input" not in n])
def test_another_bias(case: str) -> None:
    """Also where the layer had none: alpha times what the fit says is added."""
    model, offset = OFFSETS[case]
    assert offset is not None
    subject = subject_of(model)
    own, bias = effective_bias(model, subject), np.arange(1.0, 1 + subject.layer.conv.out_channels)
    if "Constant" in case or "copy" in case:
        own = weight(6)
    changed = put(model, subject, Fit((subject.weight(),), bias, 0.0))
    shapes = {v.name: [dim.dim_value or 3 for dim in v.type.tensor_type.shape.dim] for v in model.graph.input}
    feed = {name: np.zeros(sizes, np.float32) for name, sizes in shapes.items()}
    before, after = (run(m, **feed)[0] for m in (model, changed))
    shape = (-1, 1, 1) if before.ndim == 4 else (-1,)
    np.testing.assert_allclose(
        before, np.broadcast_to((offset[0] * own).reshape(shape), before.shape), rtol=1e-6
    )
    np.testing.assert_allclose(
        after, np.broadcast_to((offset[0] * bias).reshape(shape), after.shape), rtol=1e-6
    )


@pytest.mark.parametrize("case", [name for name, (_, offset) in OFFSETS.items() if offset is None])
def test_a_bias_that_cannot_be_had_stays(case: str) -> None:
    model = OFFSETS[case][0]
    subject = subject_of(model)
    finished = subject.finished(Fit((subject.weight(),), np.ones(subject.layer.conv.out_channels), 0.5))
    assert finished.bias is None
    assert finished.error == 0.5


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_a_finished_fit_has_the_type_of_the_layer(op: str, dtype: Any) -> None:
    subject = subject_of(conv_model(weight(8, 4, 3, 3, dtype=dtype), op=op))
    wide = subject.weight().astype(np.float64)
    finished = subject.finished(Fit((wide, wide), np.ones(subject.layer.conv.out_channels), 0.0))
    assert finished.bias is not None
    assert {factor.dtype for factor in finished.factors} == {finished.bias.dtype} == {np.dtype(dtype)}


HALF = {
    "Conv": conv_model(weight(16, 8, 3, 3, dtype=np.float16)),
    "ConvTranspose": conv_model(weight(16, 8, 3, 3, dtype=np.float16), op="ConvTranspose", strides=[2, 2]),
    "MatMul": make_model(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "matmul")],
        {"x": ["N", 24]},
        ["y"],
        {"w": weight(24, 16, dtype=np.float16)},
        dtype=TensorProto.FLOAT16,
    ),
}


@pytest.mark.parametrize("case", HALF)
@pytest.mark.parametrize("scheme", ["channel-in", "channel-out"])
def test_half_precision(case: str, scheme: str) -> None:
    model = HALF[case]
    subject = subject_of(model)
    factors, rank = full_rank(subject, scheme)
    changed = put(model, subject, Fit(factors, effective_bias(model, subject), 0.0), scheme, rank)
    assert {array.dtype for array in initializers(changed).values()} == {np.dtype(np.float16)}
    assert relative_error(outputs(model, np.float16), outputs(changed, np.float16)) < 2e-3


def test_weights_may_lie_on_disk() -> None:
    model = conv_model(weight(16, 16, 3, 3))
    subject, spill = subject_of(model), Spill()
    fit = Fit((2.0 * subject.weight(),), effective_bias(model, subject), 0.0)
    changed = subject.change((subject.layer.conv,), subject.finished(fit), spill.store)(model)
    (tensor,) = [t for t in changed.graph.initializer if len(t.dims) == 4]
    assert {entry.key: entry.value for entry in tensor.external_data}["location"].startswith(
        str(spill.folder)
    )


def test_a_change_can_be_made_in_several_parts() -> None:
    model = conv_model(weight(16, 8, 3, 3))
    subject = subject_of(model)
    factors, rank = full_rank(subject, "channel-out")
    fit = subject.finished(Fit(factors, effective_bias(model, subject), 0.0))
    links = SCHEMES["channel-out"].chain(subject.layer.conv, rank)
    change = subject.change(links, fit, numpy_helper.from_array)
    other = ModelProto()
    other.CopyFrom(model)
    other.graph.node[0].name = "another"
    for part in (model, other, model):
        assert relative_error(outputs(model), outputs(change(part))) < EXACT


# Stand-ins for layers with very wide inputs -----------------------------------------------------------------

WIDE: dict[str, tuple[ModelProto, set[str]]] = {
    "Conv": (conv_model(weight(16, 8, 3, 3), pads=[1, 0, 2, 1], strides=[2, 1]), {"channel-out"}),
    "Conv, more outputs": (conv_model(weight(32, 8, 3, 3)), {"channel-out"}),
    "Conv 1x1": (conv_model(weight(16, 64, 1, 1)), {"channel-in", "channel-out"}),
    "Conv in groups": (conv_model(weight(16, 8, 3, 3), group=2), {"channel-out"}),
    "Conv 1-D": (conv_model(weight(12, 8, 7), (17,)), {"channel-out"}),
    "Conv 3-D": (conv_model(weight(12, 4, 3, 3, 3), (5, 6, 7)), {"channel-out"}),
    "ConvTranspose": (
        conv_model(weight(8, 12, 3, 3), op="ConvTranspose", strides=[2, 2], output_padding=[1, 0]),
        {"channel-out"},
    ),
    "ConvTranspose 1x1": (
        conv_model(weight(64, 12, 1, 1), op="ConvTranspose", strides=[2, 2]),
        {"channel-in", "channel-out"},
    ),
    "ConvTranspose in groups": (
        conv_model(weight(16, 4, 3, 3), op="ConvTranspose", group=2, strides=[2, 1]),
        {"channel-out"},
    ),
    "Gemm": (gemm_model(weight(64, 16), weight(16), alpha=0.5, beta=2.0), {"channel-in", "channel-out"}),
    "Gemm, transA transB": (
        gemm_model(weight(16, 64), weight(16), transA=1, transB=1),
        {"channel-in", "channel-out"},
    ),
    "Gemm left": (left_gemm_model(weight(16, 64), alpha=0.5), {"channel-in", "channel-out"}),
    "MatMul": (matmul_model(["x", "w"], ["N", 3, 64], weight(64, 16)), {"channel-in", "channel-out"}),
    "MatMul left": (matmul_model(["w", "x"], [64, 5], weight(16, 64)), {"channel-in", "channel-out"}),
    "MatMul (2, K, N)": (
        matmul_model(["x", "w"], [2, 3, 64], weight(2, 64, 16)),
        {"channel-in", "channel-out"},
    ),
}


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inputs of 35 entries are very wide."""
    monkeypatch.setattr(subject_module, "_LARGEST", 35)


@pytest.mark.parametrize("case", WIDE)
def test_schemes_of_a_stand_in(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, expected = WIDE[case]
    subject = subject_of(model)
    possible = [scheme for scheme in SCHEMES.values() if scheme.refuses(subject.layer.conv) is None]
    assert all(map(subject.accepts, possible))
    monkeypatch.setattr(subject_module, "_LARGEST", 35)
    wide = subject_of(model)
    assert {scheme.name for scheme in possible if wide.accepts(scheme)} == expected
    assert not any(scheme.refuses(wide.conv) for scheme in possible if wide.accepts(scheme))


@pytest.mark.parametrize(("entries", "stands_in"), [(35, False), (36, True)])
@pytest.mark.usefixtures("narrow")
def test_where_stand_ins_begin(entries: int, stands_in: bool) -> None:
    subject = subject_of(gemm_model(weight(entries, 4)))
    assert (subject.conv != subject.layer.conv) == stands_in
    assert subject.weight().shape == ((4, 4) if stands_in else (4, entries))


@pytest.mark.parametrize("case", WIDE)
@pytest.mark.usefixtures("narrow")
def test_pairs_of_a_stand_in(case: str) -> None:
    model = WIDE[case][0]
    subject = subject_of(model)
    x, y = all_pairs(model, subject)
    size = subject.layer.conv.out_channels // subject.layer.conv.group
    assert np.array_equal(matrices(subject), np.broadcast_to(np.eye(size), (subject.conv.group, size, size)))
    bias = 0 if subject.offset is None else effective_bias(model, subject).reshape(subject.conv.group, -1)
    assert relative_error(y, x + bias) < EXACT


STAND_INS = [(case, scheme) for case, (_, schemes) in WIDE.items() for scheme in sorted(schemes)]


@pytest.mark.parametrize("rank", [1, 5])
@pytest.mark.parametrize(("case", "scheme"), STAND_INS)
@pytest.mark.usefixtures("narrow")
def test_factors_of_a_stand_in_are_lifted(case: str, scheme: str, rank: int) -> None:
    """The chain computes F W for the F that the stand-in's factors make."""
    model = WIDE[case][0]
    subject = subject_of(model)
    own, chosen = subject.layer.conv, SCHEMES[scheme]
    links = chosen.chain(subject.conv, (rank,))
    factors = tuple(weight(*link.weight_shape, seed=i, dtype=np.float64) for i, link in enumerate(links))
    bias = effective_bias(model, subject)
    changed = put(model, subject, Fit(factors, bias, 0.0), scheme, (rank,))
    finished = subject.finished(Fit(factors, bias, 0.0))
    assert [f.shape for f in finished.factors] == [link.weight_shape for link in chosen.chain(own, (rank,))]

    group, rows = own.group, own.out_channels // own.group
    first, last = (f.reshape(group, -1, f.shape[1]) for f in factors)
    w = own_weight(subject).reshape(group, rows, -1).astype(np.float64)
    product = np.stack([b @ a @ m for a, b, m in zip(first, last, w, strict=True)]).reshape(own.weight_shape)
    one = replace(subject.finished(Fit(factors, bias, 0.0)), factors=(product.astype(np.float32),))
    whole = subject.change((own,), one, numpy_helper.from_array)(model)
    assert relative_error(outputs(whole), outputs(changed)) < EXACT
    assert relative_error(outputs(model), outputs(changed)) > 0.1
    assert relative_error(product, compose(finished.factors, chosen.chain(own, (rank,)), group)) < EXACT


def own_weight(subject: Subject) -> Array:
    return subject.layer.layout.load(subject.layer.weight.read(), subject.layer.conv)


@pytest.mark.parametrize("case", WIDE)
@pytest.mark.usefixtures("narrow")
def test_the_identity_lifts_to_the_weight(case: str) -> None:
    model = WIDE[case][0]
    subject = subject_of(model)
    fit = Fit((subject.weight(),), effective_bias(model, subject), 0.0)
    assert np.array_equal(subject.finished(fit).factors[0], own_weight(subject))
    assert relative_error(outputs(model), outputs(put(model, subject, fit))) < EXACT


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize(("outputs", "stands_in"), [(39, True), (40, False), (64, False)])
@pytest.mark.usefixtures("narrow")
def test_no_stand_in_where_outputs_are_no_fewer(group: int, outputs: int, stands_in: bool) -> None:
    """Their covariance would be no smaller; of a group, as each is by itself."""
    model = conv_model(weight(group * outputs, 40, 1, 1), group=group)
    subject = subject_of(model)
    assert (subject.conv != subject.layer.conv) == stands_in
    if not stands_in:
        assert np.array_equal(subject.weight(), own_weight(subject))


@pytest.mark.usefixtures("narrow")
def test_groups_of_outputs_where_outputs_are_more() -> None:
    """A stand-in, with as many inputs as outputs, would have group-2 group the other side."""
    subject = subject_of(conv_model(weight(64, 40, 1, 1)))
    assert subject.accepts(SCHEMES["group-2"])
    assert not subject_of(conv_model(weight(38, 40, 1, 1))).accepts(SCHEMES["group-2"])
