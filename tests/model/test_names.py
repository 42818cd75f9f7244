"""New names against everything that has a name: values and nodes of the graph, of bodies at any depth, of functions."""

from __future__ import annotations

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from precision_planner.model.names import FreshNames

TEXT = """
<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
case (bool c, float[2] x) => (float[2] y) <float[2] weight = {1, 2}> {
  [branch] y = If (c) <
    then_branch = yes () => (float[2] t) <float[2] inner = {1, 2}> { [deep] t = Add(x, inner) },
    else_branch = no () => (float[2] e) {
      [nested] e = If (c) <
        then_branch = a () => (float[2] t2) { [deeper] u = Exp(x) t2 = Neg(u) },
        else_branch = b () => (float[2] e2) { [call] e2 = own.f(x) }
      >
    }
  >
}
<domain: "own", opset_import: ["" : 17]>
f (left) => (right) { [within] middle = Neg(left) right = Exp(middle) }
"""
NAMES = [
    "c",
    "x",
    "y",
    "weight",
    "branch",
    "t",
    "inner",
    "deep",
    "e",
    "nested",
    "t2",
    "u",
    "deeper",
    "e2",
    "call",
    "left",
    "right",
    "middle",
    "within",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_in_use_anywhere_is_not_handed_out(name):
    names = FreshNames.of(onnx.parser.parse_model(TEXT))
    assert names.fresh(name) == f"{name}_1"
    assert names.fresh(name) == f"{name}_2"


def test_sparse_constants_have_names_too():
    proto = onnx.parser.parse_model(TEXT)
    sparse = onnx.SparseTensorProto()
    sparse.values.name = "few"
    proto.graph.sparse_initializer.append(sparse)
    assert FreshNames.of(proto).fresh("few") == "few_1"


@given(st.lists(st.sampled_from(["a", "a_1", "a_1_1", "b"])))
def test_no_name_is_handed_out_twice(wishes):
    names = FreshNames(["a"])
    made = [names.fresh(wish) for wish in wishes]
    assert len(set(made)) == len(made)
    assert "a" not in made
