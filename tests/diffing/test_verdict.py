"""What the verdict's sentence says is true of the output that it names."""

from __future__ import annotations

import io

import numpy as np
import onnx
from onnx import helper, numpy_helper
from rich.console import Console

import precision_planner as pp
from precision_planner.model import Model
from precision_planner.model.session import Session
from precision_planner.reporting.diff_terminal import render_diff
from tests.judging.test_detections import FLOAT, INFO, INT64, detector, features
from tests.simulation.models import chain


def test_an_error_is_told_of_the_output_that_has_it() -> None:
    scores = np.tile([[1.0, 2.0]], (20, 1))
    flipped = scores.copy()
    flipped[0] = [2.0001, 2.0]
    found = pp.diff({"a": scores, "b": np.ones((2, 3))}, {"a": flipped, "b": np.full((2, 3), 5.0)})
    assert found.verdict == "1 of 20 rows of 'a' changed class; relative L2 error 4 (of 'b')"
    alone = pp.diff({"a": scores, "b": np.ones((2, 3))}, {"a": flipped, "b": np.ones((2, 3))})
    assert alone.verdict == "1 of 20 rows of 'a' changed class; relative L2 error 0.1"  # 1.0001 / sqrt(20 x 5)


def test_integers_and_strings_change_by_the_element() -> None:
    for before, after in (
        (np.arange(10).reshape(5, 2), np.arange(10).reshape(5, 2) + np.eye(5, 2, dtype=int)),
        (np.array([["a", "b"]] * 5), np.array([["a", "c"]] * 2 + [["a", "b"]] * 3)),
        (np.zeros((5, 2), bool), np.eye(5, 2, dtype=bool)),
    ):
        found = pp.diff({"y": before}, {"y": after})
        assert found.verdict.startswith("2 of 10 elements of 'y' changed")


def test_a_nan_that_moved_is_lost() -> None:
    found = pp.diff({"y": np.array([[np.nan, 1.0, 2.0]])}, {"y": np.array([[1.0, np.nan, 2.0]])})
    assert (found.grade, found.passed) == ("nonfinite", False)
    assert found.verdict == "1 of 3 elements of 'y' are NaN or infinite, the reference's are not"
    assert found.outputs["y"].metrics.new_nonfinite == 1
    # nor does a value that another batch gained make up for it
    batches = [{"y": np.array([1.0, 2.0])}, {"y": np.array([np.inf, 2.0])}]
    swapped = pp.diff(batches, batches[::-1])
    assert (swapped.grade, swapped.passed) == ("nonfinite", False)


def test_what_is_not_finite_in_both_is_told() -> None:
    bad = np.array([np.nan, np.inf, 1.0])
    assert pp.diff({"y": bad}, {"y": bad}).verdict == (
        "identical outputs; 2 of 3 elements of 'y' are NaN or infinite in the reference"
    )
    found = pp.diff({"x": bad, "y": np.array([1.0])}, {"x": bad, "y": np.array([1.001])})
    assert found.grade == "fine"
    assert found.verdict.endswith("; 2 of 3 elements of 'x' are NaN or infinite in the reference")


def test_empty_outputs_prove_nothing() -> None:
    found = pp.diff({"y": np.zeros((0, 4))}, {"y": np.zeros((0, 4))})
    assert found.verdict == "the outputs are empty: nothing was compared"


def test_a_detectors_verdict_is_of_the_output_that_lost_most() -> None:
    """NonMaxSuppression's own indices may all be found again while the boxes beside them are elsewhere."""
    model = detector()
    model.graph.output.append(INFO("selected", INT64, ["n", 3]))
    with Session(Model.load(model)) as session:
        right = session.run(features())
    count = len(right["boxes"])
    moved = {**right, "boxes": np.concatenate([right["boxes"][:5], right["boxes"][5:] + 1000])}
    found = pp.diff(model, moved, features())
    assert found.grade == "garbage"
    assert found.verdict == (
        f"5 of {count} detections of 'boxes' found again; {count - 5} new; mean IoU 1; scores off by at most 0"
    )
    # what is matched may be right, and another output wrong
    model.graph.output.append(INFO("scores_nc", FLOAT, [1, 40, 3]))
    found = pp.diff(model, {**right, "scores_nc": np.full((1, 40, 3), 0.5, np.float32)}, features())
    assert found.verdict.startswith(f"{count} of {count} detections of 'boxes' found again; mean IoU 1; ")
    assert found.verdict.endswith(" (of 'scores_nc')")


def renamed(model: onnx.ModelProto, *, factor: float = 1.0) -> onnx.ModelProto:
    """Every node and every value inside under another name, the second node's constant times a factor."""
    found = onnx.ModelProto()
    found.CopyFrom(model)
    interface = {value.name for value in (*found.graph.input, *found.graph.output)}
    for tensor in found.graph.initializer:
        if tensor.name == found.graph.node[1].input[1]:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(factor), tensor.name))
        tensor.name += "_other"
    for node in found.graph.node:
        node.name += "_other"
        for names in (node.input, node.output):
            names[:] = [name if name in interface else f"{name}_other" for name in names]
    return found


def test_a_node_is_not_blamed_for_what_nobody_compared() -> None:
    model, inputs = chain(FLOAT, 2.0, 3.0, 5.0, 7.0), {"x": np.float32([1, 2, 3, 4])}
    assert pp.diff(model, renamed(model), inputs, layers=True).grade == "identical"
    first = pp.diff(model, renamed(model, factor=1.5), inputs).first_divergence
    assert first is not None
    assert (first["node"], first["inherited"]) == ("mul3", None)
    assert first["reason"] == (
        "relative error 0.5; the 3 values before it have other names in the candidate and could not be compared, so "
        "the cause may lie there too"
    )


def test_a_cast_without_a_partner_hides_no_cause() -> None:
    typed = pp.rewrite(chain(FLOAT, 3.0, 0.3)).typed
    assert typed.proto.graph.node[0].op_type == "Cast"
    found = pp.diff(typed, chain(FLOAT, 7.0, 0.3), {"x": np.float32([1, 2, 3, 4])})
    assert found.first_divergence is not None
    assert found.first_divergence["node"] == "mul0"
    assert "where what it reads has" in found.first_divergence["reason"]


def test_the_candidates_own_node_is_named() -> None:
    """A bound that the candidate puts behind a node takes its value's name; the reference's node is right."""
    model = chain(FLOAT, 2.0, 3.0)
    clipped = onnx.ModelProto()
    clipped.CopyFrom(model)
    value = clipped.graph.node[0].output[0]
    clipped.graph.node[0].output[0] = "whole"
    clipped.graph.initializer.append(numpy_helper.from_array(np.float32(1), "most"))
    clipped.graph.node.insert(1, helper.make_node("Min", ["whole", "most"], [value], name="clip"))
    found = pp.diff(model, clipped, {"x": np.float32([1, 2, 3, 4])})
    assert found.first_divergence is not None
    assert (found.first_divergence["node"], found.first_divergence["candidate_node"]) == ("mul0", "clip")
    stream = io.StringIO()
    render_diff(found.to_dict(), Console(file=stream, width=80, markup=False, emoji=False, highlight=False))
    assert "  the candidate makes it at clip\n" in stream.getvalue()


def test_a_share_of_rows_is_no_excuse_for_a_nan() -> None:
    right = np.tile([[1.0, 2.0]], (100, 1))
    lost = right.copy()
    lost[0, 0] = np.nan
    found = pp.diff({"y": right, "z": right}, {"y": lost, "z": right}, tolerance=["top1=0.9"])
    assert not found.passed
    assert [(failure["output"], failure["value"]) for failure in found.failures] == [("y", "nan")]
    assert found.outputs["y"].top1 == 0.99
