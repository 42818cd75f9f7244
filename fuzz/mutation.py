"""Mutations of a valid model that keep it a ModelProto: rewired, retyped, reshaped, nested, renamed.

Bytes mutated at random are no protobuf after a few steps; these stay one, and so reach what lies behind the parser.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from precision_planner.model.bodies import graphs_of

OPERATORS = sorted({schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""})
DIMS = (-1, 0, 1, 2, 3, 4, 7, 8, 2**33, 2**62)
VALUES = (np.nan, np.inf, 0.0, 1e-45, 1e38, -2.0, 2.0, 0.5, 65520.0, 1e-5)
INTEGERS = (-1, 0, 1, 2, 3, 10, 16, -9, 2**31, -(2**63), 2**40)
TOKENS = (
    b"[",
    b"]",
    b"{",
    b"}",
    b'"',
    b"'",
    b"\\",
    b"\n",
    b"\0",
    b"\xff",
    b"null",
    b"1e999",
    b"-",
    b"--",
    b"=",
    b"&a",
    b"*a",
    b": ",
)
NAMES = ("", "a/b", "x" * 300, "é", "a\nb", "\x1b[31m", "a:b,c*", "[0]", "${x}", "`id`")


def mutate(model: onnx.ModelProto, rng: random.Random, seeds: Sequence[onnx.ModelProto]) -> None:
    """Change a model in place, in one to five ways."""
    for _ in range(rng.choice((1, 1, 1, 2, 3, 5))):
        change = rng.choice(_CHANGES)
        try:
            change(model, rng.choice(_graphs(model)), rng, seeds)
        except (ValueError, IndexError, TypeError):
            continue  # the change has no place in this graph: protobuf or random say so


def mutated_bytes(data: bytes, most: int, rng: random.Random, seeds: Sequence[onnx.ModelProto]) -> bytes:
    """A serialized model, mutated; of what is none, or now and then, another model is taken."""
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except Exception:  # protobuf's DecodeError, whose class differs between its implementations
        model.Clear()
    if not model.graph.node or rng.random() < 0.05:
        model.CopyFrom(rng.choice(seeds))
    mutate(model, rng, seeds)
    made = model.SerializeToString()
    return made if len(made) <= most else data


def mutated_text(data: bytes, most: int, rng: random.Random, others: Sequence[bytes]) -> bytes:
    """Bytes, mutated: cut, doubled, overwritten, joined with another text's; the first byte stays."""
    kind, body = data[:1], bytearray(data[1:])
    for _ in range(rng.choice((1, 2, 3, 8))):
        at = rng.randrange(len(body) + 1)
        end = min(len(body), at + rng.choice((1, 1, 2, 8, 40)))
        which = rng.randrange(6)
        if which == 0:
            del body[at:end]
        elif which == 1:
            body[at:at] = body[at:end] * rng.choice((1, 2, 50))
        elif which == 2 and at < len(body):
            body[at] = rng.randrange(256)
        elif which == 3:
            body[at:end] = rng.choice(TOKENS)
        elif which == 4:
            other = rng.choice(others)
            start = rng.randrange(1, len(other) + 1)
            body[at:end] = other[start : start + rng.choice((4, 20, 200))]
        else:
            body[at:end] = str(rng.choice((*INTEGERS, *VALUES))).encode()
    return (kind + bytes(body))[:most]


def _graphs(model: onnx.ModelProto) -> list[onnx.GraphProto]:
    return [graph for graph in graphs_of(model) if isinstance(graph, onnx.GraphProto)]


def _names(graph: onnx.GraphProto) -> list[str]:
    made = [name for node in graph.node for name in node.output]
    return [*(value.name for value in graph.input), *(tensor.name for tensor in graph.initializer), *made, ""]


Change = Callable[[onnx.ModelProto, onnx.GraphProto, random.Random, Sequence[onnx.ModelProto]], None]


def _rewire(model: onnx.ModelProto, graph: onnx.GraphProto, rng: random.Random, seeds: Sequence) -> None:
    node = rng.choice(graph.node)
    node.input[rng.randrange(len(node.input))] = rng.choice(_names(graph))


def _arity(model: onnx.ModelProto, graph: onnx.GraphProto, rng: random.Random, seeds: Sequence) -> None:
    node = rng.choice(graph.node)
    if rng.random() < 0.5:
        node.input.append(rng.choice(_names(graph)))
    else:
        del rng.choice((node.input, node.output))[-1]


def _operator(model: onnx.ModelProto, graph: onnx.GraphProto, rng: random.Random, seeds: Sequence) -> None:
    node = rng.choice(graph.node)
    if rng.random() < 0.8:
        node.op_type = rng.choice(OPERATORS)
    else:
        node.domain = rng.choice(("", "ai.onnx", "com.microsoft", "f", "ai.onnx.ml"))


def _copy(model: onnx.ModelProto, graph: onnx.GraphProto, rng: random.Random, seeds: Sequence) -> None:
    node = onnx.NodeProto()
    node.CopyFrom(rng.choice(graph.node))
    for at in range(len(node.output)):
        node.output[at] = rng.choice((f"new{rng.randrange(9)}", node.output[at]))
    graph.node.insert(rng.randrange(len(graph.node) + 1), node)


def _remove(model: onnx.ModelProto, graph: onnx.GraphProto, rng: random.Random, seeds: Sequence) -> None:
    field = rng.choice((graph.node, graph.initializer, graph.input, graph.output, graph.value_info))
    del field[rng.randrange(len(field))]


def _swap(model: onnx.ModelProto, graph: onnx.GraphProto, rng: random.Random, seeds: Sequence) -> None:
    first, second = rng.choice(graph.node), rng.choice(graph.node)
    kept = onnx.NodeProto()
    kept.CopyFrom(first)
    first.CopyFrom(second)
    second.CopyFrom(kept)


def _attribute(model: onnx.ModelProto, graph: onnx.GraphProto, rng: random.Random, seeds: Sequence) -> None:
    node = rng.choice(graph.node)
    if not node.attribute or rng.random() < 0.3:
        name = rng.choice(("axis", "axes", "keepdims", "epsilon", "to", "perm", "value_float", "alpha", "group"))
        value = rng.choice(([0], [1, 0], 1, -1, 10, 16, 0.0, 1e-12, 1.0))
        node.attribute.append(helper.make_attribute(name, value))
        return
    attribute = rng.choice(node.attribute)
    which = rng.randrange(5)
    if which == 0:
        node.attribute.remove(attribute)
    elif which == 1:
        attribute.i = rng.choice(INTEGERS)
    elif which == 2:
        attribute.f = float(rng.choice(VALUES))
    elif which == 3:
        del attribute.ints[:]
        attribute.ints.extend(rng.choices(INTEGERS, k=rng.randrange(4)))
    else:
        attribute.type = rng.randrange(15)


def _weight(model: onnx.ModelProto, graph: onnx.GraphProto, rng: random.Random, seeds: Sequence) -> None:
    tensor = rng.choice(graph.initializer)
    which = rng.randrange(5)
    if which == 0:
        tensor.data_type = rng.randrange(26)
    elif which == 1:
        del tensor.dims[:]
        tensor.dims.extend(rng.choices(DIMS, k=rng.randrange(4)))
    elif which == 2:
        tensor.raw_data = tensor.raw_data[: rng.randrange(len(tensor.raw_data) + 1)]
    elif which == 3:
        tensor.raw_data = np.full(len(tensor.raw_data) // 4, rng.choice(VALUES), np.float32).tobytes()
    else:
        tensor.name = rng.choice(_names(graph))


def _interface(model: onnx.ModelProto, graph: onnx.GraphProto, rng: random.Random, seeds: Sequence) -> None:
    value = rng.choice((*graph.input, *graph.output))
    which = rng.randrange(5)
    if which == 0:
        value.type.tensor_type.elem_type = rng.randrange(26)
    elif which == 1:
        value.type.tensor_type.ClearField("shape")
    elif which == 2:
        dim = rng.choice(value.type.tensor_type.shape.dim)
        if rng.random() < 0.5:
            dim.dim_value = rng.choice(DIMS)
        else:
            dim.dim_param = rng.choice(("N", "?", "batch", "sequence", ""))
    elif which == 3:
        value.name = rng.choice(_names(graph))
    else:
        value.ClearField("type")


def _claim(model: onnx.ModelProto, graph: onnx.GraphProto, rng: random.Random, seeds: Sequence) -> None:
    shape = rng.choice((None, [], [1], [2, "N"], [0], [3, 4, 5]))
    graph.value_info.append(helper.make_tensor_value_info(rng.choice(_names(graph)), rng.randrange(1, 20), shape))


def _override(model: onnx.ModelProto, graph: onnx.GraphProto, rng: random.Random, seeds: Sequence) -> None:
    tensor = rng.choice(graph.initializer)
    graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))


def _opset(model: onnx.ModelProto, graph: onnx.GraphProto, rng: random.Random, seeds: Sequence) -> None:
    rng.choice(model.opset_import).version = rng.choice((0, -1, 1, 5, 7, 9, 11, 12, 13, 17, 18, 20, 22, 23, 25, 2**62))


def _graft(model: onnx.ModelProto, graph: onnx.GraphProto, rng: random.Random, seeds: Sequence) -> None:
    """Another model beside this one, or behind it."""
    other = onnx.ModelProto()
    other.CopyFrom(rng.choice(seeds))
    mark = f"g{rng.randrange(99)}_"
    inner = {value.name for value in other.graph.input} if rng.random() < 0.5 else set()
    mine = [name for name in _names(graph) if name] or [""]
    for node in other.graph.node:
        for field in (node.input, node.output):
            for at, name in enumerate(field):
                field[at] = rng.choice(mine) if name in inner else mark + name if name else ""
    for tensor in other.graph.initializer:
        tensor.name = mark + tensor.name
    graph.node.extend(other.graph.node)
    graph.initializer.extend(other.graph.initializer)
    if not inner:
        for value in other.graph.input:
            value.name = mark + value.name
        graph.input.extend(other.graph.input)


def _nest(model: onnx.ModelProto, graph: onnx.GraphProto, rng: random.Random, seeds: Sequence) -> None:
    if len(graph.node) > 40:
        return
    body = onnx.GraphProto()
    body.CopyFrom(graph)
    del body.input[:]
    name = f"nested{rng.randrange(9)}"
    if rng.random() < 0.6:
        node = helper.make_node("If", [rng.choice(_names(graph))], [name], then_branch=body, else_branch=body)
    else:
        node = helper.make_node("Loop", ["", "", *rng.choices(_names(graph), k=1)], [name], body=body)
    graph.node.append(node)


def _constant(model: onnx.ModelProto, graph: onnx.GraphProto, rng: random.Random, seeds: Sequence) -> None:
    node = helper.make_node("Constant", [], [f"k{rng.randrange(9)}"])
    value = rng.choice(
        (
            helper.make_attribute("value_float", float(rng.choice(VALUES))),
            helper.make_attribute("value_ints", [1, 2]),
            helper.make_attribute("value", numpy_helper.from_array(np.float32(rng.choice(VALUES)))),
        )
    )
    node.attribute.append(value)
    graph.node.insert(0, node)


def _name(model: onnx.ModelProto, graph: onnx.GraphProto, rng: random.Random, seeds: Sequence) -> None:
    rng.choice(graph.node).name = rng.choice(NAMES)


def _rename(model: onnx.ModelProto, graph: onnx.GraphProto, rng: random.Random, seeds: Sequence) -> None:
    """One value, everywhere."""
    old, new = rng.choice(_names(graph)), rng.choice(NAMES)
    for node in graph.node:
        for field in (node.input, node.output):
            for at, name in enumerate(field):
                if name == old:
                    field[at] = new
    for item in (*graph.input, *graph.output, *graph.initializer):
        if item.name == old:
            item.name = new


def _sparse(model: onnx.ModelProto, graph: onnx.GraphProto, rng: random.Random, seeds: Sequence) -> None:
    values = numpy_helper.from_array(np.ones(2, np.float32), rng.choice(_names(graph)) or "s")
    indices = numpy_helper.from_array(np.array(rng.choice(([0, 1], [0, 9], [-1, 0])), np.int64), "i")
    graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4]))


def _function(model: onnx.ModelProto, graph: onnx.GraphProto, rng: random.Random, seeds: Sequence) -> None:
    """A node becomes a call of a function that holds it."""
    node = rng.choice(graph.node)
    body = onnx.NodeProto()
    body.CopyFrom(node)
    name = f"F{len(model.functions)}"
    inputs, outputs = list(dict.fromkeys(filter(None, node.input))), [name for name in node.output if name]
    model.functions.append(helper.make_function("f", name, inputs, outputs, [body], list(model.opset_import)))
    if not any(entry.domain == "f" for entry in model.opset_import):
        model.opset_import.add(domain="f", version=1)
    node.CopyFrom(helper.make_node(name, inputs, outputs, node.name, domain="f"))
    if rng.random() < 0.2:
        model.functions[-1].node[0].CopyFrom(node)


_CHANGES: tuple[Change, ...] = (
    *(_rewire, _arity, _operator, _copy, _remove, _swap, _attribute, _weight, _interface, _claim, _override, _opset),
    *(_graft, _nest, _constant, _name, _rename, _sparse, _function, _rewire, _operator, _attribute, _graft),
)
