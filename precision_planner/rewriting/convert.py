"""`convert`: writes a type assignment into the graph.

Only what the assignment changes is touched: other nodes, tensors and attributes stay byte-identical, and an
assignment that changes nothing gives back the very model. Steps:

1. constants are cast offline, under their own name where all readers agree, as a copy where they do not;
2. every reading of a value in another type than it is stored in goes to one shared Cast, placed behind its producer
   (or to the value before the model's own Cast, where that is the same);
3. attributes that name a type (Cast.to, ConstantOfShape.value, dtype, stash_type) follow;
4. Casts of the model that became no-ops disappear;
5. interface names stay: where an output is stored low and returned wide, the stored value takes the new name;
6. value_info and body signatures say the new types.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx
from onnx import TensorProto, helper

from precision_planner.model import (
    GraphIndex,
    Model,
    NodeId,
    Scope,
    first_output,
    topological_order,
)
from precision_planner.model.edit import PassResult, set_nodes
from precision_planner.model.names import SUFFIX, FreshNames
from precision_planner.operators import named, row_of
from precision_planner.rewriting.annotations import update_annotations
from precision_planner.rewriting.casts import cast_target, is_cast, is_exact
from precision_planner.rewriting.constants import ConstantWriter
from precision_planner.rewriting.shadows import separate_names
from precision_planner.rewriting.weights import WeightChange, WeightPolicy, check_policy
from precision_planner.typing import Key, TypeAssignment

CAST_OPSET = 13
"""What a model that imports no default domain gets, so that it can hold a Cast (to bfloat16 too)."""


@dataclass(frozen=True, slots=True)
class ConvertOptions:
    """How an assignment is written.

    Attributes:
      weights: the policy for values that the low type cannot hold; see `precision_planner.rewriting.weights`.
    """

    weights: WeightPolicy = "auto"

    def __post_init__(self) -> None:
        check_policy(self.weights)


@dataclass(frozen=True, slots=True)
class ConvertResult(PassResult):
    """A typed model and what was done.

    Attributes:
      model: the typed model; the input model itself where nothing changed.
      converted: nodes that compute in, or move, a 16-bit type.
      casts: Cast nodes added.
      removed_casts: names of the model's own Casts that became no-ops.
      weights: tensors cast offline.
      copies: tensors that exist in two types because their readers differ.
      changes: what the weight policy changed beyond rounding.
      sorted: the graph was not in topological order and now is.
      renamed: values of the input model that have another name in the typed one.
    """

    converted: int = 0
    casts: int = 0
    removed_casts: tuple[str, ...] = ()
    weights: int = 0
    copies: int = 0
    changes: tuple[WeightChange, ...] = ()
    sorted: bool = False
    renamed: Mapping[Key, str] = field(default_factory=dict)


def convert(model: Model, assignment: TypeAssignment, options: ConvertOptions | None = None) -> ConvertResult:
    """Write the typed graph.

    Args:
      model: the model that the assignment was made for.
      assignment: of `assign_types`.
      options: the weight policy.
    """
    if assignment.changes_nothing:
        return ConvertResult(model)
    return _Writer(model, assignment, options or ConvertOptions()).run()


@dataclass(slots=True)
class _Writer:
    """State of one conversion."""

    model: Model
    assignment: TypeAssignment
    options: ConvertOptions
    proto: onnx.ModelProto = field(init=False)
    index: GraphIndex = field(init=False)
    names: FreshNames = field(init=False)
    constants: ConstantWriter = field(init=False)
    stored_name: dict[Key, str] = field(default_factory=dict)
    original_name: dict[str, str] = field(default_factory=dict)
    versions: dict[tuple[Key, int], str] = field(default_factory=dict)
    casts: dict[tuple[str, ...], dict[str, list[onnx.NodeProto]]] = field(default_factory=dict)
    added: dict[tuple[tuple[str, ...], str], tuple[str, int]] = field(default_factory=dict)
    cast_count: int = 0
    bypassed: dict[Key, Key] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.proto = self.model.edit()
        self.index = GraphIndex(self.proto)
        self.names = FreshNames.of(self.proto)
        self.constants = ConstantWriter(self.model, self.index, self.assignment, self.options.weights, self.names)

    def run(self) -> ConvertResult:
        self._rename_outputs()
        self._find_bypasses()
        edits = self._read_edits()
        returned = self._return_edits()
        for node, slot, name in edits:
            node.input[slot] = name
        for scope, at, name in returned:
            self._set_output(scope, at, name)
        for scope, position, node in self.index.nodes():
            self._retype(scope, position, node)
        self.constants.write()
        removed = self._dead_casts()
        update_annotations(self.index, self.assignment, self.stored_name, self.added)
        is_sorted = self._rebuild(removed)
        separate_names(self.proto, self.names)
        weights = self.constants.store()
        return ConvertResult(
            self.model.with_proto(self.proto, weights),
            converted=len(self.assignment.converted),
            casts=self.cast_count,
            removed_casts=tuple(node.name or first_output(node) for node in removed.values()),
            weights=self.constants.count,
            copies=self.constants.copies,
            changes=tuple(self.constants.changes),
            sorted=is_sorted,
            renamed=dict(self.stored_name),
        )

    # names of values in their types

    def _storage(self, key: Key) -> int | None:
        return self.assignment.storage.get(key)

    def _rename_outputs(self) -> None:
        """An interface output that is stored in another type gives its name to the Cast."""
        main = self.index.main
        for at, name in enumerate(main.outputs):
            wanted, stored = self.assignment.returns.get(((), at)), self._storage(((), name))
            position = main.producer(name)
            if wanted is None or stored is None or wanted == stored or position is None:
                continue
            if ((), name) in self.assignment.constants or ((), name) in self.stored_name:  # listed twice
                continue
            inner = self.names.fresh(f"{name}__{SUFFIX[stored]}")
            self.stored_name[(), name] = inner
            self.original_name[inner] = name
            self.versions[((), name), wanted] = name
            node = main.nodes[position]
            for index, output in enumerate(node.output):
                if output == name:
                    node.output[index] = inner
            self._add_cast(main, ((), name), inner, name, wanted)

    def _name(self, scope: Scope, value: str, element: int) -> str:
        """The name under which `value` is read as `element`, made where it does not exist yet."""
        holder = self.index.resolve(scope, value)
        assert holder is not None
        key = (holder.path, value)
        while key in self.bypassed and self._storage(key) == element:
            key = self.bypassed[key]
        holder, value = self.index.by_path[key[0]], key[1]
        stored = self._storage(key)
        if stored is None or stored == element:
            return self.stored_name.get(key, value)
        known = self.versions.get((key, element))
        if known is not None:
            return known
        if key in self.assignment.constants:
            name = self.constants.copy(key, element)
        else:
            before = self._before_cast(holder, value, element, stored)
            name = before or self._new_cast(holder, key, value, element)
        self.versions[key, element] = name
        return name

    def _before_cast(self, holder: Scope, value: str, element: int, stored: int) -> str | None:
        """What the model's own widening Cast read, where that is what the reader wants back."""
        node = holder.producer_node(value)
        if node is None or not is_cast(node):
            return None
        source = self.index.resolve(holder, node.input[0])
        if source is None or self._source_element(holder, node) != element or not is_exact(element, stored):
            return None
        if self._storage((source.path, node.input[0])) is not None:
            return self._name(holder, node.input[0], element)
        return self._plain_name(holder, node.input[0])

    def _source_element(self, scope: Scope, cast: onnx.NodeProto) -> int:
        """The type that one of the model's own Casts reads now."""
        holder = self.index.resolve(scope, cast.input[0])
        stored = self._storage((holder.path, cast.input[0])) if holder is not None else None
        name = first_output(cast)
        original = self.original_name.get(name, name)
        return stored if stored is not None else self.assignment.cast_sources.get((scope.path, original), 0)

    def _new_cast(self, holder: Scope, key: Key, value: str, element: int) -> str:
        name = self.names.fresh(f"{value}__{SUFFIX[element]}")
        self._add_cast(holder, key, self.stored_name.get(key, value), name, element)
        return name

    def _add_cast(self, holder: Scope, key: Key, source: str, name: str, element: int) -> None:
        node = helper.make_node("Cast", [source], [name], self.names.fresh(f"{key[1]}__cast_{SUFFIX[element]}"))
        node.attribute.append(helper.make_attribute("to", element))
        producer = holder.producer(key[1])
        anchor = "" if producer is None else str(producer)
        self.casts.setdefault(holder.path, {}).setdefault(anchor, []).append(node)
        self.added[holder.path, name] = (key[1], element)
        self.cast_count += 1

    # the model's own Casts

    def _find_bypasses(self) -> None:
        """Casts that are no-ops now, alone or behind one that loses nothing: readers read what stands before."""
        for scope, _, node in self.index.nodes():
            if not is_cast(node) or scope.is_output(node.output[0]) or node.output[0] in self.original_name:
                continue
            through = self._through(scope, node)
            value = node.input[0] if through is None else through[1].input[0]
            source = self.index.resolve(scope if through is None else through[0], value)
            if source is None or (source.path, value) in self.assignment.constants:
                continue
            before = self._source_element(scope, node) if through is None else self._source_element(*through)
            known = before != self.assignment.wide or through is not None
            if before == self._made_element(scope, node) and known:
                self.bypassed[scope.path, node.output[0]] = (source.path, value)

    def _through(self, scope: Scope, node: onnx.NodeProto) -> tuple[Scope, onnx.NodeProto] | None:
        """The first Cast of the chain that `node` ends, all of which before it lose nothing; None for no chain."""
        found = None
        while True:
            holder = self.index.resolve(scope, node.input[0])
            before = None if holder is None else holder.producer_node(node.input[0])
            if holder is None or before is None or not is_cast(before):
                return found
            if not is_exact(self._source_element(holder, before), self._made_element(holder, before)):
                return found
            found = scope, node = holder, before

    def _made_element(self, scope: Scope, cast: onnx.NodeProto) -> int:
        """The type that one of the model's own Casts makes now."""
        name = cast.output[0]
        stored = self._storage((scope.path, self.original_name.get(name, name)))
        return cast_target(cast) if stored is None else stored

    def _dead_casts(self) -> dict[tuple[tuple[str, ...], int], onnx.NodeProto]:
        """The Casts that were read before and are not any more."""
        names = {name for _, _, node in self.index.nodes() for name in node.input}
        for by_anchor in self.casts.values():
            names.update(node.input[0] for nodes in by_anchor.values() for node in nodes)
        for scope in self.index.scopes:
            names.update(info if isinstance(info, str) else info.name for info in scope.container.output)
        dead: dict[tuple[tuple[str, ...], int], onnx.NodeProto] = {}
        work = [(scope, position) for scope, position, node in self.index.nodes() if is_cast(node)]
        for scope, position in reversed(work):
            node = scope.nodes[position]
            value = node.output[0]
            was_read = scope.consumers(value) or value in scope.captures
            if value not in names and was_read and not scope.is_output(value):
                dead[scope.path, position] = node
        return dead

    # edits

    def _read_edits(self) -> list[tuple[onnx.NodeProto, int, str]]:
        edits = []
        reads = self.assignment.reads
        for scope, position, node in self.index.nodes():
            identity = self._identity(scope, position)
            for slot, value in enumerate(node.input):
                if not value:
                    continue
                chain = self._through(scope, node) if is_cast(node) else None
                if chain is not None:
                    edits.append((node, slot, self._plain_name(chain[0], chain[1].input[0])))
                    continue
                element = reads.get((identity, slot))
                name = self._name(scope, value, element) if element is not None else self._plain_name(scope, value)
                if name != value:
                    edits.append((node, slot, name))
        return edits

    def _plain_name(self, scope: Scope, value: str) -> str:
        holder = self.index.resolve(scope, value)
        if holder is None:
            return value
        key = (holder.path, value)
        while key in self.bypassed:
            key = self.bypassed[key]
        return self.stored_name.get(key, key[1])

    def _identity(self, scope: Scope, position: int) -> NodeId:
        """The node's identity in the input model, whose outputs may have been renamed by now."""
        return self._identities()[scope.path][position]

    _identity_cache: dict[tuple[str, ...], list[NodeId]] | None = None

    def _identities(self) -> dict[tuple[str, ...], list[NodeId]]:
        if self._identity_cache is None:
            found: dict[tuple[str, ...], list[NodeId]] = {}
            for scope in self.index.scopes:
                row = []
                for position, node in enumerate(scope.nodes):
                    output = first_output(node)
                    row.append(NodeId(scope.path, self.original_name.get(output, output) or f"#{position}"))
                found[scope.path] = row
            self._identity_cache = found
        return self._identity_cache

    def _return_edits(self) -> list[tuple[Scope, int, str]]:
        edits = []
        for (path, at), element in self.assignment.returns.items():
            scope = self.index.by_path[path]
            if not path:
                continue
            value = scope.outputs[at]
            name = self._name(scope, value, element)
            if scope.kind == "function" and name in scope.inputs:
                # onnxruntime refuses a function that returns an argument as it is
                name = self._new_cast(scope, (scope.path, value), value, element)
            if name != value:
                edits.append((scope, at, name))
        return edits

    def _set_output(self, scope: Scope, at: int, name: str) -> None:
        container = scope.container
        if isinstance(container, onnx.GraphProto):
            container.output[at].name = name
        else:
            container.output[at] = name

    def _retype(self, scope: Scope, position: int, node: onnx.NodeProto) -> None:
        """Make the attributes that name a type say the new one."""
        if not node.output:
            return
        identity = self._identity(scope, position)
        typing = self.assignment.nodes.get(identity)
        if typing is not None and typing.keep_as == "compute" and row_of(node).statistics_type:
            _set_int(node, "stash_type", TensorProto.FLOAT, default=TensorProto.FLOAT)
        element = self.assignment.storage.get((scope.path, identity.output))
        if element is None or node.domain not in ("", "ai.onnx"):
            return
        attribute = row_of(node).type_attribute
        is_named = attribute != "" and named(node, attribute) is not None
        # Bernoulli, EyeLike, RandomNormalLike, RandomUniformLike: without it the output is of the input's type, and a
        # DequantizeLinear's of the scale's
        source = 1 if row_of(node).quantizes else 0
        like = None if row_of(node).converts else self.assignment.reads.get((identity, source))
        if element == self.assignment.wide:
            if attribute and not is_named and like is not None and like != element:
                _set_int(node, attribute, element)
            return
        if node.op_type == "ConstantOfShape":
            self.constants.fill(node, (scope.path, identity.output), element)
        elif node.op_type == "Optional":
            _retype_optional(node, element)
        if attribute and (is_named or like != element):
            _set_int(node, attribute, element)

    def _rebuild(self, removed: Mapping[tuple[tuple[str, ...], int], onnx.NodeProto]) -> bool:
        """Put the Casts in and take the dead ones out, innermost graphs first (a graph's nodes are copied)."""
        was_sorted = False
        for scope in reversed(self.index.scopes):
            casts = self.casts.get(scope.path, {})
            front = [*self.constants.nodes.get(scope.path, {}).get("", []), *casts.get("", [])]
            nodes: list[onnx.NodeProto] = list(front)
            changed = bool(casts) or bool(self.constants.nodes.get(scope.path))
            for position, node in enumerate(scope.nodes):
                if (scope.path, position) in removed:
                    changed = True
                    continue
                nodes.append(node)
                nodes += self.constants.nodes.get(scope.path, {}).get(str(position), [])
                nodes += casts.get(str(position), [])
            order = topological_order(nodes) if scope.kind != "subgraph" or changed else None
            if order is not None:
                nodes = [nodes[at] for at in order]
                was_sorted = changed = True
            if not changed:
                continue
            set_nodes(scope.container, nodes)
            if casts:
                self._import_default_domain(scope)
        return was_sorted

    def _import_default_domain(self, scope: Scope) -> None:
        """A Cast needs the default domain, which a function or a model of custom operators may not import."""
        while scope.parent is not None:
            scope = scope.parent
        function = scope.container if isinstance(scope.container, onnx.FunctionProto) else None
        imports = self.proto.opset_import if function is None else function.opset_import
        if not any(entry.domain in ("", "ai.onnx") for entry in imports):
            imports.add(domain="", version=self.model.opset if self.model.opset > 1 else CAST_OPSET)


def _set_int(node: onnx.NodeProto, name: str, value: int, default: int | None = None) -> None:
    for attribute in node.attribute:
        if attribute.name == name:
            attribute.i = value
            return
    if value != default:
        node.attribute.append(helper.make_attribute(name, value))


def _retype_optional(node: onnx.NodeProto, element: int) -> None:
    for attribute in node.attribute:
        if attribute.name == "type":
            proto = attribute.tp
            while proto.WhichOneof("value") in ("sequence_type", "optional_type"):
                proto = getattr(proto, proto.WhichOneof("value")).elem_type
            proto.tensor_type.elem_type = element
