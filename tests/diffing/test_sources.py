"""What can be compared beside models: plan folders, engines, other providers."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import jsonschema
import numpy as np
import onnx
import pytest

import precision_planner as pp
from precision_planner.cli.main import main
from precision_planner.diffing.sources import open_side
from precision_planner.errors import PlanError
from tests.diffing.conftest import Sample


@pytest.fixture(scope="module")
def folder(massive: Sample, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model.onnx, data.npz, and the plans "strong" and "weak"."""
    root = tmp_path_factory.mktemp("plans")
    onnx.save(massive[0], root / "model.onnx")
    np.savez(root / "data.npz", **massive[1])
    for name, target in (("strong", "tensorrt-11"), ("weak", "tensorrt-8.6")):
        pp.plan(root / "model.onnx", target=target, inputs=massive[1]).save(root / name)
    return root


@pytest.mark.slow
@pytest.mark.parametrize("name", ["strong", "weak"])
def test_a_plan_folder_is_what_its_plan_predicts(folder: Path, massive: Sample, name: str) -> None:
    found = pp.diff(folder / "model.onnx", folder / name, massive[1], layers=True)
    predicted = json.loads((folder / name / "plan.json").read_text())["predicted"]
    assert found.grade == "fine"
    assert 0 < found.outputs["logits"].rel_l2 == pytest.approx(predicted["logits"]["rel_l2"], rel=0.05)
    assert found.graph is not None
    assert all(len(olds) == 9 for olds in found.graph["fused"].values())
    assert len(found.graph["fused"]) == 5


@pytest.mark.slow
def test_the_plan_says_why_at_every_value(folder: Path, massive: Sample) -> None:
    found = pp.diff(folder / "model.onnx", folder / "strong", massive[1], layers=True)
    islands = [layer for layer in found.layers if layer.island]
    assert {layer.candidate_node.rsplit("/", 1)[-1] for layer in islands} == {"LayerNormalization"}
    assert all(layer.rule == "LN001" and layer.reason for layer in islands)


@pytest.mark.slow
def test_a_damaged_plan_names_the_plans_entry(folder: Path, massive: Sample, tmp_path: Path) -> None:
    """A fault in one node of the planned model is the first divergence, with what the plan says of that node."""
    plan = json.loads((folder / "strong" / "plan.json").read_text())
    model = onnx.load(folder / "strong" / "model.onnx")
    norm = next(node for node in model.graph.node if node.op_type == "LayerNormalization" and "layer.0" in node.name)
    next(attribute for attribute in norm.attribute if attribute.name == "epsilon").f = 3e5
    onnx.save(model, tmp_path / "model.onnx")
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    found = pp.diff(folder / "model.onnx", tmp_path, massive[1])
    assert found.first_divergence is not None
    assert found.first_divergence["candidate_value"] == norm.output[0]
    assert found.first_divergence["rule"] == "LN001"
    assert found.first_divergence["plan"]["node"] == norm.name


@pytest.mark.slow
def test_the_report_of_a_plan_tells_both_sides(folder: Path, tmp_path: Path) -> None:
    out, html = tmp_path / "diff.json", tmp_path / "diff.html"
    arguments = ["diff", str(folder / "model.onnx"), str(folder / "strong"), "--inputs", str(folder / "data.npz")]
    assert main([*arguments, "--json", str(out), "--html", str(html)]) == 0
    saved = json.loads(out.read_text())
    schema = json.loads(resources.files("precision_planner.reporting").joinpath("diff.schema.json").read_text())
    jsonschema.validate(saved, schema)
    told = saved["explanation"]
    assert told["plain"]["grade"] == "garbage"
    assert "FP16 ends at 65504" in told["plain"]["verdict"]
    assert told["plan"]["status"] == "done"
    assert told["plan"]["fused"] == {"layer_normalization": 5}
    assert [(group["op_type"], group["count"]) for group in told["plan"]["kept"]] == [("LayerNormalization", 5)]
    fusion = told["drawings"][0]
    inside = [node["op_type"] for node in fusion["before"]["nodes"] if node["inside"]]
    assert inside == ["ReduceMean", "Sub", "Pow", "ReduceMean", "Add", "Sqrt", "Div", "Mul", "Add"]
    assert [node["op_type"] for node in fusion["after"]["nodes"] if node["inside"]] == ["LayerNormalization"]
    weights = told["weights"]
    counted = sum(weights["exponents"].values())
    model = onnx.load(folder / "model.onnx")
    arrays = [onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer]
    expected = sum(int(np.count_nonzero(np.isfinite(a) & (a != 0))) for a in arrays if a.dtype == np.float32)
    assert expected <= counted <= expected + 100  # Constant nodes are counted beside the initializers
    text = html.read_text()
    assert text.count("<svg") >= 5
    assert "planner plan" in text
    again = tmp_path / "again.html"
    assert main(["report", str(out), "--html", str(again)]) == 0
    assert again.read_bytes() == html.read_bytes()


def test_an_empty_or_broken_plan_folder_says_so(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(PlanError, match=r"plan\.json cannot be read"):
        open_side(tmp_path)
    (tmp_path / "plan.json").write_text("[]")
    with pytest.raises(PlanError, match="is no plan"):
        open_side(tmp_path)
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(PlanError, match=r"holds no \.onnx model"):
        open_side(tmp_path)


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    text = capsys.readouterr().err.strip()
    assert "Traceback" not in text
    assert len(text.splitlines()) == 1
    return text


@pytest.mark.slow
def test_cuda_where_there_is_none(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ort = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    model = str(folder / "model.onnx")
    assert main(["diff", model, model, "--inputs", str(folder / "data.npz"), "--provider", "cuda"]) == 2
    text = one_line(capsys)
    assert "CUDAExecutionProvider" in text
    assert 'pip install ".[gpu]"' in text


@pytest.mark.parametrize("way", ["engine", "provider"])
def test_tensorrt_where_there_is_none(
    way: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "tensorrt", None)  # an import of it fails, whatever is installed
    engine = tmp_path / "model.engine"
    engine.write_bytes(b"ptrt")
    model = str(folder / "model.onnx")
    other = [str(engine)] if way == "engine" else [model, "--provider", "tensorrt"]
    assert main(["diff", model, *other, "--inputs", str(folder / "data.npz")]) == 2
    text = one_line(capsys)
    assert "tensorrt" in text
    assert "install" in text
