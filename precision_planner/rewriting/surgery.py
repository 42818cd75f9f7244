"""A user's onnx-graphsurgeon script as a step of the pipeline, without what graphsurgeon would lose.

graphsurgeon's round trip drops metadata, node doc strings, quantization annotations, symbolic types, overridable
initializers and function overloads, and stops at attributes it cannot express. So the graph is exported once before
the script and once after it: what is the same in both exports was not touched by the script, and comes from the
original, byte for byte; what differs is the script's, with the original's metadata where the node is still there.
Weights stay where they are: a Constant reads its values when the script looks at them.
"""

from __future__ import annotations

import runpy
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import onnx
from onnx import AttributeProto

from precision_planner._extras import require
from precision_planner.errors import SurgeryError
from precision_planner.model import BytesPayload, Model, first_output, iter_tensors, marker_key, set_payload
from precision_planner.model.edit import set_items, set_nodes
from precision_planner.model.wire import STRIP_BYTES

DEFAULT_FUNCTION = "surgery"


def run_surgery(model: Model, script: str) -> Model:
    """Run ``FILE.py[:FUNCTION]`` on a model.

    The function (``surgery`` unless named, or the file's only one) takes a graphsurgeon Graph and changes it, or
    returns another.

    Raises:
      SurgeryError: the file or function does not exist, fails, or returns something that is no Graph.
    """
    function, name = _load(script)
    gs = require("onnx_graphsurgeon", extra="cpu", purpose="a surgery script")
    graph, untouched = to_graphsurgeon(model)
    try:
        answer = function(graph)
    except (Exception, SystemExit) as error:  # the user's code: whatever it raises is the message
        raise SurgeryError(
            f"{name} failed: {type(error).__name__}: {error}; run it alone to see its traceback"
        ) from error
    if answer is None:
        answer = graph
    if not isinstance(answer, gs.Graph):
        raise SurgeryError(f"{name} returned {type(answer).__name__}; return a graphsurgeon Graph, or None")
    return from_graphsurgeon(answer, model, untouched)


def _load(script: str) -> tuple[Callable[[Any], Any], str]:
    path_text, _, wanted = script.partition(".py:")
    path = Path(path_text + ".py" if wanted else script)
    if not path.is_file():
        raise SurgeryError(f"surgery script {path} does not exist; give FILE.py[:FUNCTION]")
    try:
        scope = runpy.run_path(str(path), run_name="planner_surgery")
    except (Exception, SystemExit) as error:  # the user's code
        raise SurgeryError(f"surgery script {path} cannot be loaded: {type(error).__name__}: {error}") from error
    functions = {
        key: value
        for key, value in scope.items()
        if callable(value) and getattr(value, "__module__", "") == "planner_surgery" and not isinstance(value, type)
    }
    name = wanted or (DEFAULT_FUNCTION if DEFAULT_FUNCTION in functions else next(iter(functions), ""))
    if not wanted and DEFAULT_FUNCTION not in functions and len(functions) != 1:
        found = ", ".join(sorted(functions)) or "none"
        raise SurgeryError(f"surgery script {path} has no function 'surgery' (found: {found}); give {path}:FUNCTION")
    if name not in functions:
        found = ", ".join(sorted(functions)) or "none"
        raise SurgeryError(f"surgery script {path} has no function {name!r}; it has: {found}")
    return functions[name], f"{path}:{name}"


def to_graphsurgeon(model: Model) -> tuple[Any, onnx.ModelProto]:
    """A model as a graphsurgeon Graph, and what graphsurgeon exports if nothing is done to it."""
    gs = require("onnx_graphsurgeon", extra="cpu", purpose="a surgery script")
    proto = _expressible(model.edit())
    untouched = gs.export_onnx(gs.import_onnx(_copy(proto)), do_type_check=False)
    graph = gs.import_onnx(proto)
    _connect_weights(graph, model)
    return graph, untouched


def from_graphsurgeon(graph: Any, model: Model, untouched: onnx.ModelProto) -> Model:
    """A changed graphsurgeon Graph as a model, with everything put back that the script did not touch.

    Args:
      graph: the Graph.
      model: what it was made from.
      untouched: of `to_graphsurgeon`.
    """
    gs = require("onnx_graphsurgeon", extra="cpu", purpose="a surgery script")
    exported = gs.export_onnx(graph, do_type_check=False)
    if exported == untouched:
        return model
    proto = model.edit()
    original = model.proto
    _restore_graph(proto.graph, original.graph, untouched.graph, exported.graph)
    proto.ClearField("opset_import")
    proto.opset_import.extend(
        original.opset_import if _same(untouched.opset_import, exported.opset_import) else exported.opset_import
    )
    _restore_functions(proto, original, untouched, exported)
    if exported.ir_version != untouched.ir_version:
        proto.ir_version = exported.ir_version
    return _store_new_tensors(model, proto)


def _connect_weights(graph: Any, model: Model) -> None:
    """Let every Constant that stands for a stored payload read it from the store."""
    from onnx_graphsurgeon.ir.tensor import Constant, LazyValues

    class StoredValues(LazyValues):  # type: ignore[misc]
        """Values read from the weight store when a script looks at them; exported without being read."""

        def load(self) -> Any:
            return model.array(self.tensor).copy()

    def connect(constant: Any) -> None:
        values = getattr(constant, "_values", None)
        if isinstance(values, LazyValues) and marker_key(values.tensor) is not None:
            stored = StoredValues.__new__(StoredValues)
            stored.__dict__.update(values.__dict__)
            constant._values = stored

    graphs = [graph, *graph.subgraphs(recursive=True), *graph.functions]
    for each in graphs:
        for tensor in each.tensors().values():
            if isinstance(tensor, Constant):
                connect(tensor)
        for node in each.nodes:
            for value in node.attrs.values():
                if isinstance(value, Constant):
                    connect(value)


def _expressible(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Take out what graphsurgeon stops at; it comes back because the nodes were not touched."""

    def clean(nodes: Iterable[onnx.NodeProto]) -> None:
        for node in nodes:
            for at in reversed(range(len(node.attribute))):
                attribute = node.attribute[at]
                if attribute.HasField("g"):
                    clean_graph(attribute.g)
                elif _is_inexpressible(attribute):
                    del node.attribute[at]

    def clean_graph(graph: onnx.GraphProto) -> None:
        for info in (*graph.input, *graph.output, *graph.value_info):
            if info.type.WhichOneof("value") not in (None, "tensor_type"):
                info.ClearField("type")
        clean(graph.node)

    clean_graph(proto.graph)
    for function in proto.functions:
        clean(function.node)
    return proto


def _is_inexpressible(attribute: AttributeProto) -> bool:
    if attribute.ref_attr_name:
        return False
    kind = attribute.type
    if kind in (AttributeProto.INTS, AttributeProto.FLOATS, AttributeProto.STRINGS):
        values = list(attribute.ints) + list(attribute.floats) + list(attribute.strings)
        return not values or any(isinstance(value, bytes) and not _is_text(value) for value in values)
    if kind == AttributeProto.STRING:
        return not _is_text(attribute.s)
    return kind not in (AttributeProto.INT, AttributeProto.FLOAT, AttributeProto.TENSOR, AttributeProto.GRAPH)


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _restore_graph(
    target: onnx.GraphProto, original: onnx.GraphProto, untouched: onnx.GraphProto, exported: onnx.GraphProto
) -> None:
    """Fill `target` with what was exported, taking everything unchanged from the original."""
    set_nodes(target, _merge_nodes(original.node, untouched.node, exported.node))
    for field in ("input", "output", "value_info", "initializer"):
        merged = _merge_named(getattr(original, field), getattr(untouched, field), getattr(exported, field), field)
        set_items(getattr(target, field), merged)
    _put_back(target, original, untouched, exported)
    if exported.name != untouched.name:
        target.name = exported.name
    if exported.doc_string != untouched.doc_string:
        target.doc_string = exported.doc_string


def _merge_nodes(original: Any, untouched: Any, exported: Any) -> list[onnx.NodeProto]:
    before: dict[bytes, list[int]] = {}
    by_output: dict[str, int] = {}
    by_name: dict[str, int] = {}
    for at, node in enumerate(untouched):
        before.setdefault(node.SerializeToString(deterministic=True), []).append(at)
        by_output.setdefault(first_output(node), at)
        by_name.setdefault(node.name, at)
    merged = []
    for node in exported:
        same = before.get(node.SerializeToString(deterministic=True))
        copy = onnx.NodeProto()
        if same:
            copy.CopyFrom(original[same.pop(0)])
        else:
            copy.CopyFrom(node)
            found = by_output.get(first_output(node), by_name.get(node.name) if node.name else None)
            if found is not None and untouched[found].op_type == node.op_type:
                _keep_extras(copy, original[found], untouched[found])
        merged.append(copy)
    return merged


def _keep_extras(node: onnx.NodeProto, original: onnx.NodeProto, untouched: onnx.NodeProto) -> None:
    """What a changed node keeps: doc string, metadata, overload, and attributes graphsurgeon cannot express."""
    if original.doc_string:
        node.doc_string = original.doc_string
    node.metadata_props.extend(original.metadata_props)
    if getattr(original, "overload", ""):
        node.overload = original.overload
    seen = {attribute.name for attribute in untouched.attribute} | {attribute.name for attribute in node.attribute}
    node.attribute.extend(attribute for attribute in original.attribute if attribute.name not in seen)


def _merge_named(original: Any, untouched: Any, exported: Any, field: str) -> list[Any]:
    """Entries in the original's order; new ones last. Interface lists follow the export's order."""
    before = {item.name: item for item in untouched}
    source = {item.name: item for item in original}
    after = {item.name: item for item in exported}

    def pick(name: str) -> Any:
        item = after[name]
        if name in before and name in source and before[name] == item:
            return source[name]
        if name in source and field == "initializer":
            item = _copy(item)
            item.doc_string = source[name].doc_string
        return item

    if field in ("input", "output"):
        return [pick(item.name) for item in exported]
    order = [item.name for item in original if item.name in after]
    return [pick(name) for name in order] + [item for item in exported if item.name not in source]


def _put_back(
    target: onnx.GraphProto, original: onnx.GraphProto, untouched: onnx.GraphProto, exported: onnx.GraphProto
) -> None:
    """What graphsurgeon does not know at all: overridable and unused initializers, value_info, annotations."""
    held = {tensor.name for tensor in target.initializer}
    seen = {tensor.name for tensor in untouched.initializer}
    made = {name for node in target.node for name in node.output}
    unused = [t for t in original.initializer if t.name not in seen and t.name not in held and t.name not in made]
    target.initializer.extend(unused)
    held.update(tensor.name for tensor in unused)
    inputs = {info.name for info in target.input}
    overridable = [info for info in original.input if info.name in held and info.name not in inputs]
    if overridable:
        order = {info.name: at for at, info in enumerate(original.input)}
        every = sorted([*target.input, *overridable], key=lambda info: order.get(info.name, len(order)))
        copies = [_copy(info) for info in every]
        del target.input[:]
        target.input.extend(copies)
    known = {info.name for info in untouched.value_info}
    present = {info.name for info in target.value_info} | inputs
    alive = made | held
    lost = [i for i in original.value_info if i.name not in known and i.name in alive and i.name not in present]
    target.value_info.extend(lost)
    sparse = {tensor.values.name for tensor in exported.sparse_initializer}
    for at in reversed(range(len(target.sparse_initializer))):
        if target.sparse_initializer[at].values.name not in sparse:
            del target.sparse_initializer[at]
    values = alive | inputs | {info.name for info in original.input}
    for at in reversed(range(len(target.quantization_annotation))):
        if target.quantization_annotation[at].tensor_name not in values:
            del target.quantization_annotation[at]


def _restore_functions(
    proto: onnx.ModelProto, original: onnx.ModelProto, untouched: onnx.ModelProto, exported: onnx.ModelProto
) -> None:
    if _same(untouched.functions, exported.functions):
        return
    kept = []
    for at, function in enumerate(exported.functions):
        same = at < len(untouched.functions) and untouched.functions[at] == function
        kept.append(_copy(original.functions[at]) if same else _copy(function))
    del proto.functions[:]
    proto.functions.extend(kept)


def _store_new_tensors(model: Model, proto: onnx.ModelProto) -> Model:
    """Take the weights that the script made out of the graph again."""
    builder = model.weights.builder()
    for site in iter_tensors(proto):
        if marker_key(site.tensor) is None and len(site.tensor.raw_data) >= STRIP_BYTES:
            key = builder.add(BytesPayload(site.tensor.raw_data))
            set_payload(site.tensor, key)
    return model.with_proto(proto, builder.build())


def _same(left: Any, right: Any) -> bool:
    return list(left) == list(right)


def _copy(message: Any) -> Any:
    copy = type(message)()
    copy.CopyFrom(message)
    return copy
