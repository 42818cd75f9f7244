"""What a loop carries is as wide as its body makes it: no iteration rounds it, whatever it begins with."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, parser

import precision_planner as pp

LOOP = """<ir_version: 8, opset_import: ["" : 17]>
  g (float[n, 4] x, int64 trips) => (float[n, 4] y) {
    [before] low = Relu(x)
    go = Constant <value_int = 1> ()
    more = Cast <to = 9> (go)
    [loop] out = Loop (trips, more, low) <body = b (int64 i, bool c, float[n, 4] s) => (bool again, float[n, 4] next) {
      [same] again = Identity(c)
      [grown] grown = Exp(s)
      [next] next = Sqrt(grown)
    }>
    [after] y = Neg(out)
  }
"""


def carried(keep: list[str]) -> tuple[int, int]:
    """(type of the state, Casts inside the body) of the typed model."""
    typed = pp.rewrite(parser.parse_model(LOOP), keep_fp32=keep, verify=False).model
    onnx.checker.check_model(typed, full_check=True)
    body = next(a.g for node in typed.graph.node if node.op_type == "Loop" for a in node.attribute if a.name == "body")
    return body.input[2].type.tensor_type.elem_type, sum(node.op_type == "Cast" for node in body.node)


@pytest.mark.parametrize(
    ("keep", "kind"),
    [
        (["grown", "next"], TensorProto.FLOAT),
        (["grown", "next", "before", "after"], TensorProto.FLOAT),
        (["before", "after"], TensorProto.FLOAT16),
        ([], TensorProto.FLOAT16),
    ],
)
def test_the_state_has_the_type_that_the_body_makes(keep: list[str], kind: int) -> None:
    assert carried(keep) == (kind, 0)


def test_a_body_that_makes_it_low_casts_inside_alone() -> None:
    assert carried(["grown"])[0] == TensorProto.FLOAT16
