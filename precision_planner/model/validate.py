"""One look at a model when it is loaded, so that nothing behind it meets what ONNX does not allow.

Checked, in this order, each with the place named:

1. opset versions that onnx knows; names that are UTF-8;
2. tensors: dimensions, element types, the field that holds the values, and how many there are;
3. local functions: none that calls itself, none that grows past `MAX_EXPANDED_NODES` when written out;
4. every graph: a value is made once, by something that does not depend on it, and what is read is made somewhere;
   operators of ONNX have as many inputs and outputs and the attributes that their definition asks for; bodies of If,
   Loop and Scan take and return what their node says;
5. the interface: element types that exist, and at least one output.

Graphs that are not sorted, operators that onnx does not know, and shapes or types that contradict the annotations are
no errors here: others accept them, and so does the planner.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from math import prod
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto

from precision_planner.errors import ModelError
from precision_planner.model.bodies import held_by
from precision_planner.model.payloads import FileSlice, Payload
from precision_planner.model.tensors import TensorSite, dense_nbytes, iter_tensors, marker_key
from precision_planner.model.texts import texts
from precision_planner.model.wire import RAW_DATA, VARINT_FIELDS
from precision_planner.operators import row_of

MAX_EXPANDED_NODES = 2_000_000
"""Nodes that a model may have once its functions are written out where they are called."""

MAX_FUNCTION_DEPTH = 64
"""Functions that may call each other in a chain."""

_STANDARD = ("", "ai.onnx")
_T = TensorProto
_DATA_TYPES = frozenset(_T.DataType.values())
_BY_INT32 = frozenset(
    value
    for name, value in _T.DataType.items()
    if name.startswith(("FLOAT16", "BFLOAT16", "FLOAT8", "FLOAT4", "FLOAT6", "INT4", "UINT4", "INT2", "UINT2"))
    or name in ("INT32", "INT16", "INT8", "UINT16", "UINT8", "BOOL")
)
_FIELDS: Mapping[int, tuple[str, frozenset[int]]] = {
    4: ("float_data", frozenset({_T.FLOAT, _T.COMPLEX64})),
    5: ("int32_data", _BY_INT32),
    6: ("string_data", frozenset({_T.STRING})),
    7: ("int64_data", frozenset({_T.INT64})),
    10: ("double_data", frozenset({_T.DOUBLE, _T.COMPLEX128})),
    11: ("uint64_data", frozenset({_T.UINT64, _T.UINT32})),
}
"""Number of a TensorProto field -> (its name, the element types that may be stored there)."""


def validate(proto: onnx.ModelProto, weights: Mapping[str, Payload], where: str) -> None:
    """Check a stripped model.

    Args:
      proto: the stripped model.
      weights: its payloads.
      where: what to call it in messages, such as its path.

    Raises:
      ModelError: what is wrong, at which node, value or tensor, and what to do.
    """
    try:
        _check_opsets(proto)
        _check_texts(proto)
        for site in iter_tensors(proto):
            _check_tensor(site, weights)
        _check_functions(proto)
        _check_interface(proto.graph)
        opsets = {_domain(entry.domain): int(entry.version) for entry in proto.opset_import}
        _check_output_types(proto.graph, opsets)
        unknown = _free_names(proto.graph, opsets, "the main graph")
        if unknown:
            name, reader = next(iter(sorted(unknown.items())))
            raise ModelError(f"{reader} reads '{name}', which nothing in the model makes")
        for function in proto.functions:
            _check_function(function)
    except ModelError as error:
        raise ModelError(f"{where} is not a valid model: {error}; export it again") from None


def _domain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


# --- 1: opsets and texts


def _check_opsets(proto: onnx.ModelProto) -> None:
    newest = onnx.defs.onnx_opset_version()
    imports = [*proto.opset_import, *(entry for function in proto.functions for entry in function.opset_import)]
    for entry in imports:
        if entry.domain in _STANDARD and not 1 <= entry.version <= newest:
            raise ModelError(f"it asks for opset {entry.version}, and onnx {onnx.__version__} knows 1 to {newest}")
        if not 0 <= entry.version < 2**31:
            raise ModelError(f"it asks for version {entry.version} of the domain '{_shown(entry.domain)}'")
    for imported in (proto.opset_import, *(function.opset_import for function in proto.functions)):
        asked: dict[str, int] = {}
        for entry in imported:
            if asked.setdefault(_domain(entry.domain), entry.version) != entry.version:
                raise ModelError(f"it asks for two versions of the domain '{_shown(entry.domain)}'")


def _check_texts(proto: onnx.ModelProto) -> None:
    """Names are UTF-8; protobuf hands out bytes where they are not."""
    for text in texts(proto):
        if isinstance(text, bytes):
            raise ModelError(f"the name {text[:40]!r} is not UTF-8")


def _shown(text: str) -> str:
    """A name for a message, however long."""
    return text if len(text) <= 80 else f"{text[:40]}...{text[-30:]}"


# --- 2: tensors


def _check_tensor(site: TensorSite, weights: Mapping[str, Payload]) -> None:
    tensor = site.tensor
    name = _tensor_name(site)
    dims = list(tensor.dims)
    if any(dim < 0 for dim in dims):
        raise ModelError(f"{name} has the shape {dims}")
    if tensor.data_type not in _DATA_TYPES or tensor.data_type == _T.UNDEFINED:
        raise ModelError(f"{name} has element type {tensor.data_type}, which onnx {onnx.__version__} does not know")
    count = prod(dims)
    held = _held(tensor, weights)
    if held is None:
        return
    if not held:
        if count and tensor.data_type != _T.STRING:
            raise ModelError(f"{name} has no values, and its shape {dims} takes {count}")
        return
    if len(held) > 1:
        raise ModelError(f"{name} holds its values twice, in {' and '.join(_field_name(field) for field in held)}")
    ((field, found),) = held.items()
    if field == RAW_DATA:
        wanted, unit = dense_nbytes(tensor.data_type, dims), "bytes"
    else:
        label, types = _FIELDS[field]
        if tensor.data_type not in types:
            told = _T.DataType.Name(tensor.data_type)
            raise ModelError(f"{name} is {told} and has its values in {label}, which is for other types")
        wanted, unit = count * (2 if tensor.data_type in (_T.COMPLEX64, _T.COMPLEX128) else 1), "values"
        packed = dense_nbytes(tensor.data_type, dims) if tensor.data_type != _T.STRING else wanted
        if packed < wanted and found == packed:  # two 4-bit values in a number
            return
    if found != wanted:
        raise ModelError(f"{name} holds {found} {unit} where its shape {dims} takes {wanted}")


def _held(tensor: TensorProto, weights: Mapping[str, Payload]) -> dict[int, int] | None:
    """Field -> how many values it holds (bytes of raw data); None for what lies in a file of its own."""
    key = marker_key(tensor)
    if key is not None:
        payload = weights[key]
        if not isinstance(payload, FileSlice):
            return None
        if payload.field in VARINT_FIELDS:
            return {payload.field: _varints(payload)}
        if payload.field == RAW_DATA:
            return {RAW_DATA: payload.length}
        return {payload.field: payload.length // (8 if payload.field == 10 else 4)}
    if tensor.data_location == _T.EXTERNAL:
        return None
    found = {field: len(getattr(tensor, name)) for field, (name, _) in _FIELDS.items()}
    found[RAW_DATA] = len(tensor.raw_data)
    return {field: count for field, count in found.items() if count}


def _varints(payload: FileSlice) -> int:
    return sum(int(np.count_nonzero(np.frombuffer(chunk, np.uint8) < 0x80)) for chunk in payload.stored_chunks())


def _field_name(field: int) -> str:
    return "raw_data" if field == RAW_DATA else _FIELDS[field][0]


def _tensor_name(site: TensorSite) -> str:
    if site.node is not None:
        return f"attribute '{site.attribute}' of {_node_name(site.node)}"
    return f"initializer '{_shown(site.tensor.name)}'"


# --- 3: functions


def _check_functions(proto: onnx.ModelProto) -> None:
    """No function calls itself, and written out the model keeps a size that can be worked with."""
    functions = {(_domain(function.domain), function.name): function for function in proto.functions}
    if not functions:
        return
    taken = {(_domain(each.domain), each.name, each.overload): each for each in proto.functions}
    for node in _every_node((proto.graph.node, *(function.node for function in proto.functions))):
        called = taken.get((_domain(node.domain), node.op_type, node.overload))
        if called is not None and (len(node.input) > len(called.input) or len(node.output) > len(called.output)):
            raise ModelError(
                f"{_node_name(node)} calls the function '{_shown(called.name)}' with {len(node.input)} inputs and "
                f"{len(node.output)} outputs, and it has {len(called.input)} and {len(called.output)}"
            )
    calls = {key: list(_called(function.node, functions)) for key, function in functions.items()}
    sizes: dict[tuple[str, str], int] = {}
    depths: dict[tuple[str, str], int] = {}
    for start in functions:
        stack = [(start, iter(calls[start]))]
        open_calls = {start}
        while stack:
            key, rest = stack[-1]
            callee = next(rest, None)
            if callee is None:
                sizes[key] = min(
                    MAX_EXPANDED_NODES + 1, _count(functions[key].node) + sum(sizes[inner] for inner in calls[key])
                )
                depths[key] = 1 + max((depths[inner] for inner in calls[key]), default=0)
                open_calls.discard(key)
                stack.pop()
            elif callee in open_calls:
                raise ModelError(f"the function '{_shown(callee[1])}' calls itself")
            elif callee not in sizes:
                open_calls.add(callee)
                stack.append((callee, iter(calls[callee])))
    main = list(_called(proto.graph.node, functions))
    if sum(sizes[key] for key in main) > MAX_EXPANDED_NODES:
        raise ModelError(f"its functions make more than {MAX_EXPANDED_NODES} nodes when they are written out")
    if max((depths[key] for key in main), default=0) > MAX_FUNCTION_DEPTH:
        raise ModelError(f"its functions call each other more than {MAX_FUNCTION_DEPTH} deep")


def _called(nodes: Iterable[NodeProto], functions: Mapping[tuple[str, str], Any]) -> Iterator[tuple[str, str]]:
    for node in nodes:
        key = (_domain(node.domain), node.op_type)
        if key in functions:
            yield key
        for attribute in node.attribute:
            for body in held_by(attribute):
                yield from _called(body.node, functions)


def _every_node(lists: Iterable[Iterable[NodeProto]]) -> Iterator[NodeProto]:
    for nodes in lists:
        for node in nodes:
            yield node
            yield from _every_node(body.node for attribute in node.attribute for body in held_by(attribute))


def _count(nodes: Iterable[NodeProto]) -> int:
    return sum(
        1 + sum(_count(body.node) for attribute in node.attribute for body in held_by(attribute)) for node in nodes
    )


def _check_function(function: onnx.FunctionProto) -> None:
    opsets = {_domain(entry.domain): int(entry.version) for entry in function.opset_import}
    where = f"the function '{_shown(function.name)}'"
    defined = set(function.input)
    free = _check_nodes(function.node, defined, opsets, where)
    made = defined | {name for node in function.node for name in node.output}
    free.update({name: f"the output of {where}" for name in function.output if name not in made})
    free = {name: reader for name, reader in free.items() if name not in made}
    if free:
        name, reader = next(iter(sorted(free.items())))
        raise ModelError(f"{reader} reads '{_shown(name)}', which nothing in {where} makes")


# --- 4: graphs


def _free_names(graph: GraphProto, opsets: Mapping[str, int], where: str) -> dict[str, str]:
    """Names that a graph reads and does not define, each with a reader."""
    inputs = [value.name for value in graph.input]
    _unique(inputs, f"an input of {where}")
    initializers = [*(t.name for t in graph.initializer), *(s.values.name for s in graph.sparse_initializer)]
    _unique(initializers, f"an initializer of {where}")
    defined = {*inputs, *initializers}
    free = _check_nodes(graph.node, defined, opsets, where)
    defined.update(name for node in graph.node for name in node.output)
    for value in graph.output:
        if not value.name:
            raise ModelError(f"an output of {where} has no name")
        if value.name not in defined:
            free.setdefault(value.name, f"an output of {where}")
    return {name: reader for name, reader in free.items() if name not in defined}


def _unique(names: Sequence[str], what: str) -> None:
    if len(set(names)) != len(names):
        twice = next(name for position, name in enumerate(names) if name in names[:position])
        raise ModelError(f"'{_shown(twice)}' is twice {what}")


def _check_nodes(
    nodes: Sequence[NodeProto], defined: set[str], opsets: Mapping[str, int], where: str
) -> dict[str, str]:
    """Check the nodes of one graph; what they read (their bodies included), each name with a reader."""
    made: dict[str, int] = {}
    read: dict[str, str] = {}
    needs: list[set[str]] = []
    for position, node in enumerate(nodes):
        if not node.output:
            raise ModelError(f"node '{_shown(node.name)}' of type {node.op_type} in {where} makes nothing")
        for name in node.output:
            if not name:
                continue
            if name in made or name in defined:
                raise ModelError(f"{_node_name(node)} makes '{_shown(name)}', which is there already in {where}")
            made[name] = position
        _check_definition(node, opsets)
        taken = {name for name in node.input if name}
        for attribute in node.attribute:
            for body in held_by(attribute):
                taken.update(_free_names(body, opsets, f"the body '{attribute.name}' of {_node_name(node)}"))
        _check_bodies(node, opsets)
        needs.append(taken)
        for name in taken:
            if name not in read:
                read[name] = _node_name(node)
    _refuse_cycle(nodes, made, needs)
    return read


def _refuse_cycle(nodes: Sequence[NodeProto], made: Mapping[str, int], needs: Sequence[set[str]]) -> None:
    sources = [{made[name] for name in need if name in made} for need in needs]
    if all(source < at for at, found in enumerate(sources) for source in found):
        return  # sorted
    missing = [len(found) for found in sources]
    readers: dict[int, list[int]] = {}
    for at, found in enumerate(sources):
        for source in found:
            readers.setdefault(source, []).append(at)
    ready = [at for at, count in enumerate(missing) if not count]
    done = 0
    while ready:
        done += 1
        for reader in readers.get(ready.pop(), ()):
            missing[reader] -= 1
            if not missing[reader]:
                ready.append(reader)
    if done < len(nodes):
        # walk back among what never became ready until a node comes again: that one is on a cycle
        at, seen = next(at for at, count in enumerate(missing) if count), set[int]()
        while at not in seen:
            seen.add(at)
            at = next(source for source in sorted(sources[at]) if missing[source])
        raise ModelError(f"{_node_name(nodes[at])} depends on its own result, by a cycle in the graph")


@cache
def _definition(op_type: str, version: int, domain: str) -> onnx.defs.OpSchema | None:
    try:
        return onnx.defs.get_schema(op_type, version, domain)
    except onnx.defs.SchemaError:
        return None


def _check_definition(node: NodeProto, opsets: Mapping[str, int]) -> None:
    """Arity and attributes, where onnx defines the operator at that version."""
    domain = _domain(node.domain)
    version = opsets.get(domain, 1 if domain == "" else 0)
    schema = _definition(node.op_type, version, domain) if version else None
    # an operator that came, or was changed, after the model's opset is accepted, with the arity that it came with
    known = schema or (_definition(node.op_type, onnx.defs.onnx_opset_version(), "") if domain == "" else None)
    if known is None:
        return
    _check_arity(node, known)
    if schema is not None:
        _check_attributes(node, schema)


def _check_arity(node: NodeProto, schema: onnx.defs.OpSchema) -> None:
    given = len(node.input) if len(node.input) > schema.max_input else _length(node.input)
    if not schema.min_input <= given <= schema.max_input:
        most = "" if schema.max_input == schema.min_input else f" to {min(schema.max_input, 2**31 - 1)}"
        raise ModelError(f"{_node_name(node)} has {given} inputs, and {node.op_type} takes {schema.min_input}{most}")
    for formal, name in zip(schema.inputs, node.input, strict=False):
        if not name and formal.option == onnx.defs.OpSchema.FormalParameterOption.Single:
            raise ModelError(f"{_node_name(node)} lacks its input '{formal.name}', which {node.op_type} needs")
    returned = _length(node.output)
    if not schema.min_output <= len(node.output) <= schema.max_output:
        raise ModelError(f"{_node_name(node)} has {returned} outputs, and {node.op_type} gives {schema.max_output}")


def _check_attributes(node: NodeProto, schema: onnx.defs.OpSchema) -> None:
    attributes = {attribute.name: attribute for attribute in node.attribute}
    if len(attributes) != len(node.attribute):
        raise ModelError(f"{_node_name(node)} has an attribute twice")
    for name, wanted in schema.attributes.items():
        attribute = attributes.get(name)
        if attribute is None:
            if wanted.required:
                raise ModelError(f"{_node_name(node)} lacks the attribute '{name}', which {node.op_type} needs")
        elif attribute.type != _number(wanted.type) and not attribute.ref_attr_name:
            told = AttributeProto.AttributeType.Name(attribute.type) if attribute.type < 15 else attribute.type
            raise ModelError(
                f"attribute '{name}' of {_node_name(node)} is {told}, not of the type that {node.op_type} wants"
            )
    element = attributes.get(row_of(node).type_attribute)
    if element is not None and not element.ref_attr_name and element.i not in _DATA_TYPES:
        raise ModelError(
            f"attribute '{element.name}' of {_node_name(node)} is element type {element.i}, which onnx "
            f"{onnx.__version__} does not know"
        )


def _number(kind: Any) -> int:
    """The AttributeProto.AttributeType of a schema's attribute type."""
    return int(kind.value)


def _length(names: Sequence[str]) -> int:
    """How many, without the empty ones at the end."""
    count = len(names)
    while count and not names[count - 1]:
        count -= 1
    return count


def _check_bodies(node: NodeProto, opsets: Mapping[str, int]) -> None:
    """If, Loop and Scan: bodies take and return what their node says."""
    if _domain(node.domain):
        return
    for attribute in node.attribute:
        for body in held_by(attribute):
            takes, gives = len(body.input), len(body.output)
            if node.op_type == "If":
                wanted, returned = 0, len(node.output)
            elif node.op_type == "Loop":
                wanted, returned = max(2, len(node.input)), len(node.output) + 1
            elif node.op_type == "Scan":
                wanted, returned = len(node.input) - (opsets.get("", 1) < 9), len(node.output)
            else:
                continue
            if takes != wanted or gives < returned:
                raise ModelError(
                    f"the body '{attribute.name}' of {_node_name(node)} takes {takes} values and gives {gives}, where "
                    f"{node.op_type} needs {wanted} and {returned}"
                )


def _node_name(node: NodeProto) -> str:
    output = next((name for name in node.output if name), "")
    return f"node '{_shown(node.name)}'" if node.name else f"the {node.op_type} that makes '{_shown(output)}'"


# --- 5: the interface


def _check_interface(graph: GraphProto) -> None:
    if not graph.output:
        raise ModelError("it has no output, so that there is nothing to judge")
    if not all(value.name for value in (*graph.input, *graph.output)):
        raise ModelError("an input or output has no name")
    declared: dict[str, int] = {}
    for value in (*graph.input, *graph.output, *graph.value_info):
        kind = value.type.tensor_type.elem_type if value.type.HasField("tensor_type") else 0
        if kind and declared.setdefault(value.name, kind) != kind:
            raise ModelError(f"'{_shown(value.name)}' is declared with two element types")
    held = {tensor.name for tensor in graph.initializer} | {entry.values.name for entry in graph.sparse_initializer}
    for value in graph.input:
        if value.name in held:
            continue
        if not value.type.WhichOneof("value"):
            raise ModelError(f"input '{_shown(value.name)}' has no type")
    for value in (*(value for value in graph.input if value.name not in held), *graph.output):
        if value.type.HasField("tensor_type") and value.type.tensor_type.elem_type == _T.UNDEFINED:
            raise ModelError(f"'{_shown(value.name)}' is declared as a tensor of no element type")
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.HasField("tensor_type") and value.type.tensor_type.elem_type not in _DATA_TYPES:
            raise ModelError(
                f"'{_shown(value.name)}' has element type {value.type.tensor_type.elem_type}, which onnx "
                f"{onnx.__version__} does not know"
            )


def _check_output_types(graph: GraphProto, opsets: Mapping[str, int]) -> None:
    """What the model returns is declared as a type that its operator can give."""
    made = {name: (node, slot) for node in graph.node for slot, name in enumerate(node.output) if name}
    for value in graph.output:
        if value.name not in made or not value.type.HasField("tensor_type"):
            continue
        node, slot = made[value.name]
        version = opsets.get(_domain(node.domain), 0)
        schema = _definition(node.op_type, version, _domain(node.domain)) if version else None
        element = value.type.tensor_type.elem_type
        if schema is None or not element or slot >= len(schema.outputs):
            continue
        told = f"tensor({_T.DataType.Name(element).lower()})"
        given = {text for text in schema.outputs[slot].types if text.startswith("tensor(")}
        if given and told not in given:
            raise ModelError(f"output '{_shown(value.name)}' is declared {told}, which {node.op_type} cannot give")
