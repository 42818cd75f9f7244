"""`assign_types`: from decisions about nodes to a type for every value and every reading."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TypeAlias

import onnx
from onnx import TensorProto

from precision_planner.model import GraphIndex, Model, NodeId, Scope, TypeTable
from precision_planner.typing.assignment import Key, NodeTyping, TypeAssignment
from precision_planner.typing.cells import Cell, Cells
from precision_planner.typing.decisions import ELEMENT_TYPES, PRECISIONS, Decision, TypingOptions
from precision_planner.typing.elements import Elements, find_elements, function_of, opset_of
from precision_planner.typing.forced import deliberate_islands, frozen_scopes, integer_products
from precision_planner.typing.indices import index_arithmetic
from precision_planner.typing.lacks import onnxruntime_lacks
from precision_planner.typing.schemas import NORM_WITH_STASH, VALUE_BLIND, op_types
from precision_planner.typing.slots import NodeSlots, classify, plugin_slots

Req: TypeAlias = "tuple[str, int]"
"""('cell', number), ('type', element type) or ('any', 0)."""

ANY: Req = ("any", 0)
_Places: TypeAlias = "tuple[list[int], list[int], list[int], list[int]]"


def assign_types(
    model: Model,
    decisions: Mapping[NodeId, Decision] | None = None,
    options: TypingOptions | None = None,
    *,
    index: GraphIndex | None = None,
    types: TypeTable | None = None,
) -> TypeAssignment:
    """Give every value one storage type and every node one compute type.

    Pure: the model is read, nothing is changed. What nothing keeps in FP32 becomes the low type; a node that cannot
    (operator, opset, shape arithmetic, an unknown operator) stays in FP32 with its reason.

    Args:
      model: any model.
      decisions: what rules, selectors or a search decided about single nodes.
      options: the low type, interface types, plugins.
      index: of ``model.proto``, where the caller has it.
      types: of `infer_types`, where the caller has it.

    Returns:
      The assignment. `TypeAssignment.converted` is empty where nothing can go low: that is for the caller to judge.
    """
    return _Assigner(model, dict(decisions or {}), options or TypingOptions(), index, types).run()


@dataclass(slots=True)
class _Node:
    """What was found about a node: its cell (None for control flow) and the requirement of each slot."""

    cell: int | None
    inputs: dict[int, Req]
    outputs: dict[int, Req]
    decision: Decision | None = None
    forced: str = ""
    keep_as: str | None = None
    moves: bool = False


class _Assigner:
    """State of one assignment."""

    def __init__(
        self,
        model: Model,
        decisions: dict[NodeId, Decision],
        options: TypingOptions,
        index: GraphIndex | None,
        types: TypeTable | None,
    ) -> None:
        self.model, self.decisions, self.options = model, decisions, options
        self.index = index or GraphIndex(model.proto)
        self.elements: Elements = find_elements(model, self.index, types)
        self.wide = self._native_type()
        self.low_types = frozenset(
            {options.low, *(ELEMENT_TYPES[d.precision] for d in decisions.values() if d.precision != "fp32")}
        )
        self.cells = Cells(options.low, self.wide)
        self.nodes: dict[tuple[tuple[str, ...], int], _Node] = {}
        self.values: dict[Key, Req] = {}
        self.returns: dict[tuple[tuple[str, ...], int], Req] = {}
        self.constants: dict[Key, int] = {}
        self.frozen = frozen_scopes(self.index, self.elements)
        self.bodies: dict[int, dict[str, Scope]] = {}
        for scope in self.index.scopes:
            if scope.owner is not None and scope.parent is not None:
                self.bodies.setdefault(id(scope.owner), {})[scope.path[-1].rpartition(".")[2]] = scope
        self.forced = self._forced_nodes()

    def run(self) -> TypeAssignment:
        self._interface()
        for scope in self.index.scopes:
            self._formals(scope)
        for scope in self.index.scopes:
            for position, node in enumerate(scope.nodes):
                self._visit(scope, position, node)
        for scope in self.index.scopes:
            for position in range(len(scope.nodes)):
                self._link(scope, position)
            self._link_returns(scope)
        self.cells.solve()
        return self._result()

    # what the model is

    def _native_type(self) -> int:
        """DOUBLE for a model that has no FLOAT and was not cast to double, else FLOAT."""
        seen = {value.elem_type for value in self.elements.types.values()}
        if TensorProto.DOUBLE not in seen or TensorProto.FLOAT in seen:
            return TensorProto.FLOAT
        return TensorProto.FLOAT if seen & {TensorProto.FLOAT16, TensorProto.BFLOAT16} else TensorProto.DOUBLE

    def _forced_nodes(self) -> dict[NodeId, str]:
        forced = deliberate_islands(self.index, self.elements, self.wide)
        wanted = {node for node, decision in self.decisions.items() if decision.precision != "fp32"}
        forced = {node: reason for node, reason in forced.items() if node not in wanted}
        forced.update(index_arithmetic(self.index, self.elements, self.wide))
        forced.update(integer_products(self.index))
        return forced

    def _is_wide(self, scope: Scope, value: str) -> bool:
        return bool(value) and self.elements.of(self.index, scope, value).elem_type == self.wide

    def _key(self, scope: Scope, value: str) -> Key | None:
        holder = self.index.resolve(scope, value)
        return None if holder is None else (holder.path, value)

    # where values come from

    def _interface(self) -> None:
        main, globs = self.index.main, self.options.low_globs

        def element(name: str) -> int:
            return self.options.low if any(fnmatchcase(name, glob) for glob in globs) else self.wide

        for name in main.inputs:
            if self._is_wide(main, name) and self.elements.of(self.index, main, name).container != "sparse":
                self.values[(), name] = ("type", element(name))
        for at, name in enumerate(main.outputs):
            if self._is_wide(main, name):
                self.returns[(), at] = ("type", element(name))

    def _formals(self, scope: Scope) -> None:
        for name in scope.initializers:
            if self._is_wide(scope, name) and (scope.path, name) not in self.values:
                self.constants[scope.path, name] = self.wide
        for name, sparse in scope.sparse_initializers.items():
            if sparse.values.data_type == self.wide:
                self.values[scope.path, name] = ("type", self.wide)
        if scope.path in self.frozen:
            for name in scope.inputs:
                if self._is_wide(scope, name):
                    self.values[scope.path, name] = ("type", self.wide)
            for at, name in enumerate(scope.outputs):
                if self._is_wide(scope, name):
                    self.returns[scope.path, at] = ("type", self.wide)
        elif scope.kind == "function":
            for name in scope.inputs:
                if self._is_wide(scope, name):
                    self.values[scope.path, name] = ("cell", self.cells.add(Cell("moves", allowed=None)))
            for at, name in enumerate(scope.outputs):
                if self._is_wide(scope, name):
                    self.returns[scope.path, at] = ("cell", self.cells.add(Cell("moves", allowed=None)))

    # what nodes ask for

    def _visit(self, scope: Scope, position: int, node: onnx.NodeProto) -> None:
        wide_in = [at for at, name in enumerate(node.input) if self._is_wide(scope, name)]
        wide_out = [at for at, name in enumerate(node.output) if self._is_wide(scope, name)]
        standard = node.domain in ("", "ai.onnx")
        function = function_of(self.index, node)
        if scope.path not in self.frozen:
            if function is not None and function.path not in self.frozen:
                self._visit_call(scope, position, node, function)
                return
            if standard and function is None and node.op_type in ("If", "Loop", "Scan"):
                self._visit_control(scope, position, node)
                return
        if not wide_in and not wide_out:
            return
        if standard and function is None and node.op_type == "Constant":
            self._visit_constant(scope, node)
            return
        self._visit_operator(scope, position, node, wide_in, wide_out, function)

    def _visit_constant(self, scope: Scope, node: onnx.NodeProto) -> None:
        key = (scope.path, node.output[0])
        if scope.path in self.frozen or any(a.ref_attr_name or a.name == "sparse_value" for a in node.attribute):
            self.values[key] = ("type", self.wide)
        else:
            self.constants[key] = self.wide

    def _visit_operator(
        self,
        scope: Scope,
        position: int,
        node: onnx.NodeProto,
        wide_in: list[int],
        wide_out: list[int],
        function: Scope | None,
    ) -> None:
        identity = self.index.node_id(scope, position)
        decision = self.decisions.get(identity)
        slots, named_in, named_out, reason = self._slots(scope, node, wide_in, wide_out, function)
        reason = self.forced.get(identity, "") or reason
        if scope.path in self.frozen:
            reason = self.frozen[scope.path]
        if any(self._reads_sparse(scope, node.input[at]) for at in wide_in):
            reason = reason or "reads a sparse initializer"
        cell, found = self._cell(node, slots, decision, reason, bool(wide_out))
        follows: Req = ("cell", cell)
        settled: dict[str, Req] = {"follows": follows, "any": ANY, "wide": ("type", self.wide)}
        for at, mode in slots.inputs.items():
            found.inputs[at] = ("type", named_in[at]) if at in named_in else settled[mode]
        for at, mode in slots.outputs.items():
            found.outputs[at] = ("type", named_out[at]) if at in named_out else settled[mode]
        if found.forced and self.cells[cell].element != self.options.low:
            found.inputs = {at: (ANY if slots.inputs[at] == "any" else ("type", self.wide)) for at in wide_in}
            found.outputs = {at: ("type", self.wide) for at in wide_out}
        self.nodes[scope.path, position] = found
        for at, req in found.outputs.items():
            self.values[scope.path, node.output[at]] = req

    def _slots(
        self, scope: Scope, node: onnx.NodeProto, wide_in: list[int], wide_out: list[int], function: Scope | None
    ) -> tuple[NodeSlots, dict[int, int], dict[int, int], str]:
        plugin = self.options.plugins.get(node.op_type)
        opset = opset_of(self.model.proto, scope, node.domain)
        schema = None if function is not None else op_types(node.op_type, node.domain, opset)
        frozen = NodeSlots(dict.fromkeys(wide_in, "wide"), dict.fromkeys(wide_out, "wide"), None, "fixed")
        if plugin is not None and schema is None:
            slots, named_in, named_out = plugin_slots(plugin, self.options, wide_in, wide_out)
            return slots, named_in, named_out, ""
        if schema is None:
            name = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
            what = self.frozen.get(function.path, "") if function is not None else f"unknown operator {name}"
            return frozen, {}, {}, f"{what}: its types are not known, so it stays FP32"
        if node.op_type == "BitCast":
            return frozen, {}, {}, "reads the bits of its input, whose type must stay"
        slots = classify(node, schema, wide_in, wide_out, self.low_types)
        reason = ""
        lack = onnxruntime_lacks(node, opset) if self.options.loadable and self.options.precision == "fp16" else ""
        if lack:
            reason = lack
        elif "follows" not in (*slots.inputs.values(), *slots.outputs.values()) and (
            "wide" in (*slots.inputs.values(), *slots.outputs.values())
        ):
            low = " or ".join(sorted(PRECISIONS[t] for t in self.low_types))
            reason = f"{node.op_type} takes no {low} at opset {opset}"
        return slots, {}, {}, reason

    def _reads_sparse(self, scope: Scope, name: str) -> bool:
        holder = self.index.resolve(scope, name)
        return holder is not None and name in holder.sparse_initializers

    def _cell(
        self, node: onnx.NodeProto, slots: NodeSlots, decision: Decision | None, reason: str, makes_float: bool
    ) -> tuple[int, _Node]:
        kind = slots.kind if makes_float or slots.kind != "moves" else "compares"
        cell = Cell(kind, allowed=slots.allowed)
        found = _Node(None, {}, {}, decision, moves=kind != "fixed")
        keep_as = None
        if reason:
            cell.element, cell.reason, cell.forced = self.wide, reason, True
            found.forced = reason
        elif decision is not None:
            keep_as = self._keep_as(node, decision)
            wanted = self.options.low if keep_as == "compute" else ELEMENT_TYPES[decision.precision]
            cell.element = self.wide if wanted == TensorProto.FLOAT else wanted
            cell.reason = decision.reason
        elif kind == "fixed":
            cell.element = self.options.low
        if cell.element and cell.allowed is not None and cell.element not in cell.allowed | {self.wide}:
            taken = PRECISIONS[cell.element]
            cell.reason = found.forced = f"{node.op_type} takes no {taken} at this opset"
            cell.element, cell.forced, keep_as = self.wide, True, None
        found.keep_as = keep_as
        number = self.cells.add(cell)
        found.cell = number
        return number, found

    def _keep_as(self, node: onnx.NodeProto, decision: Decision) -> str | None:
        """How a kept node is kept: `compute` exists only where an attribute says the type of the statistics."""
        if decision.precision != "fp32":
            return None
        if node.op_type not in NORM_WITH_STASH:
            return "island"
        return decision.keep_as or self.options.keep_as or "compute"

    # control flow and calls: one cell for each variable

    def _variable(self, parts: list[tuple[Scope, str]]) -> Req | None:
        """A cell for one variable, None where no part of it is a float to be decided; wide where parts differ."""
        known = [self.elements.of(self.index, scope, name) for scope, name in parts if name]
        wide = [value.elem_type == self.wide for value in known if value.elem_type]
        if not any(wide):
            return None
        if not all(wide):
            return ("type", self.wide)
        return ("cell", self.cells.add(Cell("moves")))

    def _visit_call(self, scope: Scope, position: int, node: onnx.NodeProto, function: Scope) -> None:
        found = _Node(None, {}, {})
        for at, name in enumerate(node.input):
            if at < len(function.inputs) and self._is_wide(scope, name):
                found.inputs[at] = self.values.get((function.path, function.inputs[at]), ("type", self.wide))
        for at, name in enumerate(node.output):
            if name and (function.path, at) in self.returns:
                found.outputs[at] = self.returns[function.path, at]
                self.values[scope.path, name] = found.outputs[at]
        self.nodes[scope.path, position] = found

    def _visit_control(self, scope: Scope, position: int, node: onnx.NodeProto) -> None:
        found = _Node(None, {}, {})
        bodies = self.bodies.get(id(node), {})
        if node.op_type == "If":
            branches = list(bodies.values())
            for at, name in enumerate(node.output):
                self._bind(found, scope, node, [], [at] if name else [], [(b, at) for b in branches], [])
        else:
            body = next(iter(bodies.values()))
            for inputs, outputs, returned, formals in _loop_variables(
                node, body, opset_of(self.model.proto, scope, "")
            ):
                self._bind(found, scope, node, inputs, outputs, [(body, at) for at in returned], [(body, formals)])
        self.nodes[scope.path, position] = found

    def _bind(
        self,
        found: _Node,
        scope: Scope,
        node: onnx.NodeProto,
        inputs: list[int],
        outputs: list[int],
        returned: list[tuple[Scope, int]],
        formals: list[tuple[Scope, list[int]]],
    ) -> None:
        """Give one variable its cell in all the places where it appears."""
        parts = [(scope, node.input[at]) for at in inputs if at < len(node.input)]
        parts += [(scope, node.output[at]) for at in outputs if at < len(node.output)]
        parts += [(body, body.outputs[at]) for body, at in returned if at < len(body.outputs)]
        parts += [(body, body.inputs[at]) for body, ats in formals for at in ats if at < len(body.inputs)]
        req = self._variable(parts)
        if req is None:
            return
        for at in inputs:
            if at < len(node.input) and node.input[at]:
                found.inputs[at] = req
        for at in outputs:
            if at < len(node.output) and node.output[at]:
                found.outputs[at] = req
                self.values[scope.path, node.output[at]] = req
        for body, at in returned:
            if at < len(body.outputs):
                self.returns[body.path, at] = req
        for body, ats in formals:
            for at in ats:
                if at < len(body.inputs):
                    self.values[body.path, body.inputs[at]] = req

    # edges

    def _source_of(self, scope: Scope, name: str) -> tuple[Key, Req] | None:
        key = self._key(scope, name)
        if key is None or key in self.constants:
            return None
        req = self.values.get(key)
        return None if req is None else (key, req)

    def _link(self, scope: Scope, position: int) -> None:
        found = self.nodes.get((scope.path, position))
        node = scope.nodes[position]
        if found is None:
            self._link_native_cast(scope, position, node)
            return
        for at, req in found.inputs.items():
            source = self._source_of(scope, node.input[at])
            if source is None:
                continue
            self._edge(scope, node.input[at], source[1], req)
            if req == ANY and source[1][0] == "cell":
                if node.op_type in VALUE_BLIND:
                    continue
                if found.cell is not None and found.outputs:
                    self.cells.flow(source[1][1], found.cell)
                else:
                    self.cells.need(source[1][1], self.wide)
            elif req == ANY and found.cell is not None and found.outputs:
                self.cells.source(found.cell, source[1][1])
        if found.cell is not None and node.op_type == "Cast" and not found.inputs:
            self._link_native_cast(scope, position, node)

    def _link_native_cast(self, scope: Scope, position: int, node: onnx.NodeProto) -> None:
        """A Cast from a type that stays: a 16-bit source is no wider than it is."""
        found = self.nodes.get((scope.path, position))
        if found is None or found.cell is None or node.op_type != "Cast" or not node.input:
            return
        before = self.elements.of(self.index, scope, node.input[0]).elem_type
        if before in (TensorProto.FLOAT16, TensorProto.BFLOAT16):
            self.cells.source(found.cell, before)

    def _link_returns(self, scope: Scope) -> None:
        for at, name in enumerate(scope.outputs):
            req = self.returns.get((scope.path, at))
            source = self._source_of(scope, name) if req is not None else None
            if req is not None and source is not None:
                self._edge(scope, name, source[1], req)

    def _edge(self, scope: Scope, name: str, made: Req, read: Req) -> None:
        if self.elements.of(self.index, scope, name).container in ("sequence", "optional"):
            self._tie(made, read)
            return
        match made[0], read[0]:
            case "cell", "cell":
                self.cells.flow(made[1], read[1])
            case "type", "cell":
                self.cells.source(read[1], made[1])
            case "cell", "type":
                self.cells.need(made[1], read[1])

    def _tie(self, made: Req, read: Req) -> None:
        if made[0] == "cell" and read[0] == "cell":
            self.cells.tie(made[1], read[1])
            return
        for one, other in ((made, read), (read, made)):
            if one[0] == "cell" and other[0] == "type":
                cell = self.cells[one[1]]
                cell.element, cell.forced = other[1], other[1] == self.wide
                cell.reason = cell.reason or "a sequence or optional of a settled type, which no Cast converts"

    # the result

    def _element(self, req: Req, stored: int) -> int:
        if req[0] == "cell":
            return self.cells[req[1]].element
        return stored if req[0] == "any" else req[1]

    def _result(self) -> TypeAssignment:
        storage: dict[Key, int] = {}
        for value, req in self.values.items():
            storage[value] = self._element(req, self.wide)
        reads: dict[tuple[NodeId, int], int] = {}
        wanted: dict[Key, set[int]] = {}
        indifferent: list[tuple[NodeId, int, Key]] = []
        nodes: dict[NodeId, NodeTyping] = {}
        for (path, position), found in self.nodes.items():
            scope = self.index.by_path[path]
            node, identity = scope.nodes[position], self.index.node_id(scope, position)
            for at, req in found.inputs.items():
                key = self._key(scope, node.input[at])
                if key is None:
                    continue
                if req == ANY:
                    indifferent.append((identity, at, key))
                else:
                    reads[identity, at] = self._element(req, self.wide)
                    wanted.setdefault(key, set()).add(reads[identity, at])
            if found.cell is not None and (found.outputs or any(req != ANY for req in found.inputs.values())):
                nodes[identity] = self._typing(identity, node, found)
        returns = {place: self._element(req, self.wide) for place, req in self.returns.items()}
        for (path, at), element in returns.items():
            key = self._key(self.index.by_path[path], self.index.by_path[path].outputs[at])
            if key is not None:
                wanted.setdefault(key, set()).add(element)
        for constant in self.constants:
            storage[constant] = self.constants[constant] = self._constant_type(wanted.get(constant, set()))
        for identity, at, value in indifferent:
            reads[identity, at] = storage.get(value, self.wide)
        main = self.index.main
        return TypeAssignment(
            options=self.options,
            nodes=nodes,
            storage=storage,
            wide=self.wide,
            reads=reads,
            returns=returns,
            inputs={name: storage[(), name] for name in main.inputs if ((), name) in self.values},
            outputs={name: returns[(), at] for at, name in enumerate(main.outputs) if ((), at) in returns},
            constants=dict(self.constants),
            cast_sources=self._cast_sources(),
        )

    def _cast_sources(self) -> dict[Key, int]:
        return {
            (scope.path, node.output[0]): self.elements.of(self.index, scope, node.input[0]).elem_type
            for scope, _, node in self.index.nodes()
            if node.op_type == "Cast" and node.domain in ("", "ai.onnx") and node.input and node.output
        }

    def _constant_type(self, wanted: set[int]) -> int:
        """The type under a constant's own name: wide where anyone reads it wide (or nobody reads it)."""
        if not wanted or self.wide in wanted:
            return self.wide
        return self.options.low if self.options.low in wanted else min(wanted)

    def _typing(self, identity: NodeId, node: onnx.NodeProto, found: _Node) -> NodeTyping:
        assert found.cell is not None
        cell = self.cells[found.cell]
        decision = found.decision
        compute = "fp32" if found.keep_as == "compute" else PRECISIONS.get(cell.element, "fp32")
        reason = cell.reason
        if compute == "fp32" and not reason and found.moves:
            reason = "moves values between FP32 neighbors"
        return NodeTyping(
            node=identity,
            op_type=node.op_type,
            io=cell.element,
            compute=compute,
            reason=reason if compute != self.options.precision else "",
            rule=decision.rule if decision is not None and not cell.forced else None,
            forced=cell.forced,
            decided=decision is not None,
            keep_as="compute" if found.keep_as == "compute" else ("island" if compute == "fp32" else None),
            moves=found.moves,
        )


def _loop_variables(node: onnx.NodeProto, body: Scope, opset: int) -> list[_Places]:
    """(node inputs, node outputs, body outputs, body inputs) of every variable of a Loop or Scan.

    Source: Loop 1 to 25: body (iteration, condition, state...) -> (condition, state..., scanned...); Scan 9 and later:
    inputs (state..., scanned...), Scan 8 with sequence_lens before them.
    """
    if node.op_type == "Loop":
        state = len(node.input) - 2
        carried = [([2 + k], [k], [1 + k], [2 + k]) for k in range(state)]
        scans = len(body.outputs) - 1 - state
        return carried + [([], [state + k], [1 + state + k], []) for k in range(max(scans, 0))]
    scanned = next((a.i for a in node.attribute if a.name == "num_scan_inputs"), 0)
    first = 1 if opset < 9 else 0
    state = len(node.input) - first - scanned
    carried = [([first + k], [k], [k], [k]) for k in range(state)]
    reads: list[_Places] = [([first + state + k], [], [], [state + k]) for k in range(scanned)]
    outs: list[_Places] = [([], [k], [k], []) for k in range(state, len(node.output))]
    return carried + reads + outs
