"""Which weights a model or its plan asks to be in FP32 or BF16: by the types on the way, and by the plan's nodes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import precision_planner as pp
from precision_planner.engines.asking import SMALLEST, asked_weights
from precision_planner.model import Model

HALF, BF16 = 10, 16


def built(body: str, kind: type = np.float32, size: int = 8) -> Model:
    """y = x w, the weight behind what `body` says: w -> v."""
    text = f"""<ir_version: 10, opset_import: ["" : 20]>
    g (float[2, {size}] x) => (float[2, {size}] y) {{
      {body}
      [product] p = MatMul(low, v)
      y = Cast<to = 1>(p)
    }}"""
    proto = onnx.parser.parse_model(text)
    w = np.arange(size * size, dtype=np.float64).reshape(size, size) / 7
    proto.graph.initializer.append(numpy_helper.from_array(w.astype(kind), "w"))
    return Model.load(proto)


IN_FP32, IN_HALF = "low = Identity(x)", f"low = Cast<to = {HALF}>(x)"


@pytest.mark.parametrize(
    ("body", "kind", "form"),
    [
        (f"{IN_FP32}  v = Identity(w)", np.float32, "fp32"),
        (f"{IN_FP32}  v = Transpose<perm = [1, 0]>(w)", np.float32, "fp32"),
        (f"{IN_FP32}  b = Cast<to = {BF16}>(w)  v = Cast<to = 1>(b)", np.float32, "bf16"),
        (f"{IN_FP32}  h = Cast<to = {HALF}>(w)  v = Cast<to = 1>(h)", np.float32, None),
        (f"{IN_HALF}  v = Cast<to = {HALF}>(w)", np.float32, None),
        (f"{IN_HALF}  v = Identity(w)", np.float16, None),
        (f"{IN_FP32}  v = Cast<to = 1>(w)", np.float16, None),
        (f"{IN_FP32}  v = Neg(w)", np.float32, None),
    ],
)
def test_a_weight_is_asked_for_in_the_narrowest_type_on_its_way(body: str, kind: type, form: str | None) -> None:
    model = built(body, kind)
    found = asked_weights(model)
    assert [one.form for one in found] == ([] if form is None else [form])
    for asked in found:
        assert (asked.name, asked.nodes) == ("w", ("product",))
        np.testing.assert_array_equal(asked.values, (np.arange(64).reshape(8, 8) / 7).astype(np.float32))


@pytest.mark.parametrize(
    ("body", "form"),
    [("v = Identity(w)", "fp32"), (f"b = Cast<to = {BF16}>(w)  v = Cast<to = 1>(b)", "bf16")],
)
def test_a_weight_in_a_constant_node_has_its_outputs_name(body: str, form: str) -> None:
    proto = built(f"{IN_FP32}  {body}").to_proto()
    tensor = proto.graph.initializer.pop()
    tensor.name = "value"
    proto.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["w"], value=tensor))
    (found,) = asked_weights(Model.load(proto))
    assert (found.name, found.form) == ("w", form)
    np.testing.assert_array_equal(found.values, numpy_helper.to_array(tensor))


def test_a_weight_too_small_to_be_told_apart_is_not_asked_for() -> None:
    assert SMALLEST == 64
    body = f"{IN_FP32}  v = Identity(w)"
    assert len(asked_weights(built(body, size=8))) == 1
    assert asked_weights(built(body, size=7)) == ()


@pytest.mark.parametrize(("precision", "form"), [("fp32", "fp32"), ("bf16", "bf16"), ("fp16", None), ("fp16+", None)])
def test_a_plans_word_counts_where_it_has_one(precision: str, form: str | None) -> None:
    model = built(f"{IN_FP32}  v = Identity(w)")
    plan = pp.plan(model, inputs={"x": np.ones((2, 8), np.float32)}, verify=False).plan
    nodes = tuple(replace(n, precision=precision) if n.node == "product" else n for n in plan.nodes)
    found = asked_weights(model, replace(plan, nodes=nodes))
    assert [one.form for one in found] == ([] if form is None else [form])
    elsewhere = tuple(n for n in plan.nodes if n.node != "product")
    assert [one.form for one in asked_weights(model, replace(plan, nodes=elsewhere))] == ["fp32"]
