"""The network at a glance: what stands where, by numpy's own logarithms and by models whose ranges are known."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

import precision_planner as pp
from precision_planner.reporting.html import render_html
from precision_planner.reporting.ribbon import COLUMNS, Ribbon, analysis_ribbon, bins_of
from precision_planner.reporting.roles import weight_classes

FP16 = {"name": "fp16", "max_finite": 65504.0, "smallest_normal": 2.0**-14, "smallest_subnormal": 2.0**-24}
BF16 = {
    "name": "bf16",
    "max_finite": float(np.finfo(np.float32).max),
    "smallest_normal": 2.0**-126,
    "smallest_subnormal": 2.0**-133,
}


def value(name: str, amax: float | None, amin: float | None = None, **more: Any) -> dict[str, Any]:
    return {"value": name, "node": f"/{name}", "op_type": "Mul", "amax": amax, "amin": amin, **more}


def drawn(values: list[dict[str, Any]], findings: list[dict[str, Any]] | None = None, limits: Any = FP16) -> Ribbon:
    found = analysis_ribbon({"values": values, "format": limits, "findings": findings or []})
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("amax", "kind"),
    [
        (65505.0, "over"),
        (65504.0, "near"),
        (16377.0, "near"),
        (16376.0, "fine"),
        (2.0**-14, "fine"),
        (6e-5, "tiny"),
        (0.0, "fine"),
        (None, "unknown"),
    ],
)
def test_a_value_is_told_by_the_limits_of_the_format(amax: float | None, kind: str) -> None:
    assert drawn([value("x", amax)]).columns[0].kind == kind


def test_heights_are_logarithms_between_the_limits() -> None:
    found = drawn([value("a", 65504.0, 2.0**-24), value("b", 1.0, 1.0)])
    ceiling, normal, floor = found.lines
    wide, one = found.columns
    assert (wide.top, wide.bottom) == (ceiling.y, floor.y)
    assert ceiling.y < normal.y < floor.y
    share = (one.top - ceiling.y) / (floor.y - ceiling.y)
    assert share == pytest.approx(np.log2(65504.0) / (np.log2(65504.0) + 24), abs=1e-3)


def test_what_is_large_in_fp16_is_fine_in_bf16() -> None:
    values = [value("x", 1e30)]
    assert drawn(values).columns[0].kind == "over"
    assert drawn(values, limits=BF16).columns[0].kind == "fine"
    assert drawn(values, limits=BF16).lines[1].label == "2^-126"


def test_squares_inside_a_node_count() -> None:
    column = drawn([value("norm", 3.0, inside_amax=1.4e6)]).columns[0]
    assert column.kind == "over"
    assert "squares inside up to 1.4e6" in column.title


@pytest.mark.parametrize("count", [1, 7, COLUMNS, COLUMNS + 1, 5000])
def test_columns_take_every_value_once_in_order(count: int) -> None:
    bins = list(bins_of(count, COLUMNS))
    assert [at for members, _, _ in bins for at in members] == list(range(count))
    assert len(bins) <= COLUMNS
    assert sum(width for _, _, width in bins) == pytest.approx(100, abs=0.2)


def test_a_column_of_many_says_its_worst_and_a_pin_stands_over_it() -> None:
    values = [value(f"v{at}", 1.0) for at in range(5000)]
    values[3210]["amax"] = 1e6
    finding = {"rule": "XX001", "severity": "error", "message": "too large", "at": 3210}
    noise = {"rule": "XX002", "severity": "info", "message": "noise", "at": 10}
    found = drawn(values, [finding, noise])
    over = [column for column in found.columns if column.kind == "over"]
    assert [column.title.split(" ")[0] for column in over] == ["/v3210"]
    assert [(pin.severity, pin.label) for pin in found.pins] == [("error", "XX001")]
    assert over[0].left <= found.pins[0].x <= over[0].left + over[0].width


def overflowing() -> Any:
    """x * 300, squared, times 1e-6: the square passes 65504 from |x| = 0.86 on."""
    nodes = [
        helper.make_node("Mul", ["x", "c"], ["scaled"], "scale"),
        helper.make_node("Mul", ["scaled", "scaled"], ["square"], "square"),
        helper.make_node("Mul", ["square", "small"], ["y"], "back"),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 8])
    constants = [
        helper.make_tensor("c", TensorProto.FLOAT, [], [300.0]),
        helper.make_tensor("small", TensorProto.FLOAT, [], [1e-6]),
    ]
    graph = helper.make_graph(nodes, "g", [x], [y], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def test_an_analysis_has_every_value_in_order_with_its_range() -> None:
    x = np.linspace(-2, 2, 16, dtype=np.float32).reshape(2, 8)
    data = json.loads(json.dumps(pp.analyze(overflowing(), inputs={"x": x}).to_dict()))
    assert [entry["value"] for entry in data["values"]] == ["x", "scaled", "square", "y"]
    square = data["values"][2]
    exact = np.abs(x.astype(np.float64) * 300) ** 2
    assert square["amax"] == pytest.approx(exact.max(), rel=1e-6)
    assert square["amin"] == pytest.approx(exact[exact > 0].min(), rel=1e-6)
    assert square["overflow"] == pytest.approx((exact >= 65520).mean())
    placed = {finding["at"] for finding in data["findings"] if finding["severity"] == "error"}
    assert 2 in placed
    page = render_html(data)
    assert re.search(r'<g class="column over">.*?<title>square \(Mul\): \|x\| up to 3\.6e5', page)
    assert 'href="#finding-0"' in page
    assert 'id="finding-0"' in page


def test_without_data_the_network_is_there_and_says_that_it_was_not_measured() -> None:
    page = render_html(pp.analyze(overflowing()).to_dict())
    assert "4 values in topological order, 0 measured" in page
    assert "not measured</span></h2>" in page


def test_weights_are_gathered_by_what_they_are_read_as() -> None:
    tensors = [
        {"name": "a", "role": "weight", "size": 10, "verdict": "noise", "rel_error": 2e-4, "exponents": {"-3": 10}},
        {
            "name": "b",
            "role": "weight",
            "size": 5,
            "verdict": "lost",
            "rel_error": 1.0,
            "exponents": {"-3": 1, "-30": 4},
        },
        {"name": "m", "role": "mask", "size": 1, "verdict": "overflow", "rel_error": "inf", "exponents": {"127": 1}},
    ]
    mask, weight = weight_classes({"weights": {"tensors": tensors}})
    assert (mask.role, mask.worst) == ("mask", "m")
    assert (weight.tensors, weight.size, weight.worst) == (2, 15, "b")
    assert dict(weight.verdicts) == {"lost": 1, "noise": 1}
    assert dict(weight.exponents) == {-3: 11, -30: 4}
