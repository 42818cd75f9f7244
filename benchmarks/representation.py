"""Which representation of a model loses nothing and costs least: ours, onnx-ir, onnx-graphsurgeon.

For each candidate a model goes in and comes out untouched, and what differs is listed; then load, clone and write of
a deep graph are timed in one run, as ratios to parsing the same bytes with protobuf.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from precision_planner.model import GraphIndex, Model

NODES = 16_000


def _base() -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "w"], ["h"], name="m"), helper.make_node("Abs", ["h"], ["y"], name="a")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 512])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 512])],
        [numpy_helper.from_array(np.ones(512, np.float32), "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _features() -> dict[str, onnx.ModelProto]:
    """One model per thing that a representation can lose."""
    models = {name: _base() for name in _NAMES}
    helper.set_model_props(models["model metadata_props"], {"author": "x"})
    models["node metadata_props"].graph.node[0].metadata_props.add(key="source", value="file.py:3")
    models["node doc_string"].graph.node[0].doc_string = "why"
    annotation = models["quantization_annotation"].graph.quantization_annotation.add(tensor_name="h")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="w")
    models["value_info"].graph.value_info.append(helper.make_tensor_value_info("h", TensorProto.FLOAT, ["batch", 512]))
    models["overridable initializer"].graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [512]))
    models["unused initializer"].graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float32), "unused"))
    node = models["empty INTS attribute"].graph.node[1]
    node.attribute.append(onnx.AttributeProto(name="axes", type=onnx.AttributeProto.INTS))
    node = models["non-UTF-8 string"].graph.node[1]
    node.attribute.append(onnx.AttributeProto(name="blob", type=onnx.AttributeProto.STRING, s=b"\xff\xfe\x00"))
    indices = numpy_helper.from_array(np.arange(2, dtype=np.int64), "i")
    values = numpy_helper.from_array(np.ones(2, np.float32), "s")
    models["sparse_initializer"].graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [8]))
    for overload in ("", "half"):
        function = helper.make_function(
            "local", "F", ["a"], ["b"], [helper.make_node("Abs", ["a"], ["b"])], [helper.make_opsetid("", 17)]
        )
        function.overload = overload
        models["function overloads"].functions.append(function)
    models["function overloads"].ir_version = 10
    models["unnamed nodes"].graph.node[0].name = ""
    models["float_data encoding"].graph.initializer[0].CopyFrom(
        helper.make_tensor("w", TensorProto.FLOAT, [512], [1.0] * 512)
    )
    return models


_NAMES = (
    "model metadata_props", "node metadata_props", "node doc_string", "quantization_annotation", "value_info",
    "overridable initializer", "unused initializer", "empty INTS attribute", "non-UTF-8 string", "sparse_initializer",
    "function overloads", "unnamed nodes", "float_data encoding",
)  # fmt: skip


def _ours(proto: onnx.ModelProto) -> onnx.ModelProto:
    return onnx.ModelProto.FromString(Model.load(proto).to_bytes())


def _onnx_ir(proto: onnx.ModelProto) -> onnx.ModelProto:
    import onnx_ir

    return onnx_ir.to_proto(onnx_ir.from_proto(proto))


def _graphsurgeon(proto: onnx.ModelProto) -> onnx.ModelProto:
    import onnx_graphsurgeon

    return onnx_graphsurgeon.export_onnx(onnx_graphsurgeon.import_onnx(proto))


def _verdict(round_trip: Callable[[onnx.ModelProto], onnx.ModelProto], proto: onnx.ModelProto) -> str:
    try:
        result = round_trip(proto)
        if result == proto:
            return "kept"
        known = {info.name for info in proto.graph.value_info}
        ours = [info for info in result.graph.value_info if info.name in known]
        del result.graph.value_info[:]
        result.graph.value_info.extend(ours)
        return "adds value_info" if result == proto else "changed"
    except Exception as error:  # a candidate that raises on a legal model is what this table is about
        return type(error).__name__


def _deep(nodes: int) -> onnx.ModelProto:
    proto = _base()
    del proto.graph.node[:]
    last = "x"
    for number in range(nodes):
        out = "y" if number == nodes - 1 else f"v{number}"
        proto.graph.node.append(helper.make_node("Mul", [last, "w"], [out], name=f"/layer.{number}/Mul"))
        last = out
    return proto


def _seconds(work: Callable[[], object], repeat: int = 3) -> float:
    best = float("inf")
    for _ in range(repeat):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


def main() -> None:
    """Print both tables."""
    import onnx_ir

    candidates = {"ours": _ours, "onnx-ir": _onnx_ir, "onnx-graphsurgeon": _graphsurgeon}
    print(f"{'an untouched round trip':28}" + "".join(f"{name:>20}" for name in candidates))
    for feature, proto in _features().items():
        print(f"{feature:28}" + "".join(f"{_verdict(trip, proto):>20}" for trip in candidates.values()))

    data = _deep(NODES).SerializeToString()
    parse = _seconds(lambda: onnx.ModelProto.FromString(data))
    proto = onnx.ModelProto.FromString(data)
    model, ir_model = Model.load(proto), onnx_ir.from_proto(proto)
    rows = {
        "load": (lambda: Model.load(proto), lambda: onnx_ir.from_proto(proto)),
        "load and index": (lambda: GraphIndex(Model.load(proto).proto), lambda: onnx_ir.from_proto(proto)),
        "copy to edit": (model.edit, ir_model.clone),
        "write": (model.to_bytes, lambda: onnx_ir.to_proto(ir_model).SerializeToString()),
    }
    print(f"\n{NODES} nodes; a bare protobuf parse takes {parse:.3f} s; below in multiples of it")
    print(f"{'':28}{'ours':>20}{'onnx-ir':>20}")
    for name, (ours, theirs) in rows.items():
        print(f"{name:28}{_seconds(ours) / parse:>20.1f}{_seconds(theirs) / parse:>20.1f}")


if __name__ == "__main__":
    main()
