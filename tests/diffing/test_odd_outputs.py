"""Outputs that cannot be compared are refused in one line; those that can are, whatever holds them."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import precision_planner as pp
from precision_planner.cli.main import main
from precision_planner.errors import InputsError, ToleranceError
from precision_planner.judging.tolerance import parse_tolerances
from tests.simulation.models import FLOAT, chain

Y = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)


def test_bfloat16_survives_numpys_files(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", y=Y.astype(ml_dtypes.bfloat16), scalar=np.array(3, ml_dtypes.bfloat16))
    np.savez(tmp_path / "b.npz", y=Y, scalar=np.float32(4))
    found = pp.diff(tmp_path / "a.npz", tmp_path / "b.npz")
    assert (found.outputs["y"].max_abs, found.outputs["scalar"].max_abs) == (0, 1)
    np.savez(tmp_path / "in.npz", x=Y[0].astype(ml_dtypes.bfloat16))
    assert pp.diff(chain(FLOAT, 2.0), {"y": 2 * Y[0]}, tmp_path / "in.npz").grade == "identical"


@pytest.mark.parametrize(
    ("reference", "candidate", "message"),
    [
        (Y + 0j, Y + 0j, "holds complex64, which has no metrics"),
        (Y, np.zeros(Y.shape, [("a", "f4")]), "which has no metrics"),
        (Y, Y.astype(ml_dtypes.float8_e4m3fn).view("V1"), "which has no metrics"),
    ],
)
def test_what_has_no_metrics_is_refused(reference: object, candidate: object, message: str) -> None:
    with pytest.raises(InputsError, match=message):
        pp.diff([{"y": reference}], [{"y": candidate}])


def test_nothing_to_compare_is_said() -> None:
    with pytest.raises(InputsError, match="nothing to compare"):
        pp.diff({}, {})
    empty = helper.make_sequence_type_proto(helper.make_tensor_type_proto(FLOAT, None))
    graph = helper.make_graph(
        [helper.make_node("SequenceEmpty", [], ["s"])], "empty", [], [helper.make_value_info("s", empty)]
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    with pytest.raises(InputsError, match="nothing to compare"):
        pp.diff(proto, proto)


def test_a_model_without_inputs_is_no_guess() -> None:
    graph = helper.make_graph(
        [helper.make_node("Neg", ["w"], ["y"])],
        "constant",
        [],
        [helper.make_tensor_value_info("y", FLOAT, [2])],
        [numpy_helper.from_array(Y[0], "w")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    found = pp.diff(proto, proto, layers=True)
    assert found.grade == "identical"
    assert found.inputs["synthesised"] is False
    assert found.inputs["source"] == "no inputs, as the model takes none"


def test_no_saved_batch_goes_unjudged() -> None:
    one, three = [{"y": Y}], [{"y": Y + n} for n in range(3)]
    with pytest.raises(InputsError, match="holds fewer batches than the other side; save"):
        pp.diff(three, one)
    with pytest.raises(InputsError, match="holds more batches than the other side; give"):
        pp.diff(one, three)
    with pytest.raises(InputsError, match="holds more batches than the other side; give"):
        pp.diff(chain(FLOAT, 1.0), [{"y": Y[0]}] * 2, {"x": Y[0]})
    with pytest.raises(InputsError, match="holds more batches than the other side; give"):
        pp.diff([{"y": Y[0]}] * 2, chain(FLOAT, 1.0), {"x": Y[0]})


def test_a_metric_that_fails_is_its_authors() -> None:
    def broken(reference: np.ndarray, candidate: np.ndarray) -> float:
        raise KeyError("boxes")

    with pytest.raises(ToleranceError, match=r"the metric broken failed: KeyError: 'boxes'; it takes two arrays"):
        pp.diff({"y": Y}, {"y": Y}, metrics={"broken": broken})
    with pytest.raises(ToleranceError, match="the metric difference failed: TypeError"):
        pp.diff({"y": Y}, {"y": Y}, metrics={"difference": lambda a, b: b - a})
    with pytest.raises(ToleranceError, match="the metric sad has the name of one that there is"):
        pp.diff({"y": Y}, {"y": Y}, metrics={"sad": lambda a, b: 0.0})


@pytest.mark.parametrize("text", ["top1=99", "y:cosine=1.01"])
def test_a_share_above_1_is_no_tolerance(text: str) -> None:
    with pytest.raises(ToleranceError, match="is never above 1; give a share"):
        parse_tolerances([text])


@pytest.mark.parametrize("text", ["[1, 2]", "null", '"x"', "3", '{"lst": []}', '[{"y": [[1, 2], [3]]}]'])
def test_json_that_holds_no_arrays_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "saved.json").write_text(text)
    with pytest.raises(InputsError, match=r"saved\.json does not hold Polygraphy arrays \(.+\); save them with"):
        pp.diff({"y": Y}, tmp_path / "saved.json")


def test_a_script_that_exits_does_not_end_the_gate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """sys.exit(0) in somebody's script would be a gate that lets everything pass."""
    np.savez(tmp_path / "y.npz", y=Y)
    (tmp_path / "early.py").write_text("import sys\nsys.exit(0)\n")
    (tmp_path / "late.py").write_text(
        "import sys\n\n\ndef own(a, b):\n    sys.exit(0)\n\n\ndef load_data():\n    sys.exit(0)\n"
    )
    onnx.save(chain(FLOAT, 1.0), tmp_path / "m.onnx")
    saved, model = [str(tmp_path / "y.npz")] * 2, [str(tmp_path / "m.onnx")] * 2
    for arguments in (
        [*saved, "--metric", f"{tmp_path / 'early.py'}:own"],
        [*saved, "--metric", f"{tmp_path / 'late.py'}:own"],
        [*model, "--inputs", str(tmp_path / "late.py")],
    ):
        assert main(["diff", *arguments]) == 2
        assert "failed: SystemExit: 0" in capsys.readouterr().err
