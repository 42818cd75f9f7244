"""BF16 has FP32's range and 8 bits: judged by its own constants, and no cure for what a reader has to tell apart."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import onnx
import onnx.parser
import pytest

import precision_planner as pp
from precision_planner.model import Model
from precision_planner.model.inputs import load_inputs
from precision_planner.planning.decide import decide
from precision_planner.rules.facts.evidence import CONSTANT_DOCS, format_constants


class _Source:
    def __init__(self, precision: str) -> None:
        self.precision, self.headroom = precision, 4.0


@pytest.mark.parametrize(("precision", "dtype"), [("fp16", np.float16), ("bf16", ml_dtypes.bfloat16)])
def test_the_named_numbers_are_the_formats_own(precision: str, dtype: type) -> None:
    """Each against the format itself: numpy's float16, ml_dtypes' bfloat16."""
    named = format_constants(_Source(precision))  # type: ignore[arg-type]
    assert set(named) == set(CONSTANT_DOCS)

    def spacing(value: float) -> float:
        here = np.asarray(value, dtype)
        after = (here.view(np.uint16) + 1).view(dtype)
        return float(after) - float(here)

    assert spacing(named["score_limit"]) == 1.0
    assert spacing(named["score_limit"] / 2) == 0.5
    # up to the limit the spacing is 2^-7 at most, so that the nearest value is within 2^-8
    assert spacing(named["angle_limit"] / 2) == 2.0**-7
    assert spacing(named["angle_limit"]) == 2.0**-6
    assert float(np.asarray(named["exact_integers"] - 1, dtype)) == named["exact_integers"] - 1
    assert float(np.asarray(named["exact_integers"] + 1, dtype)) != named["exact_integers"] + 1
    largest = float(ml_dtypes.finfo(dtype).max)
    assert named["mask_limit"] * 2 == largest
    assert named["mask_floor"] == -named["mask_limit"]
    assert named["square_limit"] ** 2 * 2 < largest <= (2 * named["square_limit"]) ** 2
    assert math.log2(named["square_limit"]).is_integer()


_READERS = {
    "Softmax": "y = Softmax<axis = -1>(h)",
    "TopK": "y, i = TopK(h, k)",
    "ArgMax": "i = ArgMax<axis = 1, keepdims = 0>(h)",
    "Sin": "y = Sin(h)",
}


def _overflowing(reader: str) -> onnx.ModelProto:
    outputs = {"TopK": "float[2,2] y, int64[2,2] i", "ArgMax": "int64[2] i"}.get(reader, "float[2,4] y")
    return onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        case (float[2,4] x) => ({outputs}) <float half = {{0.5}}, int64[1] k = {{2}}> {{
          [square] s = Mul(x, x)
          [halve] h = Mul(s, half)
          [reader] {_READERS[reader]}
        }}"""
    )


@pytest.mark.parametrize("reader", sorted(_READERS))
def test_what_orders_or_exponentiates_values_gets_fp32_not_bf16(reader: str) -> None:
    """300^2 passes 65504; BF16 would hold it with a spacing of 512, which none of these can do with."""
    x = np.array([[300, 299, 1, 2], [280, 281, 3, 4]], np.float32)
    model = Model.load(_overflowing(reader))
    choice = decide(
        model, load_inputs({"x": x}, model), precision="fp16", target="tensorrt-11", without=["rescale_stream"]
    )
    kept = {node.output: decision.precision for node, decision in choice.decisions.items()}
    assert kept.get("s") == "fp32"
    assert "bf16" not in kept.values()


def test_a_reader_that_takes_the_size_alone_gets_bf16() -> None:
    model = Model.load(
        onnx.parser.parse_model(
            """<ir_version: 8, opset_import: ["" : 17]>
            case (float[2,4] x) => (float[2,4] y) <float small = {0.001}> {
              [square] s = Mul(x, x)
              [shrink] y = Mul(s, small)
            }"""
        )
    )
    x = np.array([[300, 299, 1, 2], [280, 281, 3, 4]], np.float32)
    choice = decide(
        model, load_inputs({"x": x}, model), precision="fp16", target="tensorrt-11", without=["rescale_stream"]
    )
    assert {decision.precision for decision in choice.decisions.values()} == {"bf16"}


def test_nothing_found_says_how_many_were_asked() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        case (float[2] x) => (float[2] y) { y = Relu(x) }"""
    )
    from io import StringIO

    from rich.console import Console

    from precision_planner.reporting.analysis_terminal import render_analysis

    def shown(**options: object) -> str:
        stream = StringIO()
        render_analysis(pp.analyze(model, precision="bf16", **options).to_dict(), Console(file=stream, width=100))
        return stream.getvalue()

    assert "rules about BF16 fired" in shown()
    assert "no rule is about BF16" in shown(only=["EX001"])
    assert "no findings" not in shown() + shown(only=["EX001"])
