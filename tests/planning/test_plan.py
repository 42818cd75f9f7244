"""The plan's JSON: stable, checked against its schema, and read back as it was."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import jsonschema
import pytest

from precision_planner.emitting.folder import folder_readme
from precision_planner.errors import PlanError, TargetError
from precision_planner.plans import Constraint, PlannedNode, PrecisionPlan, Profile, plan_schema
from precision_planner.targets import TARGETS, get_target


def sample() -> PrecisionPlan:
    return PrecisionPlan(
        model={"name": "m.onnx", "opset": 17, "nodes": 3},
        target="tensorrt-8.6",
        typing="weak",
        precision="fp16",
        nodes=(
            PlannedNode("/a", "MatMul", (), "h", "fp16"),
            PlannedNode(
                "Add(y)", "Add", ("z.then_branch",), "y", "fp32", "island", "too large", "RS001", {"amax": 1e5}
            ),
        ),
        constraints=(Constraint("", ("y",)),),
        interface={
            "inputs": {"x": {"dtype": "float", "shape": ["b", 3]}},
            "outputs": {"y": {"dtype": "float", "shape": None}},
        },
        profiles={"x": Profile((1, 3), (8, 3), (16, 3))},
        build={"tf32": False},
        predicted={"y": {"sad": 1e-4, "max_abs": math.nan}},
        tolerance=({"output": None, "metric": "sad", "bound": 1e-3},),
        passed=True,
    )


def test_a_plan_survives_json() -> None:
    plan = sample()
    text = plan.to_json()
    again = PrecisionPlan.from_json(text)
    assert again.to_json() == text
    assert again.nodes == plan.nodes
    assert again.constraints == plan.constraints
    assert again.profiles == plan.profiles


def test_the_schema_is_a_schema_and_accepts_the_plan() -> None:
    jsonschema.Draft202012Validator.check_schema(plan_schema())
    data = json.loads(sample().to_json())
    jsonschema.validate(data, plan_schema())
    assert data["predicted"]["y"]["max_abs"] == "nan"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.update(schema_version=2), "schema version 2"),
        (lambda data: data.pop("nodes"), "'nodes' is a required property"),
        (lambda data: data["nodes"][0].update(precision="fp8"), "nodes/0/precision: 'fp8' is not one of"),
        (lambda data: data.update(surprise=1), "surprise"),
        (lambda data: data["profiles"]["x"].update(min=[-1, 3]), "profiles/x/min/0"),
    ],
)
def test_a_broken_plan_is_one_line_that_names_the_place(change, message: str) -> None:
    data = json.loads(sample().to_json())
    change(data)
    with pytest.raises(PlanError, match=message) as caught:
        PrecisionPlan.from_dict(data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[1]", "{", "null"])
def test_what_is_no_plan(text: str) -> None:
    with pytest.raises(PlanError):
        PrecisionPlan.from_json(text)


def test_targets() -> None:
    assert get_target("tensorrt-11").strong
    assert not get_target("tensorrt-8.6").strong
    assert [target.name for target in TARGETS.values() if target.default] == ["tensorrt-11"]
    with pytest.raises(TargetError, match="did you mean tensorrt-11"):
        get_target("tensorrt11")
    with pytest.raises(TargetError, match=r"take one of tensorrt-8\.6"):
        get_target("coreml")


@pytest.mark.parametrize(("cost", "throughout", "said"), [(9.0, 10.0, False), (10.0, 10.0, True), (12.0, 10.0, True)])
@pytest.mark.parametrize("passed", [True, False])
def test_a_plan_says_of_tf32_alone_what_was_simulated(cost: float, throughout: float, said: bool, passed: bool) -> None:
    searched = {"cost_us": cost, "tf32_us": throughout, "tf32_alone": {"y:sad": 3e-4, "passed": passed}}
    plan = replace(sample(), search=searched, predicted={})
    assert plan.kept
    assert ("FP32 with TF32 throughout" in plan.tf32_instead) is said
    assert ("meets the tolerance" in plan.tf32_instead) is (said and passed)
    assert ("misses the tolerance as simulated: y:sad 0.0003" in plan.tf32_instead) is (said and not passed)
    assert (plan.tf32_instead in folder_readme(plan)) is True
    assert ("**Compare:**" in folder_readme(plan)) is said
    assert replace(plan, target="onnxruntime").tf32_instead == ""
    assert replace(sample(), search={}).tf32_instead == ""
    untried = {"cost_us": cost, "tf32_us": throughout, "tf32_alone": None}
    assert replace(plan, search=untried).tf32_instead == ""
