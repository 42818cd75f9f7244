"""A diff as Markdown: its mark, what is said of graph and inputs, and the command in a fence that holds it."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest

import precision_planner as pp
from precision_planner.cli.console import make_console
from precision_planner.reporting.analysis_terminal import _normalizations
from precision_planner.reporting.markdown import render_markdown


@pytest.fixture
def data() -> dict[str, Any]:
    return pp.diff({"y": np.ones((4, 2))}, {"y": np.full((4, 2), 1.0)}).to_dict()


def lines_of(data: dict[str, Any], begin: str) -> list[str]:
    return [line for line in render_markdown(data).splitlines() if line.startswith(begin)]


@pytest.mark.parametrize(("count", "told"), [(1, "1 batch"), (0, "0 batches"), (3, "3 batches")])
def test_batches_are_counted(data: dict[str, Any], count: int, told: str) -> None:
    data["inputs"] = {"source": "calib.npz", "batches": count}
    assert lines_of(data, "- inputs") == [f"- inputs: calib.npz, {told}"]
    data["inputs"] = {"source": "", "batches": count}
    assert lines_of(data, "- inputs") == []


@pytest.mark.parametrize(
    ("command", "fence"), [("planner diff a b", "```"), ("planner diff 'a`b'", "```"), ("x ```` y", "`````")]
)
def test_a_fence_is_longer_than_what_it_holds(data: dict[str, Any], command: str, fence: str) -> None:
    data["environment"] = {"command": command}
    assert render_markdown(data).splitlines()[-3:] == [fence, command, fence]


@pytest.mark.parametrize(
    ("grade", "failures", "mark"),
    [("identical", [], "✅"), ("degraded", [], "⚠️"), ("garbage", [], "❌"), ("fine", [1], "❌")],
)
def test_the_mark_is_of_the_grade_unless_a_bound_was_passed(
    data: dict[str, Any], grade: str, failures: list[int], mark: str
) -> None:
    data["grade"] = grade
    data["failures"] = [{"output": "y", "metric": "sad", "value": 2.0, "bound": 1.0} for _ in failures]
    assert render_markdown(data).startswith(f"### {mark} {grade}: ")
    assert len(lines_of(data, "- beyond tolerance")) == len(failures)


def test_the_graphs_sizes_are_before_and_after(data: dict[str, Any]) -> None:
    data["graph"] = {"nodes": [10, 12], "casts": [0, 2], "bytes": [4096, 2048]}
    (line,) = lines_of(data, "- graph")
    assert line.startswith("- graph: 10 → 12 nodes, 0 → 2 Casts, weights ")


def test_what_becomes_of_normalizations_is_told() -> None:
    found = [
        ("native", False, ""),
        ("decomposed", True, ""),
        ("decomposed", True, ""),
        ("decomposed", False, "axes [0]"),
    ]
    norms = [{"kind": "layer", "form": form, "fusable": fusable, "reason": why} for form, fusable, why in found]
    stream = io.StringIO()
    _normalizations({"normalizations": norms}, make_console(stream, width=100), False)
    assert [line.strip() for line in stream.getvalue().splitlines()] == [
        "1 layer (decomposed, not fused)",
        "2 layer (decomposed, can be fused)",
        "1 layer (native)",
        "1 because: axes [0]",
    ]
