"""What a build target does with a model besides its precision: what it refuses, and what its builder does wrong.

Both are asked of the target's file before anything is built. A node that the file does not name may be refused all the
same; TensorRT-RTX, where it is installed, can be asked itself (`precision_planner.emitting.rtx`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from onnx import NodeProto, TensorProto

from precision_planner.model import GraphIndex, Model, Scope, TypeTable, infer_types, type_name
from precision_planner.model.index import display_name
from precision_planner.operators import moves_values
from precision_planner.patterns import find_patterns
from precision_planner.targets import Target
from precision_planner.targets.defects import Defect
from precision_planner.targets.refusals import Refusal

__all__ = ["KnownDefect", "Refused", "find_defects", "find_refused"]

_FLOATS: Mapping[int, str] = {
    TensorProto.FLOAT: "fp32",
    TensorProto.FLOAT16: "fp16",
    TensorProto.BFLOAT16: "bf16",
}
_HOPS = 8
"""How many nodes that only move values a defect's pattern reaches through."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A node that the target does not take.

    Attributes:
      node: what to call it.
      op_type: its operator.
      reason: why, in a few words.
      instead: the way round.
      source: where this is known from.
    """

    node: str
    op_type: str
    reason: str
    instead: str
    source: str

    def __str__(self) -> str:
        return f"{self.node} ({self.op_type}): {self.reason}; {self.instead}"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class KnownDefect:
    """A place in a model where a builder defect was seen to strike.

    Attributes:
      key: the defect's.
      title: in a few words.
      nodes: the nodes of the pattern.
      symptom: what comes out.
      breaker: what was seen to help.
      reference: a URL.
    """

    key: str
    title: str
    nodes: tuple[str, ...]
    symptom: str
    breaker: str
    reference: str

    def __str__(self) -> str:
        return f"{', '.join(self.nodes)}: {self.title} ({self.symptom}); {self.breaker}; {self.reference}"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {**asdict(self), "nodes": list(self.nodes)}


def find_refused(model: Model, target: Target, precision: str = "") -> tuple[Refused, ...]:
    """The nodes that a target does not take, by its file.

    Args:
      model: typed, or in FP32.
      target: the build target.
      precision: the low precision that an FP32 model will be given; '' takes the types as they are.
    """
    if not target.refused:
        return ()
    index = GraphIndex(model.proto)
    types = infer_types(model, index)
    found = []
    for scope, _, node in index.nodes():
        for refusal in target.refused:
            if refusal.is_about(node, model.opset) and _has_its_types(refusal, scope, node, types, precision):
                found.append(Refused(display_name(node), node.op_type, refusal.reason, refusal.instead, refusal.source))
                break
    return tuple(found)


def _has_its_types(refusal: Refusal, scope: Scope, node: NodeProto, types: TypeTable, precision: str) -> bool:
    if refusal.reads and not any(type_name(kind) in refusal.reads for kind in _constant_types(scope, node)):
        return False
    return not refusal.precision or refusal.precision in _precisions(scope, node, types, precision)


def _precisions(scope: Scope, node: NodeProto, types: TypeTable, precision: str) -> set[str]:
    """The float types that a node reads and writes; what is FP32 yet counts as the precision that it will have."""
    kinds = {types.of(scope, name).elem_type for name in (*node.input, *node.output) if name}
    found = {_FLOATS[kind] for kind in kinds if kind in _FLOATS}
    return {precision if precision and kind == "fp32" else kind for kind in found}


def _constant_types(scope: Scope, node: NodeProto) -> Iterator[int]:
    for name in node.input:
        if name in scope.initializers:
            yield scope.initializers[name].data_type
        maker = scope.producer_node(name) if name else None
        if maker is not None and maker.op_type == "Constant":
            yield from (a.t.data_type for a in maker.attribute if a.name == "value")


def find_defects(model: Model, target: Target, precision: str = "") -> tuple[KnownDefect, ...]:
    """Where a model has what a defect of the target's builder was seen to strike at.

    Args:
      model: typed, or in FP32.
      target: the build target; a defect of another version, platform or typing is left out.
      precision: the low precision that an FP32 model will be given; '' takes the types as they are.
    """
    wanted = [defect for defect in target.defects if defect.is_about(target)]
    if not wanted:
        return ()
    index = GraphIndex(model.proto)
    types = infer_types(model, index)
    dynamic = _is_dynamic(model)
    found = []
    for defect in wanted:
        if defect.dynamic and not dynamic:
            continue
        if defect.look_alike is not None:
            found += [_known(defect, nodes) for nodes in _look_alikes(model, index, types, *defect.look_alike)]
            continue
        for scope, position, node in index.nodes():
            if node.op_type != defect.operators[0] or node.domain not in ("", "ai.onnx"):
                continue
            if defect.inputs_over is not None and not any(node.input[defect.inputs_over :]):
                continue
            kinds = _precisions(scope, node, types, precision)
            if (defect.precision and defect.precision not in kinds) or (defect.low and not kinds & {"fp16", "bf16"}):
                continue
            chain = _follow(scope, position, defect.operators[1:])
            if chain is not None:
                names = tuple(display_name(scope.nodes[at]) for at in chain)
                found.append(_known(defect, names))
    return tuple(found)


def _look_alikes(
    model: Model, index: GraphIndex, types: TypeTable, kind: str, reasons: tuple[str, ...]
) -> Iterator[tuple[str, ...]]:
    """The nodes of what looks like a pattern and is none, for one of these reasons."""
    for match in find_patterns(model, index=index, types=types, kinds=[kind]):
        if not match.proven and match.reason.startswith(reasons):
            yield tuple(index.display(node) for node in match.nodes)


def _known(defect: Defect, nodes: tuple[str, ...]) -> KnownDefect:
    return KnownDefect(defect.key, defect.title, nodes, defect.symptom, defect.breaker, defect.reference)


def _follow(scope: Scope, position: int, operators: tuple[str, ...], hops: int = _HOPS) -> tuple[int, ...] | None:
    """Positions of a chain of operators that begins at a node, through what only moves values; None: there is none."""
    if not operators:
        return (position,)
    if hops == 0:
        return None
    for name in scope.nodes[position].output:
        for use in scope.consumers(name) if name else ():
            reader = scope.nodes[use.position]
            if reader.op_type == operators[0]:
                rest = _follow(scope, use.position, operators[1:])
            elif moves_values(reader) or reader.op_type == "Cast":
                rest = _follow(scope, use.position, operators, hops - 1)
                rest = None if rest is None else rest[1:]
            else:
                rest = None
            if rest is not None:
                return (position, *rest)
    return None


def _is_dynamic(model: Model) -> bool:
    return any(
        not dim.HasField("dim_value") for value in model.proto.graph.input for dim in value.type.tensor_type.shape.dim
    )
