"""INT32 in place of int64 inputs: TensorRT's older builders and many callers have only those."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from onnx import TensorProto, helper

from precision_planner.model import GraphIndex, Model, Scope
from precision_planner.model.edit import PassResult, set_nodes
from precision_planner.model.names import FreshNames
from precision_planner.operators import op_types, row_of
from precision_planner.typing.elements import function_of, opset_of


@dataclass(frozen=True, slots=True)
class Narrowed(PassResult):
    """A model without int64 inputs.

    Attributes:
      model: the model itself where there was none.
      inputs: input that was int64 -> "direct" or "cast".
    """

    inputs: Mapping[str, str] = field(default_factory=dict)


def narrow_inputs(model: Model) -> Narrowed:
    """Make every int64 input INT32, names unchanged.

    Where every reader takes int32 and nothing else depends on the type, the readers take it as it is; otherwise one
    Cast stands behind the input.
    """
    wanted = [info.name for info in model.proto.graph.input if info.type.tensor_type.elem_type == TensorProto.INT64]
    index = GraphIndex(model.proto)
    wanted = [name for name in wanted if name not in index.main.initializers and not index.main.is_output(name)]
    if not wanted:
        return Narrowed(model)
    direct = {name for name in wanted if _all_take_int32(model, index, name)}
    proto = model.edit()
    names = FreshNames.of(proto)
    renamed: dict[str, str] = {}
    casts = []
    for name in wanted:
        if name in direct:
            continue
        renamed[name] = names.fresh(f"{name}__int64")
        casts.append(helper.make_node("Cast", [name], [renamed[name]], names.fresh(f"{name}__cast_int64")))
        casts[-1].attribute.append(helper.make_attribute("to", TensorProto.INT64))
    for scope, _, node in GraphIndex(proto).nodes():
        for slot, name in enumerate(node.input):
            if name in renamed and _is_main(scope, name):
                node.input[slot] = renamed[name]
    for info in proto.graph.input:
        if info.name in wanted:
            info.type.tensor_type.elem_type = TensorProto.INT32
    set_nodes(proto.graph, [*casts, *proto.graph.node])
    how = {name: "direct" if name in direct else "cast" for name in wanted}
    return Narrowed(model.with_proto(proto), inputs=how)


def _is_main(scope: Scope, name: str) -> bool:
    at: Scope | None = scope
    while at is not None and at.parent is not None:
        if at.defines(name):
            return False
        at = at.parent
    return at is not None and at.kind == "main"


def _all_take_int32(model: Model, index: GraphIndex, name: str) -> bool:
    uses = [(index.main, use) for use in index.main.consumers(name)]
    uses += index.main.captures.get(name, [])
    if name in index.main.body_outputs:
        return False
    for scope, use in uses:
        node = scope.nodes[use.position]
        # of OneHot onnxruntime has kernels for some triples of types alone
        if function_of(index, node) is not None or row_of(node).bodies or node.op_type == "OneHot":
            return False
        schema = op_types(node.op_type, node.domain, opset_of(model.proto, scope, node.domain))
        slot = schema.input(use.slot) if schema is not None else None
        if schema is None or slot is None or not slot.takes_int32:
            return False
        others = [schema.input(at) for at in range(len(node.input)) if at != use.slot]
        others += [schema.output(at) for at in range(len(node.output))]
        if any(other is not None and other.parameter == slot.parameter for other in others):
            return False
    return True
