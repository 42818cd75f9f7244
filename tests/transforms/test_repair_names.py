"""Repairs invent names: those that the model has already, in a graph or a body, are left to it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from precision_planner.model import GraphIndex, Model, NodeId, infer_types
from precision_planner.transforms.repairs import RepairRequest, Site, apply_repairs, finite_mask

HEAD = '<ir_version: 10, opset_import: ["" : 17]> case (float[N, 4] x, bool b) => (float[N] y, float[N, 4] z)'
DIVIDED = f"""{HEAD} <float n = {{5}}, float x_divided_1_by = {{7}}> {{
  axes = Constant<value = int64[1] {{1}}>()
  s = ReduceSum<keepdims = 0>(x, axes)
  y = Div(s, n)
  z = If(b) <then_branch = yes () => (float[N, 4] t) {{ x_divided_1 = Exp(x)  t = Mul(x_divided_1, x_divided_1_by) }},
             else_branch = no () => (float[N, 4] e) {{ e = Neg(x) }}>
}}"""
SOFTPLUS = f"""{HEAD} <float one = {{1}}, float zero = {{0}}> {{
  axes = Constant<value = int64[1] {{1}}>()
  y_exp = ReduceSum<keepdims = 0>(x, axes)
  p = Exp(y_exp)
  q = Add(p, one)
  y = Log(q)
  z = If(b) <then_branch = yes () => (float[N, 4] t) {{ y_abs = Exp(x)  t = Mul(y_abs, one) }},
             else_branch = no () => (float[N, 4] e) {{ e = Neg(x) }}>
}}"""


@pytest.mark.parametrize(
    ("repair", "text", "values"), [("divide_first", DIVIDED, ["s"]), ("stable_softplus", SOFTPLUS, ["p", "q", "y"])]
)
def test_a_name_that_the_model_has_is_not_taken(repair: str, text: str, values: list[str]) -> None:
    model = Model.load(onnx.parser.parse_model(text))
    feeds = {"x": np.array([[1, 2, 3, 4], [-1, 0, 2, 0.5]], np.float32), "b": np.array(True)}
    right = ReferenceEvaluator(model.to_proto()).run(None, feeds)
    result = apply_repairs(model, [RepairRequest(repair, (), tuple(NodeId((), value) for value in values))])
    assert result.applied, result.refused
    proto = result.model.to_proto()
    onnx.checker.check_model(proto)
    names = [name for scope in GraphIndex(proto).scopes for node in scope.nodes for name in node.output]
    names += [tensor.name for tensor in proto.graph.initializer]
    assert len(set(names)) == len(names)
    for found, wanted in zip(ReferenceEvaluator(proto).run(None, feeds), right, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_a_mask_repair_passes_over_a_node_that_another_repair_took() -> None:
    text = """<ir_version: 10, opset_import: ["" : 17]> case (float[1, 4] x, bool[1, 4] m) => (float[1, 4] y)
      <float low = {-1e9}, float zero = {0}> { a = Where(m, zero, low)  s = Add(x, a)  y = Softmax(s) }"""
    model = Model.load(onnx.parser.parse_model(text))
    gone, here = NodeId((), "no longer there"), NodeId((), "a")
    index = GraphIndex(model.proto)
    site = Site(model, index, infer_types(model, index), index.main, (gone, here))
    edit = finite_mask.plan(site)
    assert not isinstance(edit, str), edit
    assert {name: float(value) for name, value in edit.replace.items()} == {"low": finite_mask.DEFAULT_MASK}
