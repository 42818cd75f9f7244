"""A plan's page: which node computes in what along the network, and what each kept region buys."""

from __future__ import annotations

import re
from typing import Any

from precision_planner.reporting.check import check_report
from precision_planner.reporting.html import render_html
from precision_planner.reporting.lanes import kept_regions, plan_lanes


def node(at: int, precision: str, reason: str = "", rule: str | None = None) -> dict[str, Any]:
    return {
        "node": f"/n{at}",
        "op_type": "Add",
        "scope": [],
        "output": f"v{at}",
        "precision": precision,
        "reason": reason,
        "rule": rule,
    }


def plan(nodes: list[dict[str, Any]], search: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "kind": "precision_plan",
        "model": {"name": "m.onnx"},
        "target": "tensorrt-11",
        "typing": "strong",
        "precision": "fp16",
        "nodes": nodes,
        "casts": 2,
        "interface": {"inputs": {}, "outputs": {}},
        "profiles": {},
        "build": {},
        "search": search or {},
    }


def region(name: str, precision: str, **more: Any) -> dict[str, Any]:
    return {
        "region": name,
        "kind": "gemm",
        "nodes": 2,
        "precision": precision,
        "cost_us": 0.5,
        "rules": [],
        "dropped": False,
        **more,
    }


SEARCH = {
    "evaluations": 9,
    "stopped": "",
    "before": {"y:sad": 2e-3},
    "after": {"y:sad": 4e-4},
    "regions": [
        region("small", "fp16+", share=0.02, how="measured", without={"y:sad": 8e-4}),
        region("large", "fp32", share=0.4, how="bounded"),
        region("lowered", "low", share=0.1, how="measured"),
        region("dropped", "fp32", dropped=True),
    ],
}


def test_each_precision_has_a_lane_from_the_widest_to_the_lowest() -> None:
    nodes = [
        node(0, "fp16"),
        node(1, "fp32", "because"),
        node(2, "fp16+"),
        node(3, "bf16"),
        node(4, "fp32"),
        node(5, ""),
    ]
    found = plan_lanes(plan(nodes))
    assert found is not None
    assert [(lane.key, lane.nodes) for lane in found.lanes] == [
        ("fp32", 2),
        ("bf16", 1),
        ("fp16+", 1),
        ("fp16", 1),
        ("", 1),
    ]
    assert [round(cell.left) for cell in found.lanes[0].cells] == [17, 67]
    assert "because" in found.lanes[0].cells[0].title


def test_a_long_network_shares_columns_and_loses_no_kept_node() -> None:
    nodes = [node(at, "fp32" if at == 4321 else "fp16") for at in range(10_000)]
    found = plan_lanes(plan(nodes))
    assert found is not None
    wide, low = found.lanes
    (cell,) = wide.cells
    assert cell.left <= 43.21 <= cell.left + cell.width
    assert 0 < cell.share < 0.1
    assert len(low.cells) <= 240


def test_what_brings_most_comes_first_and_what_was_dropped_is_not_kept() -> None:
    nodes = [node(0, "fp32", "too large (rule LN001)", "LN001"), node(1, "fp32", "kept in FP32 by the search: so")]
    found = kept_regions(plan(nodes, SEARCH))
    assert [(each.region, each.precision) for each in found] == [
        ("large", "FP32"),
        ("small", "FP16, FP32 sums"),
        ("/n0", "FP32"),
    ]
    assert dict(found[1].without) == {"y:sad": "8e-4"}
    assert found[2].why == "LN001: too large"


def test_the_page_shows_both_and_the_schema_takes_the_states_of_the_search() -> None:
    data = plan([node(at, "fp16" if at else "fp32") for at in range(3)], SEARCH)
    assert check_report(data) == "plan"
    page = render_html(data)
    assert "Precision of 3 nodes in topological order: 1 in FP32, 2 in FP16" in page
    assert re.search(r"large</td>.*?40\.0% at most", page)
    assert "0.5 µs" in page


def test_a_plan_that_keeps_nothing_says_so() -> None:
    assert "Nothing is kept: every node that can is FP16." in render_html(plan([node(0, "fp16")]))
