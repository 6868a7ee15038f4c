"""What exporters made of a network: facts of each file, side by side, and what they mean for optimization."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from onnx import TensorProto

from onnxlr.analysis import analyse
from onnxlr.comparing.ports import Binding
from onnxlr.comparing.running import Export
from onnxlr.layer import Layer, Skipped
from onnxlr.model_file import Model
from onnxlr.sizes import count_macs, count_params
from passes.graph import opset, scopes

__all__ = ["Exported", "Trait", "find_traits", "operator_counts"]


@dataclass(frozen=True, slots=True)
class Trait:
    """One fact of every model.

    Attributes:
        name: what is looked at.
        values: of each model, in their order.
        meaning: what a difference means for optimization.
    """

    name: str
    values: tuple[str, ...]
    meaning: str

    @property
    def differs(self) -> bool:
        """Whether the models differ in it."""
        return len(set(self.values)) > 1


@dataclass(frozen=True, eq=False)
class Exported:
    """A model to look at.

    Attributes:
        export: as it was exported.
        prepared: after the passes that prepare it.
        input_shapes: for symbolic dimensions.
    """

    export: Export
    prepared: Model
    input_shapes: Mapping[str, Sequence[int]]

    @property
    def model(self) -> Model:
        """As it was exported."""
        return self.export.model

    @cached_property
    def found(self) -> list[Layer | Skipped]:
        """Linear layers of the original."""
        return analyse(self.model.proto, self.input_shapes, str(self.model.folder))

    @cached_property
    def layers(self) -> list[Layer]:
        """Those that can be factorized."""
        return [item for item in self.found if isinstance(item, Layer)]

    @cached_property
    def operators(self) -> Counter[str]:
        """Nodes by operator, as exported."""
        return operator_counts(self.model)

    @cached_property
    def operators_left(self) -> Counter[str]:
        """Nodes by operator, after the passes."""
        return operator_counts(self.prepared)

    @cached_property
    def gone(self) -> Counter[str]:
        """Nodes that the passes do away with."""
        return self.operators - self.operators_left


def operator_counts(model: Model) -> Counter[str]:
    """Nodes of all scopes by operator, with its domain where that is not ONNX's; Constant nodes left out."""
    nodes = (node for scope in scopes(model.proto) for node in scope.holder.node)
    names = (f"{n.domain}:{n.op_type}" if n.domain not in ("", "ai.onnx") else n.op_type for n in nodes)
    return Counter(name for name in names if name != "Constant")


def find_traits(models: Sequence[Exported]) -> list[Trait]:
    """Everything that is looked at; see `_TRAITS`."""
    return [
        Trait(name, tuple(describe(model) for model in models), meaning)
        for name, describe, meaning in _TRAITS
    ]


def _format(model: Exported) -> str:
    others = [
        f"{o.domain} {o.version}" for o in model.model.proto.opset_import if o.domain not in ("", "ai.onnx")
    ]
    return ", ".join((f"IR {model.model.proto.ir_version}, opset {opset(model.model.proto)}", *others))


def _producer(model: Exported) -> str:
    proto = model.model.proto
    return f"{proto.producer_name} {proto.producer_version}".strip() or "not given"


def _ports(bindings: Sequence[Binding]) -> str:
    shown = []
    for port in (binding.other for binding in bindings):
        channels = {None: "", 1: ", channels first"}.get(port.channel_axis, ", channels last")
        shown.append(f"{port}{channels if len(port.value.shape) > 2 else ''}")
    return "; ".join(shown)


def _layers(model: Exported) -> str:
    counts = Counter(layer.op_type for layer in model.layers)
    parts = [f"{count} {op}" for op, count in counts.items()]
    grouped = [layer for layer in model.layers if layer.conv.group > 1]
    depthwise = sum(layer.conv.is_depthwise for layer in grouped)
    if len(grouped) > depthwise:
        parts.append(f"{len(grouped) - depthwise} of them grouped")
    if depthwise:
        parts.append(f"{depthwise} depthwise")
    left = len(model.found) - len(model.layers)
    return ", ".join([*parts, *([f"{left} without a known weight"] if left else [])]) or "none"


def _normalization(model: Exported) -> str:
    norms = model.operators["BatchNormalization"]
    arithmetic = sum(model.gone[op] for op in ("Add", "Sub", "Mul", "Div"))
    parts = []
    if norms:
        left = norms - model.gone["BatchNormalization"]
        parts.append(f"{norms} BatchNormalization" + (f" ({left} cannot be folded)" if left else ""))
    if arithmetic:
        parts.append(f"{arithmetic} Add, Sub, Mul or Div of channels behind layers")
    return ", ".join(parts) or "folded into the layers, or there was none"


def _gone(op: str) -> Callable[[Exported], str]:
    def describe(model: Exported) -> str:
        count, gone = model.operators[op], model.gone[op]
        return f"{count} ({gone} cancelled)" if gone else str(count)

    return describe


def _padding(model: Exported) -> str:
    convs = [layer for layer in model.layers if layer.conv.kernel_shape and not layer.conv.is_pointwise]
    kinds = Counter(layer.conv.auto_pad if layer.conv.auto_pad != "NOTSET" else "pads" for layer in convs)
    parts = [f"{count} {kind}" for kind, count in sorted(kinds.items())]
    pads = model.operators["Pad"]
    if pads:
        parts.append(f"{pads} Pad ({model.gone['Pad']} merged)")
    return ", ".join(parts) or "none"


def _weights(model: Exported) -> str:
    kinds: Counter[str] = Counter()
    for layer in model.layers:
        stored = {tensor.name for tensor in layer.weight.home.initializers}
        is_stored = layer.weight.tensor is not None and layer.weight.name in stored
        kinds[
            "computed" if layer.weight.tensor is None else "initializer" if is_stored else "Constant node"
        ] += 1
    return ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())) or "none"


def _types(model: Exported) -> str:
    types = Counter(TensorProto.DataType.Name(layer.weight.data_type).lower() for layer in model.layers)
    return ", ".join(sorted(types)) or "none"


def _pointwise(model: Exported) -> str:
    return f"{model.gone['MatMul']} as MatMul" if model.gone["MatMul"] else "none as MatMul"


def _no_ops(model: Exported) -> str:
    parts = [f"{model.gone[op]} {op}" for op in ("Cast", "Dropout", "Identity") if model.gone[op]]
    return ", ".join(parts) or "none"


def _groups(model: Exported) -> str:
    return f"{model.gone['Concat']} as Split, Convs, Concat" if model.gone["Concat"] else "none in parts"


def _foreign(model: Exported) -> str:
    return ", ".join(sorted(op for op in model.operators if ":" in op)) or "none"


def _count(model: Exported) -> str:
    total = model.operators.total()
    left = model.operators_left.total()
    return f"{total}, {left} after passes" if left != total else str(total)


def _macs(model: Exported) -> str:
    macs = count_macs(model.found)
    return "unknown" if macs is None else f"{macs:,}"


_TRAITS: Sequence[tuple[str, Callable[[Exported], str], str]] = (
    (
        "format",
        _format,
        "factorization does not depend on it; other tools may refuse what is newer than they are",
    ),
    ("producer", _producer, "who wrote the file"),
    (
        "inputs",
        lambda model: _ports(model.export.inputs),
        "channels last costs a Transpose at the input; a batch size that is fixed cannot be timed at others",
    ),
    ("outputs", lambda model: _ports(model.export.outputs), "what is compared"),
    ("layers", _layers, "what can be factorized; a layer without a known weight cannot"),
    (
        "BatchNormalization",
        _normalization,
        "folded into the layers before ranks are chosen: no difference, unless it cannot be folded",
    ),
    (
        "Transposes",
        _gone("Transpose"),
        "layouts are brought together before ranks are chosen; those that are left move data at every run",
    ),
    ("padding", _padding, "a Pad that is merged costs nothing; one that is left copies its input"),
    (
        "grouped Convs in parts",
        _groups,
        "merged into one grouped Conv, so that ranks are chosen as for one",
    ),
    ("1×1 Convs", _pointwise, "computed as Convs, where that saves Transposes"),
    ("operators that do nothing", _no_ops, "taken out; some would keep a BatchNormalization from its layer"),
    ("weights", _weights, "all three kinds are factorized; computed ones are computed once, and stored"),
    ("types", _types, "half precision rounds what every layer gives, so outputs may differ by more"),
    ("fused or custom operators", _foreign, "left alone: what they do is not in the graph"),
    ("nodes", _count, "each costs a little at every run, unless ONNX Runtime does away with it"),
    ("params", lambda model: f"{count_params(model.model):,}", "parameters of BatchNormalization count"),
    ("MACs", _macs, "of the layers, for one run; they are the same where the layers are"),
    ("bytes", lambda model: f"{model.model.nbytes:,}", "size of the file with its external data"),
)
