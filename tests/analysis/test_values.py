"""The values along a model whose ranges an analysis shows: floats that nodes make, bodies' too, and no constants."""

from __future__ import annotations

import numpy as np
import onnx

import precision_planner as pp

TEXT = """<ir_version: 10, opset_import: ["" : 20]>
g (float[2] x, bool c, int64[1] i) => (float[2] y) <float[2] w = {3, 4}> {
  [const] k = Constant<value = float[1] {100}>()
  [product] a = Mul(x, w)
  [scaled] b = Mul(a, k)
  [where] j = Add(i, i)
  [branch] y = If(c) <then_branch = yes () => (float[2] t) { [inner] t = Neg(b) },
                      else_branch = no () => (float[2] e) { [other] e = Abs(b) }>
}"""


def test_values_are_what_nodes_make_in_floats() -> None:
    feeds = {"x": np.array([-1, 2], np.float32), "c": np.array(True), "i": np.array([1], np.int64)}
    found = pp.analyze(onnx.parser.parse_model(TEXT), inputs=feeds).to_dict()["values"]
    told = {value["value"]: (value["node"], value["amax"]) for value in found}
    assert told["x"] == ("", 2)
    assert told["a"] == ("product", 8)
    assert told["b"] == ("scaled", 800)
    assert told["y"] == ("branch", 800)
    assert {"t", "e"} <= told.keys(), "what bodies make"
    assert not told.keys() & {"k", "w", "j", "i", "c"}, "no constants, and no integers"
