"""`planner report` of a file that is not whole: one line that says where."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import precision_planner as pp
from precision_planner.cli.main import main
from tests.simulation.models import FLOAT, chain

MODEL = chain(FLOAT, 1e4, 1e4, 1e-4, 1e-4)


@pytest.fixture(scope="module")
def whole() -> dict[str, dict[str, Any]]:
    found = pp.diff(MODEL, MODEL, {"x": np.ones(4, np.float32)}, simulate="fp16")
    assert found.first_divergence is not None
    assert found.layers
    plan = {"kind": "plan", "target": "tensorrt-11", "nodes": []}
    return {"diff": found.to_dict(), "analysis": pp.analyze(MODEL).to_dict(), "plan": plan}


@pytest.mark.parametrize(
    ("kind", "changes", "where"),
    [
        ("diff", {"outputs": {"y": {}}}, "a broken diff: at outputs/y, 'max_abs' is a required property"),
        ("diff", {"outputs": [1]}, "a broken diff: at outputs, "),
        ("diff", {"layers": [{}]}, "a broken diff: at layers/0, 'value' is a required property"),
        ("diff", {"first_divergence": {"value": "x"}}, "a broken diff: at first_divergence, "),
        ("diff", {"schema_version": 2}, "of schema version 2, this planner reads 1"),
        ("analysis", {"findings": [3]}, "a broken analysis: at findings/0, "),
        ("analysis", {"model": {}}, "a broken analysis: at model, 'opset' is a required property"),
        ("plan", {}, "a broken plan: at the top, 'schema_version' is a required property"),
    ],
)
def test_a_broken_report_is_named_in_one_line(
    whole: dict[str, dict[str, Any]],
    kind: str,
    changes: dict[str, Any],
    where: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "saved.json"
    path.write_text(json.dumps({**whole[kind], **changes}))
    for options in ([], ["--html", str(tmp_path / "out.html")]):
        assert main(["report", str(path), *options]) == 2
        line = capsys.readouterr().err.strip()
        assert line.startswith(f"planner: error: {path} is {where}")
        assert line.endswith("; give what a command wrote with --json")
        assert "\n" not in line
    assert not (tmp_path / "out.html").exists()


def test_whole_reports_are_rendered(
    whole: dict[str, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind in ("diff", "analysis"):
        (tmp_path / "saved.json").write_text(json.dumps(whole[kind]))
        assert main(["report", str(tmp_path / "saved.json")]) == 0
    capsys.readouterr()
    onnx.save(MODEL, tmp_path / "m.onnx")
    assert main(["plan", str(tmp_path / "m.onnx"), "-o", str(tmp_path / "plan"), "--no-verify"]) == 0
    assert main(["report", str(tmp_path / "plan")]) == 0
    assert main(["diff", str(tmp_path / "m.onnx"), str(tmp_path / "plan")]) == 0
    for text in ('{"nodes": 3}', '{"typing": "weak", "build": 3}'):
        (tmp_path / "plan" / "plan.json").write_text(text)
        assert main(["diff", str(tmp_path / "m.onnx"), str(tmp_path / "plan")]) == 2
        assert "plan.json: this plan has schema version None" in capsys.readouterr().err
