"""What a fusion leaves behind: names, metadata, constants, untouched nodes, and a way back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from precision_planner.model import Model
from precision_planner.model.names import FreshNames
from precision_planner.model.session import Session
from precision_planner.patterns import Match, find_patterns
from precision_planner.transforms import fuse, fuse_verified
from precision_planner.transforms.float64_judgement import judge
from precision_planner.transforms.naming import fused_name
from tests.patterns.builder import Graph
from tests.patterns.spellings import Spelling, write
from tests.patterns.variants import VARIANTS

X = np.random.default_rng(5).normal(0.5, 2, (2, 5, 8)).astype(np.float32)


def _decomposed(g: Graph, x: str, gamma: str, beta: str, eps: str, two: str, scope: str) -> str:
    def op(op_type: str, *inputs: str, **attributes: object) -> str:
        out = g.name(f"{scope}{op_type}")
        taken = {node.name for node in g.nodes}
        name = f"/{scope}/{op_type}"
        g.nodes.append(
            helper.make_node(op_type, list(inputs), [out], f"{name}_1" if name in taken else name, **attributes)
        )
        return out

    d = op("Sub", x, op("ReduceMean", x, axes=[-1]))
    g.nodes[-1].doc_string = f"doc of {scope}"
    variance = op("ReduceMean", op("Pow", d, two), axes=[-1])
    return op("Add", op("Mul", op("Div", d, op("Sqrt", op("Add", variance, eps))), gamma), beta)


def _two_norms() -> onnx.ModelProto:
    """Two normalizations that share gamma, beta, eps and the exponent, with a MatMul between."""
    g = Graph(13)
    g.input("x", X.shape)
    gamma = g.const(np.linspace(0.5, 2, 8, dtype=np.float32), name="gamma")
    beta = g.const(np.linspace(-1, 1, 8, dtype=np.float32), name="beta")
    eps, two = g.const(np.array(1e-5, np.float32), name="eps"), g.const(np.array(2, np.float32), name="two")
    first = _decomposed(g, "x", gamma, beta, eps, two, "layer.0/norm")
    product = g.op("MatMul", first, g.const(np.eye(8, dtype=np.float32) * 2, name="weight"))
    g.nodes[-1].doc_string = "the product"
    second = _decomposed(g, product, gamma, beta, eps, two, "layer.1/norm")
    g.op("Add", second, beta, output="y")
    g.output("y", shape=X.shape)
    model = g.model()
    for node in model.graph.node:
        entry = node.metadata_props.add()
        entry.key, entry.value = "scope", node.name
    model.graph.value_info.append(helper.make_tensor_value_info(first, 1, X.shape))
    model.graph.value_info.append(helper.make_tensor_value_info(model.graph.node[1].output[0], 1, X.shape))
    return model


def test_names_metadata_and_untouched_nodes() -> None:
    proto = _two_norms()
    model = Model.load(proto)
    result = fuse(model, find_patterns(model))
    after = result.model.to_proto()
    onnx.checker.check_model(after, full_check=True)
    assert [node.op_type for node in after.graph.node] == ["LayerNormalization", "MatMul", "LayerNormalization", "Add"]
    first = after.graph.node[0]
    assert first.name == "/layer.0/norm/LayerNormalization"
    assert list(first.input) == ["x", "gamma", "beta"]
    assert first.doc_string == "doc of layer.0/norm"
    assert [entry.value for entry in first.metadata_props] == ["/layer.0/norm/Add_1"]
    assert result.names["/layer.0/norm/Pow"] == "/layer.0/norm/LayerNormalization"
    assert result.names["/layer.1/norm/Sqrt"] == "/layer.1/norm/LayerNormalization"
    before = [node for node in proto.graph.node if node.op_type == "MatMul"]
    assert before[0].SerializeToString() == after.graph.node[1].SerializeToString()
    # the output keeps its name and its value_info; what is gone takes its value_info with it
    assert [info.name for info in after.graph.value_info] == [first.output[0]]
    assert {tensor.name for tensor in after.graph.initializer} == {"gamma", "beta", "weight"}
    assert after.opset_import[0].version == 17
    assert after.ir_version == 8


def test_epsilon_is_carried_exactly() -> None:
    for eps in (1e-5, 1e-6, 1e-12, 3.3e-4):
        written = write(Spelling(eps=eps))
        model = Model.load(written.model)
        node = next(n for n in fuse(model, find_patterns(model)).model.proto.graph.node if "Norm" in n.op_type)
        found = {attribute.name: attribute for attribute in node.attribute}
        assert np.float32(found["epsilon"].f) == np.float32(eps)
        assert found["axis"].i == -1
        assert found["stash_type"].i == 1


def test_constants_that_others_read_stay() -> None:
    proto = _two_norms()
    proto.graph.node.append(helper.make_node("Mul", ["y", "eps"], ["z"]))
    proto.graph.output.append(helper.make_tensor_value_info("z", 1, X.shape))
    model = Model.load(proto)
    after = fuse(model, find_patterns(model)).model.proto
    assert "eps" in {tensor.name for tensor in after.graph.initializer}
    assert "two" not in {tensor.name for tensor in after.graph.initializer}


def test_unasked_kinds_and_natives_are_left() -> None:
    model = Model.load(write(Spelling(norm="rms", bias=False, opset=23)).model)
    assert fuse(model, find_patterns(model)).model is model
    assert fuse(model, find_patterns(model), kinds=["rms_normalization"]).fused


def test_an_opset_that_cannot_be_raised_gives_islands() -> None:
    proto = _two_norms()
    proto.opset_import[0].version = 9
    for tensor in list(proto.graph.initializer)[:2]:
        assert tensor.name in ("gamma", "beta")
    g = Graph(9)
    names = [g.const(np.ones(5, np.float32), "initializer", f"bn{n}") for n in range(4)]
    proto.graph.initializer.extend(g.initializers)
    proto.graph.node.append(helper.make_node("BatchNormalization", ["y", *names], ["z", "m", "v"], "training"))
    proto.graph.output.append(helper.make_tensor_value_info("z", 1, X.shape))
    model = Model.load(proto)
    result = fuse(model, find_patterns(model))
    assert result.model is model
    assert len(result.islands) == 2
    assert "training" in result.islands[0][1]


def _broken(match: Match, **changes: object) -> Match:
    assert match.rewrite is not None
    return replace(match, rewrite=replace(match.rewrite, **changes))


def test_a_fusion_that_is_wrong_is_rolled_back_alone() -> None:
    """The judge does not trust the matcher: a match claimed with another epsilon is found out by its numbers."""
    model = Model.load(_two_norms())
    sound, other = find_patterns(model, kinds=["layer_normalization"])
    wrong = _broken(other, epsilon=0.5)
    truth_of_wrong = fuse(model, [sound, wrong]).model
    old, new = Session(model).run({"x": X})["y"], Session(truth_of_wrong).run({"x": X})["y"]
    assert np.abs(old - new).max() > 1e-3  # it would have shown
    result = fuse_verified(model, [sound, wrong], inputs=[{"x": X}])
    assert [match.anchor for match in result.fused] == [sound.anchor]
    assert "rolled back" in result.rejected[-1][1]
    assert result.verification["passed"] is True
    np.testing.assert_allclose(Session(result.model).run({"x": X})["y"], old, atol=1e-5)


def test_the_judge_compares_with_float64() -> None:
    model = Model.load(_two_norms())
    matches = find_patterns(model, kinds=["layer_normalization"])
    result = fuse(model, matches)
    judgement = judge(model, result.model, result.fused, {"x": X})
    assert judgement.passed is True
    assert set(judgement.errors) == {0, 1}
    for before, after in judgement.errors.values():
        assert before < 1e-5
        assert after < 1e-5


def test_large_means_are_not_made_worse() -> None:
    """|mean| far over the deviation: whatever kernel runs, the error against float64 may not grow beyond rounding."""
    model = Model.load(_two_norms())
    x = (X + 3000).astype(np.float32)
    result = fuse_verified(model, find_patterns(model), inputs=[{"x": x}])
    wide = x.astype(np.float64)
    centered = wide - wide.mean(-1, keepdims=True)
    first = centered / np.sqrt((centered**2).mean(-1, keepdims=True) + 1e-5)
    first = first * np.linspace(0.5, 2, 8) + np.linspace(-1, 1, 8)
    name = find_patterns(model, kinds=["layer_normalization"])[0].output
    old = np.abs(Session(model, [name]).run({"x": x})[name] - first).max()
    new = np.abs(Session(result.model, [name]).run({"x": x})[name] - first).max()
    assert new <= 8 * old + 32 * 2.0**-24 * np.abs(first).max()


def test_a_model_that_cannot_run_is_judged_by_structure() -> None:
    g = Graph(13)
    g.input("x", X.shape)
    gamma = g.const(np.ones(8, np.float32))
    y = _decomposed(g, g.op("Custom", "x", domain="my"), gamma, gamma, g.scalar(1e-5), g.scalar(2.0), "norm")
    g.op("Identity", y, output="y")
    g.output("y", shape=X.shape)
    proto = g.model(domain="my")
    for node in list(proto.graph.node)[:1]:
        proto.graph.value_info.append(helper.make_tensor_value_info(node.output[0], 1, X.shape))
    model = Model.load(proto)
    result = fuse_verified(model, find_patterns(model), inputs=[{"x": X}])
    assert len(result.fused) == 1
    assert result.verification["passed"] is None
    assert result.verification["reason"]


def test_verification_can_be_switched_off() -> None:
    model = Model.load(_two_norms())
    result = fuse_verified(model, find_patterns(model), verify=False)
    assert len(result.fused) == 2
    assert result.verification == {"passed": None, "max_abs": None, "reason": "switched off"}


def test_external_weights_stay_where_they_are(tmp_path: Path) -> None:
    proto = _two_norms()
    big = np.random.default_rng(0).normal(0, 1, (8, 512)).astype(np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(big, "big"))
    proto.graph.node.append(helper.make_node("MatMul", ["y", "big"], ["z"]))
    proto.graph.output.append(helper.make_tensor_value_info("z", 1, (2, 5, 512)))
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=1024)
    model = Model.load(tmp_path / "m.onnx")
    result = fuse_verified(model, find_patterns(model), inputs=[{"x": X}])
    assert len(result.fused) == 2
    result.model.save(tmp_path / "out.onnx")
    old, new = Session(model).run({"x": X}), Session(Model.load(tmp_path / "out.onnx")).run({"x": X})
    np.testing.assert_allclose(new["z"], old["z"], atol=1e-4)


def test_channels_first_goes_through_transposes() -> None:
    variant = next(v for v in VARIANTS if v.options.get("channels_first"))
    model = Model.load(variant.make().model)
    after = fuse(model, find_patterns(model), channels_first=True).model.proto
    assert [n.op_type for n in after.graph.node][:3] == ["Transpose", "LayerNormalization", "Transpose"]


def test_fusing_twice_changes_nothing() -> None:
    model = Model.load(_two_norms())
    once = fuse(model, find_patterns(model)).model
    again = fuse(once, find_patterns(once))
    assert again.model is once
    assert not again.fused


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["/a/b/Pow", "/a/b/Add"], "/a/b/Norm"),
        (["/a/b/Pow", "/a/c/Add"], "/a/Norm"),
        (["Pow_12", "Add_13"], "Norm_Add_13"),
        (["", ""], "Norm_out"),
        (["model.ln.Pow", "model.ln.Add"], "model.ln.Norm"),
    ],
)
def test_fused_name(names: list[str], expected: str) -> None:
    assert fused_name(names, "Norm", "out", FreshNames()) == expected
    assert fused_name(names, "Norm", "out", FreshNames([expected])) == f"{expected}_1"
