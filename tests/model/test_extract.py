"""`planner extract`: what it writes reproduces, whatever the names and types at the edge of the cut."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from precision_planner.cli.main import main
from precision_planner.model.arrays import read_npz, write_npz

FLOAT, STRING = TensorProto.FLOAT, TensorProto.STRING


def save(path: Path, nodes: list[onnx.NodeProto], kinds: dict[str, int], outputs: list[str]) -> Path:
    """A model of values [3] with one initializer, `w`."""
    info = [helper.make_tensor_value_info(name, kind, [3]) for name, kind in kinds.items()]
    graph = helper.make_graph(
        nodes,
        "small",
        [value for value in info if value.name not in outputs],
        [value for value in info if value.name in outputs],
        [numpy_helper.from_array(np.float32([1, 2, 3]), "w")],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    body = [helper.make_node("Mul", ["a", "a"], ["b"], "square"), helper.make_node("Neg", ["b"], ["c"], "negate")]
    own = helper.make_function("own", "Twice", ["a"], ["c"], body, opsets[:1])
    onnx.save(helper.make_model(graph, opset_imports=opsets, functions=[own], ir_version=9), path)
    return path


def test_arrays_of_any_name_and_type_come_back(tmp_path: Path) -> None:
    arrays = {
        "file": np.float32([1, 2]),
        "allow_pickle": np.array(3, np.int64),
        "/a/b:0": np.ones(2, ml_dtypes.bfloat16),
        "wörter": np.array(["a", "ß"], object),
        "": np.zeros((0, 2), bool),
    }
    with (tmp_path / "x.npz").open("wb") as file:
        write_npz(file, arrays)
    found = read_npz(tmp_path / "x.npz")
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype or array.dtype == object


def test_names_that_numpy_keeps_for_itself(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Mul", ["file", "w"], ["allow_pickle"], "first"),
        helper.make_node("Neg", ["allow_pickle"], ["y"], "second"),
    ]
    model = save(tmp_path / "m.onnx", nodes, {"file": FLOAT, "y": FLOAT}, ["y"])
    for node, name in (("first", "file"), ("second", "allow_pickle")):
        cut = tmp_path / f"{node}.onnx"
        assert main(["extract", str(model), "--around", node, "--radius", "0", "-o", str(cut)]) == 0
        assert set(read_npz(Path(f"{cut}.npz"))) == {name}
        assert main(["diff", str(cut), str(cut), "--inputs", f"{cut}.npz", "--simulate", "fp16"]) == 0
    assert main(["plan", str(model), "-o", str(tmp_path / "plan")]) == 0


def test_strings_and_paths_with_spaces_reproduce(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """However narrow the terminal is: the command goes on behind a backslash."""
    nodes = [helper.make_node("Identity", ["s"], ["t"], "pass"), helper.make_node("Neg", ["w"], ["y"], "negate")]
    model = save(tmp_path / "m.onnx", nodes, {"s": STRING, "t": STRING, "y": FLOAT}, ["t", "y"])
    np.savez(tmp_path / "in.npz", s=np.array(["a", "b", "ß"]))
    cut = tmp_path / "a cut.onnx"
    arguments = ["--inputs", str(tmp_path / "in.npz"), "-o", str(cut)]
    assert main(["extract", str(model), "--around", "pass", "--around", "negate", *arguments]) == 0
    printed = capsys.readouterr().out
    command = printed[printed.index("reproduce: planner ") :].replace("\\\n", "")
    assert main(shlex.split(command.removeprefix("reproduce: planner "))) == 0


def test_a_function_is_cut_out_by_the_node_that_calls_it(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Twice", ["x"], ["v"], "called", domain="own"),
        helper.make_node("Mul", ["v", "w"], ["y"], "mul"),
    ]
    model, cut = save(tmp_path / "m.onnx", nodes, {"x": FLOAT, "y": FLOAT}, ["y"]), tmp_path / "cut.onnx"
    assert main(["extract", str(model), "--around", "called", "--radius", "1", "-o", str(cut)]) == 0
    assert [node.op_type for node in onnx.load(cut).graph.node] == ["Mul", "Neg", "Mul"]


def test_a_failure_leaves_nothing_and_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = save(tmp_path / "m.onnx", [helper.make_node("Neg", ["x"], ["y"], "n")], {"x": FLOAT, "y": FLOAT}, ["y"])
    cut = tmp_path / "cut.onnx"
    (tmp_path / "saved.json").write_text(json.dumps([1]))
    np.savez(tmp_path / "in.npz", x=np.float32([1, 2, 3]))
    before = sorted(path.name for path in tmp_path.iterdir())
    for around, options, message in [
        ("nn", [], "nearest: n"),
        (str(tmp_path / "saved.json"), [], "is no report of the planner's"),
        ("n", ["-o", str(model), "--force"], "is an input"),
        ("n", ["-o", str(tmp_path / "in"), "--inputs", str(tmp_path / "in.npz"), "--force"], "is the input"),
        ("n", ["-o", str(tmp_path / "none" / "cut.onnx")], "does not exist; create it first"),
    ]:
        assert main(["extract", str(model), "--around", around, "-o", str(cut), *options]) == 2
        line = capsys.readouterr().err.strip()
        assert message in line
        assert len(line.splitlines()) == 1
        assert "nearest: n, n" not in line
    (tmp_path / "cut.onnx.npz").mkdir()
    assert main(["extract", str(model), "--around", "n", "-o", str(cut), "--force"]) == 2
    (tmp_path / "cut.onnx.npz").rmdir()
    assert sorted(path.name for path in tmp_path.iterdir()) == before
