"""What ONNX does not allow is said when a model is loaded, in one line; what others accept is accepted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from precision_planner.errors import ModelError
from precision_planner.model import Model, infer_types
from precision_planner.model.validate import MAX_FUNCTION_DEPTH
from precision_planner.model.wire import encode_varint
from tests.model.graphs import model_of

FLOAT = TensorProto.FLOAT
N = helper.make_node


def relu() -> onnx.ModelProto:
    return model_of([N("Relu", ["x"], ["y"])], {"x": [2]}, ["y"])


def weighted(**changes: object) -> onnx.ModelProto:
    tensor = TensorProto(name="w", data_type=FLOAT, dims=[4, 4])
    for name, value in changes.items():
        if name == "data_type":
            tensor.data_type = value  # type: ignore[assignment]
        elif name == "raw_data":
            tensor.raw_data = value  # type: ignore[assignment]
        else:
            tensor.ClearField(name)
            getattr(tensor, name).extend(value)
    proto = model_of([N("MatMul", ["x", "w"], ["y"])], {"x": [2, 4]}, ["y"])
    proto.graph.initializer.append(tensor)
    return proto


def changed(change: Callable[[onnx.ModelProto], object]) -> onnx.ModelProto:
    proto = relu()
    change(proto)
    return proto


def functions(count: int, *, ring: bool = False, twice: bool = False) -> onnx.ModelProto:
    proto = model_of([N("F0", ["x"], ["y"], domain="f")], {"x": [2]}, ["y"])
    proto.opset_import.add(domain="f", version=1)
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]
    for number in range(count):
        following = f"F{(number + 1) % count}"
        nodes = [N("Relu", ["a"], ["b"])]
        if number < count - 1 or ring:
            nodes = [N(following, ["a"], ["b"], domain="f")]
            if twice:
                nodes = [N(following, ["a"], ["t"], domain="f"), N(following, ["t"], ["b"], domain="f")]
        proto.functions.append(helper.make_function("f", f"F{number}", ["a"], ["b"], nodes, imports))
    return proto


def nested(depth: int) -> bytes:
    """A model whose If holds an If, and so on; written by hand, as protobuf builds none of that depth."""

    def field(number: int, data: bytes) -> bytes:
        return encode_varint(number << 3 | 2) + encode_varint(len(data)) + data

    output = helper.make_tensor_value_info("b", FLOAT, [2]).SerializeToString()
    leaf = field(1, N("Relu", ["x"], ["b"]).SerializeToString()) + field(12, output)
    body = leaf
    for _ in range(depth):
        branches = b"".join(
            field(5, field(1, name) + field(6, graph) + b"\xa0\x01\x05")
            for name, graph in ((b"then_branch", body), (b"else_branch", leaf))
        )
        body = field(1, field(1, b"c") + field(2, b"b") + field(4, b"If") + branches) + field(12, output)
    cast = N("Cast", ["x"], ["c"], to=TensorProto.BOOL).SerializeToString()
    value = helper.make_tensor_value_info("x", FLOAT, [2]).SerializeToString()
    graph = field(1, cast) + field(2, b"g") + field(11, value) + body
    return b"\x08\x08" + field(7, graph) + field(8, helper.make_opsetid("", 17).SerializeToString())


BROKEN: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "self loop": (
        lambda: model_of([N("Transpose", ["i"], ["i"]), N("MatMul", ["x", "i"], ["y"])], {"x": [4]}, ["y"]),
        "Transpose that makes 'i' depends on its own result",
    ),
    "cycle": (
        lambda: model_of([N("Add", ["x", "b"], ["a"]), N("Relu", ["a"], ["b"])], {"x": [4]}, ["b"]),
        "by a cycle",
    ),
    "dangling": (lambda: model_of([N("Add", ["x", "z"], ["y"], "n")], {"x": [2]}, ["y"]), "node 'n' reads 'z'"),
    "dangling output": (lambda: model_of([N("Relu", ["x"], ["z"])], {"x": [2]}, ["y"]), "reads 'y'"),
    "made twice": (
        lambda: model_of([N("Relu", ["x"], ["y"]), N("Neg", ["x"], ["y"])], {"x": [2]}, ["y"]),
        "makes 'y', which is there already",
    ),
    "no output": (lambda: changed(lambda m: m.graph.ClearField("output")), "no output"),
    "arity": (lambda: model_of([N("Div", ["x"], ["y"])], {"x": [2]}, ["y"]), "1 inputs, and Div takes 2"),
    "attribute": (lambda: model_of([N("Cast", ["x"], ["y"])], {"x": [2]}, ["y"]), "lacks the attribute 'to'"),
    "attribute type": (
        lambda: model_of([N("Softmax", ["x"], ["y"], axis=0.5)], {"x": [2]}, ["y"]),
        "attribute 'axis'",
    ),
    "wrong field": (lambda: weighted(int32_data=[300] * 16), "has its values in int32_data"),
    "wrong field, large": (
        lambda: weighted(dims=[32, 32], int32_data=[300] * 1024),
        "has its values in int32_data",
    ),
    "short": (lambda: weighted(raw_data=b"\0" * 60), "holds 60 bytes where its shape"),
    "short floats": (lambda: weighted(float_data=[1.0] * 15), "holds 15 values where its shape"),
    "negative": (lambda: weighted(dims=[-4, -4], raw_data=b"\0" * 64), "has the shape"),
    "no values": (weighted, "has no values"),
    "unknown type": (lambda: weighted(data_type=99, raw_data=b"\0" * 64), "element type 99"),
    "opset": (lambda: changed(lambda m: setattr(m.opset_import[0], "version", 2**62)), "asks for opset 46116860"),
    "function calls itself": (lambda: functions(1, ring=True), "'F0' calls itself"),
    "functions in a ring": (lambda: functions(3, ring=True), "calls itself"),
    "functions double": (lambda: functions(30, twice=True), "nodes when they are written out"),
    "functions deep": (lambda: functions(MAX_FUNCTION_DEPTH + 2), "deep"),
    "no type": (lambda: changed(lambda m: m.graph.input[0].ClearField("type")), "input 'x' has no type"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_models_are_refused_in_one_line(name: str, tmp_path: Path) -> None:
    make, message = BROKEN[name]
    proto = make()
    with pytest.raises(ModelError, match="is not a valid model: ") as caught:
        Model.load(proto)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 300
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match=r"m\.onnx is not a valid model"):
        Model.load(tmp_path / "m.onnx")


def test_names_are_utf_8(tmp_path: Path) -> None:
    data = model_of([N("Relu", ["x"], ["y"], "nrm")], {"x": [2]}, ["y"]).SerializeToString()
    (tmp_path / "m.onnx").write_bytes(data.replace(b"nrm", b"\xff\xfe\xfd"))
    with pytest.raises(ModelError, match="not UTF-8"):
        Model.load(tmp_path / "m.onnx")


def test_a_file_cannot_pose_as_a_stripped_model() -> None:
    proto = weighted(raw_data=np.zeros(16, np.float32).tobytes())
    large = numpy_helper.from_array(np.zeros((32, 32), np.float32), "large")
    proto.graph.initializer.append(large)
    (tensor, _) = proto.graph.initializer
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="planner:0")
    with pytest.raises(ModelError, match="which is no file"):
        Model.load(proto)


@pytest.mark.parametrize("depth", [10, 60, 500])
def test_nesting_past_protobufs_limit_is_one_line(depth: int, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(nested(depth))
    if depth == 10:
        assert Model.load(tmp_path / "m.onnx").proto.graph.node
    else:
        with pytest.raises(ModelError, match="is not an ONNX model, or not all of one"):
            Model.load(tmp_path / "m.onnx")


ACCEPTED: dict[str, Callable[[], onnx.ModelProto]] = {
    "unsorted": lambda: model_of([N("Neg", ["a"], ["y"]), N("Relu", ["x"], ["a"])], {"x": [2]}, ["y"]),
    "unknown operator": lambda: model_of([N("EfficientNMS_TRT", ["x"], ["y", "z"])], {"x": [2]}, ["y"]),
    "operator younger than the opset": lambda: model_of(
        [N("LayerNormalization", ["x", "x"], ["y"])], {"x": [2]}, ["y"], opset=13
    ),
    "optional inputs left out": lambda: model_of([N("Clip", ["x", "", "x"], ["y"])], {"x": []}, ["y"]),
    "a function of many calls": lambda: functions(12, twice=True),
    "an empty weight": lambda: weighted(dims=[4, 0]),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_others_accept_is_accepted(name: str) -> None:
    assert Model.load(ACCEPTED[name]()).proto.graph.node


def test_inference_does_not_grow_with_the_tensors() -> None:
    """float[10^7] through Adds and Casts: a record for each element would take gigabytes and seconds."""
    import resource
    import time

    count = 10_000_000
    nodes = [N("Cast", ["x"], ["v0"], to=FLOAT)]
    nodes += [N("Add", [f"v{i}", f"v{i}"], [f"v{i + 1}"]) for i in range(10)]
    nodes += [N("Shape", ["v10"], ["s"]), N("Add", ["s", "s"], ["s2"]), N("Expand", ["k", "s2"], ["y"])]
    model = Model.load(model_of(nodes, {"x": [count]}, ["y"], {"k": np.zeros(1, np.float32)}))
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    types = infer_types(model)
    assert types[(), "v10"].shape == (count,)
    assert types[(), "s2"].shape == (1,)
    assert types[(), "y"].shape == (2 * count,)  # the integers were followed
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000
    assert time.process_time() - started < 2
