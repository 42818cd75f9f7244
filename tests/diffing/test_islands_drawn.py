"""Which parts of a typed graph are drawn as islands: connected nodes in FP32 between 16-bit values."""

from __future__ import annotations

import onnx

from precision_planner.diffing.drawings import _graph, _islands
from precision_planner.model import Model

TEXT = """<ir_version: 10, opset_import: ["" : 20]>
typed (float16[4] x) => (float16[4] y, float16[4] z) <float[4] one = {1, 1, 1, 1}> {
  low = Relu(x)
  a = Cast<to = 1>(low)
  [first] b = Exp(a)
  [left] c = Neg(b)
  [right] d = Add(b, one)
  [joined] e = Mul(c, d)
  f = Cast<to = 10>(e)
  y = Relu(f)
  g = Cast<to = 1>(y)
  [alone] h = Sqrt(g)
  z = Cast<to = 10>(h)
}"""


def parts(text: str) -> list[list[str]]:
    graph = _graph(Model.load(onnx.parser.parse_model(text)))
    return [[graph.nodes[at].name for at in part] for part in _islands(graph)]


def test_connected_nodes_are_one_island_and_others_another() -> None:
    assert parts(TEXT) == [["first", "left", "right", "joined"], ["alone"]]


def test_a_model_in_fp32_has_none() -> None:
    assert parts(TEXT.replace("float16", "float").replace("to = 10", "to = 1")) == []
