"""Published models through analyze, rewrite, plan and diff: each verdict is that of an independent evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from evidence.exporters.evaluator import answers, evaluate, verdict
from precision_planner.cli.main import main
from tests.pypi.models import MODELS, Published

pytestmark = pytest.mark.slow


@pytest.mark.timeout(600)
@pytest.mark.parametrize("published", MODELS, ids=lambda published: published.name)
def test_every_verdict_is_that_of_every_node_alone(published: Published, tmp_path: Path) -> None:
    path = published.unpack(tmp_path)
    feeds = published.feeds(np.random.default_rng(0))
    inputs = tmp_path / "in.npz"
    np.savez(inputs, **feeds)
    given = ["--inputs", str(inputs)]
    expected = answers(onnx.load(path), feeds)

    assert main(["analyze", str(path), *given, "-q", "--json", str(tmp_path / "analysis.json")]) == 0

    low = tmp_path / "low.onnx"
    code = main(["rewrite", str(path), "-o", str(low), *given, "--json", str(tmp_path / "rewrite.json")])
    said = json.loads((tmp_path / "rewrite.json").read_text())["verdict"]["grade"]
    right = verdict(expected, evaluate(onnx.load(low), feeds))
    assert said == right
    assert code == (1 if right in ("GARBAGE", "NONFINITE") else 0)

    main(["diff", str(path), str(low), *given, "--json", str(tmp_path / "diff.json")])
    grade = json.loads((tmp_path / "diff.json").read_text())["grade"]
    assert {"identical": "FINE"}.get(grade, grade.upper()) == right

    folder = tmp_path / "plan"
    code = main(["plan", str(path), "-o", str(folder), "--target", "onnxruntime", *given])
    said = json.loads((folder / "plan.json").read_text())["verdict"]["grade"]
    right = verdict(expected, evaluate(onnx.load(folder / "model.onnx"), feeds))
    assert said == right
    assert code == (1 if right in ("GARBAGE", "NONFINITE") else 0)
