"""The notebooks run, from the folder they lie in, and are committed with their outputs, small."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

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
        assert shown[what].count("class=&quot;graph&quot;") >= 2, what
    assert "id=&quot;layers&quot;" not in shown["planned"]
    assert "iframe" in shown["analysis"]


@pytest.mark.notebook
@pytest.mark.slow
# jupyter's own warnings about its transport are none of ours
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path: Path) -> None:
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=200, resources={"metadata": {"path": str(FOLDER)}}).execute()
    assert all(
        output.output_type != "error" for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs
    )
