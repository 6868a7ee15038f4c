"""Write a MatMul and the bias behind it as one Gemm.

    MatMul(x, W) + b = Gemm(x, W, b)

It is done where
1. x has two axes, as shape inference tells (`passes.inference`), and W is a constant of floats with two;
2. nothing but one Add reads the product: no other node, no body of an If or Loop, no output;
3. what is added is a constant of W's type, one number an output: `(M,)` or `(1, M)`;
4. the opset is 7 or later, where Gemm takes such a bias; 13 or later for bfloat16;
5. training_info refers to neither constant.
The Gemm has the MatMul's name and the Add's output. Local functions are left alone: x's axes are not known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from onnx import ModelProto, NodeProto, TensorProto, helper

from passes.constants import Constant, Constants, all_constants
from passes.graph import Key, count_reads, drop, is_operator, scopes, trained_names
from passes.inference import ValueType, infer_values

__all__ = ["matmul_to_gemm"]


def matmul_to_gemm(model: ModelProto, base_dir: str = "") -> ModelProto:
    """Merge every pair that the module's rules allow.

    Args:
        model: left alone; returned itself where nothing was merged.
        base_dir: the folder that locations of external data are relative to.
    """
    searched = list(all_constants(model, base_dir))
    if not any(is_operator(node, "MatMul") for constants in searched for node in constants.scope.holder.node):
        return model
    types, trained = infer_values(model, base_dir), trained_names(model)
    plans = [_plan(constants, types, trained) for constants in searched]
    if not any(plans):
        return model
    result = ModelProto()
    result.CopyFrom(model)
    for scope, plan in zip(scopes(result), plans, strict=True):
        nodes = scope.holder.node
        for add, product in plan.items():
            nodes[add].CopyFrom(_gemm(nodes[product], nodes[add]))
        gone = set(plan.values())
        drop(nodes, [i in gone for i in range(len(nodes))])
    return result


def _plan(constants: Constants, types: Mapping[Key, ValueType], trained: set[str]) -> dict[int, int]:
    """Position of each Add to become a Gemm -> position of its MatMul."""
    scope = constants.scope
    reads = count_reads(scope.holder) + Counter(trained)
    products = {node.output[0]: i for i, node in enumerate(scope.holder.node) if is_operator(node, "MatMul")}
    plan = {}
    for i, node in enumerate(scope.holder.node):
        name = next((name for name in node.input if name in products), "")
        if not is_operator(node, "Add") or not name or reads[name] != 1:  # rule 2
            continue
        product = scope.holder.node[products[name]]
        value = types.get((scope.path, product.input[0]))
        if value is not None and value.dims is not None and len(value.dims) == 2:  # rule 1
            operands = product.input[1], _other(node, name)
            weight, bias = (constants.find_float(operand, trained) for operand in operands)  # rule 5
            if weight is not None and bias is not None and _agree(weight, bias, scope.opset):
                plan[i] = products[name]
    return plan


def _agree(weight: Constant, bias: Constant, opset: int) -> bool:  # rules 1, 3 and 4
    if len(weight.shape) != 2 or bias.data_type != weight.data_type:
        return False
    needed = 13 if weight.data_type == TensorProto.BFLOAT16 else 7
    return bias.shape in (weight.shape[1:], (1, *weight.shape[1:])) and opset >= needed


def _gemm(product: NodeProto, add: NodeProto) -> NodeProto:
    """In the place of the Add: what it adds may be computed after the product."""
    inputs = [*product.input, _other(add, product.output[0])]
    gemm = helper.make_node(
        "Gemm", inputs, list(add.output), name=product.name, doc_string=product.doc_string
    )
    gemm.metadata_props.extend(product.metadata_props)
    return gemm


def _other(add: NodeProto, name: str) -> str:
    return add.input[1] if add.input[0] == name else add.input[0]
