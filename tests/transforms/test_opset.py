"""raise_opset against onnxruntime and numpy: what a model computes may not change, nor what it carries.

Every model runs before and after in onnxruntime, its optimizations off. Where the old op has no kernel there, the
expected values are written out in numpy.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from precision_planner.model import Model
from precision_planner.model.session import Session
from precision_planner.transforms import raise_opset
from tests.patterns.builder import Graph

X = np.random.default_rng(3).normal(0, 2, (2, 3, 4, 6)).astype(np.float32)
SHAPE = np.array([1, 1, 2, 2], np.float32)


def _one(opset: int, op_type: str, *constants: np.ndarray, outputs: int = 1, **attributes: object) -> Model:
    """x through one node; further inputs are constants."""
    g = Graph(opset)
    g.input("x", X.shape)
    names = [g.const(array, "initializer") for array in constants]
    g.nodes.append(helper.make_node(op_type, ["x", *names], [f"y{n}" for n in range(outputs)], "node", **attributes))
    for n in range(outputs):
        g.outputs.append(helper.make_tensor_value_info(f"y{n}", TensorProto.FLOAT, None))
    return Model.load(helper.make_model(g.graph(), opset_imports=[helper.make_opsetid("", opset)], ir_version=7))


def _same(model: Model, version: int) -> Model:
    result = raise_opset(model, version)
    assert not result.reason
    assert result.model.opset == version
    before, after = Session(model).run({"x": X}), Session(result.model).run({"x": X})
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value)
    return result.model


@pytest.mark.parametrize("version", [17, 18, 22, 23])
@pytest.mark.parametrize(
    "make",
    [
        lambda: _one(9, "Slice", starts=[0, 1], ends=[2, 3], axes=[0, 3]),
        lambda: _one(9, "Slice", starts=[1], ends=[2]),
        lambda: _one(10, "Clip", min=-0.5, max=0.5),
        lambda: _one(10, "Clip", max=0.5),
        lambda: _one(10, "Pad", pads=[0, 0, 1, 0, 0, 0, 0, 2], value=1.5),
        lambda: _one(10, "Pad", pads=[0, 0, 1, 0, 0, 0, 0, 2], mode="reflect"),
        lambda: _one(11, "Softmax", axis=1),
        lambda: _one(11, "Softmax"),
        lambda: _one(11, "Softmax", axis=-1),
        lambda: _one(11, "LogSoftmax", axis=2),
        lambda: _one(11, "Hardmax", axis=1),
        lambda: _one(11, "Unsqueeze", axes=[0, 3]),
        lambda: _one(11, "ReduceSum", axes=[1], keepdims=0),
        lambda: _one(11, "ReduceMean", axes=[-1]),
        lambda: _one(11, "ReduceMean"),
        lambda: _one(11, "ReduceL2", axes=[1, 2]),
        lambda: _one(11, "Split", outputs=2, axis=3, split=[2, 4]),
        lambda: _one(11, "Split", outputs=3, axis=1),
        lambda: _one(16, "Split", outputs=2, axis=3),
        lambda: _one(9, "Upsample", SHAPE, mode="nearest"),
        lambda: _one(9, "Upsample", np.array([1, 1, 1.5, 2], np.float32), mode="linear"),
        lambda: _one(10, "Resize", SHAPE, mode="nearest"),
        lambda: _one(10, "Resize", np.array([1, 1, 0.6, 0.7], np.float32), mode="nearest"),
        lambda: _one(10, "Resize", SHAPE, mode="linear"),
        lambda: _one(9, "Dropout", ratio=0.4),
        lambda: _one(9, "BatchNormalization", *(np.full(3, v, np.float32) for v in (2, 1, 0.5, 3)), epsilon=1e-3),
        lambda: _one(13, "Erf"),
        lambda: _one(9, "Erf"),
        lambda: _one(11, "Elu", alpha=0.7),
    ],
)
def test_one_node_computes_the_same(make: Callable[[], Model], version: int) -> None:
    _same(make(), version)


def test_topk_9_keeps_its_k() -> None:
    g = Graph(9)
    g.input("x", X.shape)
    g.nodes.append(helper.make_node("TopK", ["x"], ["y", "i"], "node", axis=3, k=2))
    g.outputs.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, None))
    model = Model.load(helper.make_model(g.graph(), opset_imports=[helper.make_opsetid("", 9)], ir_version=7))
    after = raise_opset(model, 17).model
    expected = -np.sort(-X, axis=3)[..., :2]
    np.testing.assert_array_equal(Session(after).run({"x": X})["y"], expected)


def test_roi_align_keeps_its_half_pixel() -> None:
    rois = np.array([[0, 0, 3, 3], [1, 0, 5, 2]], np.float32)
    model = _one(10, "RoiAlign", rois, np.array([0, 1], np.int64), output_height=2, output_width=2)
    _same(model, 17)


def test_grid_sample_20_renames_its_modes() -> None:
    grid = np.random.default_rng(0).uniform(-1, 1, (2, 3, 3, 2)).astype(np.float32)
    _same(_one(16, "GridSample", grid, mode="bilinear"), 20)
    _same(_one(16, "GridSample", grid), 20)
    _same(_one(16, "GridSample", grid, mode="nearest"), 20)


def test_what_cannot_be_said_is_refused_and_named() -> None:
    model = _one(18, "GroupNormalization", np.ones(3, np.float32), np.zeros(3, np.float32), num_groups=3)
    result = raise_opset(model, 21)
    assert result.model is model
    assert result.opset == 18
    assert "GroupNormalization node" in result.reason


def test_resize_10_that_shrinks_and_enlarges_is_refused() -> None:
    result = raise_opset(_one(10, "Resize", np.array([1, 1, 0.5, 2], np.float32), mode="nearest"), 17)
    assert "shrinks one axis" in result.reason


def test_training_batch_normalization_is_refused() -> None:
    g = Graph(9)
    g.input("x", X.shape)
    names = [g.const(np.ones(3, np.float32), "initializer") for _ in range(4)]
    g.nodes.append(helper.make_node("BatchNormalization", ["x", *names], ["y", "m", "v"], "bn"))
    g.output("y", shape=X.shape)
    result = raise_opset(Model.load(g.model()), 17)
    assert "training mode" in result.reason


def test_a_newer_model_is_left_alone() -> None:
    model = _one(18, "Erf")
    assert raise_opset(model, 17).model is model


def _rich() -> onnx.ModelProto:
    """A model with everything that the converter of onnx drops."""
    inner = Graph(13, prefix="body_")
    inner.op("Squeeze", inner.op("Unsqueeze", "x", inner.const(np.array([0], np.int64), "initializer")), output="then")
    inner.output("then", shape=X.shape)
    other = Graph(13, prefix="else_")
    other.op("Identity", "x", output="else_y")
    other.output("else_y", shape=X.shape)
    g = Graph(13)
    g.input("x", X.shape)
    condition = g.const(np.array(True), "initializer")
    y = g.op("If", condition, then_branch=inner.graph("then"), else_branch=other.graph("else"))
    y = g.op("Double", y, domain="local")
    g.op("ReduceMean", y, output="y", axes=[1])
    g.output("y", shape=(2, 1, 4, 6))
    function = helper.make_function(
        "local",
        "Double",
        ["a"],
        ["b"],
        [helper.make_node("ReduceMax", ["a"], ["m"], axes=[1], keepdims=1), helper.make_node("Add", ["a", "m"], ["b"])],
        [helper.make_opsetid("", 13)],
    )
    model = g.model([function])
    model.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float32), "unused"))
    model.graph.doc_string, model.producer_name = "doc", "producer"
    entry = model.metadata_props.add()
    entry.key, entry.value = "key", "value"
    for node in model.graph.node:
        node.doc_string = f"doc of {node.name}"
        note = node.metadata_props.add()
        note.key, note.value = "namespace", node.name
    annotation = model.graph.quantization_annotation.add()
    annotation.tensor_name = "x"
    return model


@pytest.mark.parametrize("version", [17, 18, 21])
def test_everything_else_survives(version: int) -> None:
    proto = _rich()
    model = Model.load(proto)
    result = raise_opset(model, version)
    assert not result.reason
    after = result.model.to_proto()
    onnx.checker.check_model(after, full_check=True)
    assert after.metadata_props == proto.metadata_props
    assert after.graph.doc_string == "doc"
    assert after.graph.quantization_annotation == proto.graph.quantization_annotation
    assert [f.name for f in after.functions] == ["Double"]
    assert {i.domain: i.version for i in after.functions[0].opset_import} == {"": version}
    assert after.ir_version == max(proto.ir_version, helper.OP_SET_ID_VERSION_MAP["ai.onnx", version])
    assert {t.name for t in proto.graph.initializer} <= {t.name for t in after.graph.initializer}
    for old, new in zip(proto.graph.node, after.graph.node, strict=True):
        assert (old.name, old.doc_string, old.output) == (new.name, new.doc_string, new.output)
        assert old.metadata_props == new.metadata_props
    before, now = Session(model).run({"x": X}), Session(result.model).run({"x": X})
    np.testing.assert_array_equal(now["y"], before["y"])


def test_weights_are_not_touched(tmp_path: object) -> None:
    g = Graph(13)
    g.input("x", (4, 1024))
    weight = np.random.default_rng(1).normal(0, 1, (1024, 512)).astype(np.float32)
    g.op("MatMul", "x", g.const(weight, "initializer"), output="y")
    g.output("y", shape=(4, 512))
    path = tmp_path / "model.onnx"  # type: ignore[operator]
    onnx.save(g.model(), path, save_as_external_data=True, location="weights.bin")
    model = Model.load(path)
    result = raise_opset(model, 17)
    assert result.model.weights is model.weights
    assert result.model.external
