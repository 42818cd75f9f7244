"""What a shell offers behind --keep-fp32: the selectors that the command takes."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from click.shell_completion import ShellComplete

from precision_planner.cli.main import planner

MODEL = """
<ir_version: 8, opset_import: ["" : 17]>
case (float[2,4] x) => (float[2,4] y) <float[4,4] w = {1,0,0,0,0,1,0,0,0,0,1,0,0,0,0,1}> {
  [first] a = MatMul(x, w)
  [last] y = Softmax(a)
}
"""


def offered(arguments: list[str], begun: str) -> list[str]:
    return [item.value for item in ShellComplete(planner, {}, "planner", "_X").get_completions(arguments, begun)]


@pytest.mark.parametrize("option", ["--keep-fp32", "--keep-bf16", "--only-low"])
def test_selectors_are_completed_from_categories_and_the_model(tmp_path: Path, option: str) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(onnx.parser.parse_model(MODEL), path)
    assert offered(["rewrite", str(path), option], "soft") == ["softmax", "softplus"]
    assert offered(["rewrite", str(path), option], "layernorm,Mat") == ["layernorm,MatMul"]
    assert offered(["plan", str(path), option], "fir") == ["first"]


def test_without_a_model_there_are_the_categories() -> None:
    assert offered(["diff", "--keep-fp32"], "rms") == ["rmsnorm"]
    assert offered(["extract", "nonesuch.onnx", "--around"], "gem") == ["gemm"]


def test_fusions_are_completed() -> None:
    assert offered(["rewrite", "--fuse"], "rms") == ["rms_normalization", "rmsnorm"]
