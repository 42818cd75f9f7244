"""Raising a model's opset, node by node and losslessly, on the weight-stripped graph.

onnx.version_converter is not used: it drops local functions, metadata and quantization annotations, and changes
Upsample 9, Resize 10 and Hardmax 11. Here a node changes only where its schema changed in a way that matters:

1. the schema is the same, or grew (types, optional inputs, attributes whose default is the old behavior): the node
   stays as it is;
2. `adapters` knows how the new version says the same: the node is rewritten;
3. anything else: the opset cannot be raised, and the reason names the node.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import onnx
from onnx import FunctionProto, GraphProto, NodeProto, helper

from precision_planner.model import Model, display_name
from precision_planner.model.edit import PassResult, set_nodes
from precision_planner.model.inference import contradiction
from precision_planner.transforms.adapters import ADAPTERS, Context, Facts, Refused

_STANDARD = ("", "ai.onnx")
NEWEST_OPSET = min(24, onnx.defs.onnx_opset_version())

_HARMLESS = frozenset({("Erf", 13)})
"""Changes that look incompatible and are not: Erf lost the integer types, which no kernel ever took."""


@dataclass(frozen=True, slots=True)
class OpsetResult(PassResult):
    """A model at the opset asked for, or the model as it was with the reason.

    Attributes:
      model: raised, or unchanged.
      opset: its version of the default domain.
      changed: display names of the nodes that had to be written anew.
    """

    opset: int = 0
    changed: tuple[str, ...] = ()

    @property
    def reason(self) -> str:
        """Why it could not be raised, '' if it was (or had no need to be)."""
        return self.notes[0] if self.notes else ""


def raise_opset(model: Model, version: int) -> OpsetResult:
    """Raise the default domain of a model and of its local functions to `version`.

    Names, metadata, doc strings, annotations and weights stay; the IR version becomes the least that the opset needs
    if it is older. A model that has the version or a newer one is returned as it is.

    Args:
      model: any model.
      version: 1 to `NEWEST_OPSET`.
    """
    if model.opset >= version and all(_function_opset(f, model.opset) >= version for f in model.proto.functions):
        return OpsetResult(model, opset=model.opset)
    if version > NEWEST_OPSET:
        return OpsetResult(model, {}, (f"opset {version} is not known to onnx {onnx.__version__}",), model.opset)
    proto = model.edit()
    facts = Facts(model)
    changed: list[str] = []
    try:
        if model.opset < version:
            _raise(proto.graph, model.opset, version, Context(facts, (), proto.graph), changed)
        for function in proto.functions:
            start = _function_opset(function, model.opset)
            if start < version:
                path = (f"fn:{function.domain}:{function.name}:{getattr(function, 'overload', '')}",)
                _raise(function, start, version, Context(facts, path, function), changed)
                _set_opset(function.opset_import, version)
    except Refused as refusal:
        return OpsetResult(model, {}, (f"opset {model.opset} cannot be raised to {version}: {refusal}",), model.opset)
    if model.opset < version:
        _set_opset(proto.opset_import, version)
    proto.ir_version = max(proto.ir_version, _least_ir(version))
    # a newer definition may look at what the older one overlooked: the rank of a statistic, the range of an axis
    found = contradiction(proto)
    if found and not contradiction(model.proto):
        return OpsetResult(model, {}, (f"opset {model.opset} cannot be raised to {version}: {found}",), model.opset)
    return OpsetResult(model.with_proto(proto), opset=version, changed=tuple(changed))


def _raise(graph: GraphProto | FunctionProto, start: int, version: int, context: Context, changed: list[str]) -> None:
    out: list[NodeProto] = []
    rebuilt = False
    for position, node in enumerate(graph.node):
        for attribute in node.attribute:
            bodies = ([(attribute.name, attribute.g)] if attribute.HasField("g") else []) + [
                (f"{attribute.name}[{number}]", body) for number, body in enumerate(attribute.graphs)
            ]
            first = next((name for name in node.output if name), f"#{position}")
            for name, body in bodies:
                inner = context.inside(f"{first}.{name}", body)
                _raise(body, start, version, inner, changed)
        nodes = [node]
        if node.domain in _STANDARD:
            steps = _steps(node.op_type, start, version)
            nodes = _adapt(node, steps, context)
            if any((node.op_type, step) in ADAPTERS for step in steps):
                changed.append(display_name(node))
        nodes = [*context.take_constants(), *nodes]
        rebuilt |= len(nodes) != 1 or nodes[0] is not node
        out += nodes
    if rebuilt:
        set_nodes(graph, out)


def _adapt(node: NodeProto, steps: tuple[int, ...], context: Context) -> list[NodeProto]:
    """Take one node through the versions at which its schema changed."""
    nodes = [node]
    for step in steps:
        out: list[NodeProto] = []
        for each in nodes:
            adapter = ADAPTERS.get((each.op_type, step))
            if adapter is not None:
                out += adapter(each, context)
                continue
            problem = "" if (each.op_type, step) in _HARMLESS else _incompatible(each.op_type, step)
            if problem and step in _steps(each.op_type, step - 1, step):
                raise Refused(f"{each.op_type} changed at {step} ({problem}), at node {display_name(each)}")
            out.append(each)
        nodes = out
    return nodes


@lru_cache(maxsize=4096)
def _steps(op_type: str, start: int, version: int) -> tuple[int, ...]:
    """The versions in (start, version] at which the schema of an op changed; all, for an op that is replaced."""
    steps = []
    for step in range(start + 1, version + 1):
        if (op_type, step) in ADAPTERS:
            if op_type == "Upsample":  # what replaces it changes later as well
                return tuple(range(step, version + 1))
            steps.append(step)
            continue
        before, after = _schema(op_type, step - 1), _schema(op_type, step)
        if before is None and after is None:
            continue
        if before is None or after is None or before.since_version != after.since_version:
            steps.append(step)
    return tuple(steps)


@lru_cache(maxsize=4096)
def _schema(op_type: str, version: int) -> onnx.defs.OpSchema | None:
    try:
        return onnx.defs.get_schema(op_type, version, "")
    except onnx.defs.SchemaError:
        return None


@lru_cache(maxsize=4096)
def _incompatible(op_type: str, step: int) -> str:
    """What makes the version of an op at `step` no superset of the one before; '' if it is one."""
    old, new = _schema(op_type, step - 1), _schema(op_type, step)
    if old is None and new is None:
        return ""
    if old is None:
        return "the op is unknown before"
    if new is None or new.deprecated:
        return "the op is deprecated"
    if new.min_input > old.min_input or new.max_input < old.max_input:
        return "its inputs differ"
    if new.min_output > old.min_output or new.max_output < old.max_output:
        return "its outputs differ"
    for name, attribute in old.attributes.items():
        other = new.attributes.get(name)
        if other is None:
            return f"attribute {name} is gone"
        same = attribute.default_value.SerializeToString(deterministic=True) == other.default_value.SerializeToString(
            deterministic=True
        )
        if not same or attribute.type != other.type or (other.required and not attribute.required):
            return f"attribute {name} differs"
    for name, attribute in new.attributes.items():
        if name not in old.attributes and attribute.required:
            return f"attribute {name} is required"
    for before, after in [*zip(old.inputs, new.inputs, strict=False), *zip(old.outputs, new.outputs, strict=False)]:
        if not set(before.types) <= set(after.types):
            return f"{before.name} takes fewer types"
    return ""


def _function_opset(function: FunctionProto, default: int) -> int:
    versions = {entry.domain: entry.version for entry in function.opset_import}
    return versions.get("", versions.get("ai.onnx", 10_000 if not function.node else default))


def _set_opset(imports: object, version: int) -> None:
    found = False
    for entry in imports:  # type: ignore[attr-defined]
        if entry.domain in _STANDARD:
            entry.version, found = version, True
    if not found:
        imports.append(helper.make_opsetid("", version))  # type: ignore[attr-defined]


def _least_ir(version: int) -> int:
    least: int = helper.OP_SET_ID_VERSION_MAP.get(("ai.onnx", version), 3)
    return least
