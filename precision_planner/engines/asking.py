"""Which weights a model or plan asks to be in FP32 or BF16 in its engine."""

from __future__ import annotations

from onnx import NodeProto, TensorProto

from precision_planner.engines.probes import Form
from precision_planner.engines.weights import Asked
from precision_planner.model import GraphIndex, Model, Scope
from precision_planner.operators import is_product, moves_values
from precision_planner.plans.plan import PrecisionPlan

__all__ = ["SMALLEST", "asked_weights"]

SMALLEST = 64
"""Values below which a weight is too small to be told from its neighbors."""

_FORMS: dict[int, Form] = {TensorProto.FLOAT: "fp32", TensorProto.BFLOAT16: "bf16"}
_PLANNED: dict[str, Form] = {"fp32": "fp32", "bf16": "bf16"}


def asked_weights(model: Model, plan: PrecisionPlan | None = None) -> tuple[Asked, ...]:
    """The weights of products that are not to be rounded to half, by name of the initializer.

    Args:
      model: what the engine was built from. By its types, every weight that a product reads in FP32 or BF16 is
        asked for: all of them, where nothing in the model is typed low.
      plan: where it is given, the precision of its nodes says what is asked: the model of a weakly typed plan
        is in FP32.
    """
    index = GraphIndex(model.proto)
    planned = None if plan is None else {(n.scope, n.output): n.precision for n in plan.nodes}
    readers: dict[str, list[str]] = {}
    forms: dict[str, Form] = {}
    tensors: dict[str, TensorProto] = {}
    for scope, position, node in index.nodes():
        if not is_product(node):
            continue
        identity = index.node_id(scope, position)
        for name in node.input[:2]:
            found = _constant(index, scope, name)
            if found is None or _size(found[0]) < SMALLEST:
                continue
            form = _FORMS.get(found[1])
            if planned is not None:
                known = planned.get((identity.scope, identity.output))
                form = form if known is None else _PLANNED.get(known)
            if form is None:
                continue
            tensor = found[0]
            tensors[tensor.name] = tensor
            # a weight that one reader wants in FP32 is to be there in FP32
            forms[tensor.name] = "fp32" if "fp32" in (form, forms.get(tensor.name)) else form
            readers.setdefault(tensor.name, []).append(index.display(identity))
    return tuple(
        Asked(name, tuple(readers[name]), model.array(tensor).astype("<f4", copy=False), forms[name])
        for name, tensor in tensors.items()
    )


def _constant(index: GraphIndex, scope: Scope, name: str) -> tuple[TensorProto, int] | None:
    """(initializer, the first element type but FLOAT on its way) behind moves and Casts; None for computed values."""
    holder = index.resolve(scope, name)
    kinds: list[int] = []
    while holder is not None:
        if name in holder.initializers:
            tensor = holder.initializers[name]
            low = [kind for kind in (*kinds, tensor.data_type) if kind != TensorProto.FLOAT]
            return tensor, low[0] if low else TensorProto.FLOAT
        node = holder.producer_node(name)
        if node is None:
            return None
        if node.op_type == "Constant":
            value = next((a.t for a in node.attribute if a.name == "value"), None)
            if value is None:
                return None
            named = TensorProto()
            named.CopyFrom(value)
            named.name = name
            return named, next((k for k in (*kinds, value.data_type) if k != TensorProto.FLOAT), TensorProto.FLOAT)
        if node.op_type == "Cast":
            kinds.append(_target(node))
        elif not moves_values(node, casts=False):
            return None
        name = node.input[0]
        holder = index.resolve(holder, name)
    return None


def _target(node: NodeProto) -> int:
    return next((int(a.i) for a in node.attribute if a.name == "to"), 0)


def _size(tensor: TensorProto) -> int:
    total = 1
    for dim in tensor.dims:
        total *= dim
    return total
