"""Node data for Model Explorer: what its own package takes, and the right node in the right color."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import jsonschema
import numpy as np
import pytest

import precision_planner as pp
from precision_planner.cli.main import main
from precision_planner.reporting.node_data import COLORS, node_data
from tests.reporting.test_lanes import node, plan
from tests.reporting.test_ribbon import overflowing

COLOR = {"type": "object", "properties": {"bgColor": {"type": "string"}, "textColor": {"type": "string"}}}
SCHEMA = {
    "type": "object",
    "description": "ModelNodeData of ai-edge-model-explorer 0.1.34, node_data_builder.py",
    "additionalProperties": {
        "type": "object",
        "required": ["results"],
        "additionalProperties": False,
        "properties": {
            "results": {
                "type": "object",
                "additionalProperties": {**COLOR, "required": ["value"], "properties": {"value": {"type": "number"}}},
            },
            "thresholds": {"type": "array", "items": {**COLOR, "required": ["value", "bgColor"]}},
            "gradient": {"type": "array"},
            "name": {"type": "string"},
        },
    },
}


@dataclass(frozen=True)
class Shown:
    """A node as the viewer colors it: the first threshold that its value does not pass."""

    data: dict[str, Any] = field(repr=False)

    def color(self, name: str) -> str | None:
        value = self.data["results"][name]["value"]
        return next((limit["bgColor"] for limit in self.data["thresholds"] if value <= limit["value"]), None)


def test_an_analysis_colors_what_overflows() -> None:
    x = np.linspace(-2, 2, 16, dtype=np.float32).reshape(2, 8)
    found = node_data(pp.analyze(overflowing(), inputs={"x": x}).to_dict())
    jsonschema.validate(found, SCHEMA)
    assert list(found) == ["g"]
    shown = Shown(found["g"])
    assert found["g"]["results"]["square"]["value"] == pytest.approx(360000 / 65504)
    colors = {name: shown.color(name) for name in ("[value] x", "scale", "square", "back")}
    assert colors == {
        "[value] x": COLORS["fine"],
        "scale": COLORS["fine"],
        "square": COLORS["over"],
        "back": COLORS["fine"],
    }


@pytest.mark.parametrize(
    ("amax", "kind"),
    [(0.0, "fine"), (6e-5, "tiny"), (2.0**-14, "fine"), (16376, "fine"), (65504.0, "near"), (65505, "over")],
)
def test_colors_change_at_the_limits(amax: float, kind: str) -> None:
    limits = {"max_finite": 65504.0, "smallest_normal": 2.0**-14}
    value = {"value": "v", "scope": "", "node": "n", "op_type": "Mul", "amax": amax}
    (found,) = node_data({"values": [value], "format": limits}).values()
    assert Shown(found).color("n") == COLORS[kind]


def test_a_plan_colors_by_precision_and_names_nodes_without_a_name_by_their_value() -> None:
    nodes = [node(0, "fp16"), node(1, "fp32"), {**node(2, "fp16"), "node": "Add(v2)"}, node(3, "")]
    (found,) = node_data(plan(nodes)).values()
    jsonschema.validate({"g": found}, SCHEMA)
    assert {name: result["value"] for name, result in found["results"].items()} == {"/n0": 16, "/n1": 32, "v2": 16}
    assert Shown(found).color("/n0") != Shown(found).color("/n1")


def test_report_writes_node_data_and_refuses_what_has_none(tmp_path, capsys) -> None:
    (tmp_path / "a.json").write_text(json.dumps(pp.analyze(overflowing()).to_dict()))
    assert main(["report", str(tmp_path / "a.json"), "--node-data", str(tmp_path / "out.json")]) == 0
    jsonschema.validate(json.loads((tmp_path / "out.json").read_text()), SCHEMA)
    assert main(["fp16", "1", "--json"]) == 0
    (tmp_path / "f.json").write_text(capsys.readouterr().out)
    assert main(["report", str(tmp_path / "f.json"), "--node-data", str(tmp_path / "no.json")]) == 2
    assert "neither an analysis with values nor a plan" in capsys.readouterr().err
