"""The last line of rewrite, plan and compat is a verdict on what was written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import precision_planner as pp
from precision_planner.cli.main import main
from precision_planner.compat import VerdictWarning, convert_to_mixed_precision
from precision_planner.errors import ConversionError, ModelError, TargetError

FLOAT = TensorProto.FLOAT
INFO = helper.make_tensor_value_info
LOW = ["--only-low", "Mul"]
"""The user's own choice, which binds whatever is known of the values."""


def squares(scale: float) -> onnx.ModelProto:
    """y = (x^2 * scale) w: overflows FP16 where x^2 * scale passes 65504, if the user holds its nodes to FP16."""
    nodes = [
        helper.make_node("Mul", ["x", "x"], ["s"], "square"),
        helper.make_node("Mul", ["s", "k"], ["t"], "scaled"),
        helper.make_node("MatMul", ["t", "w"], ["y"], "mm"),
    ]
    constants = [numpy_helper.from_array(np.float32(scale), "k"), numpy_helper.from_array(np.eye(8, dtype="f4"), "w")]
    graph = helper.make_graph(nodes, "g", [INFO("x", FLOAT, ["n", 8])], [INFO("y", FLOAT, ["n", 8])], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COLUMNS", "400")  # a long name of a folder breaks no line
    onnx.save(squares(1.0), tmp_path / "fine.onnx")
    onnx.save(squares(6e4), tmp_path / "loud.onnx")
    np.savez(tmp_path / "in.npz", x=np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32))
    return tmp_path


def last_line(text: str) -> str:
    return " ".join(text.strip().splitlines()[-1].split())


def test_a_rewrite_ends_with_its_verdict(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inputs = ["--inputs", str(files / "in.npz")]
    assert main(["rewrite", str(files / "fine.onnx"), *inputs]) == 0
    assert last_line(capsys.readouterr().out).startswith("FINE: 'y'")
    report = files / "report.json"
    assert main(["rewrite", str(files / "loud.onnx"), *inputs, *LOW, "--json", str(report)]) == 1
    captured = capsys.readouterr()
    assert last_line(captured.out).startswith("NONFINITE: ")
    assert "first wrong at scaled: values reach" in captured.out
    verdict = json.loads(report.read_text())["verdict"]
    assert set(verdict) == {"grade", "sentence", "judged_on", "first_wrong"}
    assert verdict["grade"] == "NONFINITE"
    assert verdict["judged_on"].startswith("given inputs (")
    assert verdict["first_wrong"].startswith("scaled: ")


def test_made_up_inputs_warn_and_fail_where_that_is_asked_for(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = str(files / "loud.onnx")
    assert main(["rewrite", source, *LOW]) == 0
    captured = capsys.readouterr()
    assert "judged on made-up inputs" in last_line(captured.out)
    assert "warning: the verdict rests on made-up inputs" in captured.err
    assert main(["rewrite", source, *LOW, "--force", "--fail-on-made-up"]) == 1
    assert main(["rewrite", source, *LOW, "--force", "--no-verify"]) == 0
    assert last_line(capsys.readouterr().out).startswith("NOT JUDGED: verification was switched off")


def test_a_plan_carries_verification_and_verdict(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = [str(files / "fine.onnx"), "--inputs", str(files / "in.npz"), "-o"]
    assert main(["plan", *common, str(files / "p")]) == 0
    out = capsys.readouterr().out
    assert last_line(out).startswith("FINE: ")
    assert f"next: python {files / 'p' / 'build.py'}" in out
    plan = json.loads((files / "p" / "plan.json").read_text())
    assert plan["verdict"]["grade"] == "FINE"
    assert plan["verification"]["passed"] is True
    assert main(["plan", *common, str(files / "q"), "--no-verify", "--target", "onnxruntime"]) == 0
    out = capsys.readouterr().out
    assert "build.py" not in out, "a plan for onnxruntime has none"
    assert last_line(out).startswith("NOT JUDGED")
    plan = json.loads((files / "q" / "plan.json").read_text())
    assert (plan["verdict"]["judged_on"], plan["verification"]["passed"], plan["predicted"]) == (None, None, {})


def test_bfloat16_is_judged_and_not_verified(files: Path) -> None:
    report = pp.rewrite(files / "fine.onnx", precision="bf16", inputs=files / "in.npz").report
    assert report["verification"]["passed"] is None
    assert report["verdict"]["grade"] == "FINE"


def test_compat_says_what_it_made() -> None:
    x = {"x": np.full((2, 8), 3, np.float32)}
    with pytest.warns(VerdictWarning, match="NONFINITE"):
        convert_to_mixed_precision(squares(6e4), op_types_to_include=["Mul"], data_max=None, calibration_data=x)
    convert_to_mixed_precision(
        squares(6e4), op_types_to_include=["Mul"], data_max=None, calibration_data=x, verify=False
    )


def test_a_candidate_that_does_not_load_is_never_simulated() -> None:
    def added(*nodes: onnx.NodeProto) -> onnx.ModelProto:
        constant = numpy_helper.from_array(np.ones(4, np.float32), "w")
        graph = helper.make_graph(list(nodes), "g", [INFO("x", FLOAT, [2, 4])], [INFO("y", FLOAT, [2, 4])], [constant])
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    right = added(helper.make_node("Add", ["x", "w"], ["y"], "plus"))
    mixed = added(
        helper.make_node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
        helper.make_node("Add", ["h", "w"], ["y"], "plus"),
    )
    x = {"x": np.ones((2, 4), np.float32)}
    with pytest.raises(
        ModelError, match=r"cannot be loaded as it is: node plus \(Add\) reads float16 'h' and float 'w'"
    ):
        pp.diff(right, mixed, x, tolerance={"max_abs": 1e-2})


def test_what_the_checker_refuses_is_an_error_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rewrite that came out wrong, whatever the reason: here the check itself says so."""
    from precision_planner.rewriting import checks

    seen = iter(["the ONNX checker: B has inconsistent type", "", "the ONNX checker: B has inconsistent type", ""])
    monkeypatch.setattr(checks, "check_file", lambda path: next(seen))
    x = {"x": np.ones((2, 8), np.float32)}
    with pytest.raises(ConversionError, match="the fp16 model that was made is refused: the ONNX checker"):
        pp.rewrite(squares(1.0), inputs=x)
    with pytest.raises(ConversionError, match="is refused"):
        pp.plan(squares(1.0), inputs=x)


def test_a_typed_graph_is_for_targets_that_take_its_types_alone() -> None:
    model = squares(300.0)
    for target in ("tensorrt-8.6", "tensorrt-10"):
        with pytest.raises(TargetError, match=f"{target} is weakly typed"):
            pp.rewrite(model, target=target)
    assert pp.rewrite(model, target="tensorrt-11").verdict is not None
