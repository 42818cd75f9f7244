"""Written-out attention as ONNX's Attention operator: what it computes, what is refused, RTX's kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto as T
from onnx import helper, numpy_helper

from precision_planner import plan, rewrite
from precision_planner.errors import PlanError
from precision_planner.model import Model
from precision_planner.model.session import Session
from precision_planner.transforms.attention import fuse_attention

B, H, S, D = 2, 4, 16, 8


def attention(
    scale: str = "scores",
    mask: str = "",
    *,
    opset: int = 17,
    keys: int = S,
    turned: bool = False,
    size: int = D,
    **more: Any,
) -> onnx.ModelProto:
    """softmax(scale * q k^T [mask]) v, spelled as asked."""
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, Any] = {"c": np.float32(size**-0.5), "root": np.float32(size**0.5)}

    def node(op: str, inputs: str, output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(op, inputs.split(), [output], name=output, **attributes))
        return output

    q, k = "q", "k"
    if scale == "q":
        q = node("Mul", "q c", "qs")
    if scale == "both":
        constants["c"] = np.float32(size**-0.25)
        q, k = node("Mul", "q c", "qs"), node("Mul", "k c", "ks")
    s = node("MatMul", f"{q} {node('Transpose', k, 'kt', perm=[0, 2, 3, 1] if turned else [0, 1, 3, 2])}", "s")
    if scale == "scores":
        s = node("Div", f"{s} root", "scaled")
    if more.get("capped"):
        s = node("Tanh", s, "capped")
    mask_type, mask_shape = (T.FLOAT if mask == "add" else T.BOOL), [B, 1, 1, keys]
    if mask == "add":
        s = node("Add", f"{s} m", "masked")
    if mask in ("keep", "drop", "causal"):
        constants["low"] = np.float32(-1e9)
        if mask == "causal":
            constants["m"] = np.tril(np.ones((S, keys), bool))[None, None]
        s = node("Where", f"m {s} low" if mask != "drop" else f"m low {s}", "masked")
    p = node("Softmax", s, "p", axis=more.get("axis", -1))
    node("MatMul", f"{p} v", "o")
    key_shape = [B, keys, H, size] if turned else [B, H, keys, size]
    inputs = [("q", T.FLOAT, [B, H, S, size]), ("k", T.FLOAT, key_shape), ("v", T.FLOAT, [B, H, keys, size])]
    inputs += [("m", mask_type, mask_shape)] if mask and mask != "causal" else []
    outputs = [("o", T.FLOAT, [B, H, S, size]), *([("p", T.FLOAT, [B, H, S, keys])] if more.get("shown") else [])]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(*value) for value in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def _feeds(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    feeds = {}
    for value in model.graph.input:
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        if value.type.tensor_type.elem_type == T.BOOL:
            feeds[value.name] = rng.random(shape) < 0.6
        else:
            feeds[value.name] = rng.standard_normal(shape).astype(np.float32)
    if "m" in feeds:
        feeds["m"][1] = feeds["m"].dtype.type(0) if feeds["m"].dtype == bool else -1e9  # a row that attends to nothing
    return feeds


@pytest.mark.parametrize(
    "how",
    [
        {}, {"scale": "q"}, {"scale": "both"}, {"scale": "none"}, {"keys": 24}, {"turned": True}, {"opset": 13},
        {"mask": "add"}, {"mask": "keep"}, {"mask": "drop"}, {"mask": "causal"},
        {"mask": "add", "scale": "q", "keys": 24},
    ],
    ids=str,
)  # fmt: skip
def test_it_computes_the_same(how: dict[str, Any]) -> None:
    model = attention(**how)
    fused = fuse_attention(Model.load(model))
    assert len(fused.fused) == 1
    written = fused.model.to_proto()
    onnx.checker.check_model(written, full_check=True)
    kinds = [node.op_type for node in written.graph.node]
    assert kinds.count("Attention") == 1
    assert not {"MatMul", "Softmax", "Div", "Mul"} & set(kinds)
    feeds = _feeds(model)
    with Session(Model.load(model)) as before, Session(fused.model) as after:
        right, found = before.run(feeds)["o"], after.run(feeds)["o"]
    np.testing.assert_allclose(found, right, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({"axis": 2}, "over axis 2"),
        ({"capped": True}, "Tanh stands between"),
        ({"shown": True}, "'p' inside it is read elsewhere"),
    ],
    ids=str,
)
def test_what_is_no_attention_is_refused_with_its_reason(how: dict[str, Any], reason: str) -> None:
    model = Model.load(attention(**how))
    found = fuse_attention(model)
    assert not found.fused
    assert found.model is model
    assert reason in found.refused[0].reason


def test_rewrite_says_what_was_fused_and_what_nothing_writes() -> None:
    result = rewrite(attention(mask="add"), fuse=["attention", "gelu"], keep_fp32="Attention")
    assert [entry["kind"] for entry in result.report["fused"]] == ["attention"]
    assert [entry["node"] for entry in result.report["kept_fp32"] if entry["op_type"] == "Attention"]
    notes = " ".join(result.report["notes"])
    assert "float mask" in notes
    assert "--fuse gelu: nothing is written for it" in notes


def test_a_target_without_the_operator_is_one_line() -> None:
    with pytest.raises(PlanError, match="tensorrt-10 is not known to take ONNX's Attention"):
        plan(attention(), target="tensorrt-10", fuse=["attention"], policy="rules")


@pytest.mark.rtx
@pytest.mark.parametrize(("keep", "mask"), [((), ""), (("Attention",), ""), ((), "add"), (("Attention",), "causal")])
def test_rtx_makes_one_kernel_of_it(keep: tuple[str, ...], mask: str) -> None:
    from precision_planner.emitting.rtx import rtx_build

    typed = rewrite(
        attention(mask=mask, size=64), fuse=["attention"], keep_fp32=keep, io_types="low", verify=False
    ).typed
    built = rtx_build(typed)
    assert built.ok, built.errors
    assert built.fused_attention == 1
