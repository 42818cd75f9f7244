"""A plan is a value that is applied: unedited it gives the planned model bit for bit, edited what the edit says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

import precision_planner as pp
from precision_planner.cli.main import main
from precision_planner.errors import PlanError
from precision_planner.rules import load_rulebook
from precision_planner.rules.engine.cases import case_inputs, case_model
from precision_planner.rules.language.schema import read_cases

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
case (float[N,4] x) => (float[N,4] y) <
  float[4,4] w = {1,2,0,0,0,1,0,3,0,0,1,0,1,0,0,1}, float[4] k = {300,300,300,300}> {
  [first] a = MatMul(x, w)
  [grow] b = Mul(a, k)
  [square] c = Mul(b, b)
  [root] d = Sqrt(c)
  [last] y = MatMul(d, w)
}
"""
X = np.linspace(-2, 2, 12, dtype=np.float32).reshape(3, 4)
REPAIRED = {
    rule.id: (rule, read_cases(rule)[0])
    for rule in load_rulebook()
    if any(action.repair for action in rule.actions) and read_cases(rule)[0].inputs is not None
}


@pytest.fixture(scope="module")
def planned():
    return pp.plan(onnx.parser.parse_model(TEXT), inputs={"x": X}, without=["rescale_stream"])


def bits(model) -> bytes:
    return model.SerializeToString(deterministic=True)


@pytest.mark.parametrize("name", REPAIRED)
def test_a_plan_with_repairs_is_applied_bit_for_bit(name):
    rule, case = REPAIRED[name]
    model = case_model(rule, case)
    planned = pp.plan(model, inputs=case_inputs(rule, case, model))
    applied = pp.apply(model.to_proto(), json.loads(planned.plan.to_json()), verify=False)
    assert bits(applied.model) == bits(planned.model.to_proto())
    assert applied.report["notes"] == []


def test_a_rescaled_stream_is_rescaled_again_without_the_data():
    model = onnx.parser.parse_model(TEXT.replace("[root] d = Sqrt(c)", "[root] d = LpNormalization(c)"))
    planned = pp.plan(model, inputs={"x": X})
    assert [entry["repair"] for entry in planned.plan.repairs] == ["rescale_stream"]
    applied = pp.apply(model, planned.plan, verify=False)
    assert bits(applied.model) == bits(planned.model.to_proto())


def test_the_data_is_not_needed_again_and_the_result_is_judged(planned):
    applied = pp.apply(onnx.parser.parse_model(TEXT), planned.plan, inputs={"x": X})
    assert bits(applied.model) == bits(planned.model.to_proto())
    assert applied.verdict.grade.upper() == "FINE"


def edited(plan, **precisions):
    data = plan.to_dict()
    for node in data["nodes"]:
        if node["node"] in precisions:
            node["precision"] = precisions[node["node"]]
            node["keep_as"] = "island" if node["precision"] == "fp32" else ""
    return data


def test_an_edited_plan_does_what_the_edit_says_and_is_judged_again(planned):
    assert {node.node for node in planned.plan.nodes if node.precision == "bf16"} >= {"square", "root"}
    model = onnx.parser.parse_model(TEXT)
    higher = pp.apply(model, edited(planned.plan, last="fp32"), inputs={"x": X})
    assert "last" in {entry["node"] for entry in higher.report["kept_fp32"]}
    assert higher.verdict.grade.upper() == "FINE"
    lower = pp.apply(model, edited(planned.plan, square="fp16", root="fp16"), inputs={"x": X})
    assert "square" not in {entry["node"] for entry in lower.report["kept_fp32"]}
    assert lower.verdict.grade.upper() == "NONFINITE"


def test_what_cannot_be_as_planned_is_said():
    text = TEXT.replace("d = Sqrt(c)", "d = own.Root(c)").replace('["" : 17]', '["" : 17, "own" : 1]')
    model = onnx.parser.parse_model(text)
    plan = pp.plan(model, inputs={"x": X}).plan
    notes = pp.apply(model, edited(plan, root="bf16"), verify=False).report["notes"]
    assert any("root is fp32, not bf16 as in the plan: unknown operator" in note for note in notes)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("Sqrt(c)", "Abs(c)", "its node root is Sqrt and makes 'd'; here root is Abs"),
        ("d = Sqrt(c)\n  [last] y = MatMul(d, w)", "e = Sqrt(c)\n  [last] y = MatMul(e, w)", "no node of this model"),
        ("y = MatMul(d, w)", "e = MatMul(d, w)\n  [neg] y = Neg(e)", "with nodes 5, this model has 6"),
        ('"" : 17', '"" : 18', "with opset 17, this model has 18"),
    ],
)
def test_a_plan_that_does_not_fit_says_where(planned, old, new, message):
    assert old in TEXT
    with pytest.raises(PlanError, match=message):
        pp.apply(onnx.parser.parse_model(TEXT.replace(old, new)), planned.plan)


def test_a_plan_of_before_says_that_its_repairs_cannot_be_done_again(planned):
    data = planned.plan.to_dict() | {"repairs": [{"repair": "finite_mask", "rule": "MK001", "nodes": ["first"]}]}
    with pytest.raises(PlanError, match="finite_mask at first without saying how"):
        pp.apply(onnx.parser.parse_model(TEXT), data)


def test_the_command(planned, tmp_path: Path, capsys):
    model, folder = tmp_path / "m.onnx", tmp_path / "plan"
    onnx.save(onnx.parser.parse_model(TEXT), model)
    np.savez(tmp_path / "in.npz", x=X)
    planned.save(folder)

    def run(*more: str) -> tuple[int, str]:
        code = main(["rewrite", str(model), "--inputs", str(tmp_path / "in.npz"), *more])
        said = capsys.readouterr()
        return code, said.out + said.err

    code, said = run("--plan", str(folder))
    assert code == 0, said
    assert "FINE" in said
    assert bits(onnx.load(tmp_path / "m.fp16.onnx")) == bits(planned.model.to_proto())
    (tmp_path / "edited.json").write_text(json.dumps(edited(planned.plan, square="fp16", root="fp16")))
    code, said = run("--plan", str(tmp_path / "edited.json"), "-o", str(tmp_path / "e.onnx"))
    assert code == 1
    assert "NONFINITE" in said
    code, said = run("--plan", str(folder), "--keep-fp32", "*", "--force")
    assert code == 2
    assert "edit the plan's nodes instead" in said
    code, said = run("--plan", str(tmp_path / "nonesuch.json"), "--force")
    assert code == 2
    assert "cannot be read as a plan" in said
