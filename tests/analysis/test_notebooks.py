"""The notebooks run, from the folder they lie in, and are committed with their outputs, small."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
LARGEST = 400_000


def test_there_are_two() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["weights", "whole_path"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_committed(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text) < LARGEST
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in cells)
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert all(output["output_type"] != "error" for output in outputs)
    assert any("image/png" in output.get("data", {}) for output in outputs)
    for folder in (str(FOLDER.parent), str(Path.home())):
        assert f"{folder}/" not in text, "a path of the machine that ran it"


def test_the_whole_path_shows_plan_and_diff_with_drawings() -> None:
    cells = json.loads((FOLDER / "whole_path.ipynb").read_text(encoding="utf-8"))["cells"]
    shown = {
        "".join(cell["source"]).splitlines()[-1]: "".join(output["data"]["text/html"])
        for cell in cells
        for output in cell.get("outputs", ())
        if "text/html" in output.get("data", {})
    }
    for what in ("planned", "difference.explain()"):
        assert shown[what].count('class="graph"') >= 2, what
    assert 'id="layers"' not in shown["planned"]
    assert "iframe" in shown["analysis"]
    assert 'id="ribbon"' in shown["analysis"]
    assert 'id="lanes"' in shown["planned"]


def _executed(notebook: Any) -> None:
    from nbclient import NotebookClient

    NotebookClient(notebook, timeout=200, resources={"metadata": {"path": str(FOLDER)}}).execute()
    assert all(
        output.output_type != "error" for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs
    )


@pytest.mark.notebook
@pytest.mark.slow
# jupyter's own warnings about its transport are none of ours
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path: Path) -> None:
    import nbformat

    _executed(nbformat.read(path, as_version=4))


@pytest.mark.notebook
@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_on_a_readers_own_model(path: Path, tmp_path: Path) -> None:
    """A model without any normalization, and nothing given but its path."""
    import nbformat

    rng = np.random.default_rng(0)
    w = numpy_helper.from_array(rng.normal(0, 0.1, (16, 16)).astype(np.float32), "w")
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"], "mm"), helper.make_node("Relu", ["m"], ["y"], "relu")]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 16]) for name in "xy")
    graph = helper.make_graph(nodes, "own", [x], [y], [w])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "own.onnx"
    )
    notebook = nbformat.read(path, as_version=4)
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    assert "\nMODEL = None " in first.source
    first.source = first.source.replace("\nMODEL = None ", f"\nMODEL = {str(tmp_path / 'own.onnx')!r} ")
    _executed(notebook)
